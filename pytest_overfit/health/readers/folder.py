"""The logs of a folder: which of its files they are, and which of them are of one run.

Below the folder, each folder with logs is a run, but for those that trainers make within one: `csv`
and `tb` beside each other, Hugging Face's `checkpoint-500`, Keras's `train` and `validation`, and
`Loss_train` of SummaryWriter.add_scalars.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_overfit.health.readers.beside import PREDICTIONS, RUN_JSON
from pytest_overfit.health.readers.formats import Format, format_of, head_of
from pytest_overfit.health.readers.many_files import METRICS
from pytest_overfit.health.readers.names import SPLITS, known, words
from pytest_overfit.health.run import BadRun

DEEPEST = 4
MOST_FILES = 5_000
"""Files of a folder that are looked at."""
PROSE = (".md", ".ipynb", ".html", ".htm")
"""Endings of what tells of a run besides much else: taken where a folder has no other log."""
SETTINGS = (".yaml", ".yml")
"""Endings of what holds settings, but for a file for each epoch."""
LOGS = (
    "",
    ".log",
    ".txt",
    ".out",
    ".err",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".ndjson",
    ".wandb",
    ".report",
    *SETTINGS,
    *PROSE,
)
"""Endings of what may be a log in a folder; event files are taken with any."""
WRITERS = frozenset(
    {
        "csv",
        "csv_logs",
        "tensorboard",
        "tb",
        "tb_logs",
        "events",
        "runs",
        "logs",
        "lightning_logs",
        "log",
        "files",
    }
)
"""Folders named after what writes into them: `csv/version_0` and `tb/version_0` are one run."""
STATE = "trainer_state.json"
OWN = (
    "health.txt",
    "health.json",
    "overfitting_health_report.txt",
    "overfitting_health_report.json",
    "result.json",
)
SUMMARIES = (
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "wandb-summary.json",
    "wandb-metadata.json",
)
"""What was written about a run, after it: by this tool, and by trainers."""
LOOKED_FOR = (
    "TensorBoard events, csv, JSON, trainer_state.json, plain logs with epochs, and the files of "
    "MLflow, Weights & Biases and Kaldi"
)


@dataclass(frozen=True, kw_only=True)
class Log:
    """A log file. run: what tells it from the logs of other runs below the same folder.

    prefix: of its metrics' names.
    """

    path: Path
    format: Format
    run: tuple[str, ...] = ()
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Files of one format that tell of one run."""

    format: Format
    logs: tuple[Log, ...]

    @property
    def size(self) -> int:
        """Bytes of its logs."""
        return sum(log.path.stat().st_size for log in self.logs)


@dataclass(frozen=True, kw_only=True)
class Group:
    """What is told of one run, in one format or more; of several runs too, where files of one
    format contradict each other.
    """

    folder: Path
    pieces: tuple[Piece, ...]


def groups_in(folder: Path) -> tuple[list[Group], list[Path]]:
    """The runs in a folder or below it; and the logs of others left out, since a run at the top
    goes before those below.

    Raises BadRun where there is no log.
    """
    refused: list[str] = []
    found = [log for path in _files(folder) if (log := _log(path, folder, refused)) is not None]
    found = [log for log in found if log.path.suffix not in PROSE] or found
    if not found:
        why = f" ({refused[0]})" if refused else ""
        raise BadRun(f"{folder}: no log in it{why}; looked for {LOOKED_FOR}. Give the log itself")
    runs: dict[tuple[str, ...], list[Log]] = {}
    for log in found:
        runs.setdefault(log.run, []).append(log)
    if () in runs:
        return [Group(folder=folder, pieces=_pieces(runs[()]))], [
            log.path for log in found if log.run
        ]
    return [Group(folder=logs[0].path.parent, pieces=_pieces(logs)) for logs in runs.values()], []


def named(folder: Path, paths: Sequence[Path], most: int = 2) -> str:
    """Paths below a folder for a sentence: the first two, then how many more."""
    names = [str(path.relative_to(folder)) for path in paths]
    if len(names) <= most:
        return " and ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _pieces(logs: Sequence[Log]) -> tuple[Piece, ...]:
    """Event files go on from each other, and of Hugging Face's states the last holds the others;
    any other log stands for itself.
    """
    pieces = []
    for name in dict.fromkeys(log.format.name for log in logs):
        same = [log for log in logs if log.format.name == name]
        states = [log for log in same if log.path.name == STATE]
        if len(states) > 1:
            same = [log for log in same if log not in states] + [
                max(states, key=lambda log: _checkpoint_number(log.path))
            ]
        together = [same] if same[0].format.together else [[log] for log in same]
        pieces += [Piece(format=same[0].format, logs=tuple(files)) for files in together]
    return tuple(pieces)


def _checkpoint_number(path: Path) -> float:
    number = re.fullmatch(r"checkpoint-(\d+)", path.parent.name)
    return float(number[1]) if number else float("inf")


def _files(folder: Path) -> Iterator[Path]:
    looked_at = 0
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = (
            sorted(name for name in folders if not name.startswith((".", "__")))
            if depth < DEEPEST
            else []
        )
        for name in sorted(names):
            looked_at += 1
            if looked_at <= MOST_FILES and not name.startswith("."):
                yield Path(place) / name


def _log(path: Path, folder: Path, refused: list[str]) -> Log | None:
    """The log that a file is; None where it is none.

    refused: gains what was wrong with a file that might have been one.
    """
    if (
        path.name in (RUN_JSON, PREDICTIONS, *OWN, *SUMMARIES)
        or not (path.suffix in LOGS or "tfevents" in path.name)
        or not path.is_file()
    ):
        return None
    try:
        head = head_of(path)
        form = format_of(head)
        if not form.tells_a_run(head) or (path.suffix in SETTINGS and not form.together):
            return None
    except (BadRun, OSError) as error:
        refused.append(str(error))
        return None
    above = path.relative_to(folder).parent.parts
    parts = [
        part
        for part in above
        if part.lower() not in WRITERS and not re.fullmatch(r"checkpoint-\d+", part)
    ]
    if form.name == "MLflow metrics":
        parts = parts[: parts.index(METRICS)] if METRICS in parts else []
    prefix = (
        parts[-1]
        if form.name == "TensorBoard events" and parts and _names_a_split(parts[-1])
        else ""
    )
    return Log(path=path, format=form, run=tuple(parts[:-1] if prefix else parts), prefix=prefix)


def split_of_name(path: Path) -> str:
    """The split that a file's name tells: "train" of `train.log` and `log_train.csv`, "" where it
    tells none or several.
    """
    found = {SPLITS[word] for word in words(path.stem.replace("_", " ")) if word in SPLITS}
    return found.pop() if len(found) == 1 else ""


def _names_a_split(folder: str) -> bool:
    meaning = known(folder)
    return folder.lower() in SPLITS or (meaning is not None and meaning.split != "")
