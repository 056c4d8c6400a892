"""The results file: JSON lines, one a finished job, so that an examination that was cut off goes on
where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Job = tuple[str, str, str, int]
"""kind, network, name, seed"""


def job_of(row: dict[str, Any]) -> Job:
    return row["kind"], row["network"], row["name"], row["seed"]


def read_rows(path: Path) -> dict[Job, dict[str, Any]]:
    """The newest row of each job. A last line that was cut off is left out."""
    rows: dict[Job, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[job_of(row)] = row
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row and see it on the disk. A line that was cut off before it is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row) + "\n").encode()
    with path.open("ab+") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def forget(path: Path, jobs: Iterable[Job]) -> None:
    """Write the file again without these jobs."""
    dropped = set(jobs)
    kept = [row for job, row in read_rows(path).items() if job not in dropped]
    beside = path.with_suffix(".part")
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    beside.replace(path)
