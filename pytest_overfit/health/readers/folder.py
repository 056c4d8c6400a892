"""The logs of a folder: which of its files they are, and which of them are of one run.

Below the folder, each folder with logs is a run, but for those that trainers make within one: `csv` and `tb` beside each other, Hugging Face's
`checkpoint-500`, Keras's `train` and `validation`, and `Loss_train` of SummaryWriter.add_scalars.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_overfit.finding import counted
from pytest_overfit.health.readers.beside import PREDICTIONS, RUN_JSON
from pytest_overfit.health.readers.names import SPLITS, known
from pytest_overfit.health.readers.recognise import Kind, kind_of, tells_a_run
from pytest_overfit.health.run import BadRun

DEEPEST = 4
MOST_FILES = 5_000
"""Files of a folder that are looked at."""
LOGS = ("", ".log", ".txt", ".out", ".err", ".csv", ".tsv", ".json", ".jsonl", ".ndjson")
"""Endings of what may be a log in a folder; event files are taken with any."""
FORMATS = frozenset({"csv", "csv_logs", "tensorboard", "tb", "tb_logs", "events", "runs", "logs", "lightning_logs", "log"})
"""Folders named after what writes into them: `csv/version_0` and `tb/version_0` are one run."""
STATE = "trainer_state.json"
OWN = ("health.txt", "health.json", "overfitting_health_report.txt", "overfitting_health_report.json", "result.json")
"""What was written about a run, after it."""
LOOKED_FOR = "TensorBoard events, csv, JSON lines, trainer_state.json and plain logs with epochs"


@dataclass(frozen=True, kw_only=True)
class Log:
    """A log file. run: what tells it from the logs of other runs below the same folder. prefix: of its metrics' names."""

    path: Path
    kind: Kind
    run: tuple[str, ...] = ()
    prefix: str = ""


def logs_in(folder: Path) -> tuple[list[Log], tuple[str, ...]]:
    """The logs of the one run in a folder or below it, several event files being one run resumed; and complaints.

    Raises BadRun for no run and for two.
    """
    refused: list[str] = []
    found = [log for path in _files(folder) if (log := _log(path, folder, refused)) is not None]
    if not found:
        why = f" ({refused[0]})" if refused else ""
        raise BadRun(f"{folder}: no log in it{why}; looked for {LOOKED_FOR}. Give the log itself")
    runs: dict[tuple[str, ...], list[Log]] = {}
    for log in found:
        runs.setdefault(log.run, []).append(log)
    if () in runs:
        others = [log.path for log in found if log.run]
        left_out = f"{folder}: {counted(len(others), 'log')} of other runs in folders below left out" if others else ""
        return _no_rivals(folder, runs[()]), (f"{left_out}: {_named(folder, others)}",) if others else ()
    if len(runs) > 1:
        places = list(dict.fromkeys(logs[0].path.parent for logs in runs.values()))
        raise BadRun(f"{folder}: holds {len(runs)} runs, {_named(folder, places)}; give one of them")
    return _no_rivals(folder, next(iter(runs.values()))), ()


def _named(folder: Path, paths: Sequence[Path], most: int = 2) -> str:
    """Paths below a folder for a sentence: the first two, then how many more."""
    names = [str(path.relative_to(folder)) for path in paths]
    if len(names) <= most:
        return " and ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _no_rivals(folder: Path, logs: Sequence[Log]) -> list[Log]:
    """The logs of a run, of each kind one; event files go on from each other, and of Hugging Face's states the last holds the others."""
    kept: list[Log] = []
    for kind in dict.fromkeys(log.kind for log in logs):
        same = [log for log in logs if log.kind == kind]
        if all(log.path.name == STATE for log in same):
            same = [max(same, key=lambda log: _checkpoint_number(log.path))]
        if len(same) > 1 and kind != "TensorBoard events":
            raise BadRun(f"{folder}: holds {len(same)} runs, {_named(folder, [log.path for log in same])}; give one of them")
        kept += same
    return kept


def _checkpoint_number(path: Path) -> float:
    number = re.fullmatch(r"checkpoint-(\d+)", path.parent.name)
    return float(number[1]) if number else float("inf")


def _files(folder: Path) -> Iterator[Path]:
    looked_at = 0
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__"))) if depth < DEEPEST else []
        for name in sorted(names):
            looked_at += 1
            if looked_at <= MOST_FILES and not name.startswith("."):
                yield Path(place) / name


def _log(path: Path, folder: Path, refused: list[str]) -> Log | None:
    """The log that a file is; None where it is none. refused: gains what was wrong with a file that might have been one."""
    if path.name in (RUN_JSON, PREDICTIONS, *OWN) or not (path.suffix in LOGS or "tfevents" in path.name) or not path.is_file():
        return None
    try:
        kind = kind_of(path)
        if not tells_a_run(path, kind):
            return None
    except (BadRun, OSError) as error:
        refused.append(str(error))
        return None
    above = path.relative_to(folder).parent.parts
    parts = [part for part in above if part.lower() not in FORMATS and not re.fullmatch(r"checkpoint-\d+", part)]
    prefix = parts[-1] if kind == "TensorBoard events" and parts and _names_a_split(parts[-1]) else ""
    return Log(path=path, kind=kind, run=tuple(parts[:-1] if prefix else parts), prefix=prefix)


def _names_a_split(folder: str) -> bool:
    meant = known(folder)
    return folder.lower() in SPLITS or (meant is not None and meant.split != "")
