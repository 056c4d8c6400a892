"""Two sides in turn: who goes first, and when a pair ends."""

import math
from dataclasses import dataclass, field

import pytest

from pytest_overfit.against.pairing import climb_both


@dataclass
class Scripted:
    """A side that holds at a step, and notes when it was asked."""

    name: str
    log: list
    holds_at: float = math.inf
    ends_at: float = math.inf
    step_seconds: float = 0.01
    steps: list = field(default_factory=list)

    def advance(self, to):
        self.log.append(self.name)
        self.steps.append(to)
        ended = "the loss is nan" if to >= self.ends_at else None
        return {
            "step": to,
            "step_seconds": self.step_seconds,
            "loss": 1 / to,
            "token_error_rate": 0.0 if to >= self.holds_at else 0.5,
            "held": to >= self.holds_at and not ended,
            "ended": ended,
        }


def climbed(ours, base, *, settled=lambda pair: False, budget=100):
    log = []
    sides = Scripted("A", log, **ours), Scripted("B", log, **base)
    return climb_both(*sides, seed=0, budget=budget, settled=settled), log


def test_sides_go_in_turn_and_swap_who_is_first():
    pair, log = climbed({"holds_at": 8, "step_seconds": 0.02}, {"holds_at": 8})
    assert log == ["A", "B", "B", "A", "A", "B", "B", "A"]
    assert pair.same is True
    assert pair.step_times == pytest.approx([2.0] * 2)


def test_a_side_that_is_slower_where_it_is_first_is_not_slower_for_that():
    @dataclass
    class Cold(Scripted):
        """Takes longer where the other side went before it."""

        def advance(self, to):
            self.step_seconds = 0.01 if self.log and self.log[-1] == self.name else 0.016
            return super().advance(to)

    log = []
    pair = climb_both(Cold("A", log), Cold("B", log), seed=0, budget=30, settled=lambda pair: False)
    assert len(pair.step_times) >= 7
    assert pair.step_times[1:] == pytest.approx([1.0] * (len(pair.step_times) - 1))


def test_a_side_that_has_held_waits_until_the_other_is_settled():
    pair, log = climbed(
        {}, {"holds_at": 10}, settled=lambda pair: pair.ours.steps >= 3 * pair.base.steps
    )
    assert pair.base.steps == 10
    assert 30 <= pair.ours.steps <= 33
    low, high = pair.log_ratio
    assert low >= math.log(3)
    assert high == math.inf
    assert log.count("B") < log.count("A")
    assert pair.error_at_equal_steps() == (10, 0.5, 0.0)


def test_a_pair_ends_with_the_budget_where_neither_holds():
    pair, _ = climbed({}, {})
    assert pair.log_ratio is None
    assert max(pair.ours.steps, pair.base.steps) <= 100


def test_a_side_whose_loss_is_not_finite_never_holds_in_its_time():
    pair, _ = climbed({"ends_at": 7}, {"holds_at": 20})
    assert pair.log_ratio == (math.log(100 / pair.base.steps), math.inf)
