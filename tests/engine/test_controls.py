"""Controls: an honest pass dies on swapped inputs, a dishonest one does not, and train and eval mode agree."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pytest_overfit.controls import ignored_inputs, run_controls, train_eval_gap
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Sample, Subject
from pytest_overfit.train import Training
from tests.engine.subjects import bigru, clips

PARTS = {"left": slice(0, 12), "right": slice(12, 24)}


def trained(subject: Subject, samples: list[Sample], steps: int = 120) -> nn.Module:
    training = Training(subject, samples, Recipe(budget=steps), seed=0)
    for _ in training.advance(steps):
        pass
    return training.network


@pytest.fixture(scope="module")
def honest() -> nn.Module:
    return trained(bigru(), clips(5))


def test_swapped_inputs_destroy_an_honest_pass(honest: nn.Module) -> None:
    swapped, shuffled, *parts = run_controls(bigru(parts=PARTS), honest, clips(5))
    assert (swapped.name, swapped.as_is, swapped.held) == ("inputs swapped", 0.0, True)
    assert swapped.altered > 0.5
    assert shuffled.altered > 0.3
    assert [part.name for part in parts] == ["left zeroed", "right zeroed"]
    assert all(part.held is None for part in parts)
    assert ignored_inputs((swapped, shuffled, *parts)) == ()


def test_a_part_that_is_read_is_missed_and_one_that_is_still_is_not() -> None:
    of_left = [replace(sample, features=sample.features * (torch.arange(24) < 12)) for sample in clips(3)]
    subject = bigru(parts=PARTS, samples=of_left)
    _, _, left, right = run_controls(subject, trained(subject, of_left), of_left)
    assert left.altered > 0.5
    assert right.altered == right.as_is == 0.0


def test_a_single_clip_is_given_noise(honest: nn.Module) -> None:
    swapped = run_controls(bigru(), honest, clips(1))[0]
    assert (swapped.as_is, swapped.held) == (0.0, None)
    assert swapped.altered > 0.5


def test_a_pass_that_remembers_places_in_the_batch_is_found_out() -> None:
    class ByPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outputs = nn.Parameter(torch.zeros(76, 5, 25))

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return self.outputs[: features.shape[1], : len(features)].log_softmax(-1), frames

    samples = [replace(sample, features=sample.features[:48]) for sample in clips(5)]
    subject = replace(bigru(), build=lambda **_: ByPlace(), samples=samples)
    network = trained(subject, samples, steps=400)
    controls = run_controls(subject, network, samples)
    assert controls[0].as_is < 0.2
    assert controls[0].held is False
    assert [finding.name for finding in ignored_inputs(controls)] == ["input_ignored"]


def test_train_and_eval_mode_agree_in_a_sound_network(honest: nn.Module) -> None:
    assert train_eval_gap(bigru(), honest, clips(5)) == ()


def test_running_statistics_that_never_ran_are_found_at_their_norm(honest: nn.Module) -> None:
    network = copy.deepcopy(honest)
    norm = network.get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm1d)
    norm.reset_running_stats()
    norm.running_mean += 3
    (finding,) = train_eval_gap(bigru(), network, clips(5))
    assert (finding.name, finding.module) == ("train_eval_gap", "norm")


def test_controls_leave_the_network_as_it_was(honest: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in honest.state_dict().items()}
    run_controls(bigru(parts=PARTS), honest, clips(5))
    train_eval_gap(bigru(), honest, clips(5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in honest.state_dict().items())
