"""Files that a kill at any moment cannot spoil: written beside and renamed, and on resuming cut
back to the last finished epoch.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

METRICS, PREDICTIONS = "metrics.csv", "predictions.jsonl"
HALF_WRITTEN = ".half-written"


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + HALF_WRITTEN)
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def read_rows(path: Path, last: int | None = None) -> list[dict[str, str]]:
    """Rows of a metrics.csv, each whole and of an epoch up to `last`; none where there is no
    file.
    """
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]  # a kill may leave half a line
    rows = list(csv.DictReader(io.StringIO(whole)))
    return [row for row in rows if last is None or int(row["epoch"]) <= last]


def cut_back(folder: Path, last: int) -> None:
    """Leave in a run's logs only what epochs up to `last` wrote."""
    rows = read_rows(folder / METRICS, last)
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
    if (folder / METRICS).is_file():
        write_whole(folder / METRICS, out.getvalue())
    if (folder / PREDICTIONS).is_file():
        kept = [
            line
            for line in (folder / PREDICTIONS).read_text(encoding="utf-8").splitlines()
            if _epoch(line) <= last
        ]
        write_whole(folder / PREDICTIONS, "".join(line + "\n" for line in kept))


def _epoch(line: str) -> float:
    try:
        return int(json.loads(line)["epoch"])
    except ValueError:  # the half line of a killed run
        return float("inf")


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows as JSON lines, in one write."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class _Appending(ExperimentWriter):
    """Lightning's writer deletes the rows of the run that it resumes; this one goes on below
    them.
    """

    def _check_log_dir_exists(self) -> None:
        rows = read_rows(Path(self.metrics_file_path))
        if rows:
            self.metrics_keys = list(rows[0])
        else:
            Path(self.metrics_file_path).unlink(missing_ok=True)


class Curves(CSVLogger):
    """`metrics.csv` in `folder`, one row an epoch, on disk as soon as it is logged."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=1)
        self._folder = folder

    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._experiment = _Appending(log_dir=str(self._folder))
        return self._experiment


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are complete or absent, and are read without pickled objects."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        beside = Path(f"{path}{HALF_WRITTEN}")
        beside.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, beside)
        os.replace(beside, path)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return loaded
