"""What noisy curves show: noise is measured, trends are scored, and standing still is said only
where it is shown.
"""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_overfit.health.rules.course import restarted, still_since
from pytest_overfit.health.rules.trend import (
    MOST_READINGS,
    came_back_before,
    comes_down,
    falls,
    finite,
    lasting_rise,
    may_fall,
    memory,
    never_fell,
    noise,
    reading_at,
    rising_fit,
    thinned,
)
from pytest_overfit.health.run import Facts, Run
from tests.health.made_runs import curve, decay, noisy

EPOCHS = range(1, 101)


def run(**curves):
    return Run(
        name="made",
        curves={name: curve(range(1, len(values) + 1), values) for name, values in curves.items()},
    )


@pytest.mark.parametrize("sd", [0.01, 0.1, 1.0])
def test_noise_is_measured_about_a_line_however_steep(sd):
    values = 5 - 0.3 * np.arange(400) + sd * np.random.default_rng(0).normal(size=400)
    assert noise(curve(range(400), values)) == pytest.approx(sd, rel=0.2)


def test_noise_is_measured_where_readings_are_unevenly_far_apart():
    rng = np.random.default_rng(1)
    at = np.cumsum(rng.integers(1, 20, 400))
    assert noise(curve(at, 7 - 0.01 * at + 0.2 * rng.normal(size=400))) == pytest.approx(
        0.2, rel=0.2
    )


def test_a_few_outliers_are_no_noise():
    values = 3 + 0.1 * np.random.default_rng(2).normal(size=200)
    values[::20] += 50
    assert noise(curve(range(200), values)) < 0.2


def test_two_readings_have_no_noise_to_measure():
    assert noise(curve((1, 2), (3, 4))) == 0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_a_rising_fit_never_falls_keeps_the_mean_and_leaves_what_rises_alone(values):
    fit = rising_fit(values)
    assert all(a <= b + 1e-6 for a, b in pairwise(fit))
    assert sum(fit) == pytest.approx(sum(values), abs=1e-3)
    assert rising_fit(sorted(values)) == pytest.approx(sorted(values), abs=1e-6)


@pytest.mark.parametrize("shape", [np.linspace, np.geomspace], ids=["a line", "a bend"])
def test_a_smooth_trend_is_no_memory(shape):
    """What divides a trend by memory would miss the smoothest ones."""
    assert memory(shape(1, 9, 50).tolist()) == memory(shape(9, 1, 50).tolist()) == 1


def test_noise_that_remembers_is_told_from_noise_that_does_not():
    kinds = {
        kind: [
            memory(noisy(np.random.default_rng([seed, 3]), np.ones(50), 0.1, kind).tolist())
            for seed in range(50)
        ]
        for kind in (0.0, 0.8)
    }
    assert np.median(kinds[0.0]) < 1.3
    assert np.median(kinds[0.8]) > 1.6


# -- a rise that lasts

RISING = [*np.linspace(5, 2, 10), *np.linspace(2.05, 3, 12)]


def test_a_rise_is_counted_from_the_best_reading_and_tells_how_sure_it_is():
    rise = lasting_rise(curve(range(1, 23), RISING))
    assert (rise.since, rise.readings, rise.noises) == (10, 12, pytest.approx(math.inf))
    assert rise.share == pytest.approx(0.35, abs=0.1)


@pytest.mark.parametrize(
    "after",
    [
        [3.0],
        [3.0, 2.9, 2.4, 2.1, 2.05, 2.01],
        [2.01] * 12,
        [2.9, 2.0, 2.8, 2.1, 2.9, 2.05, 2.8, 2.0],
    ],
    ids=["one reading", "on its way back", "a two-hundredth", "swings"],
)
def test_what_does_not_last_or_may_be_chance_is_no_rise(after):
    values = [*np.linspace(5, 2, 10), *after]
    assert lasting_rise(curve(range(len(values)), values)) is None


def test_a_rise_is_counted_from_the_best_reading_itself_however_steep_the_fall_before_it():
    rise = lasting_rise(
        curve(range(11), [40, 2.0, 2.2, 2.25, 2.3, 2.5, 2.45, 2.55, 2.7, 2.75, 2.8])
    )
    assert rise is not None
    assert (rise.since, rise.low) == (1, 2.0)


def test_a_rise_of_a_small_share_of_the_level_counts_where_it_undoes_the_fall():
    """4.10 to 3.80, and back to 3.90: little of the level, a third of what was learnt."""
    fallen, risen = np.linspace(4.1, 3.8, 40), np.linspace(3.8, 3.9, 31)[1:]
    assert lasting_rise(curve(range(70), [*fallen, *risen])) is not None
    assert lasting_rise(curve(range(70), [*(10 * fallen - 34.2), *risen])) is None


def test_of_few_readings_each_must_be_above_the_best():
    assert lasting_rise(curve(range(5), [3, 2, 2.3, 2.5, 2.6])).noises is None
    assert lasting_rise(curve(range(5), [3, 2, 2.6, 2.0, 2.6])) is None


def test_a_rise_earlier_that_was_as_large_and_as_long_came_back():
    assert lasting_rise(curve(range(8), [4, 2, 3.2, 3.2, 2, 1.9, 2.8, 2.9])) is None


@given(
    scale=st.floats(1e-3, 1e3),
    stretch=st.floats(1e-3, 1e4),
    seed=st.integers(0, 999),
    best=st.integers(1, 30),
    slope=st.floats(0, 0.05),
    sd=st.floats(0, 0.1),
)
@example(scale=0.15, stretch=1.0, seed=0, best=10, slope=0.02, sd=0.0)
def test_units_of_the_loss_and_of_the_clock_change_nothing(scale, stretch, seed, best, slope, sd):
    at = np.arange(40.0)
    course = np.where(at <= best, 4 - 2 * at / best, 2 * (1 + slope * (at - best)))
    values = noisy(np.random.default_rng(seed), course, sd)
    own, other = curve(at, values), curve(at * stretch, values * scale)
    a, b = lasting_rise(own), lasting_rise(other)
    assert (a is None) == (b is None)
    if a and b:
        assert b.since == pytest.approx(a.since * stretch)
        assert b.share == pytest.approx(a.share, rel=1e-6)
    for rule in (falls, may_fall, never_fell, comes_down):
        assert rule(own) == rule(other)


def test_a_rise_is_seen_at_every_second_reading_too():
    for whole in (RISING, [*np.linspace(5, 2, 20), *np.linspace(2.05, 3, 30)]):
        at = np.arange(len(whole))
        for start in (0, 1):
            rise = lasting_rise(curve(at[start::2], whole[start::2]))
            assert abs(rise.since - int(np.argmin(whole))) <= 1


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


def test_standing_still_takes_thirty_readings_and_half_of_the_run_or_nearly_all_of_it():
    fall = list(np.linspace(40, 7, 40))
    assert still_since(run(val_loss=fall + [7.0] * 25), "val_loss") is None
    assert still_since(run(val_loss=fall + [7.0] * 45), "val_loss") == 40
    assert still_since(run(val_loss=[9.0, 8.0, *[7.0] * 7]), "val_loss") is None
    assert still_since(run(val_loss=[9.0, 8.0, *[7.0] * 20]), "val_loss") == 3
    assert still_since(run(val_loss=[7.0] * 8), "val_loss") == 1


def test_a_run_that_is_over_has_nothing_more_to_come():
    stood = run(val_loss=[9.0, 8.0, *[7.0] * 8])
    assert still_since(stood, "val_loss") is None
    assert (
        still_since(replace(stood, finished=("the learning rate is at its floor",)), "val_loss")
        == 3
    )


def test_early_in_its_plan_a_run_that_never_moved_may_still_do_so():
    stood = run(val_loss=[7.0] * 10)
    assert still_since(replace(stood, facts=Facts(epochs=20)), "val_loss") == 1
    assert still_since(replace(stood, facts=Facts(epochs=100)), "val_loss") is None
    steps = replace(run(train_loss=[7.0] * 500), clock="step")
    assert still_since(steps, "train_loss") is None
    assert still_since(replace(steps, planned_steps=100_000), "train_loss") is None


def test_what_was_never_below_its_beginning_never_fell():
    assert never_fell(
        curve(EPOCHS, [8.0, *noisy(np.random.default_rng(8), np.full(99, 8.2), 0.01)])
    )
    assert not never_fell(curve(EPOCHS, np.linspace(8, 7, 100)))


def test_what_was_lifted_at_once_comes_down():
    assert comes_down(curve(range(20), np.linspace(3.6, 3.3, 20)))
    assert not comes_down(
        curve(range(20), [*np.linspace(2.1, 3.6, 10), *np.linspace(3.6, 3.3, 10)])
    )


def test_few_readings_stand_still_where_no_later_one_is_lower():
    epochs = (1, 25, 50, 60)
    made = Run(
        name="few",
        curves={
            "val_loss": curve(epochs, (7.19, 4.90, 4.96, 5.29)),
            "train_loss": curve(epochs, (44.59, 4.19, 2.87, 2.36)),
        },
    )
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
    assert (
        still_since(
            Run(
                name="few",
                curves={"val_loss": val, "train_loss": curve(epochs, (44, 4.2, 2.9, 2.4))},
            ),
            "val_loss",
        )
        == 25
    )
    assert (
        still_since(
            Run(
                name="few",
                curves={"val_loss": val, "train_loss": curve(epochs, (44, 4.2, 5.2, 2.4))},
            ),
            "val_loss",
        )
        is None
    )


def test_a_curve_that_came_back_from_such_a_rise_before_may_do_so_again():
    sawtooth = [*np.linspace(8, 3, 20), *np.linspace(6, 2, 30), *np.linspace(3.5, 3.4, 10)]
    rising = curve(range(1, 61), sawtooth)
    assert came_back_before(rising, 50, 0.7)
    assert not came_back_before(rising, 50, 1.5)
    assert not came_back_before(
        curve(range(1, 61), [*np.linspace(8, 2, 50), *np.linspace(3.5, 3.4, 10)]), 50, 0.7
    )


@pytest.mark.parametrize(("noise", "rises"), [(0.003, True), (0.02, False)])
def test_a_small_rise_of_few_readings_counts_where_it_is_far_outside_the_noise(noise, rises):
    """By 3 %, as it takes after very many readings: with 8 of them only where they are smooth."""
    after = np.linspace(2.0, 2.07, 9)[1:] + noise * np.resize([1, -1, 0.5], 8)
    rise = lasting_rise(curve(range(18), [*np.geomspace(4, 2, 10), *after]))
    assert (rise is not None) == rises
