"""Controls: an honest pass dies on swapped inputs, a dishonest one does not, and train and eval
mode agree.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit import ctc
from pytest_overfit.climb.controls import Control, ignored_inputs, run_controls, train_eval_gap
from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.findings.examine import Checked
from pytest_overfit.findings.wiring import WHOLE_WIRING
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Sample, Subject
from pytest_overfit.training import Training
from tests.engine.foreign import FOREIGN
from tests.engine.subjects import bigru, clips

PARTS = {"left": slice(0, 12), "right": slice(12, 24)}

MEMORISED = 0.02
"""Nats a token at which every token is read, in eval mode too."""


def trained(subject: Subject, samples: list[Sample], steps: int = 120) -> nn.Module:
    """Until it has memorised the samples, or for so many steps."""
    training = Training(subject, samples, Recipe(budget=steps), seed=0)
    for loss in training.advance(steps):
        if loss < MEMORISED:
            break
    return training.network


@pytest.fixture(scope="module")
def honest() -> nn.Module:
    return trained(bigru(), clips(5))


def test_swapped_inputs_destroy_an_honest_pass(honest: nn.Module) -> None:
    swapped, stretched, noise, alone, shuffled, *parts = run_controls(
        bigru(parts=PARTS), honest, clips(5)
    )
    assert (swapped.name, swapped.as_is, swapped.held) == ("inputs swapped", 0.0, True)
    assert min(swapped.altered, stretched.altered, noise.altered) > 0.5
    assert shuffled.altered > 0.3
    assert [(one.name, one.held) for one in (stretched, noise, alone)] == [
        ("swapped, own length", True),
        ("noise", True),
        ("clips alone", True),
    ]
    assert alone.altered == alone.as_is
    assert [part.name for part in parts] == ["left zeroed", "right zeroed"]
    assert all(part.held is None for part in parts)
    assert ignored_inputs((swapped, stretched, noise, alone, shuffled, *parts)) == ()


def test_a_part_that_is_read_is_missed_and_one_that_is_still_is_not() -> None:
    of_left = [
        replace(sample, features=sample.features * (torch.arange(24) < 12)) for sample in clips(3)
    ]
    subject = bigru(parts=PARTS, samples=of_left)
    *_, left, right = run_controls(subject, trained(subject, of_left), of_left)
    assert left.altered > 0.5
    assert right.altered == right.as_is == 0.0


def as_tensors(log_probs: Tensor, steps: Tensor) -> Any:
    """What decoders of torch hand out: tensors, of which no two are equal as keys."""
    return (torch.tensor(tokens) for tokens in ctc.greedy_decode(log_probs, steps, blank=0))


def test_a_decoder_that_yields_tensors_is_read_like_one_that_yields_numbers(
    honest: nn.Module,
) -> None:
    assert run_controls(bigru(decode=as_tensors), honest, clips(3)) == run_controls(
        bigru(), honest, clips(3)
    )


def test_each_control_runs_the_network_once(honest: nn.Module) -> None:
    """On clips as they are, two swaps, the noise that it answers to, shuffled frames, each alone."""
    passes: list[int] = []
    handle = honest.register_forward_hook(lambda _, given, __: passes.append(len(given[0])))
    try:
        run_controls(bigru(), honest, clips(3))
    finally:
        handle.remove()
    assert sorted(passes) == [1, 1, 1, 3, 3, 3, 3, 3]


def test_a_single_clip_is_given_noise(honest: nn.Module) -> None:
    swapped = run_controls(bigru(), honest, clips(1))[0]
    assert (swapped.as_is, swapped.held) == (0.0, None)
    assert swapped.altered > swapped.as_is == 0


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


def test_dropout_by_a_function_is_no_gap_between_train_and_eval_mode() -> None:
    class Dropping(nn.Module):
        """Says what it should while its dropout drops, and nothing else."""

        def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            dropped = F.dropout(torch.ones(100), 0.5, self.training).max() > 1
            logits = torch.zeros(features.shape[1], len(features), 25)
            logits[:, :, 0] = 5
            logits[frames.min() // 2, :, 7] = 10.0 * dropped
            return logits.log_softmax(-1), frames

    samples = [replace(sample, target=torch.tensor([7])) for sample in clips(4)]
    assert train_eval_gap(bigru(samples=samples), Dropping(), samples) == ()


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


class Clock(nn.Module):
    """Learns what to say at each time, and so long before the end; of the features it sees a share."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.see, self.head = nn.Linear(24, 32), nn.Linear(32, 25)
        self.past, self.left = (nn.Parameter(torch.randn(80, 32)) for _ in range(2))

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        at = torch.arange(features.shape[1])
        clock = self.past[at] + self.left[(frames[:, None] - at).clamp(min=0)]
        x = (self.share * self.see(features) + clock).relu()
        return self.head(x).log_softmax(-1).transpose(0, 1), frames


def of_lengths(count: int) -> list[Sample]:
    """Clips that their lengths alone tell apart."""
    return [
        replace(sample, features=sample.features[: 40 + 2 * i])
        for i, sample in enumerate(clips(count))
    ]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("share", [0.0, 1e-6])
def test_a_pass_by_length_and_clock_alone_is_found_out(count: int, share: float) -> None:
    samples = of_lengths(count)
    subject = replace(bigru(), build=lambda **_: Clock(share), samples=samples)
    network = trained(subject, samples, steps=300)
    controls = run_controls(subject, network, samples)
    named = {control.name: control for control in controls}
    assert named["noise"].held is False
    assert named["swapped, own length"].held is (None if count == 1 else False)
    (finding,) = ignored_inputs(controls)
    assert finding.name == "input_ignored"
    assert "the pass is not honest" in finding.headline


@pytest.mark.parametrize("cut", [False, True], ids=["lengths", "one length"])
def test_no_second_clip_excuses_a_network_that_reads_too_little_of_its_input(cut: bool) -> None:
    """Contracts see that something reaches the output, of a millionth of the features."""
    samples = [replace(s, features=s.features[:48]) for s in clips(2)] if cut else of_lengths(2)
    outcome = Rung(
        subject=replace(bigru(), build=lambda **_: Clock(1e-6), samples=samples),
        samples=1,
        recipe=Recipe(budget=300, overtime=0.0, fallbacks=()),
        criteria=criteria_for(1),
        examined=(Checked(contract=WHOLE_WIRING),),
    ).climb()
    (attempt,) = outcome.attempts
    assert all(verdict.held for verdict in attempt.verdicts)
    assert (outcome.status, attempt.second_clip) == ("broken", None)


@pytest.mark.parametrize(
    "name", ["packed LSTM", "post-norm Transformer", "state space", "unpacked GRU", "CRNN"]
)
def test_honest_passes_of_one_clip_die_on_noise(name: str) -> None:
    subject = FOREIGN[name]()
    network = trained(subject, subject.take(1), steps=120)
    named = {control.name: control for control in run_controls(subject, network, subject.take(1))}
    assert named["noise"].held


def test_a_pass_that_padding_or_batch_mates_make_is_found_out() -> None:
    controls = (
        Control(name="inputs swapped", as_is=0.1, altered=0.9, held=True),
        Control(name="clips alone", as_is=0.1, altered=0.6, held=False),
    )
    padded = Control(name="clips alone, padded", as_is=0.1, altered=0.2, held=True)
    mated = replace(padded, altered=0.7, held=False)
    assert [
        (finding.name, finding.headline)
        for further in (padded, mated)
        for finding in ignored_inputs((*controls, further))
    ] == [
        (
            "padding_leak",
            "the pass hangs on padding: each clip alone WER is 60 %, in a batch 10 %",
        ),
        (
            "batch_leak",
            "the pass hangs on batch mates: each clip alone, padded as among them, WER is 70 %, in "
            "a batch 10 %",
        ),
    ]


class Emitting(nn.Module):
    """Emits a token in the middle of each clip that it is told to, and nothing else."""

    def __init__(self, emits: Callable[[Tensor, int], bool]) -> None:
        super().__init__()
        self.emits = emits

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.zeros(features.shape[1], len(features), 25)
        logits[:, :, 0] = 5
        for row, length in enumerate(frames.tolist()):
            if self.emits(features, length):
                logits[length // 2, row, 7] = 10
        return logits.log_softmax(-1), frames


@pytest.mark.parametrize(
    ("emits", "as_is", "padded"),
    [
        pytest.param(lambda x, length: length < x.shape[1], 0.25, (0.25, True), id="by padding"),
        pytest.param(lambda x, _: len(x) > 1, 0.0, (1.0, False), id="by batch mates"),
    ],
)
def test_a_network_that_decodes_by_padding_or_batch_mates_fails_alone(
    emits: Callable[[Tensor, int], bool], as_is: float, padded: tuple[float, bool]
) -> None:
    samples = [replace(sample, target=torch.tensor([7])) for sample in of_lengths(4)]
    named = {
        control.name: control
        for control in run_controls(bigru(samples=samples), Emitting(emits), samples)
    }
    alone, again = named["clips alone"], named["clips alone, padded"]
    assert (alone.as_is, alone.altered, alone.held) == (as_is, 1.0, False)
    assert (again.altered, again.held) == padded
