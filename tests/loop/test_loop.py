"""A loop under test: it climbs as ours does, is stopped anywhere, and what ends it is told with its
line.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from pytest_overfit import Loop, Rung
from pytest_overfit.climb.ladder import Ended, criteria_for
from pytest_overfit.loop.contracts import findings_of_loop
from pytest_overfit.loop.training import LoopFailed, LoopTraining, recipe_of_loop
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import BadSubject, Subject
from tests.engine.subjects import clips
from tests.loop.plain import Clips, plain, trained


def training(subject: Subject, samples: int = 2) -> LoopTraining:
    return LoopTraining(subject, subject.take(samples), default_recipe(samples), seed=0)


def rung(subject: Subject, samples: int = 2) -> Rung:
    assert subject.loop is not None
    return Rung(
        subject=subject,
        samples=samples,
        recipe=recipe_of_loop(default_recipe(samples), subject.loop),
        criteria=criteria_for(samples),
    )


def test_a_sound_loop_climbs_and_is_called_yours() -> None:
    outcome = rung(plain(trained())).climb()
    assert outcome.status == "ok"
    assert outcome.telling.recipe.describe() == "your loop"
    assert outcome.telling.controls


def test_batches_are_of_the_rungs_samples_alone_and_an_epoch_is_as_long_as_before() -> None:
    loader = plain(trained()).loop.loader  # type: ignore[union-attr]
    drawn: list[int] = []
    cut = Loop(train=trained(), loader=loader).batches(3, drawn.extend)
    assert len(cut) == len(list(cut)) == len(loader)
    assert drawn == [index % 3 for index in range(16)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_users_order_and_sizes_are_kept(shuffle: bool) -> None:
    loader = DataLoader(
        Clips(clips(10)),
        batch_size=4,
        shuffle=shuffle,
        drop_last=True,
        collate_fn=lambda items: items,
    )
    sizes: list[int] = []
    batches = Loop(train=trained(), loader=loader).batches(
        10, lambda indices: sizes.append(len(indices))
    )
    assert len(list(batches)) == 2
    assert sizes == [4, 4]


def test_a_loop_is_stopped_where_it_stands_and_torch_is_as_before() -> None:
    before = (
        torch.ctc_loss,
        nn.Module.zero_grad,
        torch.autograd.backward,
        nn.utils.clip_grad_norm_,
        threading.active_count(),
    )
    ended: list[bool] = []

    def train(network: nn.Module, batches: Any) -> Iterator[float]:
        try:
            yield from trained()(network, batches)
        finally:
            ended.append(True)

    run = training(plain(train))
    random = torch.random.get_rng_state()
    assert len(list(run.advance(3))) == 3
    run.read()
    assert run.network.training, "the loop had set train mode, and finds it"
    assert (
        torch.ctc_loss,
        nn.Module.zero_grad,
        torch.autograd.backward,
        nn.utils.clip_grad_norm_,
        threading.active_count(),
    ) == before
    assert not ended
    run.close()
    assert ended
    assert torch.equal(torch.random.get_rng_state(), random)


def test_what_a_loop_sets_for_the_whole_of_torch_holds_for_it_alone() -> None:
    seen: list[bool] = []

    def train(network: nn.Module, batches: Any) -> Iterator[float]:
        torch.set_grad_enabled(False)
        for _ in batches:
            seen.append(torch.is_grad_enabled())
            yield 1.0

    run = training(plain(train))
    for _ in run.advance(2):
        assert torch.is_grad_enabled()
    run.close()
    assert seen == [False, False]


def test_a_loop_that_ends_is_judged_by_what_it_came_to() -> None:
    outcome = rung(plain(trained(epochs=1))).climb()
    assert outcome.status == "broken"
    assert outcome.telling.ended is Ended.LOOP_OVER
    assert outcome.telling.why == "the loop ended after 8 steps"
    assert outcome.telling.verdicts


def broken_in_the_third_step(network: nn.Module, step: int) -> None:
    if step == 3:
        raise RuntimeError("out of paper")


def test_what_a_loop_raises_is_told_with_its_line() -> None:
    subject = plain(trained(between=broken_in_the_third_step))
    outcome = rung(subject).climb()
    assert outcome.status == "broken"
    assert outcome.telling.ended is Ended.LOOP_FAILED
    (finding,) = outcome.telling.findings
    assert finding.name == "loop_fails"
    assert "raises RuntimeError at step 2: out of paper" in finding.headline
    assert "test_loop.py:" in finding.headline
    assert [one.name for one in findings_of_loop(subject)] == ["loop_fails"]


def test_a_loop_that_takes_no_step_does_not_hang() -> None:
    def train(network: nn.Module, batches: Any) -> Iterator[float]:
        while True:
            for _ in batches:
                pass
        yield 0.0

    run = training(plain(train))
    with pytest.raises(LoopFailed, match="drew 50 batches and took no optimiser step"):
        list(run.advance(1))


def test_the_same_seed_is_the_same_run() -> None:
    subject = plain(trained())
    assert list(training(subject).advance(3)) == list(training(subject).advance(3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loader": [1]}, "loader must be a torch DataLoader, got a list"),
        ({"train": 3}, "train must be a generator function"),
        ({}, None),
    ],
)
def test_a_loop_that_is_none_is_refused_by_name(given: dict[str, Any], message: str | None) -> None:
    known = {"train": trained(), "loader": DataLoader(Clips(clips(2)))}
    if message is None:
        assert Loop(**known).loader is known["loader"]
    else:
        with pytest.raises(BadSubject, match=message):
            Loop(**{**known, **given})
