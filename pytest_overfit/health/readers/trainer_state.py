"""JSON that holds a list of rows: Hugging Face's `trainer_state.json` with its `log_history`, or a bare list. Read row by row, however long."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

from pytest_overfit.health.readers.fields import flattened, row
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import BLOCK, LeftOut, Progress
from pytest_overfit.health.run import BadRun

HISTORY = re.compile(r'"log_history"\s*:\s*\[')
OPENED = re.compile(r"\A\s*\[")
BETWEEN = re.compile(r"[\s,]*")
DECODE = json.JSONDecoder().raw_decode
EPOCHS = re.compile(r'"num_train_epochs"\s*:\s*(\d{1,9})\b')
OF_THE_WHOLE_RUN = "train_runtime"
"""Names the last row of a finished run, whose `train_loss` is the mean over all of it."""


def read_trainer_state(path: Path, gathering: Gathering, progress: Progress) -> None:
    """Raises BadRun where the history does not start. One that is cut off is read up to there, with a complaint."""
    unplaced = LeftOut()
    number = 0
    for number, said in enumerate(_rows(path, gathering, progress), 1):
        if not isinstance(said, dict):
            unplaced.add(number)
        elif OF_THE_WHOLE_RUN not in said:
            found = row(flattened(said))
            found.give(gathering) if found.placed else unplaced.add(number)
    gathering.complaints += (text.replace("line", "row") for text in unplaced.said(path, "left out: neither epoch nor step"))


def _rows(path: Path, gathering: Gathering, progress: Progress) -> Iterator[object]:
    """The items of the list. What stands behind it is searched for the epochs planned."""
    blocks = _blocks(path, progress)
    text, place, inside = "", 0, False
    for block in blocks:
        text, place = text[place:] + block, 0
        if not inside:
            start = (HISTORY if text.lstrip().startswith("{") else OPENED).search(text)
            inside, place = start is not None, start.end() if start else 0
        while inside:
            place = BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # it matches anywhere
            if text.startswith("]", place):
                planned = EPOCHS.search(text[place:] + next(blocks, ""))
                gathering.told |= {"epochs": int(planned[1])} if planned else {}
                return
            try:
                item, place = DECODE(text, place)
            except (ValueError, RecursionError):
                break
            yield item
        if len(text) - place > 2 * BLOCK:
            break
    if not inside:
        raise BadRun(f"{path}: JSON whose rows do not start; give a trainer_state.json with its log_history")
    gathering.complaints.append(f"{path}: the JSON is cut off or damaged: read up to there")


def _blocks(path: Path, progress: Progress) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            progress.advance(len(block))
            yield decoder.decode(block)
