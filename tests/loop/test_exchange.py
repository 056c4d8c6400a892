"""Network or loop: which of both breaks a rung, and which part of the loop, shown by exchange."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from pytest_overfit.climb import ladder
from pytest_overfit.climb.ladder import Outcome
from pytest_overfit.explain import exchange
from pytest_overfit.explain.diagnosis import Diagnosis
from pytest_overfit.explain.exchange import PARTS, Allowance, diagnose_loop, exchanged
from pytest_overfit.explain.reverse import changes, holds
from pytest_overfit.explain.trials import Trials
from pytest_overfit.findings.examine import examine
from pytest_overfit.loop.rehearsal import rehearse
from pytest_overfit.loop.training import LoopTraining
from pytest_overfit.plugin.failure import headline
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject
from pytest_overfit.training import Training
from tests.engine.subjects import BiGRU
from tests.loop.plain import plain, trained
from tests.loop.test_loop import rung


def diagnosed(subject: Subject, *, trials: Trials = "auto") -> tuple[Outcome, Diagnosis]:
    climb = rung(subject)
    outcome = climb.climb()
    assert outcome.status == "broken"
    return outcome, diagnose_loop(climb, outcome, trials=trials)


def test_a_rate_that_dies_is_shown_by_our_scheduler_and_named_with_its_line() -> None:
    outcome, diagnosis = diagnosed(
        plain(trained(rate=lambda step: (step + 1) / 4 if step < 4 else 0.0, epochs=12))
    )
    first = diagnosis.findings[0]
    assert (first.name, first.part, first.status) == ("loop_breaks", "scheduler", "confirmed")
    assert diagnosis.confirmed is not None
    assert diagnosis.confirmed.remedy == "our scheduler"
    line = headline(outcome, diagnosis)
    assert line.startswith("plain breaks at 2 samples: with our scheduler your loop holds after ")
    assert "the learning rate is 0 from step 4 on" in line
    assert "plain.py:" in line


def zeroed_at_once(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.zero_grad()


def test_gradients_that_are_zeroed_before_the_step_are_shown_by_our_zeroing() -> None:
    _, diagnosis = diagnosed(plain(trained(backward=zeroed_at_once, epochs=12)))
    assert diagnosis.findings[0].part == "accumulation"
    assert diagnosis.confirmed is not None
    assert diagnosis.confirmed.remedy == "our zeroing of gradients"
    assert "lost_gradient" in [finding.name for finding in diagnosis.findings]


class Coarse(BiGRU):
    """Leaves too few steps for any target."""

    def forward(
        self, features: torch.Tensor, frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs, steps = super().forward(features, frames)
        return log_probs[::20], (steps - 1) // 20 + 1


def test_a_network_that_breaks_with_our_training_too_is_blamed_itself() -> None:
    _, diagnosis = diagnosed(plain(trained(epochs=3), Coarse), trials="off")
    names = [finding.name for finding in diagnosis.findings]
    assert "loop_breaks" not in names
    assert "network_breaks" in names
    assert names.index("time_collapse") < names.index("network_breaks"), (
        "what is found of the network stands before it"
    )


@pytest.mark.parametrize("part", PARTS)
def test_no_part_of_ours_breaks_a_sound_loop(part: str) -> None:
    trial = exchanged(rung(plain(trained())), part, allowance=Allowance(math.inf))  # type: ignore[arg-type]
    assert trial.held, trial


def test_after_an_exchange_torch_is_as_before() -> None:
    before = (
        torch.autograd.backward,
        torch.optim.Optimizer.zero_grad,
        nn.utils.clip_grad_norm_,
        torch.autocast.__init__,
        torch.amp.GradScaler.__init__,
    )
    for part in PARTS:
        exchanged(rung(plain(trained())), part, allowance=Allowance(1))
    after = (
        torch.autograd.backward,
        torch.optim.Optimizer.zero_grad,
        nn.utils.clip_grad_norm_,
        torch.autocast.__init__,
        torch.amp.GradScaler.__init__,
    )
    assert after == before


def test_our_optimiser_moves_what_theirs_does_not_hold() -> None:
    subject = plain(
        trained(optimizer=lambda parameters: torch.optim.Adam(list(parameters)[-2:], lr=0.0))
    )
    assert subject.loop is not None
    run = LoopTraining(
        replace(subject, loop=replace(subject.loop, exchange=PARTS["optimiser"])),
        subject.take(2),
        default_recipe(2),
        seed=0,
    )
    before = [parameter.detach().clone() for parameter in run.network.parameters()]
    list(run.advance(2))
    run.close()
    assert all(
        bool((parameter != old).any())
        for parameter, old in zip(run.network.parameters(), before, strict=True)
    )


def test_where_one_exchange_mends_nothing_a_pair_of_them_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients lost, and an optimiser whose steps are next to nothing: each breaks it."""
    monkeypatch.setattr(exchange, "LEAST_STEPS", 20)
    monkeypatch.setattr(exchange, "TIMES", 2)
    few = {part: PARTS[part] for part in ("accumulation", "clip", "optimiser")}
    monkeypatch.setattr(exchange, "PARTS", few)
    network_contracts = Mock(wraps=examine)
    monkeypatch.setattr(ladder, "examine", network_contracts)
    train = trained(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-9),
        backward=zeroed_at_once,
        epochs=12,
    )
    _, diagnosis = diagnosed(plain(train))
    assert diagnosis.confirmed is not None
    both = {"our zeroing of gradients", "our optimiser and rate"}
    assert set(diagnosis.confirmed.remedy.replace(" and our ", "|our ").split("|")) == both
    assert diagnosis.findings[0].part == "accumulation"
    assert diagnosis.findings[0].evidence[-1] == "our training breaks with their optimiser and rate"
    network_contracts.assert_called_once()


def test_a_loop_that_is_over_before_ours_had_learned_says_so() -> None:
    _, diagnosis = diagnosed(plain(trained(epochs=1)), trials="off")
    assert diagnosis.findings[0].part == "scheduler"
    assert "loop_ends" in [finding.name for finding in diagnosis.findings]


def test_too_few_steps_are_told_after_what_a_contract_found() -> None:
    """A rate that dies early, in a loop that is over soon: the rate comes first."""
    dies = trained(rate=lambda step: 1.0 if step < 3 else 0.0, epochs=4)
    _, diagnosis = diagnosed(plain(dies), trials="off")
    names = [finding.name for finding in diagnosis.findings]
    assert names.index("rate_dies") < names.index("loop_ends")


def test_an_exchange_ends_by_steps_and_not_by_the_clock() -> None:
    broken = rung(plain(trained(rate=lambda step: 0.0, epochs=100)))
    trials = [exchanged(broken, "clip", allowance=Allowance(25)) for _ in range(2)]
    assert [(trial.held, trial.steps) for trial in trials] == [(False, 25)] * 2


class Own(torch.optim.SGD):
    """An optimiser of somebody's own."""


def test_parts_that_a_loop_showed_are_put_into_our_training() -> None:
    """A rate that dies breaks ours as well; their sound zeroing and clip are no change of it."""
    train = trained(optimizer=lambda p: Own(p, lr=0.05), rate=lambda step: float(step < 2))
    theirs = changes(rehearse(plain(train)))
    assert set(theirs) == {"scheduler", "optimiser", "clip"}
    recipe = replace(default_recipe(2), budget=60, overtime=0.0)
    ours = rung(plain(train))
    ours = replace(ours, subject=replace(ours.subject, loop=None), recipe=recipe)
    assert not holds(ours, theirs["scheduler"], lambda _: None)
    training = Training(ours.subject, ours.subject.take(2), ours.recipe, seed=0)
    theirs["optimiser"](training)
    assert type(training.optimizer) is Own
    assert training.optimizer.param_groups[0]["peak_lr"] == 0.05
