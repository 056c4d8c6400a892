"""JSON that holds a whole run in one object: lists of readings (Keras' `history.history`), or a row
under the number of each epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_overfit.health.readers.fields import DEEPEST, as_number, flattened, row
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import Progress
from pytest_overfit.health.readers.names import clock, known
from pytest_overfit.health.run import BadRun, Where

LARGEST = 256 << 20
"""Bytes of a file that is read as one object."""
LEAST = 2
"""Readings that make a list a curve."""


def curves_in(said: object) -> dict[str, list[Any]]:
    """The lists of numbers of an object, by their names with those of what holds them."""
    return dict(_lists(said, "", 0)) if isinstance(said, dict) else {}


def rows_in(said: object) -> list[tuple[float, Mapping[str, Any]]]:
    """The rows of an object that has one under each epoch, {"1": {"loss": 3.1}, "2": {"loss":
    2.0}}, or a list of them, {"history": [...]}.

    Each with its epoch, NaN where it must tell that itself.
    """
    if not isinstance(said, dict):
        return []
    listed = max(
        (_rows_of_list(one) for one in _values(said, 0) if isinstance(one, list)),
        key=len,
        default=[],
    )
    if listed:
        return listed
    found = [(_epoch(name), one) for name, one in said.items() if isinstance(one, dict)]
    rows: list[tuple[float, Mapping[str, Any]]] = [
        (epoch, one) for epoch, one in found if epoch is not None
    ]
    return rows if LEAST <= len(rows) == len(found) else []


def read_object(path: Path, gathering: Gathering, progress: Progress) -> None:
    """Where no list counts epochs or steps, entries of lists of one length belong together.

    Raises BadRun for JSON that is damaged or too large.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise BadRun(
            f"{path}: one JSON object of more than {LARGEST >> 20} MiB; give one object a line"
        )
    try:
        said = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise BadRun(f"{path}: cut off or not JSON ({error}); give one object a line") from error
    progress.advance(size)
    for number, (epoch, one) in enumerate(rows_in(said), 1):
        found = row(flattened(one))
        found.epoch = epoch if not found.placed else found.epoch
        found.give(gathering, Where(path, number, "row"))
    if gathering.empty:
        _read_lists(path, curves_in(said), gathering)


def _read_lists(path: Path, lists: Mapping[str, list[Any]], gathering: Gathering) -> None:
    clocks = {
        (counts, len(values)): values for name, values in lists.items() if (counts := _clock(name))
    }
    for name, values in lists.items():
        if _clock(name):
            continue
        epochs, steps = clocks.get(("epoch", len(values))), clocks.get(("step", len(values)))
        for index, value in enumerate(values):
            epoch, step = (as_number(one[index])[0] if one else None for one in (epochs, steps))
            if isinstance(value, list):
                step, value = as_number(value[-2])[0], value[-1]
            number, percent = as_number(value)
            gathering.add(
                [(f"{name} %" if percent else name, math.nan if number is None else number)],
                epoch=math.nan if epoch is None else epoch,
                step=math.nan if step is None else step,
                where=Where(path, index + 1, "entry"),
                order=(index + 1) / len(values),
            )


def _values(said: Mapping[str, Any], depth: int) -> Iterator[Any]:
    for one in said.values():
        yield one
        if isinstance(one, dict) and depth < DEEPEST:
            yield from _values(one, depth + 1)


def _rows_of_list(values: list[Any]) -> list[tuple[float, Mapping[str, Any]]]:
    rows = [one for one in values if isinstance(one, dict)]
    told = (
        len(rows) >= LEAST
        and len(rows) == len(values)
        and any(known(name) for one in rows for name, _ in row(flattened(one)).values)
    )
    return [(math.nan, one) for one in rows] if told else []


def _clock(name: str) -> str | None:
    own = name.rsplit("/", 1)[-1]
    return clock(own) or clock(own.removesuffix("s"))


def _lists(said: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, list[Any]]]:
    for name, one in said.items():
        if isinstance(one, dict) and depth < DEEPEST:
            yield from _lists(one, f"{prefix}{name}/", depth + 1)
        elif (
            isinstance(one, list) and len(one) >= LEAST and (_readings(one) or all(map(_pair, one)))
        ):
            yield prefix + name, one


def _readings(values: list[Any]) -> bool:
    """Whether a list holds numbers, some of which may be missing."""
    return any(as_number(value)[0] is not None for value in values) and all(map(_reading, values))


def _reading(value: object) -> bool:
    return value is None or as_number(value)[0] is not None


def _pair(value: object) -> bool:
    """Whether it is (step, value), or (time, step, value) as TensorBoard exports it."""
    return (
        isinstance(value, list)
        and len(value) in (2, 3)
        and all(as_number(one)[0] is not None for one in value)
    )


def _epoch(name: str) -> float | None:
    found = row([("epoch", name)]).epoch
    return found if math.isfinite(found) else None
