"""A run watched while it trains: the rules of the health report after every epoch, in any training
loop.

    watch = Watch()
    for epoch in range(epochs):
        ...
        for finding in watch.log(epoch=epoch, train_loss=train, val_loss=val, val_wer=wer, lr=lr):
            print(f"epoch {epoch}: {finding.headline}; try {finding.try_}")
        if watch.sick:
            break

A finding is told once, when it first shows, and again only if it was gone for long and came back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, SupportsFloat

from pytest_overfit.finding import Finding
from pytest_overfit.health.checkup import Checkup, check_up
from pytest_overfit.health.curves.curve import CurveBuilder
from pytest_overfit.health.curves.metric import MEASURED, WITHOUT_SPLIT
from pytest_overfit.health.curves.series import as_shares
from pytest_overfit.health.run import BadRun, Facts, Prediction, Run

OF_A_SPLIT = tuple(name for name in MEASURED if name not in WITHOUT_SPLIT)
METRICS = (
    *(f"{split}_{metric}" for split, metric in product(("train", "val"), OF_A_SPLIT)),
    *sorted(WITHOUT_SPLIT, reverse=True),
)
"""What rules read, see `curves.metric.MEASURED`."""
GONE_READINGS = 10
"""Readings for which a finding must have been gone to be told again."""
SELDOM = {"epoch": 1000, "step": 50}
"""Calls up to which each is judged; from then on one each time that this share of what was logged
is new, so that judging costs no more. A call that brings validation is judged as those of epochs
are.
"""
MOST_WATCHED = 20_000
"""Points kept of a curve: all rules read them again and again."""
MOST_PREDICTIONS = 200
"""Predictions kept of a split; the newest stay."""
VERSION = 1


class Watch:
    """Keeps a run's curves in bounded memory and judges them.

    Attributes: checkup: the last one, None before anything was logged. facts: what is known of the
    run; its loss levels let more rules judge. name: as reports call the run. folder: where its log
    is kept, for the commands that reports suggest. planned_steps: as far as known; before a third
    of them nobody is told that nothing is learnt.
    """

    def __init__(
        self, *, name: str = "this run", folder: Path | None = None, facts: Facts | None = None
    ) -> None:
        self.name, self.folder, self.facts = name, folder, facts or Facts()
        self.checkup: Checkup | None = None
        self._clock: Literal["epoch", "step"] | None = None
        self._curves: dict[str, CurveBuilder] = {}
        self._predictions: dict[str, deque[Prediction]] = {}
        self._seen: dict[str, int] = {}
        self.planned_steps: int | None = None
        self._readings, self._calls, self._due, self._validated = 0, 0, 1, 0
        self._at: float | None = None

    def log(
        self,
        *,
        epoch: float | None = None,
        step: float | None = None,
        **metrics: SupportsFloat | None,
    ) -> tuple[Finding, ...]:
        """Note metrics, names as in METRICS, and judge the run. Returns the findings that are new.

        One of epoch and step, the same one in every call, in ascending order; several calls an
        epoch may each bring some metrics. A metric that is None was not measured. Error rates and
        shares may be percent. Raises BadRun where a name or a value is not understood.
        """
        at = self._place(epoch, step)
        values = {
            name: _number(name, value) for name, value in metrics.items() if value is not None
        }
        for name, value in values.items():
            self._curves.setdefault(name, CurveBuilder(MOST_WATCHED)).add(at, value)
        self._calls += 1
        if at != self._at:
            self._at, self._readings = at, self._readings + 1
        validates = any(name.startswith("val_") for name in values)
        self._validated += validates
        if self._calls < self._due and not (validates and self._validated <= SELDOM["epoch"]):
            return ()
        self._due = self._calls + 1 + self._calls // SELDOM[self._clock or "epoch"]
        self.checkup = check_up(self.run)
        return self._news(self.checkup.findings)

    def predictions(
        self, epoch: float, split: str, target: Sequence[str] | str, prediction: Sequence[str] | str
    ) -> None:
        """Note how a clip was read; the next `log` judges it. epoch: or step, where steps are
        logged. split: "train" or "val".

        target, prediction: words, or one text with spaces between them.
        """
        if split not in ("train", "val"):
            raise BadRun(f"watch: the split of predictions must be 'train' or 'val', got {split!r}")
        self._keep(
            Prediction(
                at=float(epoch), split=split, target=_words(target), prediction=_words(prediction)
            )
        )

    @property
    def sick(self) -> bool:
        """Whether the last checkup says that training on is a waste."""
        return self.checkup is not None and self.checkup.verdict == "stop"

    @property
    def run(self) -> Run:
        """What was logged so far."""
        shown = tuple(
            prediction
            for split in sorted(self._predictions)
            for prediction in self._predictions[split]
        )
        curves = {name: builder.curve() for name, builder in self._curves.items()}
        as_shares(curves, set(), [], likely=False)
        sources = (self.folder,) if self.folder else ()
        return Run(
            name=self.name,
            sources=sources,
            clock=self._clock or "epoch",
            curves=curves,
            predictions=shown,
            facts=self.facts,
            planned_steps=self.planned_steps,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that was logged and told, in plain lists and numbers, for a checkpoint."""
        curves = {name: builder.curve() for name, builder in self._curves.items()}
        return {
            "version": VERSION,
            "clock": self._clock,
            "curves": {
                name: [list(curve.at), list(curve.values)] for name, curve in curves.items()
            },
            "predictions": [
                [p.split, p.at, list(p.target), list(p.prediction)]
                for kept in self._predictions.values()
                for p in kept
            ],
            "seen": dict(self._seen),
            "counts": [self._readings, self._calls, self._at],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: nothing that was told is told again.

        Raises BadRun where it is of another version.
        """
        if state.get("version") != VERSION:
            raise BadRun(
                f"watch: its saved state is of version {state.get('version')}, this is "
                f"{VERSION}: go on without it"
            )
        self._clock, self._seen = state["clock"], dict(state["seen"])
        self._curves = {name: _built(*points) for name, points in state["curves"].items()}
        self._predictions = {}
        for split, at, target, prediction in state["predictions"]:
            self._keep(
                Prediction(at=at, split=split, target=tuple(target), prediction=tuple(prediction))
            )
        self._readings, self._calls, self._at = state["counts"]
        self._due = self._calls + 1
        self.checkup = check_up(self.run) if self._curves else None

    def _keep(self, prediction: Prediction) -> None:
        self._predictions.setdefault(prediction.split, deque(maxlen=MOST_PREDICTIONS)).append(
            prediction
        )

    def _place(self, epoch: float | None, step: float | None) -> float:
        """Where a call stands, on the clock that the first call chose."""
        given = {"epoch": epoch, "step": step}
        clock = self._clock or ("step" if epoch is None else "epoch")
        at = given.pop(clock)
        if at is None or any(other is not None for other in given.values()):
            raise BadRun(
                "watch: give "
                f"{'one of epoch and step' if self._clock is None else f'{clock}, as before, and nothing else'} "
                "for the place"
            )
        self._clock = clock
        return float(at)

    def _news(self, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """Those not seen for GONE_READINGS readings."""
        new = tuple(
            f
            for f in findings
            if f.name not in self._seen or self._readings - self._seen[f.name] > GONE_READINGS
        )
        self._seen |= {finding.name: self._readings for finding in findings}
        return new


def _built(places: Iterable[float], values: Iterable[float]) -> CurveBuilder:
    builder = CurveBuilder(MOST_WATCHED)
    for at, value in zip(places, values, strict=True):
        builder.add(at, value)
    return builder


def _number(name: str, value: SupportsFloat) -> float:
    if name not in METRICS:
        raise BadRun(
            f"watch: it knows no metric {name!r}, but {', '.join(METRICS)}: rename it or leave "
            "it out"
        )
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadRun(f"watch: {name} must be one number, got {type(value).__name__}") from None


def _words(text: Sequence[str] | str) -> tuple[str, ...]:
    return tuple(text.split() if isinstance(text, str) else text)
