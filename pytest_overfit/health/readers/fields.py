"""Fields of one row, from csv or JSON: which of them are its clock, its split, a prediction, and
numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_overfit.health.readers.gather import NAN, Gathering
from pytest_overfit.health.readers.names import SPLITS, clock, words
from pytest_overfit.health.readers.tongues import unwrapped
from pytest_overfit.health.run import Prediction, Where

SPLIT_FIELDS = frozenset({"split", "phase", "mode", "stage", "subset", "set", "name"})
METRIC_FIELDS = frozenset({"metric", "metric_name", "key", "tag"})
TARGETS = frozenset({"target", "ref", "reference", "truth", "ground truth", "gt"})
PREDICTIONS = frozenset({"prediction", "pred", "predicted", "hyp", "hypothesis"})
EMPTY = frozenset({"", "<empty>", "(empty)", "[]", "none", "<none>"})
OF_THE_WHOLE_RUN = "train_runtime"
"""Names the last row of a run that Hugging Face's trainer finished, whose `train_loss` is the mean
over all of it.
"""
NUMBERED = re.compile(r"(?:epoch|step|iter(?:ation)?)\W{0,3}(\d{1,12})", re.IGNORECASE)
"""A cell that says what it counts: `Epoch 3`."""
DEEPEST = 5
"""Levels of nested objects that are flattened."""


@dataclass(kw_only=True)
class Row:
    """epoch, step: NaN where the row does not tell.

    values: (name, value); a name ends in " %" where the value had that sign.
    """

    epoch: float = NAN
    step: float = NAN
    split: str = ""
    values: list[tuple[str, float]] = field(default_factory=list)
    texts: dict[str, object] = field(default_factory=dict)

    @property
    def placed(self) -> bool:
        """Whether it says at which epoch or step it stands."""
        return math.isfinite(self.epoch) or math.isfinite(self.step)

    @property
    def of_the_whole_run(self) -> bool:
        """Whether it sums the run up at its end."""
        return any(name == OF_THE_WHOLE_RUN for name, _ in self.values)

    def give(
        self,
        gathering: Gathering,
        where: Where | None,
        *,
        split: str = "",
        order: float | None = None,
    ) -> None:
        """where: its place in the log. split: that of a row which does not say its own.

        order: as `Gathering.add` takes it.
        """
        if self.of_the_whole_run:
            gathering.end(
                "its trainer came to the end" + (f" ({where})" if where else ""), order=order
            )
            return
        gathering.add(
            self.values,
            epoch=self.epoch,
            step=self.step,
            split=self.split or split,
            where=where,
            order=order,
        )
        found = self.prediction()
        if found is not None:
            gathering.predict(found)

    def prediction(self) -> Prediction | None:
        """The target and prediction that the row tells, if it does."""
        target = next((self.texts[name] for name in self.texts if name in TARGETS), None)
        predicted = next((self.texts[name] for name in self.texts if name in PREDICTIONS), None)
        if target is None or predicted is None:
            return None
        at = self.epoch if math.isfinite(self.epoch) else self.step
        return Prediction(
            at=at if math.isfinite(at) else None,
            split=self.split,
            target=tokens(target),
            prediction=tokens(predicted),
        )


def row(fields: Iterable[tuple[str, object]]) -> Row:
    """Sort the fields of a row. What is neither number nor known text is left out.

    A metric and a value may stand in fields of these names.
    """
    found = Row()
    fields = list(fields)
    named = next(
        (str(value) for name, value in fields if name.strip().lower() in METRIC_FIELDS), None
    )
    for name, value in fields:
        if named is not None and name.strip().lower() == "value":
            name = named
        if isinstance(value, list):
            found.texts[" ".join(words(name))] = value
            continue
        counts = clock(name)
        number, percent = as_number(value)
        if (
            counts
            and number is None
            and isinstance(value, str)
            and (numbered := NUMBERED.fullmatch(value.strip()))
        ):
            number = float(numbered[1])
        if number is None:
            if isinstance(value, str):
                _text(found, " ".join(words(name)), value)
        elif counts == "epoch":
            found.epoch = number
        elif counts == "step":
            found.step = number
        else:
            found.values.append((f"{name} %" if percent else name, number))
    return found


def _text(found: Row, name: str, value: str) -> None:
    if name in SPLIT_FIELDS and value.strip().lower() in SPLITS:
        found.split = SPLITS[value.strip().lower()]
    elif name in TARGETS or name in PREDICTIONS:
        found.texts[name] = value


def flattened(
    said: Mapping[str, object], prefix: str = "", depth: int = 0
) -> list[tuple[str, object]]:
    """Nested objects as one level: {"val": {"loss": 4.9}} is [("val/loss", 4.9)]."""
    fields: list[tuple[str, object]] = []
    for name, value in said.items():
        if isinstance(value, dict):
            fields += flattened(value, f"{prefix}{name}/", depth + 1) if depth < DEEPEST else []
        else:
            fields.append((prefix + name, value))
    return fields


def as_number(value: object) -> tuple[float | None, bool]:
    """The number that `value` is or reads as, and whether it has a percent sign: "91.2%" -> (91.2,
    True). Not for truth values.
    """
    if isinstance(value, str):
        text = unwrapped(value.strip())
        try:
            return float(text.removesuffix("%")), text.endswith("%")
        except ValueError:
            return None, False
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, False
    try:
        return float(value), False
    except OverflowError:
        return math.inf if value > 0 else -math.inf, False


def tokens(said: object) -> tuple[str, ...]:
    """Words of a target or prediction: of a list its items, of text its words, with brackets,
    quotes and commas around them taken off.
    """
    if isinstance(said, list):
        return tuple(str(item) for item in said)
    text = str(said).strip()
    if text.lower() in EMPTY:
        return ()
    if text[:1] in "[(" and text[-1:] in "])":
        return tuple(
            word for part in text[1:-1].split(",") for word in part.strip().strip("'\"").split()
        )
    if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]:
        return tokens(text[1:-1])
    return tuple(text.split())
