"""The files of a run: which files of a folder are logs, which of them are of one run, and what stands
beside them: `run.json` (facts), `predictions.jsonl`, the newest checkpoint.

Below the folder, each folder with logs is a run, but for those that trainers make within one: `csv`
and `tb` beside each other, Hugging Face's `checkpoint-500`, Keras's `train` and `validation`, and
`Loss_train` of SummaryWriter.add_scalars.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_overfit.finding import naming
from pytest_overfit.health.curves.log_builder import LogBuilder
from pytest_overfit.health.curves.metric_names import SPLITS, known, words
from pytest_overfit.health.readers.formats import (
    PREDICTIONS,
    Format,
    format_of,
    head_of,
    names_not_understood,
)
from pytest_overfit.health.readers.rows import LeftOut, Progress, TextLines, json_row, shortened
from pytest_overfit.health.readers.trackers import MLFLOW_METRICS
from pytest_overfit.health.run import BadRun, Facts
from pytest_overfit.levels import Level

RUN_JSON = "run.json"
CHECKPOINTS = (".ckpt", ".pt", ".pth", ".safetensors")
VERSION = 1
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
    ".stdout",
    ".stderr",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".ndjson",
    ".wandb",
    ".report",
    ".data",
    *SETTINGS,
    *PROSE,
)
"""Endings of what is a log in a folder, where it has one; event files are taken with any."""
NO_LOGS = (
    *(".py", ".sh", ".c", ".cc", ".cpp", ".h", ".js", ".css", ".toml", ".cfg", ".ini", ".lock"),
    *(".png", ".jpg", ".jpeg", ".svg", ".pdf", ".wav", ".mp4", ".npy", ".npz", ".zip", ".gz"),
    *CHECKPOINTS,
)
"""Endings of what is none, whatever it says."""
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


def find_beside(name: str, folders: Sequence[Path]) -> Path | None:
    """The file of that name in the first of these folders that has one."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def newest_checkpoint(folders: Sequence[Path]) -> Path | None:
    """The last written of the checkpoints in these folders, their `checkpoints` and Hugging Face's
    `checkpoint-500`.
    """
    places = [
        place
        for folder in folders
        for place in (folder, folder / "checkpoints", *sorted(folder.glob("checkpoint-*")))
        if place.is_dir()
    ]
    # What else a trainer keeps in files of that ending is no network.
    others = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")
    found = {
        path
        for place in places
        for path in place.iterdir()
        if path.suffix in CHECKPOINTS
        and path.is_file()
        and path.stat().st_size
        and not path.name.startswith(others)
    }
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def read_facts(path: Path) -> Facts:
    """Facts from a run.json. Fields that it does not have are unknown, fields not known are passed
    over.

    Raises BadRun, which names the field, where one has the wrong type, and where the file is no
    JSON object of version 1.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRun(f"{path}: cut off or not JSON ({error}); mend it or remove it") from error
    if not isinstance(content, dict):
        raise BadRun(
            f"{path}: must hold one JSON object, with fields such as subject and parameters"
        )
    if content.get("version", VERSION) != VERSION:
        raise BadRun(
            f"{path}: field version is {content['version']!r}, this reader knows {VERSION}"
        )
    fields = _Fields(path, content)
    return Facts(
        subject=fields.text("subject"),
        parameters=fields.count("parameters"),
        train_samples=fields.count("train_samples"),
        val_samples=fields.count("val_samples"),
        vocabulary=fields.count("vocabulary"),
        levels={
            split: fields.levels(split, plateaus)
            for split, plateaus in fields.table("levels").items()
        },
        command=fields.text("command"),
        network=fields.table("network"),
        epochs=fields.count("epochs"),
    )


class _Fields:
    """The fields of a run.json, each of its type. A field that is absent or null is None."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self._path, self._content = path, content

    def text(self, name: str) -> str | None:
        value: str | None = self._checked(name, lambda value: isinstance(value, str), "text")
        return value

    def count(self, name: str) -> int | None:
        value: int | None = self._checked(
            name, lambda value: type(value) is int and value >= 0, "a whole number, 0 or more"
        )
        return value

    def table(self, name: str) -> dict[str, Any]:
        return self._checked(name, lambda value: isinstance(value, dict), "an object") or {}

    def levels(self, split: str, plateaus: object) -> tuple[Level, ...]:
        """Highest first, in whatever order the file has them."""
        if not isinstance(plateaus, list):
            raise self._bad(f"levels.{split}", "a list of objects with name and loss", plateaus)
        return tuple(
            sorted(
                (self._level(f"levels.{split}[{n}]", one) for n, one in enumerate(plateaus)),
                key=lambda level: -level.loss,
            )
        )

    def _level(self, field: str, content: object) -> Level:
        if not isinstance(content, dict) or not isinstance(content.get("name"), str):
            raise self._bad(field, "an object with a name", content)
        loss = content.get("loss")
        if isinstance(loss, bool) or not isinstance(loss, int | float) or not math.isfinite(loss):
            raise self._bad(f"{field}.loss", "a finite number", loss)
        return Level(name=content["name"], loss=float(loss))

    def _checked(self, name: str, fits: Callable[[Any], bool], kind: str) -> Any:
        value = self._content.get(name)
        if value is not None and not fits(value):
            raise self._bad(name, kind, value)
        return value

    def _bad(self, field: str, kind: str, value: object) -> BadRun:
        return BadRun(
            f"{self._path}: field {field} must be {kind}, got {shortened(json.dumps(value))[1:-1]}"
        )


def read_predictions(path: Path, builder: LogBuilder, progress: Progress) -> None:
    """Of each split the newest stay. Lines without a target and a prediction are counted."""
    lines, malformed = TextLines(path=path, progress=progress), LeftOut()
    for number, text in lines:
        if not text.strip():
            continue
        row = json_row(text)
        found = row.prediction() if row is not None else None
        if found is None:
            malformed.add(number, shortened(text))
        else:
            builder.predict(found)
    builder.warnings += malformed.warning(
        path, "left out: no object with a target and a prediction"
    )
    builder.warnings += lines.warnings()


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """A log file. run: what tells it from the logs of other runs below the same folder.

    prefix: of its metrics' names. split: that its folder is named after, "" for none.
    """

    path: Path
    format: Format
    run: tuple[str, ...] = ()
    prefix: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class LogSet:
    """Files of one format that tell of one run."""

    format: Format
    logs: tuple[LogFile, ...]

    @property
    def size(self) -> int:
        """Bytes of its logs."""
        return sum(log.path.stat().st_size for log in self.logs)


@dataclass(frozen=True, kw_only=True)
class RunLogs:
    """What is told of one run, in one format or more; of several runs too, where files of one
    format contradict each other.
    """

    folder: Path
    log_sets: tuple[LogSet, ...]


def find_runs(folder: Path) -> tuple[list[RunLogs], list[Path]]:
    """The runs in a folder or below it; and the logs of others left out, since a run at the top
    goes before those below.

    Raises BadRun where there is no log.
    """
    refused: list[str] = []
    logs, others = list[Path](), list[Path]()
    for path in _files(folder):
        usual = path.suffix.lower() in LOGS or "tfevents" in path.name
        (logs if usual else others).append(path)
    found = [log for path in logs if (log := _log(path, folder, refused)) is not None] or [
        log
        for path in others
        if path.suffix.lower() not in NO_LOGS and (log := _log(path, folder, [])) is not None
    ]
    found = [log for log in found if log.path.suffix not in PROSE] or found
    if not found:
        told = ((path, names_not_understood(path)) for path in (*logs, *others))
        if (strange := next((one for one in told if one[1]), None)) is not None:
            path, names = strange
            raise BadRun(
                f"{folder}: no log in it that is understood: {path.name} tells {naming(names)}; give "
                f"{path.name} itself, with --overfit-metric train_loss={names[0]} or what else one is"
            )
        why = f" ({refused[0]})" if refused else ""
        raise BadRun(f"{folder}: no log in it{why}; looked for {LOOKED_FOR}. Give the log itself")
    runs: dict[tuple[str, ...], list[LogFile]] = {}
    for log in found:
        runs.setdefault(log.run, []).append(log)
    if () in runs:
        return [RunLogs(folder=folder, log_sets=_log_sets(runs[()]))], [
            log.path for log in found if log.run
        ]
    return [
        RunLogs(folder=logs[0].path.parent, log_sets=_log_sets(logs)) for logs in runs.values()
    ], []


def named(folder: Path, paths: Sequence[Path], most: int = 2) -> str:
    """Paths below a folder for a sentence: the first two, then how many more."""
    names = [str(path.relative_to(folder)) for path in paths]
    if len(names) <= most:
        return " and ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _log_sets(logs: Sequence[LogFile]) -> tuple[LogSet, ...]:
    """Event files go on from each other, and of Hugging Face's states the last holds the others;
    any other log stands for itself.
    """
    log_sets = []
    for name in dict.fromkeys(log.format.name for log in logs):
        same = [log for log in logs if log.format.name == name]
        states = [log for log in same if log.path.name == STATE]
        if len(states) > 1:
            same = [log for log in same if log not in states] + [
                max(states, key=lambda log: _checkpoint_number(log.path))
            ]
        together = [same] if same[0].format.together else [[log] for log in same]
        log_sets += [LogSet(format=same[0].format, logs=tuple(files)) for files in together]
    return tuple(log_sets)


def _checkpoint_number(path: Path) -> float:
    number = re.fullmatch(r"checkpoint-(\d+)", path.parent.name)
    return float(number[1]) if number else float("inf")


def _files(folder: Path) -> Iterator[Path]:
    looked_at = 0
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = (
            sorted((name for name in folders if not name.startswith((".", "__"))), key=_by_number)
            if depth < DEEPEST
            else []
        )
        for name in sorted(names, key=_by_number):
            looked_at += 1
            if looked_at <= MOST_FILES and not name.startswith("."):
                yield Path(place) / name


def _by_number(name: str) -> list[str | int]:
    """Orders names as they were counted, 9 before 10: of sessions that begin in one second,
    TensorBoard tells the files by a number alone.
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _log(path: Path, folder: Path, refused: list[str]) -> LogFile | None:
    """The log that a file is; None where it is none.

    refused: gains what was wrong with a file that might have been one.
    """
    if path.name in (RUN_JSON, PREDICTIONS, *OWN, *SUMMARIES) or not path.is_file():
        return None
    try:
        head = head_of(path)
        form = format_of(head)
        if not form.holds_a_run(head) or (path.suffix in SETTINGS and not form.together):
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
        parts = parts[: parts.index(MLFLOW_METRICS)] if MLFLOW_METRICS in parts else []
    prefix = (
        parts[-1]
        if form.name == "TensorBoard events" and parts and _names_a_split(parts[-1])
        else ""
    )
    split = "" if prefix or not parts else SPLITS.get(parts[-1].lower(), "")
    return LogFile(
        path=path,
        format=form,
        run=tuple(parts[:-1] if prefix or split else parts),
        prefix=prefix,
        split=split,
    )


def split_of(log: LogFile) -> str:
    """The split that the name of a file tells, or of its folder: "train" of `train.log` and
    `log_train.csv`, "" where it tells none or several.
    """
    found = {SPLITS[word] for word in words(log.path.stem.replace("_", " ")) if word in SPLITS}
    return found.pop() if len(found) == 1 else "" if found else log.split


def _names_a_split(folder: str) -> bool:
    meaning = known(folder)
    return folder.lower() in SPLITS or (meaning is not None and meaning.split != "")
