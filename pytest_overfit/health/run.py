"""A training run as its log tells it: curves of metrics, predictions, and the facts that its
trainer left beside them.

Canonical names of metrics, whatever the log calls them, are a split and what is measured, see
MEASURED: `train_loss`,
`val_wer`; `lr` and `grad_norm` have no split. Every reading keeps its place in the log, see
`Run.cite`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from pytest_overfit.levels import Level

MOST_POINTS = 20_000
"""Points a curve keeps; beyond, neighbours are merged."""


class BadRun(ValueError):
    """A log that cannot be read; the message names the file and what to do."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a curve measures. words: as a report calls it. better: None where neither is.

    share: values are shares, 0.9 is 90 %; an error rate can pass 1.
    """

    words: str
    kind: Literal["loss", "error rate", "score", "output", "recipe"]
    better: Literal["lower", "higher"] | None = None
    share: bool = False


def _error_rate(words: str) -> Metric:
    return Metric(words=words, kind="error rate", better="lower", share=True)


MEASURED: Mapping[str, Metric] = {
    "loss": Metric(words="loss", kind="loss", better="lower"),  # its unit: `Run.loss_unit`
    "wer": _error_rate("WER"),
    "ter": _error_rate("TER"),  # of tokens: glosses, subwords
    "ser": _error_rate("SER"),  # of sentences
    "per": _error_rate("PER"),  # of phonemes
    "ler": _error_rate("LER"),  # of labels
    "cer": _error_rate("CER"),
    "error": _error_rate("error rate"),  # of whatever is classified
    "bleu": Metric(words="BLEU", kind="score", better="higher"),
    "rouge": Metric(words="ROUGE", kind="score", better="higher"),
    "accuracy": Metric(words="accuracy", kind="score", better="higher", share=True),
    "perplexity": Metric(words="perplexity", kind="loss", better="lower"),
    "emission_ratio": Metric(words="emitted / target tokens", kind="output"),
    "blank_share": Metric(words="blank share", kind="output", share=True),
    "entropy_ratio": Metric(words="entropy / ln V", kind="output", share=True),
    "lr": Metric(words="learning rate", kind="recipe"),
    "grad_norm": Metric(words="gradient norm", kind="recipe"),
}
"""What is measured.

Of several error rates the first is the one that a run is judged by, see `Run.read_by`.
"""


WITHOUT_SPLIT = frozenset({"lr", "grad_norm"})


def metric(name: str) -> Metric | None:
    """What the curve of this canonical name measures; None for a name that only its log knows."""
    split, _, measured = name.partition("_")
    if split in ("train", "val"):
        return MEASURED.get(measured)
    return MEASURED[name] if name in WITHOUT_SPLIT else None


class Where(NamedTuple):
    """The place of a reading in its log.

    number: of the line from 1, or of what `of` names ("row", "record").
    """

    file: Path
    number: int
    of: str = "line"

    def __str__(self) -> str:
        return (
            f"{self.file.name}:{self.number}"
            if self.of == "line"
            else f"{self.file.name}, {self.of} {self.number}"
        )


class Point(NamedTuple):
    """One reading. at: epoch or step, as `Run.clock` says.

    epoch, step: NaN where the log does not tell it.
    """

    at: float
    value: float
    epoch: float = math.nan
    step: float = math.nan
    where: Where | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One metric, in the order of the log. at: epochs (or steps, as `Run.clock` says), which may
    repeat or go back. values: may be NaN.

    epochs, steps, where: of each reading as the log tells them, NaN and None where it does not; all
    empty where nothing is known.
    """

    at: tuple[float, ...]
    values: tuple[float, ...]
    epochs: tuple[float, ...] = ()
    steps: tuple[float, ...] = ()
    where: tuple[Where | None, ...] = ()

    @classmethod
    def of(cls, points: Iterable[Point]) -> Curve:
        """A curve of readings, each with all that is known of it."""
        at, values, epochs, steps, where = tuple(zip(*points, strict=True)) or ((),) * 5
        return cls(at=at, values=values, epochs=epochs, steps=steps, where=where)

    def __len__(self) -> int:
        return len(self.at)

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Its readings, each with all that is known of it."""
        unknown = (math.nan,) * len(self)
        columns = (
            self.at,
            self.values,
            self.epochs or unknown,
            self.steps or unknown,
            self.where or (None,) * len(self),
        )
        return tuple(map(Point, *columns))

    @cached_property
    def ascending(self) -> Curve:
        """The same in order of `at`; of a repeated place the last value."""
        if self.in_order:
            return self
        last = {point.at: point for point in self.points}
        return Curve.of(last[at] for at in sorted(last))

    @cached_property
    def in_order(self) -> bool:
        """Whether each reading stands after the one before."""
        return all(a < b for a, b in pairwise(self.at))


class CurveBuilder:
    """Collects a curve in bounded memory: beyond `most` points, of two neighbours the larger stays,
    so that no spike and no NaN is lost.
    """

    def __init__(self, most: int = MOST_POINTS) -> None:
        self._most = most
        self._points: list[Point] = []
        self._share, self._held = 1, 0

    def add(
        self,
        at: float,
        value: float,
        *,
        epoch: float = math.nan,
        step: float = math.nan,
        where: Where | None = None,
    ) -> None:
        """Take one more reading, after those before it."""
        point = Point(at, value, epoch, step, where)
        if self._held and self._held < self._share:
            self._points[-1] = _larger(self._points[-1], point)
            self._held += 1
        else:
            self._points.append(point)
            self._held = 1
        if len(self._points) > self._most:
            merged = [
                _larger(a, b) for a, b in zip(self._points[::2], self._points[1::2], strict=False)
            ]
            self._points = merged + self._points[2 * len(merged) :]
            self._share, self._held = 2 * self._share, 0

    @property
    def points(self) -> tuple[Point, ...]:
        """The readings kept so far."""
        return tuple(self._points)

    def curve(self) -> Curve:
        """The curve of the readings kept so far."""
        return Curve.of(self._points)


def _larger(a: Point, b: Point) -> Point:
    """The later of two neighbours, with the larger value and its place in the log."""
    return (
        b._replace(value=a.value, where=a.where) if a.value != a.value or a.value > b.value else b
    )


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One clip as it was read at some epoch (None where the log does not say).

    split: "train", "val" or "" where unknown.
    """

    at: float | None
    split: str
    target: tuple[str, ...]
    prediction: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a trainer leaves in `run.json` beside its log; None where unknown.

    levels: split -> loss plateaus, highest first, in nats a target token. command: what the run was
    started with.
    network: keywords its network was built with.
    """

    subject: str | None = None
    parameters: int | None = None
    train_samples: int | None = None
    val_samples: int | None = None
    vocabulary: int | None = None
    levels: Mapping[str, tuple[Level, ...]] = field(default_factory=dict)
    command: str | None = None
    network: Mapping[str, object] = field(default_factory=dict)
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run. sources: the files read. clock: what `Curve.at` counts. warnings: one clear line for
    each thing left out of the reading.

    checkpoint: the newest one beside the log. finished: why no more will be logged, in words, each
    with its place in the log: "max_steps 3000 reached (trainer_state.json)"; empty where nothing
    tells. planned_steps: how many the trainer meant to take.
    not_understood: columns or tags that were read and have no canonical name, as logged.
    """

    name: str
    sources: tuple[Path, ...] = ()
    clock: Literal["epoch", "step"] = "epoch"
    curves: Mapping[str, Curve] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()
    facts: Facts = field(default_factory=Facts)
    warnings: tuple[str, ...] = ()
    checkpoint: Path | None = None
    finished: tuple[str, ...] = ()
    planned_steps: int | None = None
    not_understood: tuple[str, ...] = ()

    def curve(self, name: str) -> Curve:
        """A metric in ascending order; an empty curve where the log has none of that name."""
        return self.curves[name].ascending if name in self.curves else Curve(at=(), values=())

    @property
    def loss_unit(self) -> Literal["nats per token", "unknown"]:
        """Nats a target token where the levels of the loss are known; else its scale is the
        trainer's own, and may be a sum.
        """
        return "nats per token" if self.facts.levels else "unknown"

    def read_by(self, split: Literal["train", "val"]) -> str | None:
        """The curve that tells how well clips of this split are read: the first error rate of
        MEASURED, else the first score; None without.
        """
        found = [
            f"{split}_{name}"
            for kind in ("error rate", "score")
            for name, one in MEASURED.items()
            if one.kind == kind
        ]
        return next(
            (name for name in found if any(map(math.isfinite, self.curve(name).values))), None
        )

    def where(self, name: str, at: float) -> Where | None:
        """Where the log tells the reading of a metric at this place of the clock; None where that
        is not known.
        """
        return next((point.where for point in self.curve(name).points if point.at == at), None)

    def cite(self, name: str, at: float) -> str:
        """That place in words, "train.log:312" or "trainer_state.json, row 7"; "" where it is not
        known.
        """
        where = self.where(name, at)
        return "" if where is None else str(where)
