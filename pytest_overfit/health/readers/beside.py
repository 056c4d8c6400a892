"""What stands beside a log: `run.json` (facts), `predictions.jsonl`, the newest checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import LeftOut, Progress, TextLines
from pytest_overfit.health.readers.tables import json_row, shortened
from pytest_overfit.health.run import BadRun, Facts
from pytest_overfit.levels import Level

RUN_JSON = "run.json"
PREDICTIONS = "predictions.jsonl"
CHECKPOINTS = (".ckpt", ".pt", ".pth", ".safetensors")
VERSION = 1


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
        said = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRun(f"{path}: cut off or not JSON ({error}); mend it or remove it") from error
    if not isinstance(said, dict):
        raise BadRun(
            f"{path}: must hold one JSON object, with fields such as subject and parameters"
        )
    if said.get("version", VERSION) != VERSION:
        raise BadRun(f"{path}: field version is {said['version']!r}, this reader knows {VERSION}")
    fields = _Fields(path, said)
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

    def __init__(self, path: Path, said: Mapping[str, Any]) -> None:
        self._path, self._said = path, said

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

    def _level(self, field: str, said: object) -> Level:
        if not isinstance(said, dict) or not isinstance(said.get("name"), str):
            raise self._bad(field, "an object with a name", said)
        loss = said.get("loss")
        if isinstance(loss, bool) or not isinstance(loss, int | float) or not math.isfinite(loss):
            raise self._bad(f"{field}.loss", "a finite number", loss)
        return Level(name=said["name"], loss=float(loss))

    def _checked(self, name: str, fits: Callable[[Any], bool], kind: str) -> Any:
        value = self._said.get(name)
        if value is not None and not fits(value):
            raise self._bad(name, kind, value)
        return value

    def _bad(self, field: str, kind: str, value: object) -> BadRun:
        return BadRun(
            f"{self._path}: field {field} must be {kind}, got {shortened(json.dumps(value))[1:-1]}"
        )


def read_predictions(path: Path, gathering: Gathering, progress: Progress) -> None:
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
            gathering.predict(found)
    gathering.warnings += malformed.said(path, "left out: no object with a target and a prediction")
    gathering.warnings += lines.warnings()
