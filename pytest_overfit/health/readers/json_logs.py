"""JSON: an object a line; a list of rows (Hugging Face's `trainer_state.json` with its
`log_history`), read row by row, however long; or one object that holds a whole run, as lists of
readings (Keras' `history.history`) or a row under each epoch. Such an object may be Python's.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_overfit.health.curves.curve import Where
from pytest_overfit.health.curves.log_builder import LogBuilder
from pytest_overfit.health.curves.metric_names import SPLITS, clock, known, words
from pytest_overfit.health.readers.python_text import python_object
from pytest_overfit.health.readers.rows import (
    BLOCK,
    DEEPEST,
    LeftOut,
    Progress,
    Row,
    TextLines,
    as_number,
    flattened,
    json_row,
    row,
    shortened,
    warn_left_out,
)
from pytest_overfit.health.run import BadRun

LEAST = 3
"""Rows without a clock of which a log consists."""
MOST_LOOSE = 20_000
"""Rows without a clock that are kept, for a log that has no others."""
HISTORY = re.compile(r'"log_history"\s*:\s*\[')
OPENED = re.compile(r"\A\s*\[")
BETWEEN = re.compile(r"[\s,]*")
DECODE = json.JSONDecoder().raw_decode
PLANNED = {
    name: re.compile(rf'"{name}"\s*:\s*(\d{{1,12}})\b')
    for name in ("num_train_epochs", "max_steps", "global_step")
}
LARGEST_OBJECT = 256 << 20
"""Bytes of a file that is read as one object."""
BARE_SPLITS = [
    {train, val} for train in ("train", "training") for val in SPLITS if SPLITS[val] == "val"
]
"""Names of the only two lists of an object that tell splits and no measure."""
LEAST_READINGS = 2
"""Readings that make a list a curve."""


def read_jsonl(path: Path, builder: LogBuilder, progress: Progress) -> None:
    """One object a line; nested ones are flattened."""
    lines, malformed, unplaced = TextLines(path=path, progress=progress), LeftOut(), LeftOut()
    loose: deque[tuple[int, Row]] = deque(maxlen=MOST_LOOSE)
    number, whole = 0, True
    for number, text in lines:
        if not text.strip():
            continue
        found = json_row(text)
        whole = found is not None
        if found is None:
            malformed.add(number, shortened(text))
        elif found.placed:
            found.give(builder, Where(path, number))
        elif any(known(name) for name, _ in found.values):
            loose.append((number, found))
        elif found.values or found.texts:
            unplaced.add(number)
    if builder.empty and len(loose) >= LEAST:
        for number, found in loose:
            found.give(builder, Where(path, number))
    elif loose:
        unplaced = LeftOut(
            count=unplaced.count + len(loose),
            first=min(n for n in (unplaced.first, loose[0][0]) if n),
        )
    warn_left_out(
        builder,
        lines,
        malformed,
        unplaced,
        "not a JSON object",
        cut=not whole and lines.cut,
        number=number,
    )


def read_trainer_state(path: Path, builder: LogBuilder, progress: Progress) -> None:
    """Raises BadRun where the history does not start.

    One that is cut off is read up to there, with a warning.
    """
    unplaced = LeftOut()
    loose: list[tuple[Row, Where]] = []
    around: dict[str, int] = {}
    number = 0
    for number, item in enumerate(_rows(path, builder, progress, around), 1):
        if not isinstance(item, dict):
            unplaced.add(number)
            continue
        found, where = row(flattened(item)), Where(path, number, "row")
        if found.placed or found.of_the_whole_run:
            found.give(builder, where)
        elif found.values and len(loose) < MOST_LOOSE:
            loose.append((found, where))
        else:
            unplaced.add(number)
    for found, where in loose:
        found.give(builder, where) if len(loose) == number else unplaced.add(where.number)
    builder.warnings += (
        text.replace("line", "row")
        for text in unplaced.warning(path, "left out: neither epoch nor step")
    )
    if "num_train_epochs" in around:
        builder.facts |= {"epochs": around["num_train_epochs"]}
    builder.planned_steps = around.get("max_steps")
    if 0 < around.get("max_steps", 0) <= around.get("global_step", 0):
        builder.end(f"max_steps {around['max_steps']} reached ({path.name})")


def _around(text: str, around: dict[str, int]) -> None:
    """Take what a state tells beside its history."""
    for name, pattern in PLANNED.items():
        if match := pattern.search(text):
            around[name] = int(match[1])


def _rows(
    path: Path, builder: LogBuilder, progress: Progress, around: dict[str, int]
) -> Iterator[object]:
    """The items of the list. around: gains what stands before and behind it."""
    blocks = _blocks(path, progress)
    text, place, inside = "", 0, False
    for block in blocks:
        text, place = text[place:] + block, 0
        if not inside:
            start = (HISTORY if text.lstrip().startswith("{") else OPENED).search(text)
            inside, place = start is not None, start.end() if start else 0
            _around(text[:place], around)
        while inside:
            place = BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # it matches anywhere
            if text.startswith("]", place):
                _around(text[place:] + next(blocks, ""), around)
                return
            try:
                item, place = DECODE(text, place)
            except (ValueError, RecursionError):
                break
            yield item
        if len(text) - place > 2 * BLOCK:
            break
    if not inside:
        raise BadRun(
            f"{path}: JSON whose rows do not start; give a trainer_state.json with its log_history"
        )
    builder.warnings.append(f"{path}: the JSON is cut off or damaged: read up to there")


def _blocks(path: Path, progress: Progress) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            progress.advance(len(block))
            yield decoder.decode(block)


def whole_object(text: str) -> object:
    """What a text holds that is one object, of JSON or as Python prints it; None where it is not."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return python_object(text)


def curves_in(content: object) -> dict[str, list[Any]]:
    """The lists of numbers of an object, by their names with those of what holds them."""
    lists = _named_lists(content, "", 0) if isinstance(content, dict) else ()
    found = {
        name: one
        for name, one in lists
        if len(one) >= LEAST_READINGS and (_readings(one) or all(map(_pair, one)))
    }
    return _as_losses(found) if set(map(str.lower, found)) in BARE_SPLITS else found


def _as_losses(lists: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Lists of splits alone by the names of losses, where training falls; else as they are."""
    train = next(one for name, one in lists.items() if SPLITS[name.lower()] == "train")
    numbers = [number for value in train if (number := as_number(value)[0]) is not None]
    if len(numbers) < 2 or not numbers[-1] < numbers[0]:
        return lists
    return {f"{name} loss": one for name, one in lists.items()}


def rows_in(content: object) -> list[tuple[float, Mapping[str, Any]]]:
    """The rows of an object that has one under each epoch, {"1": {"loss": 3.1}, "2": {"loss":
    2.0}}, or a list of them, {"history": [...]}.

    Each with its epoch, NaN where it must tell that itself.
    """
    if not isinstance(content, dict):
        return []
    lists = {name: _rows_of_list(one) for name, one in _named_lists(content, "", 0)}
    by_split = {
        name: rows for name, rows in lists.items() if rows and set(words(name)) & set(SPLITS)
    }
    listed = max(lists.values(), key=lambda rows: (_of_validation(rows), len(rows)), default=[])
    if len(by_split) > 1 and {len(listed)} == {len(rows) for rows in by_split.values()}:
        # `train_metrics` and `dev_metrics`, a row for each epoch in both
        return [
            (math.nan, {name: rows[i][1] for name, rows in by_split.items()})
            for i in range(len(listed))
        ]
    if listed:
        return listed
    found = [(_epoch(name), one) for name, one in content.items() if isinstance(one, dict)]
    rows: list[tuple[float, Mapping[str, Any]]] = [
        (epoch, one) for epoch, one in found if epoch is not None
    ]
    return rows if LEAST_READINGS <= len(rows) == len(found) else []


def read_object(path: Path, builder: LogBuilder, progress: Progress) -> None:
    """Where no list counts epochs or steps, entries of lists of one length belong together.

    Raises BadRun for what is damaged or too large.
    """
    size = path.stat().st_size
    if size > LARGEST_OBJECT:
        raise BadRun(
            f"{path}: one JSON object of more than {LARGEST_OBJECT >> 20} MiB; give one object a line"
        )
    content = whole_object(path.read_text(encoding="utf-8", errors="replace"))
    if content is None:
        raise BadRun(f"{path}: cut off or no JSON; give one object a line")
    progress.advance(size)
    for number, (epoch, one) in enumerate(rows_in(content), 1):
        found = row(flattened(one))
        found.epoch = epoch if not found.placed else found.epoch
        found.give(builder, Where(path, number, "row"))
    if builder.empty:
        read_lists(path, curves_in(content), builder)


def read_lists(path: Path, lists: Mapping[str, list[Any]], builder: LogBuilder) -> None:
    """Curves as lists of readings, those of one length told together."""
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
            builder.add(
                [(f"{name} %" if percent else name, math.nan if number is None else number)],
                epoch=math.nan if epoch is None else epoch,
                step=math.nan if step is None else step,
                where=Where(path, index + 1, "entry"),
                order=(index + 1) / len(values),
            )


def _named_lists(
    content: Mapping[str, Any], prefix: str, depth: int
) -> Iterator[tuple[str, list[Any]]]:
    for name, one in content.items():
        if isinstance(one, list):
            yield f"{prefix}{name}", one
        elif isinstance(one, dict) and depth < DEEPEST:
            yield from _named_lists(one, f"{prefix}{name}/", depth + 1)


def _rows_of_list(values: list[Any]) -> list[tuple[float, Mapping[str, Any]]]:
    rows = [one for one in values if isinstance(one, dict)]
    of_metrics = (
        len(rows) >= LEAST_READINGS
        and len(rows) == len(values)
        and any(known(name) for one in rows for name, _ in row(flattened(one)).values)
    )
    return [(math.nan, one) for one in rows] if of_metrics else []


def _of_validation(rows: list[tuple[float, Mapping[str, Any]]]) -> bool:
    """Whether rows tell of validation: a list of batches may stand beside them, and is longer."""
    names = (name for _, one in rows for name, _ in row(flattened(one)).values)
    return any((meaning := known(name)) and meaning.split == "val" for name in names)


def _clock(name: str) -> str | None:
    own = name.rsplit("/", 1)[-1]
    return clock(own) or clock(own.removesuffix("s"))


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
