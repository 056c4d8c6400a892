"""`python -m examination.loops`: plant every fault and every sound change of a loop, and write what
was said of them.

A results file holds a line a change, so that an examination that was cut off, or given some minutes
at a time, goes on; the page says how many changes are left. Without `--held-out` what was set aside
is left alone, and no page is written.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from examination.loops import page, rivals
from examination.loops.catalogue import changes
from examination.loops.planting import KINDS, Kind

Job = tuple[Kind, str]
_ALL = ",".join(KINDS)


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    chosen = [
        (kind, change)
        for kind in options.kinds.split(",")
        for change in changes(kind)
        if (options.held_out or change.lot == "seen")
        and (not options.names or change.name in options.names.split(","))
    ]
    # Faults first: most are found in seconds, where a sound change is climbed with to the end.
    jobs: list[Job] = [
        (kind, change.name) for kind, change in sorted(chosen, key=lambda one: one[1].part is None)
    ]
    done = (
        {} if options.fresh else {(row["kind"], row["name"]): row for row in read(options.results)}
    )
    if options.workers:
        until = time.time() + 60 * options.minutes
        run([job for job in jobs if job not in done], options.results, options.workers, until)
    known = {(row["kind"], row["name"]): row for row in read(options.results)}
    rows = [known[job] for job in jobs if job in known]
    print("\n".join((*told(rows), *page.summary(rows))))
    left = len(jobs) - len(rows)
    if left:
        print(f"{left} of {len(jobs)} are left: the same command goes on")
    if options.held_out and not options.names and options.kinds == _ALL:
        options.page.write_text(page.page(rows, left), encoding="utf-8")
        if others := rivals.rows():
            beside = options.page.with_name("loop_rivals.md")
            beside.write_text(page.rivals_page(rows, others), encoding="utf-8")
    return 0


def run(jobs: Sequence[Job], results: Path, workers: int, until: float) -> None:
    """Examine in processes of one thread each; every row is written as soon as it is done.

    until: time.time() after which no change is begun.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, initializer=_alone) as pool:
        for future in as_completed([pool.submit(do, job, until) for job in jobs]):
            if (row := future.result()) is not None:
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


def _alone() -> None:
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


def do(job: Job, until: float) -> dict[str, Any] | None:
    """The row of one change; None where it is too late to begin."""
    if time.time() > until:
        return None
    from examination.loops.examine import examine

    kind, name = job
    return examine(kind, next(change for change in changes(kind) if change.name == name)).to_json()


def read(results: Path) -> list[dict[str, Any]]:
    """The newest row of each change."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return list({(row["kind"], row["name"]): row for row in map(json.loads, lines)}.values())


def told(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each change of which too little or too much was said."""
    lines = []
    for row in rows:
        good = page.named(row) if row["expected"] else not row["said"] and not page.alarmed(row)
        if not good:
            what = (
                "missed"
                if row["expected"] and not page.detected(row)
                else "part"
                if row["expected"]
                else "alarm"
                if page.alarmed(row)
                else "warning"
            )
            said = [f"{one['name']} ({one['part']})" for one in row["said"]]
            error = row["error"].strip().splitlines()[-1] if row["error"] else ""
            lines.append(
                f"{what}: {row['kind']} {row['name']}: {', '.join(said) or 'nothing'}, broke "
                f"at {row['broke_at']} {error}"
            )
    return lines


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=page.COMMAND, description=__doc__)
    parser.add_argument("--kinds", default=_ALL, help="some of %(default)s")
    parser.add_argument("--names", help="of some changes; the page is then not written")
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="the faults and sound changes that were set aside as well",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="0 examines nothing, and tells of what the results file holds",
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no change after so many"
    )
    parser.add_argument("--fresh", action="store_true", help="do again what the results file holds")
    parser.add_argument("--results", type=Path, default=Path("logs/loop_examination.jsonl"))
    parser.add_argument("--page", type=Path, default=Path("docs/loop_matrix.md"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
