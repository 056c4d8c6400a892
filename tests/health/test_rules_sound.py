"""Whole runs from seeds: on sound ones every rule is silent, at their end and while they run; of
sick ones one is named.
"""

from dataclasses import replace

import numpy as np
import pytest

from pytest_overfit.health.checkup import check_up
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.rules import RULES
from pytest_overfit.health.run import Facts
from tests.health.made_runs import SICK, SOUND, until

SEEDS = range(100, 112)
"""Not those that the bounds of the rules were chosen on."""


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_run_raises_nothing(kind):
    for seed in SEEDS:
        checkup = check_up(SOUND[kind](np.random.default_rng([seed, 1])))
        assert checkup.findings == (), (kind, seed)
        assert checkup.verdict in ("healthy", "go on", "cannot tell")


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_run_raises_nothing_while_it_trains(kind):
    for seed in SEEDS[:3]:
        run = SOUND[kind](np.random.default_rng([seed, 2]))
        end = run.curves["train_loss"].at[-1]
        for last in np.linspace(0.1, 1, 10) * end:
            assert [rule.name for rule in RULES if rule(until(run, last))] == [], (kind, seed, last)


STOPPED = set(SICK) - {"spiky", "out_of_order", "halted"}
"""Illnesses with which training on is a waste, for sure."""


@pytest.mark.parametrize("kind", SICK)
def test_a_sick_run_is_named(kind):
    """Noise hides some: one run in twelve may be missed."""
    make, names = SICK[kind]
    checkups = [check_up(make(np.random.default_rng([seed, 3]))) for seed in SEEDS]
    named = [
        checkup for checkup in checkups if {finding.name for finding in checkup.findings} & names
    ]
    assert len(named) >= len(SEEDS) - 1
    assert (
        {checkup.verdict for checkup in named} == {"stop"}
        if kind in STOPPED
        else {checkup.verdict for checkup in named} - {"stop"}
    )


@pytest.mark.parametrize("kind", SICK)
def test_an_illness_begins_within_the_run(kind):
    make, names = SICK[kind]
    run = make(np.random.default_rng(5))
    found = [finding for finding in check_up(run).findings if finding.name in names]
    places = run.curves["train_loss"].at
    assert all(places[0] <= finding.began <= places[-1] for finding in found)


@pytest.mark.parametrize(
    "kind", [kind for kind in (*SOUND, *SICK) if kind != "swinging"]
)  # losses of steps are of batches, which swing
def test_units_of_the_loss_and_of_the_clock_change_no_verdict(kind):
    """Losses in another unit, and the clock in thousands of steps where it counted epochs: the same
    findings since the same places.
    """
    make = SOUND[kind] if kind in SOUND else SICK[kind][0]
    run = replace(make(np.random.default_rng(7)), facts=Facts())
    curves = {
        name: Curve(
            at=tuple(1000 * at for at in whole.at),
            values=tuple(0.15 * v if name.endswith("loss") else v for v in whole.values),
        )
        for name, whole in run.curves.items()
    }
    clips = tuple(
        replace(clip, at=None if clip.at is None else 1000 * clip.at) for clip in run.predictions
    )
    if len(run.curve("val_loss")) < 8 or run.clock == "step":
        pytest.skip("fewer readings than tell of noise are judged by epochs too")
    own, other = (
        check_up(run),
        check_up(replace(run, clock="step", curves=curves, predictions=clips)),
    )
    assert own.verdict == other.verdict
    assert [(one.name, one.status, 1000 * one.began) for one in own.findings] == [
        (one.name, one.status, one.began) for one in other.findings
    ]
