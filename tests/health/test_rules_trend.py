"""What noisy curves show: noise is measured, trends are scored, and standing still is said only where it is shown."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_overfit.health.rules.trend import (
    MOST_READINGS,
    came_back_before,
    falls,
    finite,
    may_fall,
    noise,
    rank_trend,
    reading_at,
    restarted,
    still_since,
    thinned,
)
from pytest_overfit.health.run import Run
from tests.health.made_runs import curve, decay, noisy

EPOCHS = range(1, 101)


def run(**curves):
    return Run(name="made", curves={name: curve(range(1, len(values) + 1), values) for name, values in curves.items()})


@pytest.mark.parametrize("sd", [0.01, 0.1, 1.0])
def test_noise_is_measured_about_a_line_however_steep(sd):
    values = 5 - 0.3 * np.arange(400) + sd * np.random.default_rng(0).normal(size=400)
    assert noise(curve(range(400), values)) == pytest.approx(sd, rel=0.2)


def test_noise_is_measured_where_readings_are_unevenly_far_apart():
    rng = np.random.default_rng(1)
    at = np.cumsum(rng.integers(1, 20, 400))
    assert noise(curve(at, 7 - 0.01 * at + 0.2 * rng.normal(size=400))) == pytest.approx(0.2, rel=0.2)


def test_a_few_outliers_are_no_noise():
    values = 3 + 0.1 * np.random.default_rng(2).normal(size=200)
    values[::20] += 50
    assert noise(curve(range(200), values)) < 0.2


def test_two_readings_have_no_noise_to_measure():
    assert noise(curve((1, 2), (3, 4))) == 0


def test_the_score_of_a_trend_is_mann_kendalls():
    # n = 10 in strict order: S = 45, variance 125; a run of eight and more readings is also checked for memory, of which a line has none.
    assert rank_trend(list(range(10))) == pytest.approx(44 / math.sqrt(125))
    assert rank_trend(list(range(10, 0, -1))) == pytest.approx(-44 / math.sqrt(125))
    assert rank_trend([2.0] * 10) == rank_trend([1.0, 2.0]) == 0


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_flat_noise_seldom_scores_as_a_trend_even_where_it_remembers(memory):
    scores = [rank_trend(noisy(np.random.default_rng([seed, 3]), np.ones(50), 0.1, memory).tolist()) for seed in range(300)]
    assert sum(abs(score) > 2 for score in scores) < 0.1 * len(scores)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=400))
def test_thinning_keeps_order_and_bounds(values):
    whole = finite(curve(range(len(values)), values))
    few = thinned(curve(range(len(values)), values))
    assert len(few) <= MOST_READINGS
    assert list(few.at) == sorted(few.at)
    assert set(few.at) <= set(whole.at)
    if len(whole):
        assert few.at[-1] == whole.at[-1]
        assert min(whole.values) <= min(few.values) <= max(few.values) <= max(whole.values)


def test_a_reading_is_that_up_to_a_place():
    few = curve((1, 25, 50), (9, 4, 3))
    assert [reading_at(few, place) for place in (0, 1, 24, 25, 60)] == [9, 9, 9, 4, 3]


def test_a_falling_curve_falls_and_a_flat_one_does_not():
    rng = np.random.default_rng(4)
    assert falls(curve(EPOCHS, noisy(rng, np.linspace(5, 4, 100), 0.02)))
    assert not falls(curve(EPOCHS, noisy(rng, np.full(100, 5.0), 0.02)))
    assert not falls(curve(EPOCHS, noisy(rng, np.linspace(4, 5, 100), 0.02)))


def test_what_scatters_too_much_to_tell_may_fall():
    wild = curve(range(12), [3, 7] * 6)
    assert may_fall(wild)
    assert not falls(wild)


def test_a_flat_curve_stands_still_since_it_came_down():
    loss = noisy(np.random.default_rng(6), decay(None, 100, 40, 7.0, 2), 0.005)
    assert 5 <= still_since(run(val_loss=loss), "val_loss") <= 20


@pytest.mark.parametrize("slope", [0.002, 0.005, 0.01])
def test_a_plateau_that_creeps_down_does_not_stand_still(slope):
    """0.2 % an epoch is what the all-blank phase of a slow run falls by."""
    loss = noisy(np.random.default_rng(7), 7 * np.exp(-slope * np.arange(60)), 0.01)
    assert still_since(run(val_loss=loss), "val_loss") is None


def test_standing_still_takes_thirty_epochs_and_half_of_the_run():
    fall = list(np.linspace(40, 7, 40))
    assert still_since(run(val_loss=[7.0] * 29), "val_loss") is None
    assert still_since(run(val_loss=fall + [7.0] * 25), "val_loss") is None
    assert still_since(run(val_loss=fall + [7.0] * 45), "val_loss") == 40
    assert still_since(replace(run(val_loss=[7.0] * 500), clock="step"), "val_loss") is None


def test_few_readings_stand_still_where_no_later_one_is_lower():
    epochs = (1, 25, 50, 60)
    made = Run(name="few", curves={"val_loss": curve(epochs, (7.19, 4.90, 4.96, 5.29)), "train_loss": curve(epochs, (44.59, 4.19, 2.87, 2.36))})
    assert still_since(made, "val_loss") == 25
    lower = Run(name="few", curves={"val_loss": curve(epochs, (7.19, 4.90, 4.96, 4.70))})
    assert still_since(lower, "val_loss") is None


def test_a_rate_that_was_raised_again_is_a_restart_and_a_warm_up_is_not():
    cycle = [1e-3, 7e-4, 3e-4, 1e-6]
    again = run(lr=cycle * 3)
    assert restarted(again, 9, 8)
    assert not restarted(again, 12, 8)
    assert not restarted(run(lr=[1e-5, 1e-4, 1e-3, 1e-3]), 4, 1)
    assert not restarted(run(val_loss=[1, 2]), 2, 1)


def test_after_a_restart_nothing_stands_still():
    cycles = [*np.linspace(7, 4, 40), *np.linspace(7, 5.5, 20)]
    assert still_since(run(train_loss=cycles, val_loss=[7.0] * 60), "val_loss") is None


def test_few_readings_of_which_training_once_rose_are_left_alone():
    """It may have been a restart, and there are too few to tell."""
    epochs = (1, 25, 50, 60)
    val = curve(epochs, (7.19, 4.90, 4.96, 4.95))
    assert still_since(Run(name="few", curves={"val_loss": val, "train_loss": curve(epochs, (44, 4.2, 2.9, 2.4))}), "val_loss") == 25
    assert still_since(Run(name="few", curves={"val_loss": val, "train_loss": curve(epochs, (44, 4.2, 5.2, 2.4))}), "val_loss") is None


def test_a_curve_that_came_back_from_such_a_rise_before_may_do_so_again():
    sawtooth = [*np.linspace(8, 3, 20), *np.linspace(6, 2, 30), *np.linspace(3.5, 3.4, 10)]
    rising = curve(range(1, 61), sawtooth)
    assert came_back_before(rising, 50, 0.7)
    assert not came_back_before(rising, 50, 1.5)
    assert not came_back_before(curve(range(1, 61), [*np.linspace(8, 2, 50), *np.linspace(3.5, 3.4, 10)]), 50, 0.7)
