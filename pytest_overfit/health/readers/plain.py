"""Plain logs, such as `Epoch 25: Train 4.19 | Val 4.90 | Gap +0.71`, with `Target:` and `Pred:` lines.

Each line stands where the last clock before it says; one within an epoch, such as a progress bar's `45/100`, is of step level and stands that
far into its epoch. Of what carriage returns overwrote, the last piece counts, as on a terminal.

A prediction belongs to the epoch told before it. Where a log has predictions before its first epoch and none after its last, it puts them
first, and each belongs to the epoch told after it.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from pytest_overfit.health.readers.fields import tokens
from pytest_overfit.health.readers.gather import MOST_PREDICTIONS, NAN, Gathering
from pytest_overfit.health.readers.lines import LeftOut, Progress, TextLines
from pytest_overfit.health.readers.phrases import ESCAPES, Said, said, split_in
from pytest_overfit.health.run import Prediction

TARGET = r"targets?|references?|refs?|ground[ _-]?truth|gt|truth"
PREDICTION = r"predictions?|predicted|preds?|hypothesis|hyps?"
ROLE = re.compile(rf"(?:^|(?<=[\s|\])>]))(?:(?P<target>{TARGET})|{PREDICTION})\s*[:=](?!\S*=)\s*", re.IGNORECASE)
TELLING = re.compile(r"\d|nan|inf", re.IGNORECASE)
COUNT = r"(?P<{0}>\d[\d,_]{{0,20}}(?:\.\d+)?)\s*(?P<{0}_unit>[KMB]\b)?"
BEFORE, AFTER = COUNT.format("before"), COUNT.format("after")
CLIPS = r"(?:samples|clips|sentences)\b"
PARAMETERS = rf"{BEFORE}\s+(?:\w+\s+)?param(?:eter)?s\b|(?<!non-trainable )\bparam(?:eter)?s(?:\s*\(\w+\))?\s*[:=]\s*{AFTER}"
VOCABULARY = rf"\bvocab(?:ulary)?(?:[ _]size)?\s*[:=]\s*{AFTER}"


def _samples(split: str) -> str:
    named = rf"{BEFORE}\s+(?:{split})\s+{CLIPS}"
    return rf"{named}|\b(?:{split})(?:[ _](?:set|size))?\s*[:=]\s*{AFTER}\s+{CLIPS}|\b(?:{split})[ _]{CLIPS}\s*[:=]\s*{COUNT.format('last')}"


FACTS = {
    "parameters": re.compile(PARAMETERS, re.IGNORECASE),
    "train_samples": re.compile(_samples("train(?:ing)?"), re.IGNORECASE),
    "val_samples": re.compile(_samples("val(?:id(?:ation)?)?|dev"), re.IGNORECASE),
    "vocabulary": re.compile(VOCABULARY, re.IGNORECASE),
}
"""Facts told in text, mostly before the first epoch; the first of each counts."""
USUAL_LENGTH, MOST_CHARACTERS = 1_000, 10_000
"""Characters of a line beyond which its blanks are thinned out, since patterns may take the square of their number; and how many are read."""
TIMES = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}


@dataclass(slots=True)
class _Shown:
    """A prediction between two epochs."""

    before: float | None
    after: float | None
    target: tuple[str, ...]
    prediction: tuple[str, ...]


def read_plain(path: Path, gathering: Gathering, progress: Progress, *, most_lines: int | None = None) -> None:
    """most_lines: how many to read, of a log that is only to be recognised."""
    lines, reader = TextLines(path=path, progress=progress), _Reader(gathering)
    for number, raw in lines:
        reader.line(number, raw)
        if number == most_lines:
            break
    reader.finish()
    gathering.complaints += reader.unplaced.said(path, "left out: metrics before the first epoch or step")
    gathering.complaints += lines.complaints()


class _Reader:
    """What was said so far, as far as later lines depend on it."""

    def __init__(self, gathering: Gathering) -> None:
        self.unplaced = LeftOut()
        self._gathering = gathering
        self._epoch: float | None = None
        self._step: float | None = None
        self._split = ""
        self._target: tuple[str, ...] | None = None
        self._prediction: tuple[str, ...] | None = None
        self._shown: dict[str, deque[_Shown]] = {}
        self._waiting: deque[_Shown] = deque(maxlen=2 * MOST_PREDICTIONS)
        self._leading = False

    def line(self, number: int, raw: str) -> None:
        if "\r" in raw:
            raw = next((piece for piece in reversed(raw.split("\r")) if piece.strip()), "")
        text = ESCAPES.sub("", raw) if "\x1b" in raw else raw
        if len(text) > USUAL_LENGTH:
            text = " ".join(text.split())[:MOST_CHARACTERS]
        if self._spoken(text):
            return
        if not TELLING.search(text):
            self._heading(text)
            return
        self._facts(text)
        line = said(text)
        if line.epoch is not None:
            self._begin(line.epoch, line.epochs)
        if line.step is not None:
            self._step = line.step
        if line.values:
            self._values(number, line)
        elif line.epoch is None:
            self._heading(text)

    def _begin(self, epoch: float, planned: int | None) -> None:
        self._epoch, self._step, self._split = epoch, None, ""
        for shown in self._waiting:
            shown.after = epoch
        self._waiting.clear()
        if planned:
            self._gathering.told["epochs"] = planned

    def _values(self, number: int, line: Said) -> None:
        part, level = 0.0, ""
        if line.batch is not None:
            far, of = line.batch
            if self._epoch is not None and not (line.bar and far == of):
                part, level = max(far - 1, 0) / of, "step"
            elif self._epoch is None and line.step is None:
                self._step = float(far)
        if self._epoch is None and self._step is None:
            self.unplaced.add(number)
            return
        epoch = NAN if self._epoch is None else self._epoch
        step = NAN if self._step is None else self._step
        for name, split, value in line.values:
            self._gathering.add([(name, value)], epoch=epoch, part=part, step=step, split=split or self._split, level=level)

    def _heading(self, text: str) -> None:
        """`Validation:` or `--- Train samples ---` tells the split of what follows, up to the next epoch."""
        text = text.strip()
        if text.endswith(":") or len(text.split()) <= 5:
            self._split = split_in(text) or self._split

    def _spoken(self, text: str) -> bool:
        """Whether a line is a target, a prediction, or both."""
        roles = list(ROLE.finditer(text)) if ":" in text or "=" in text else []
        ends = [*(role.start() for role in roles[1:]), len(text)]
        for role, end in zip(roles, ends, strict=False):
            words = tokens(text[role.end() : end].strip().rstrip("|,;"))
            if role["target"]:
                self._target = words
            else:
                self._prediction = words
            if self._target is not None and self._prediction is not None:
                self._show(split_in(text[: roles[0].start()]) or self._split, self._target, self._prediction)
                self._target = self._prediction = None
        return bool(roles)

    def _show(self, split: str, target: tuple[str, ...], prediction: tuple[str, ...]) -> None:
        shown = _Shown(self._epoch, None, target, prediction)
        self._leading = self._leading or self._epoch is None
        self._shown.setdefault(split, deque(maxlen=MOST_PREDICTIONS)).append(shown)
        self._waiting.append(shown)

    def _facts(self, text: str) -> None:
        if self._epoch is not None and "param" not in text:
            return
        for name, pattern in FACTS.items():
            if name not in self._gathering.told and (match := pattern.search(text)):
                number, unit = next((match[place], match[f"{place}_unit"]) for place in pattern.groupindex if match[place] and "_" not in place)
                self._gathering.told[name] = round(float(number.replace(",", "").replace("_", "")) * TIMES[(unit or "").upper()])

    def finish(self) -> None:
        """Hand the predictions over, each with its epoch."""
        first = self._leading and not self._waiting
        for split, shown in self._shown.items():
            for one in shown:
                self._gathering.predict(Prediction(at=one.after if first else one.before, split=split, target=one.target, prediction=one.prediction))
