"""The sequential test on pairs: what it says of clear cases, what it leaves open, and that what it
claims is seldom false.
"""

import math
import random
from dataclasses import replace

import pytest

from pytest_overfit.against.comparison import Comparison, taken_together
from pytest_overfit.against.pairing import Pair, Way
from pytest_overfit.against.times import time_ratio
from pytest_overfit.against.verdict import FAR, PairTest, scale_of


def way(steps, *, held=True, loss=0.5):
    return Way(steps=steps, held=held, readings=((steps, loss, 0.0),))


def pair(ours, base, *, held=True, base_held=True, seed=0):
    return Pair(
        seed=seed,
        ours=way(ours, held=held, loss=0.4),
        base=way(base, held=base_held, loss=0.6),
        budget=400,
    )


def test_the_same_training_is_as_good_after_one_pair():
    one = Pair(seed=0, ours=way(40), base=way(40), budget=400)
    standing = PairTest().standing([one])
    assert (standing.verdict, standing.decided, standing.chance_of_error) == ("as good", True, 0.0)


def test_one_seed_is_luck_and_two_accuse():
    test = PairTest()
    assert test.standing([pair(400, 40)]).verdict is None
    standing = test.standing([pair(400, 40), pair(390, 45, seed=1)])
    assert standing.verdict == "worse"
    assert standing.decided
    assert standing.low > 1.25
    assert standing.high == math.inf


def test_what_never_holds_counts_as_what_takes_far_longer():
    test = PairTest()
    never = [pair(200, 40, held=False), pair(200, 40, held=False)]
    assert test.standing(never).verdict == "worse"
    better = [pair(40, 200, base_held=False), pair(40, 200, base_held=False)]
    assert test.standing(better).verdict == "better"
    assert test.standing([pair(400, 400, held=False, base_held=False)]).verdict is None


def test_pairs_that_pass_no_bound_accuse_nobody():
    test = replace(PairTest(), most=2)
    standing = test.standing([pair(60, 40), pair(56, 40)])
    assert (standing.verdict, standing.decided, standing.chance_of_error) == (
        "as good",
        False,
        None,
    )


def test_a_pair_is_settled_once_it_is_far():
    settled = PairTest().settled([])
    assert not settled(pair(60, 40, held=False))
    assert settled(pair(round(40 * math.exp(FAR)) + 1, 40, held=False))


def test_rungs_that_leave_it_open_may_accuse_together():
    """Seven pairs of 1.7 times the steps on each of three rungs."""
    mild = [pair(170, 100, seed=seed) for seed in range(7)]
    alone = PairTest(scale=0.25)
    assert alone.standing(mild).verdict is None
    below = (
        (0.3, tuple(one.log_ratio for one in mild)),
        (0.25, tuple(one.log_ratio for one in mild)),
    )
    standing = replace(alone, below=below).standing(mild)
    assert (standing.verdict, standing.together) == ("worse", True)
    assert 1.25 < standing.low < standing.ratio < standing.high
    assert standing.chance_of_error <= 0.01

    within = replace(alone, below=((0.3, tuple(pair(110, 100).log_ratio for _ in range(7))),))
    assert within.standing(mild).verdict is None


def test_what_accused_at_one_rung_accuses_no_other():
    known = {"subject": "a", "base": "main", "tolerance": 1.25, "alpha": 0.01, "beta": 0.1}
    rungs = {1: "as good", 2: "worse", 5: "as good", 10: None, 20: "better"}
    lower = [Comparison(**known, samples=n, verdict=verdict) for n, verdict in rungs.items()]
    assert [one.samples for one in taken_together(lower)] == [5, 20]
    assert taken_together(lower[:2]) == []


def test_claims_are_seldom_false():
    """True ratios at the edge of the tolerance, noise as the test takes it: the bound is 1 %."""
    random.seed(0)
    test = PairTest(scale=scale_of(10))
    wrong = 0
    for _ in range(100):
        pairs = []
        while not (standing := test.standing(pairs)).verdict if pairs else True:
            t = random.gauss(0, 1) / math.sqrt(sum(random.gauss(0, 1) ** 2 for _ in range(3)) / 3)
            ratio = 1.25 * math.exp(test.scale * t)
            pairs.append(pair(max(round(1000 * ratio), 1), 1000))
        wrong += standing.verdict == "worse"
    assert wrong <= 5


def test_a_step_time_has_an_interval_of_order_statistics():
    assert time_ratio([1.0] * 6, 0.01) is None
    seven = time_ratio([1.3, 0.9, 1.0, 1.1, 1.2, 0.8, 1.4], 0.01)
    assert (seven.value, seven.low, seven.high, seven.rounds) == (1.1, 0.8, 1.4, 7)


@pytest.mark.parametrize("tolerance", [1.0, 0.5, math.nan, 3.0])
def test_a_tolerance_is_a_ratio_above_one(tolerance):
    with pytest.raises(ValueError, match="--overfit-tolerance must lie between 1 and 3"):
        PairTest(tolerance=tolerance)


def test_a_pair_at_least_is_climbed():
    with pytest.raises(ValueError, match="--overfit-pairs must be at least 1"):
        PairTest(most=0)
