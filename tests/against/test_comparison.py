"""A rung compared, with sides that are scripted."""

from dataclasses import dataclass, field
from itertools import count

import pytest

from pytest_overfit.against.comparison import HOPELESS, compare, comparison_from_json
from pytest_overfit.against.verdict import PairTest


@dataclass
class Scripted:
    """A side that holds at a step with every seed, or never."""

    name: str
    holds_at: float = float("inf")
    step_seconds: float = 0.01
    seeds: list = field(default_factory=list)

    def ask(self, do, to=0, seed=0, steps=0, **_):
        if do == "open":
            return {"budget": 40, "samples": "s", "parameters": 3, "files": []}
        if do == "memory":
            return {"bytes": 1}
        if do == "account":
            return {"courses": len(set(self.seeds)), "cached": 0, "elsewhere": 0, "damaged": 1}
        if do == "time":
            return {"seconds": steps * self.step_seconds, "ended": None}
        self.seeds.append(seed)
        return {
            "step": to,
            "step_seconds": self.step_seconds,
            "loss": (1 + len(self.name)) / to,
            "token_error_rate": 0.0,
            "held": to >= self.holds_at,
            "ended": None,
        }


def compared(ours, base, **known):
    return compare(
        ours, base, subject="a", key="k", samples=1, seeds=count(), test=PairTest(), **known
    )


def test_a_rung_that_neither_side_holds_is_given_up_soon():
    ours, base = Scripted("ours"), Scripted("base!")
    one = compared(ours, base)
    assert one.verdict is None
    assert (
        one.note
        == "neither side holds within the budget; damaged in the cache, and climbed anew: 2"
    )
    assert set(ours.seeds) == set(range(HOPELESS))


@pytest.mark.parametrize(("seconds", "slower"), [(0.04, True), (0.012, False)])
def test_a_step_that_takes_longer_is_looked_for_though_the_steps_are_as_good(seconds, slower):
    asked = []
    one = compared(
        Scripted("ours", holds_at=30, step_seconds=seconds),
        Scripted("base!", holds_at=30),
        blame=lambda worse: asked.append(worse.slower) or (),
    )
    assert (one.verdict, one.slower, one.fails) == ("as good", slower, slower)
    assert asked == [True] * slower
    assert comparison_from_json(one.to_json()) == one


def test_a_time_is_measured_in_rounds_where_the_courses_have_none():
    """As those of the cache, which come without."""

    @dataclass
    class Cached(Scripted):
        def ask(self, do, **request):
            piece = super().ask(do, **request)
            return {**piece, "step_seconds": None} if "step" in piece else piece

    one = compared(Cached("ours", holds_at=30, step_seconds=0.02), Cached("base!", holds_at=30))
    assert one.time.value == pytest.approx(2.0)
    assert one.slower
