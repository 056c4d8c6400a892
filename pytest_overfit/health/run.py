"""A training run as its log shows it: curves of metrics, predictions, and the facts that its trainer
left beside them. Every reading keeps its place in the log, see `Run.cite`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pytest_overfit.health.curves.curve import Curve, Where
from pytest_overfit.health.curves.metric import MEASURED
from pytest_overfit.levels import Level


class BadRun(ValueError):
    """A log that cannot be read; the message names the file and what to do."""


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

    levels: split -> loss plateaus, highest first, in nats per target token. command: what the run was
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
        MEASURED, else the first score, what was measured once behind what was more often; None
        without.
        """
        found = [
            f"{split}_{name}"
            for kind in ("error rate", "score")
            for name, one in MEASURED.items()
            if one.kind == kind
        ]
        counts = {name: sum(map(math.isfinite, self.curve(name).values)) for name in found}
        return next((name for least in (2, 1) for name in found if counts[name] >= least), None)

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
