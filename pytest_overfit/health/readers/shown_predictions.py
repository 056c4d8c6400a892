"""Targets and predictions that a plain log shows beside each other.

A prediction belongs to the epoch told before it. Where a log has predictions before its first epoch
and none after its last, it puts them first, and each belongs to the epoch told after it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_overfit.health.curves.log_builder import MOST_PREDICTIONS
from pytest_overfit.health.readers.plain_line import split_in
from pytest_overfit.health.readers.rows import tokens
from pytest_overfit.health.run import Prediction

TARGET = r"targets?|references?|refs?|ground[ _-]?truth|gt|truth"
PREDICTION = r"predictions?|predicted|preds?|hypothesis|hyps?"
ROLE = re.compile(
    rf"(?:^|(?<=[\s|\])>]))(?:(?P<target>{TARGET})|{PREDICTION})\s*[:=](?!\S*=)\s*", re.IGNORECASE
)


@dataclass(slots=True)
class _PendingPrediction:
    """A prediction between two epochs."""

    before: float | None
    after: float | None
    target: tuple[str, ...]
    prediction: tuple[str, ...]


class ShownPredictions:
    """What a log has shown so far, and what still waits for its epoch."""

    def __init__(self) -> None:
        self._target: tuple[str, ...] | None = None
        self._prediction: tuple[str, ...] | None = None
        self._of_split: dict[str, deque[_PendingPrediction]] = {}
        self._waiting: deque[_PendingPrediction] = deque(maxlen=2 * MOST_PREDICTIONS)
        self._leading = False

    def line(self, text: str, epoch: float | None, split: str) -> bool:
        """Whether a line is a target, a prediction, or both; it is kept if so. epoch, split: those that
        were told before it.
        """
        roles = list(ROLE.finditer(text)) if ":" in text or "=" in text else []
        ends = [*(role.start() for role in roles[1:]), len(text)]
        for role, end in zip(roles, ends, strict=False):
            words = tokens(text[role.end() : end].strip().rstrip("|,;"))
            if role["target"]:
                self._target = words
            else:
                self._prediction = words
            if self._target is not None and self._prediction is not None:
                shown = _PendingPrediction(epoch, None, self._target, self._prediction)
                self._leading = self._leading or epoch is None
                named = split_in(text[: roles[0].start()]) or split
                self._of_split.setdefault(named, deque(maxlen=MOST_PREDICTIONS)).append(shown)
                self._waiting.append(shown)
                self._target = self._prediction = None
        return bool(roles)

    def epoch_begins(self, epoch: float | None) -> None:
        """Those shown since the last epoch was told stand before this one."""
        for shown in self._waiting:
            shown.after = epoch
        self._waiting.clear()

    def placed(self) -> Iterator[Prediction]:
        """All of them, each with its epoch."""
        first = self._leading and not self._waiting
        for split, shown in self._of_split.items():
            for one in shown:
                yield Prediction(
                    at=one.after if first else one.before,
                    split=split,
                    target=one.target,
                    prediction=one.prediction,
                )
