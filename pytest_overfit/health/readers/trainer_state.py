"""JSON that holds a list of rows: Hugging Face's `trainer_state.json` with its `log_history`, or a
bare list. Read row by row, however long.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

from pytest_overfit.health.readers.fields import Row, flattened, row
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import BLOCK, LeftOut, Progress
from pytest_overfit.health.readers.tables import MOST_LOOSE
from pytest_overfit.health.run import BadRun, Where

HISTORY = re.compile(r'"log_history"\s*:\s*\[')
OPENED = re.compile(r"\A\s*\[")
BETWEEN = re.compile(r"[\s,]*")
DECODE = json.JSONDecoder().raw_decode
PLANNED = {
    name: re.compile(rf'"{name}"\s*:\s*(\d{{1,12}})\b')
    for name in ("num_train_epochs", "max_steps", "global_step")
}


def read_trainer_state(path: Path, gathering: Gathering, progress: Progress) -> None:
    """Raises BadRun where the history does not start.

    One that is cut off is read up to there, with a warning.
    """
    unplaced = LeftOut()
    loose: list[tuple[Row, Where]] = []
    around: dict[str, int] = {}
    number = 0
    for number, said in enumerate(_rows(path, gathering, progress, around), 1):
        if not isinstance(said, dict):
            unplaced.add(number)
            continue
        found, where = row(flattened(said)), Where(path, number, "row")
        if found.placed or found.of_the_whole_run:
            found.give(gathering, where)
        elif found.values and len(loose) < MOST_LOOSE:
            loose.append((found, where))
        else:
            unplaced.add(number)
    for found, where in loose:
        found.give(gathering, where) if len(loose) == number else unplaced.add(where.number)
    gathering.warnings += (
        text.replace("line", "row")
        for text in unplaced.said(path, "left out: neither epoch nor step")
    )
    if "num_train_epochs" in around:
        gathering.told |= {"epochs": around["num_train_epochs"]}
    gathering.planned_steps = around.get("max_steps")
    if 0 < around.get("max_steps", 0) <= around.get("global_step", 0):
        gathering.end(f"max_steps {around['max_steps']} reached ({path.name})")


def _around(text: str, around: dict[str, int]) -> None:
    """Take what a state tells beside its history."""
    for name, pattern in PLANNED.items():
        if match := pattern.search(text):
            around[name] = int(match[1])


def _rows(
    path: Path, gathering: Gathering, progress: Progress, around: dict[str, int]
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
    gathering.warnings.append(f"{path}: the JSON is cut off or damaged: read up to there")


def _blocks(path: Path, progress: Progress) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            progress.advance(len(block))
            yield decoder.decode(block)
