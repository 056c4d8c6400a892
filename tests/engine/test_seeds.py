"""The sequential test over seeds: its verdicts, and its operating characteristics by exact
computation.
"""

import itertools
import math

import pytest

from pytest_overfit.climb.seeds import BROKEN, SOUND, SeedTest

ERRORS = [0.3, 0.1, 0.05, 0.01, 1e-3, 1e-5]


def verdict_of(word, **fields):
    return SeedTest(**fields).verdict([letter == "+" for letter in word])


@pytest.mark.parametrize(
    ("word", "verdict"),
    [
        ("", None),
        ("+", "ok"),
        ("-", None),
        ("--", "broken"),
        ("-+", None),
        ("-++", "ok"),
        ("-+-", "broken"),
    ],
)
def test_by_default_one_seed_that_holds_decides_or_two_that_fail(word, verdict):
    assert verdict_of(word) == verdict


def test_stricter_bounds_take_more_seeds():
    assert verdict_of("+", beta=0.01, most=9) is None
    assert verdict_of("++", beta=0.01, most=9) == "ok"
    assert verdict_of("--", alpha=1e-3, most=9) is None
    assert verdict_of("---", alpha=1e-3, most=9) == "broken"
    assert verdict_of("-", alpha=0.1, most=9) == "broken"


@pytest.mark.parametrize(
    ("word", "verdict"),
    [
        ("+", "ok"),
        ("-", "broken"),
        ("-+", "ok"),
        ("+-", "ok"),
        ("--", "broken"),
        ("-+-", "broken"),
        ("+--", "broken"),
    ],
)
def test_at_the_last_seed_the_likelier_is_the_verdict_and_ok_where_neither_is(word, verdict):
    assert verdict_of(word, alpha=1e-6, beta=1e-6, most=len(word)) == verdict


@pytest.mark.parametrize("alpha", ERRORS)
@pytest.mark.parametrize("beta", ERRORS)
@pytest.mark.parametrize("most", [40, 41])
def test_no_error_passes_its_bound_where_there_are_seeds_enough(alpha, beta, most):
    test = SeedTest(alpha=alpha, beta=beta, most=most)
    for better in (SOUND, 0.97, 1.0):
        assert test.chance("broken", better) <= alpha
    for worse in (BROKEN, 0.02, 0.0):
        assert test.chance("ok", worse) <= beta


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("most", [1, 2, 3, 12])
def test_every_test_ends_in_a_verdict_and_better_networks_are_called_ok_more_often(share, most):
    test = SeedTest(alpha=1e-3, beta=0.01, most=most)
    assert test.chance("ok", share) + test.chance("broken", share) == pytest.approx(1.0)
    assert test.chance("ok", share) <= test.chance("ok", min(share + 0.1, 1.0)) + 1e-12
    assert 1 <= test.expected_seeds(share) <= most


@pytest.mark.parametrize(
    ("alpha", "beta", "most"), [(0.01, 0.1, 3), (0.2, 0.2, 4), (1e-3, 0.01, 7)]
)
@pytest.mark.parametrize("share", [0.05, 0.4, 0.95])
def test_chances_are_those_of_all_sequences_counted_one_by_one(alpha, beta, most, share):
    test = SeedTest(alpha=alpha, beta=beta, most=most)
    counted = {"ok": 0.0, "broken": 0.0}
    seeds = 0.0
    for sequence in itertools.product([True, False], repeat=most):
        tried = next(n for n in range(1, most + 1) if test.verdict(sequence[:n]))
        chance = math.prod(share if held else 1 - share for held in sequence)
        counted[test.verdict(sequence[:tried])] += chance
        seeds += tried * chance
    assert {verdict: test.chance(verdict, share) for verdict in counted} == pytest.approx(counted)
    assert test.expected_seeds(share) == pytest.approx(seeds)


def test_the_clear_cases_take_few_seeds():
    test = SeedTest()
    assert test.expected_seeds(SOUND) == pytest.approx(1 + 0.05 * (1 + 0.95))
    assert test.expected_seeds(1.0) == 1
    assert test.expected_seeds(0.0) == 2


def test_a_verdict_states_the_chance_of_its_error():
    assert SeedTest().chance_of_error([True]) == pytest.approx(0.05)
    assert SeedTest().chance_of_error([False, False]) == pytest.approx(0.0025)
    assert SeedTest().chance_of_error([False, True, False]) == pytest.approx(
        0.0025 + 0.05 * 0.95 * 0.05
    )
    assert SeedTest().chance_of_error([False, True, True]) == pytest.approx(0.05 + 0.95 * 0.05**2)
    assert SeedTest(most=1).chance_of_error([False]) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="1 seeds come to no verdict"):
        SeedTest().chance_of_error([False])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"alpha": 0.0}, "--overfit-alpha must lie between 0 and 0.5, got 0"),
        ({"beta": 0.5}, "--overfit-beta must lie between 0 and 0.5, got 0.5"),
        ({"alpha": math.nan}, "--overfit-alpha must lie between 0 and 0.5, got nan"),
        ({"most": 0}, "at least one seed must be tried, got 0"),
    ],
)
def test_a_test_that_can_decide_nothing_is_turned_away(fields, words):
    with pytest.raises(ValueError, match=words):
        SeedTest(**fields)
