"""When steps are taken for their time alone: how many, for how long, and what is said of them."""

import math
import random
from dataclasses import dataclass, field

import pytest

from pytest_overfit.against.course import LONG_ENOUGH
from pytest_overfit.against.times import LOOKS, judge_time, timed


@dataclass
class Clockwork:
    """A training whose steps take so long, more or less. last: whose turn it was before."""

    name: str
    last: list
    step_seconds: float
    ends_at: float = math.inf
    noise: float = 0.0
    cold: float = 0.0
    turns: list = field(default_factory=list)

    def take(self, steps):
        self.turns.append(steps)
        cold = 0.0 if self.last == [self.name] else self.cold
        self.last[:] = [self.name]
        ended = "the loop ended" if sum(self.turns) > self.ends_at else None
        seconds = steps * self.step_seconds * math.exp(random.gauss(0, self.noise)) + cold
        return {"seconds": seconds, "ended": ended}


def ratio_of(ours, base=0.001, *, noise=0.0, cold=0.0, ends_at=math.inf, tolerance=1.25):
    """The ratio, and the turns that ours took in each course."""
    courses = []

    def course(_):
        last = []
        courses.append(
            (
                Clockwork("ours", last, ours, ends_at, noise, cold),
                Clockwork("base", last, base, ends_at, noise, cold),
            )
        )
        return courses[-1]

    return timed(course, chance=0.01, tolerance=tolerance), [one.turns for one, _ in courses]


def test_a_turn_lasts_long_enough_for_the_faster_side():
    time, (turns,) = ratio_of(0.002)
    assert time.value == pytest.approx(2.0)
    assert time.rounds == LOOKS[0]
    assert turns[-1] * 0.001 >= LONG_ENOUGH > turns[-1] * 0.001 / 2


def test_what_the_change_of_sides_costs_is_of_neither():
    time, _ = ratio_of(0.06, 0.06, cold=0.03)
    assert (time.low, time.high) == (pytest.approx(1.0), pytest.approx(1.0))


@pytest.mark.parametrize(("ratio", "said"), [(1.0, "as good"), (5.0, "worse")])
def test_noise_takes_more_rounds_and_misleads_nobody(ratio, said):
    random.seed(0)
    times = [ratio_of(0.001 * ratio, noise=0.15)[0] for _ in range(50)]
    verdicts = [judge_time(time, 1.25) for time in times]
    assert set(verdicts) <= {said, None}
    assert verdicts.count(said) >= 45
    if said == "as good":
        assert max(time.rounds for time in times) > LOOKS[0]


def test_a_ratio_at_the_tolerance_is_seldom_called_either():
    """Each claim is false with at most 1 %."""
    random.seed(0)
    verdicts = [judge_time(ratio_of(0.00125, noise=0.2)[0], 1.25) for _ in range(200)]
    assert verdicts.count("worse") <= 6
    assert verdicts.count("as good") <= 6


def test_a_loop_that_is_soon_over_is_begun_again_with_shorter_turns():
    time, courses = ratio_of(0.002, ends_at=60)
    assert time.value == pytest.approx(2.0)
    assert time.rounds >= LOOKS[0]
    assert max(courses[1]) < max(courses[0])


def test_what_takes_no_step_has_no_time():
    time, _ = ratio_of(0.002, ends_at=0)
    assert time is None
