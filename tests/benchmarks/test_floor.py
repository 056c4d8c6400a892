"""What verdicts cost above the arithmetic that they cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch

from pytest_overfit.climb import attempt, ladder
from pytest_overfit.host import lent
from pytest_overfit.training import Training
from tests.benchmarks.conftest import Cost
from tests.benchmarks.floor import Operations, by_phase, sgemm_rate
from tests.benchmarks.pairs import processor_seconds, spent_so_far
from tests.benchmarks.verdicts import broken_verdict, climb, contracts, hosting, planted, rung_of

pytestmark = pytest.mark.benchmark
ROUNDS = 3
BROKEN = "ctc-softmax"
STEPS, READINGS, CONTROLS, FITTING = "steps", "readings", "controls", "targets that fit"
CLIMB, CONTRACTS = "climb", "contracts"
PHASES = {
    STEPS: ((Training, "_backward"), (torch.optim.Adam, "step")),
    READINGS: (
        (Training, "read"),
        (ladder, "steps_given"),
        (attempt.Run, "_level_match"),
    ),
    CONTROLS: ((attempt, "run_controls"),),
    FITTING: ((ladder, "check_feasible"),),
}


def costs_of(action: Callable[[], object], whole: str, rounds: int = ROUNDS) -> dict[str, Cost]:
    """Each phase's median cost; the rate is read before and after each round."""
    with Operations() as counted:
        operations = by_phase(action, PHASES, lambda: counted.total, whole)
    rounds_ = []
    for _ in range(rounds):
        before = sgemm_rate()
        seconds = by_phase(action, PHASES, spent_so_far, whole)
        rounds_.append((2 / (1 / before + 1 / sgemm_rate()), seconds))
    return {
        phase: Cost(
            floor=median(operations.get(phase, 0.0) / rate for rate, _ in rounds_),
            reached=median(seconds.get(phase, 0.0) for _, seconds in rounds_),
        )
        for phase in {phase: None for _, seconds in rounds_ for phase in seconds}
    }


def test_verdicts_stand_on_their_arithmetic(cost: Any) -> None:
    """Bounds are for what must not come back; what is aimed at, the page of benchmarks tells."""
    subject = hosting()
    fault = planted(BROKEN)
    with lent(threads=1):
        processor_seconds(lambda: rung_of(subject, 1).climb())  # imports, and clips that are cached
        climbed = costs_of(lambda: climb(subject), CLIMB)
        examined = costs_of(lambda: contracts(subject), CONTRACTS)[CONTRACTS]
        broken = costs_of(lambda: broken_verdict(fault, subject), BROKEN, rounds=1)[BROKEN]
    whole = climbed.pop(CLIMB)
    cost("climb of 1, 2, 5 and 10 samples", whole, whole)
    for phase in PHASES:
        cost(f"  its {phase}", climbed[phase], whole)
    cost("contracts", examined, whole)
    cost(f"broken by {BROKEN}: contracts, climb, explanation", broken, whole)
    assert examined.reached < 0.6 * whole.reached
    assert climbed[CONTROLS].reached + climbed[READINGS].reached < 0.4 * whole.reached
