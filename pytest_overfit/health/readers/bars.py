"""Progress bars in plain logs: what one at its end tells, beside what other lines tell of its epoch."""

from __future__ import annotations

import re
from dataclasses import replace

from pytest_overfit.health.readers.plain_line import ParsedLine

BACK = re.compile("\b+")
"""How a progress bar goes back over what it wrote."""
COMPLETE = re.compile(r"(?<![\d/])(\d{1,12})/\1(?![\d/])")
"""A progress bar at its end."""


def is_at_its_end(line: ParsedLine) -> bool:
    """Whether a line is of a bar whose last batch is done."""
    return line.bar and line.batch is not None and line.batch[0] == line.batch[1]


def covers(bar: ParsedLine, of: str, after: ParsedLine, split: str) -> bool:
    """Whether a line tells all that a bar before it told, and more where neither names its epoch and
    it is a bar too. of, split: what was told before each.
    """
    told = {(name, own or of) for name, own, _ in bar.values}
    again = {(name, own or split) for name, own, _ in after.values}
    plain = after.batch is None and after.step is None
    return told <= again if bar.epoch is not None or plain else told < again


def heads_training(line: ParsedLine) -> bool:
    """Whether a line is `Epoch 1/10` and nothing else."""
    bare = not line.values and line.step is None and line.batch is None
    return bare and line.epochs is not None and line.epoch in (0, 1)


def untold(bar: ParsedLine, after: ParsedLine) -> ParsedLine:
    """What a bar at its end tells and the line that names its epoch does not tell again: a bar shows
    its last batch where that has the mean.
    """
    if not is_at_its_end(bar) or after.batch is not None:
        return bar
    again = {value[:2] for value in after.values}
    return replace(bar, values=[value for value in bar.values if value[:2] not in again])
