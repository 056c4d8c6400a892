"""A run watched in any loop: judged as offline, told once, saved and restored, in bounded
memory.
"""

from __future__ import annotations

import io
import json
import math
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

from pytest_overfit.finding import Finding
from pytest_overfit.health import watch as watching
from pytest_overfit.health.checkup import Checkup, check_up
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.run import BadRun, Run
from pytest_overfit.health.watch import GONE_READINGS, MOST_PREDICTIONS, MOST_WATCHED, Watch
from tests.health.made_runs import SICK, SOUND


def logged(watch: Watch, run: Run) -> list[tuple[float, str]]:
    """Tell a watch a run, place by place. Returns what was found, and where."""
    places = sorted({at for curve in run.curves.values() for at in curve.at})
    rows: dict[float, dict[str, float]] = {at: {} for at in places}
    for name, curve in run.curves.items():
        for at, value in zip(curve.at, curve.values, strict=True):
            rows[at][name] = value
    shown = list(run.predictions)
    found = []
    for at, row in rows.items():
        while shown and (shown[0].at or 0) <= at:
            prediction = shown.pop(0)
            watch.predictions(
                at, prediction.split, prediction.target, " ".join(prediction.prediction)
            )
        found += [(at, finding.name) for finding in watch.log(**{run.clock: at}, **row)]
    return found


def overfitting(epoch: int) -> dict[str, float]:
    turn = 5 * math.exp(-min(epoch, 12) / 6) + 0.5
    return {
        "train_loss": 5 * math.exp(-epoch / 6) + 0.1,
        "val_loss": turn + 0.08 * max(0, epoch - 12),
    }


IN_ORDER = [kind for kind in SICK if kind != "out_of_order"]
"""Runs whose readings can be logged as they come: a watch is told them in the order of their
places.
"""


@pytest.mark.parametrize("kind", [*IN_ORDER, "steady", "restarts", "all_blank"])
def test_it_ends_with_what_a_checkup_of_the_whole_log_finds(kind: str) -> None:
    made = (SICK[kind][0] if kind in SICK else SOUND[kind])(np.random.default_rng(3))
    watch = Watch(name=made.name, facts=made.facts)
    found = logged(watch, made)
    offline = check_up(made)
    assert watch.checkup is not None
    assert [finding.name for finding in watch.checkup.findings] == [
        finding.name for finding in offline.findings
    ]
    assert [finding.began for finding in watch.checkup.findings] == [
        finding.began for finding in offline.findings
    ]
    assert watch.sick == (offline.verdict == "stop")
    assert {finding.name for finding in offline.findings} <= {name for _, name in found}


def test_an_illness_is_told_once_soon_after_its_onset() -> None:
    watch = Watch()
    found = [
        (epoch, finding.name, finding.began)
        for epoch in range(60)
        for finding in watch.log(epoch=epoch, **overfitting(epoch))
    ]
    rises = [(epoch, began) for epoch, name, began in found if name == "validation_loss_rises"]
    assert len(rises) == 1
    assert rises[0][0] <= 20
    assert rises[0][1] == 12
    assert watch.sick


def scripted(monkeypatch: pytest.MonkeyPatch, present: Any) -> None:
    """Checkups that find `bad` at the readings for which `present` says so."""
    number = count()

    def judged(run: Run) -> Checkup:
        found = (Finding(name="bad", headline="it is bad"),) if present(next(number)) else ()
        nothing: tuple[Any, ...] = ()
        return Checkup(
            run=run,
            findings=found,
            ruled_out=nothing,
            not_judged=nothing,
            verdict="go on",
            reasons=nothing,
            notes=nothing,
            more_evidence=nothing,
            next_command=None,
        )

    monkeypatch.setattr(watching, "check_up", judged)


def test_a_finding_that_was_gone_for_long_is_told_again_and_a_flicker_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripted(monkeypatch, lambda n: n in (3, 5, 5 + GONE_READINGS, 6 + 2 * GONE_READINGS))
    watch = Watch()
    assert [n for n in range(50) if watch.log(epoch=n, train_loss=1.0)] == [
        3,
        6 + 2 * GONE_READINGS,
    ]


def test_a_loss_that_is_not_finite_is_told_at_once() -> None:
    watch = Watch()
    for epoch in range(5):
        assert watch.log(epoch=epoch, train_loss=3.0 - 0.1 * epoch, val_loss=3.0) == ()
    assert [finding.name for finding in watch.log(epoch=5, train_loss=math.nan, val_loss=3.0)] == [
        "loss_not_finite"
    ]
    assert watch.sick


def test_metrics_of_one_epoch_may_come_one_by_one_and_as_tensors() -> None:
    watch = Watch()
    for epoch in range(3):
        watch.log(epoch=epoch, train_loss=torch.tensor(2.0), val_wer=None)
        watch.log(epoch=epoch, val_loss=np.float32(3.0), val_wer=0.5)
    assert watch.run.curve("train_loss").at == watch.run.curve("val_wer").at == (0, 1, 2)
    assert watch.run.curve("val_loss").values == (3.0, 3.0, 3.0)


def test_error_rates_in_percent_are_read_as_shares() -> None:
    watch = Watch()
    for epoch, wer in enumerate((15.0, 99.5, 97.0)):
        watch.log(epoch=epoch, val_wer=wer, val_blank_share=0.98, train_loss=50.0)
    assert watch.run.curve("val_wer").values == pytest.approx((0.15, 0.995, 0.97))
    assert watch.run.curve("val_blank_share").values == (0.98, 0.98, 0.98)
    assert watch.run.curve("train_loss").values == (50.0, 50.0, 50.0)


@pytest.mark.parametrize("cut", [1, 14, 18, 40])
@pytest.mark.parametrize("through", ["torch", "json"])
def test_a_watch_restored_from_its_state_goes_on_as_if_never_cut(cut: int, through: str) -> None:
    whole, first, second = Watch(), Watch(), Watch()
    found: dict[str, list[tuple[int, str]]] = {"whole": [], "cut": []}
    for epoch in range(45):
        if epoch == cut:
            second.load_state_dict(saved(first.state_dict(), through))
        for name, watch in (("whole", whole), ("cut", first if epoch < cut else second)):
            watch.predictions(epoch, "val", "A B C", "A")
            found[name] += [
                (epoch, finding.name)
                for finding in watch.log(epoch=epoch, val_wer=95.0, **overfitting(epoch))
            ]
    assert found["whole"] == found["cut"] != []
    assert second.run.predictions == whole.run.predictions
    assert {name: curve.values for name, curve in second.run.curves.items()} == {
        name: curve.values for name, curve in whole.run.curves.items()
    }
    assert second.sick == whole.sick


def saved(state: dict[str, Any], through: str) -> Any:
    if through == "json":
        return json.loads(json.dumps(state))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(BadRun, match="saved state is of version 7, this is 1: go on without it"):
        Watch().load_state_dict({"version": 7})


def test_a_hundred_thousand_values_are_held_in_bounded_memory_and_judged_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: list[int] = []
    scripted(monkeypatch, lambda n: judged.append(n))
    watch = Watch()
    for step in range(100_000):
        watch.log(step=step, train_loss=1.0)
    places, _ = watch.state_dict()["curves"]["train_loss"]
    assert len(places) <= MOST_WATCHED
    assert 100 < len(judged) < 1000
    for clip in range(1000):
        watch.predictions(clip, "val", "A", "A")
    assert len(watch.state_dict()["predictions"]) == MOST_PREDICTIONS


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a name it does not know": (
        {"epoch": 1, "vall_loss": 3.0},
        "knows no metric 'vall_loss', but train_loss",
    ),
    "no number": ({"epoch": 1, "val_loss": [1.0, 2.0]}, "val_loss must be one number, got list"),
    "several numbers": (
        {"epoch": 1, "val_loss": torch.ones(2)},
        "val_loss must be one number, got Tensor",
    ),
    "no place": ({"val_loss": 3.0}, "give one of epoch and step"),
    "two places": ({"epoch": 1, "step": 100, "val_loss": 3.0}, "give one of epoch and step"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_understood_is_refused_in_one_line(kind: str) -> None:
    given, message = BAD[kind]
    with pytest.raises(BadRun, match=message) as caught:
        Watch().log(**given)
    assert "\n" not in str(caught.value)


def test_the_clock_of_the_first_call_is_kept() -> None:
    watch = Watch()
    watch.log(step=10, train_loss=3.0)
    with pytest.raises(BadRun, match="give step, as before, and nothing else"):
        watch.log(epoch=1, train_loss=3.0)


def test_predictions_of_no_split_are_refused() -> None:
    with pytest.raises(BadRun, match="must be 'train' or 'val', got 'test'"):
        Watch().predictions(1, "test", "A", "A")


def test_predictions_are_words() -> None:
    watch = Watch()
    watch.predictions(1, "val", "HELLO WORLD", ["HELLO"])
    assert [(p.target, p.prediction) for p in watch.run.predictions] == [
        (("HELLO", "WORLD"), ("HELLO",))
    ]


def test_nothing_logged_is_nothing_judged() -> None:
    assert Watch().checkup is None
    assert not Watch().sick
    assert Watch().run.curve("train_loss").values == Curve(at=(), values=()).values
