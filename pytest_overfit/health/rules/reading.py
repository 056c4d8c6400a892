"""How well clips are read, whatever the log measures it by: an error rate, or a score of which more
is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.curves.metric import MEASURED, Metric
from pytest_overfit.health.rules.trend import CREEP, FEW, between, falls, finite, thinned
from pytest_overfit.health.rules.words import number, share
from pytest_overfit.health.run import Run

FLAWLESS = 0.02
"""Error rate at which hardly anything is left to learn."""
STUCK = 0.85
"""Error rate above which next to nothing is read."""
KNOWS = 0.5
"""Error rate below which what is trained on is known: a flat training loss is then the end of
learning, not the lack of it.
"""
Split = Literal["train", "val"]
SPLITS: dict[Split, str] = {"train": "training", "val": "validation"}


def errors(run: Run, split: Split) -> Curve:
    """How badly a split is read, lower is better: an error rate as a share, what a share of hits
    lacks to 1, or a score below zero.

    Empty where the log does not tell.
    """
    name = run.read_by(split)
    curve = finite(run.curve(name)) if name else Curve(at=(), values=())
    if not name or _measured(name).better == "lower":
        return curve
    return Curve(
        at=curve.at, values=tuple(_flipped(_measured(name), value) for value in curve.values)
    )


def _flipped(measured: Metric, value: float) -> float:
    """A score as an error and back."""
    return 1 - value if measured.share else -value


def error_rate(run: Run, split: Split) -> Curve:
    """The share of a split that is read wrongly; empty where the log tells none, or only that of
    whole sentences, which is high for long.
    """
    name = run.read_by(split)
    rate = name is not None and _measured(name).share and not name.endswith("_ser")
    return errors(run, split) if rate else Curve(at=(), values=())


def metric_words(run: Run, split: Split) -> str:
    """What a split is read by, in words: "validation WER"."""
    name = run.read_by(split)
    return f"{SPLITS[split]} {_measured(name).words if name else 'error rate'}"


def more_is_better(run: Run, split: Split) -> bool:
    """Whether a split is read by a score, and not by an error rate."""
    name = run.read_by(split)
    return name is not None and _measured(name).better == "higher"


def value_words(run: Run, split: Split, value: float) -> str:
    """A value of `errors` as its log would tell it: "34.6 %", "21.40"."""
    name = run.read_by(split)
    own = _flipped(_measured(name), value) if name and more_is_better(run, split) else value
    return share(own) if name and _measured(name).share else number(own)


def reads_better(run: Run, since: float) -> bool:
    """Whether validation is still read better and better, by more than creeping, in the later half
    of what came after a place; below STUCK where that is known.
    """
    after = between(errors(run, "val"), since)
    later = thinned(between(after, after.at[len(after) // 2])) if len(after) else after
    if len(later) < 2 or reads(run, "val") is False:
        return False
    return falls(later, creep=(1 if len(later) < FEW else 2) * CREEP * abs(later.values[0]))


def reads(run: Run, split: Split) -> bool | None:
    """Whether a split is read at the end of a run: its error rate is not above STUCK.

    None where the log has no error rate.
    """
    rate = error_rate(run, split)
    return rate.values[-1] <= STUCK if len(rate) else None


def span_words(run: Run, split: Split, values: Sequence[float]) -> str:
    """The smallest and the largest of them: "97.6-100.0 %"."""
    low, high = (value_words(run, split, value) for value in (min(values), max(values)))
    return low if low == high else f"{low.removesuffix(' %')}-{high}"


def _measured(name: str) -> Metric:
    return MEASURED[name.partition("_")[2]]
