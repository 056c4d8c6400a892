"""What the health report says of a trained run: from each form of its log, and after each of its
epochs.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from examination.health_runs import HealthRun
from examination.health_training import METRICS, RESULT
from pytest_overfit.health.checkup import Checkup, check_up
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.readers import read_run
from pytest_overfit.health.run import BadRun, Run

FOLDER, CSV, EVENTS = "folder", "metrics.csv alone", "TensorBoard alone"
FORMS = (FOLDER, CSV, EVENTS)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What was said of a log. found: name -> epoch where it began. confirmed: names."""

    verdict: str
    found: Mapping[str, float | None]
    confirmed: tuple[str, ...]

    @classmethod
    def of(cls, checkup: Checkup) -> Said:
        found = {finding.name: finding.began for finding in checkup.findings}
        return cls(
            verdict=checkup.verdict,
            found=found,
            confirmed=tuple(f.name for f in checkup.findings if f.status == "confirmed"),
        )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A run and what was said of it. forms: form of the log -> what was said. after: what was said
    after each epoch, the first one first.

    onset: the epoch at which the illness began, read off the curves; None for a healthy run. ended:
    as result.json says.
    """

    run: HealthRun
    forms: Mapping[str, Said]
    after: tuple[Said, ...]
    onset: float | None
    ended: str
    curves: Mapping[str, Curve]

    @property
    def said(self) -> Said:
        return self.forms[FOLDER]

    @property
    def wrong(self) -> str:
        """What is wrong with the diagnosis at the end, in words; empty where it is right."""
        found, run = set(self.said.found), self.run
        strange = sorted(found - {*run.expected, *run.also})
        faults = [f"finds {', '.join(strange)}"] if strange else []
        if run.expected and not found & {*run.expected}:
            faults.append(f"misses {' / '.join(run.expected)}")
        if self.said.verdict not in run.verdicts:
            faults.append(f"says {self.said.verdict}")
        return "; ".join(faults)

    @property
    def right(self) -> bool:
        return not self.wrong

    @property
    def alarmed(self) -> tuple[int, ...]:
        """Epochs of a healthy run after which anything was found."""
        return (
            tuple(epoch for epoch, said in enumerate(self.after) if said.found)
            if self.run.healthy
            else ()
        )

    @property
    def flagged(self) -> int | None:
        """The first epoch after which an expected finding was there, and stayed there to the
        end.
        """
        last = None
        for epoch in reversed(range(len(self.after))):
            if not set(self.after[epoch].found) & {*self.run.expected}:
                break
            last = epoch
        return last

    @property
    def stopped(self) -> int | None:
        """The first epoch after which the verdict was *stop*."""
        return next(
            (epoch for epoch, said in enumerate(self.after) if said.verdict == "stop"), None
        )

    def at_share(self, share: float) -> Said:
        return self.after[max(math.ceil(share * len(self.after)) - 1, 0)]


def judge(run: HealthRun, folder: Path) -> Judged:
    """Judge what `folder` holds of a run. Raises BadRun where its log cannot be read."""
    whole = read_run(folder)
    with tempfile.TemporaryDirectory() as place:
        alone = {
            FOLDER: whole,
            CSV: _alone(folder, METRICS, Path(place)),
            EVENTS: _alone(folder, "tensorboard/*tfevents*", Path(place)),
        }
    epochs = sorted({at for curve in whole.curves.values() for at in curve.at})
    return Judged(
        run=run,
        forms={form: Said.of(check_up(read)) for form, read in alone.items()},
        after=tuple(Said.of(check_up(until(whole, epoch))) for epoch in epochs),
        onset=onset_of(run, whole),
        ended=json.loads((folder / RESULT).read_text(encoding="utf-8"))["ended"],
        curves=whole.curves,
    )


def _alone(folder: Path, pattern: str, place: Path) -> Run:
    """The log in a folder where nothing else is."""
    here = place / pattern.split("/")[0]
    here.mkdir()
    found = sorted(folder.glob(pattern))
    if not found:
        raise BadRun(f"{folder}: no {pattern} in it; delete the folder to train the run anew")
    for path in found:
        shutil.copy(path, here / path.name)
    return read_run(here)


def until(run: Run, place: float) -> Run:
    """The run as it stood after `place`."""
    curves = {name: _cut(curve, place) for name, curve in run.curves.items()}
    shown = tuple(clip for clip in run.predictions if clip.at is None or clip.at <= place)
    return replace(
        run,
        curves={name: curve for name, curve in curves.items() if len(curve)},
        predictions=shown,
        finished=(),
    )


def _cut(curve: Curve, place: float) -> Curve:
    kept = [(at, value) for at, value in zip(curve.at, curve.values, strict=True) if at <= place]
    return Curve(at=tuple(at for at, _ in kept), values=tuple(value for _, value in kept))


def onset_of(run: HealthRun, read: Run) -> float | None:
    """The epoch at which the illness that a run was trained to have began."""
    if run.onset is None:
        return None
    if run.onset == "start":
        return 0.0
    name = "val_loss" if run.onset == "best validation" else "train_loss"
    curve = read.curve(name)
    points = list(zip(curve.values, curve.at, strict=True))
    if run.onset == "not finite":
        return next((at for value, at in points if not math.isfinite(value)), None)
    return min((point for point in points if math.isfinite(point[0])), default=(math.nan, None))[1]
