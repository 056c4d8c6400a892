"""Trials: in the order of the plan, within their time, alone or beside each other with the same
outcome.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.explain.trials import Trial, TrialEnded, plan, run_trials, try_remedy
from pytest_overfit.finding import Finding
from pytest_overfit.findings.leaks import BATCH_LEAK
from pytest_overfit.findings.remedies import RESET, Remedy
from pytest_overfit.findings.training import CAUSE_NOT_LOCATED, RECIPE_STALLS
from pytest_overfit.recipe import default_recipe
from tests.engine.faults import FAULTS
from tests.engine.foreign import FOREIGN
from tests.engine.subjects import bigru

MOST_SECONDS = 60.0
"""How long one trial waits for another: what takes as long will never come."""
FOUND = [Finding(name=name, headline=name) for name in ("signal_drowned", "recipe_stalls")]


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def rung() -> Rung:
    return Rung(subject=bigru(), samples=2, recipe=default_recipe(2), criteria=criteria_for(2))


def told(finding: Finding, remedy: Any, *, held: bool = False, seconds: float = 0.0) -> Trial:
    return Trial(
        finding=finding.name, remedy=remedy.name, held=held, steps=os.getpid(), seconds=seconds
    )


def test_the_likeliest_remedy_of_each_finding_is_tried_before_the_second_of_any() -> None:
    order = [one.name for one, _ in plan(FOUND, "auto")]
    assert order[:4] == ["signal_drowned", "recipe_stalls"] * 2


def test_what_is_confirmed_and_fails_comes_first_and_no_warning_does() -> None:
    warned = replace(FOUND[0], name="padding_leak", status="confirmed", severity="warning")
    failed = replace(FOUND[0], name="batch_leak", status="confirmed", severity="failure")
    order = [one.name for one, _ in plan([*FOUND, warned, failed], "auto")]
    of_it = len(BATCH_LEAK.remedies)
    assert order[:of_it] == ["batch_leak"] * of_it
    assert order[of_it : of_it + 3] == ["signal_drowned", "recipe_stalls", "padding_leak"]


def test_general_remedies_are_tried_where_nothing_is_found_or_all_are_asked_for() -> None:
    assert [remedy for _, remedy in plan([], "auto")] == list(CAUSE_NOT_LOCATED.remedies)
    assert list(plan(FOUND, "off")) == []
    assert len(list(plan(FOUND[1:], "all"))) == len(RECIPE_STALLS.remedies) + len(
        CAUSE_NOT_LOCATED.remedies
    )


def test_a_pass_that_is_dishonest_all_the_same_refutes_nothing() -> None:
    """A fresh network hears what is so faint, one that has learnt does not: no contract finds it again,
    the controls do, and that is no other cause.
    """
    deaf = replace(bigru(), forward=lambda network, x, frames: network(1e-4 * x, frames))
    broken = Rung(subject=deaf, samples=1, recipe=default_recipe(1), criteria=criteria_for(1))
    found = Finding(name="input_ignored", headline="", status="confirmed")
    same = Remedy(name="the same", change=lambda rung, _: replace(rung, subject=replace(deaf)))
    trial = try_remedy(broken, found, same, seconds=math.inf)
    assert (trial.held, trial.ended) == (False, TrialEnded.STILL_FOUND)
    assert trial.why == "input_ignored is still found"
    assert trial.steps > 0, "found in its pass"


def test_trials_one_by_one_end_with_the_time_that_the_climb_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[float] = []
    now = [0.0]

    def try_(_: Rung, finding: Finding, remedy: Any, *, seconds: float, **_kw: Any) -> Trial:
        given.append(seconds)
        now[0] += 20
        return told(finding, remedy)

    monkeypatch.setattr("pytest_overfit.explain.trials.beside_each_other", lambda device: 1)
    monkeypatch.setattr("pytest_overfit.explain.trials.try_remedy", try_)
    monkeypatch.setattr("pytest_overfit.explain.trials.time.monotonic", lambda: now[0])
    run_trials(rung(), FOUND, 50.0, "auto")
    assert given == [50.0, 30.0, 10.0]


def test_trials_beside_each_other_end_with_the_time_that_the_climb_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = multiprocessing.get_context("fork")
    now, both = context.Value("d", 0.0), context.Barrier(2)

    def try_(_: Rung, finding: Finding, remedy: Any, *, seconds: float, **_kw: Any) -> Trial:
        both.wait(MOST_SECONDS)
        now.value = seconds
        return told(finding, remedy, seconds=seconds)

    monkeypatch.setattr("pytest_overfit.explain.trials.beside_each_other", lambda device: 2)
    monkeypatch.setattr("pytest_overfit.explain.trials.try_remedy", try_)
    monkeypatch.setattr("pytest_overfit.explain.trials.time.monotonic", lambda: now.value)
    assert [trial.seconds for trial in run_trials(rung(), FOUND, 50.0, "auto")] == [50.0, 50.0]


def test_the_first_of_the_plan_to_hold_ends_what_comes_after_it(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Beside each other the first waits for the second to hold, and the third for ever."""
    names = [remedy.name for _, remedy in plan(FOUND, "auto")]
    context = multiprocessing.get_context("fork")
    second, never = context.Event(), context.Event()

    def try_(_: Rung, finding: Finding, remedy: Any, *, seconds: float, **_kw: Any) -> Trial:
        place = names.index(remedy.name)
        if threads > 1 and place == 0:
            assert second.wait(MOST_SECONDS)
        if place == 1:
            second.set()
        if place > 1:
            never.wait()
        return told(finding, remedy, held=place == 1)

    monkeypatch.setattr("pytest_overfit.explain.trials.try_remedy", try_)
    tried = run_trials(rung(), FOUND, 10 * MOST_SECONDS, "auto")
    assert [(trial.remedy, trial.held) for trial in tried] == [(names[0], False), (names[1], True)]
    assert (os.getpid() in {trial.steps for trial in tried}) == (threads == 1)


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.usefixtures("threads")
def test_trials_beside_each_other_tell_what_trials_one_by_one_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one thread, as a trial in a process of its own has: other threads sum in another order,
    and a run takes other steps.
    """
    monkeypatch.setattr("pytest_overfit.explain.trials.LEAST_SECONDS", 300.0)
    stalled, known = FOUND[1:], {}
    recipe = default_recipe(2)
    slow = replace(
        rung(), subject=FOREIGN["per frame"](), recipe=replace(recipe, lr=recipe.lr / 100)
    )
    for at_once in (1, 2):
        monkeypatch.setattr(
            "pytest_overfit.explain.trials.beside_each_other",
            lambda device, at_once=at_once: at_once,
        )
        tried = run_trials(slow, stalled, 0.0, "auto")
        known[at_once] = [
            (trial.remedy, trial.held, trial.steps, trial.ended, trial.why) for trial in tried
        ]
    assert known[1] == known[2]
    assert any(held for _, held, *_ in known[1])


def test_a_trial_whose_process_dies_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_overfit.explain.trials.beside_each_other", lambda device: 2)
    monkeypatch.setattr("pytest_overfit.explain.trials.try_remedy", lambda *_, **__: os._exit(9))
    assert {trial.ended for trial in run_trials(rung(), FOUND, 0.0, "auto")} == {TrialEnded.DIED}


def test_where_every_rate_was_tried_a_remedy_is_given_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def try_(_: Rung, finding: Finding, remedy: Any, *, raced: bool, **_kw: Any) -> Trial:
        return told(finding, remedy, held=raced and finding.name == "recipe_stalls")

    monkeypatch.setattr("pytest_overfit.explain.trials.beside_each_other", lambda device: 1)
    monkeypatch.setattr("pytest_overfit.explain.trials.try_remedy", try_)
    once = run_trials(rung(), FOUND, 50.0, "auto")
    twice = run_trials(rung(), FOUND, 50.0, "auto", raced=True)
    assert not any(trial.held for trial in once)
    assert [trial.held for trial in twice] == [False] * len(once) + [True]
    assert twice[-1].finding == "recipe_stalls"


def test_what_a_contract_found_has_its_remedies_tried_at_other_rates_though_none_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_others: list[str] = []

    def try_(_: Rung, finding: Finding, remedy: Any, *, raced: bool, **_kw: Any) -> Trial:
        at_others.extend([finding.name] * raced)
        return told(finding, remedy, held=raced)

    monkeypatch.setattr("pytest_overfit.explain.trials.beside_each_other", lambda device: 1)
    monkeypatch.setattr("pytest_overfit.explain.trials.try_remedy", try_)
    shown, inferred = replace(FOUND[0], status="confirmed"), FOUND[1]
    known = replace(rung(), examined=())
    assert run_trials(known, [shown, inferred], 50.0, "auto")[-1].held
    assert at_others == [shown.name]


@pytest.mark.parametrize(
    ("fault", "held"), [("net-dead-relu", True), (None, False)], ids=["a fault", "none"]
)
def test_a_remedy_that_holds_at_another_rate_is_told_with_it(fault: str | None, held: bool) -> None:
    """Where there is nothing to mend, it is the rate that did it."""
    planted = {one.name: one.plant for one in FAULTS}
    subject = planted[fault](bigru()) if fault else bigru()
    recipe = replace(default_recipe(2), lr=1.0, fallbacks=(0.01,))
    broken = replace(rung(), subject=subject, recipe=recipe)
    known = Finding(name="shown", headline="shown", status="confirmed")
    alone, raced = (
        try_remedy(broken, known, RESET, seconds=math.inf, raced=raced) for raced in (False, True)
    )
    assert (alone.held, alone.remedy) == (False, RESET.name)
    assert raced.held == held
    assert raced.remedy == RESET.name + " and a learning rate of 0.01" * held
    assert held or raced.why == f"in {raced.steps} steps the rung holds without it"
