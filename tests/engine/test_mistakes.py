"""What a new user gets wrong: it works, or one line names the field and the fix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_overfit.findings.examine import check
from pytest_overfit.plugin.settings import import_subject
from pytest_overfit.subject import BadSample, BadSubject, Sample, Subject, collate
from tests.engine.subjects import VOCABULARY, BiGRU, bigru, clips

SAMPLES = clips(4)


def subject(**described: Any) -> Subject:
    return Subject(**{"name": "mine", "samples": SAMPLES, "vocabulary": VOCABULARY, **described})


def run(of: Subject) -> tuple[Tensor, Tensor]:
    samples = of.take(2)
    network = of.fresh(feature_dim=samples[0].features.shape[1], seed=0).eval()
    batch = collate(samples)
    return of.log_probs(network, batch.features, batch.frames)


def build(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
    return BiGRU(feature_dim, vocab_size)


class FeaturesOnly(BiGRU):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(features, torch.full((len(features),), features.shape[1]))


class OutputOnly(BiGRU):
    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        return super().forward(features, frames)[0]


class ListedSteps(BiGRU):
    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, list[int]]:
        output, steps = super().forward(features, frames)
        return output, steps.tolist()


class BatchFirst(BiGRU):
    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        output, steps = super().forward(features, frames)
        return output.transpose(0, 1), steps


@pytest.mark.parametrize(
    "described",
    [
        {"build": lambda vocab_size, feature_dim: BiGRU(feature_dim, vocab_size)},
        {"build": lambda v, d, s: BiGRU(d, v)},
        {"build": lambda feature_dim, **others: BiGRU(feature_dim, others["vocab_size"])},
        {"build": lambda vocab_size, feature_dim, seed: ListedSteps(feature_dim, vocab_size)},
    ],
    ids=["no seed", "names of its own", "keywords", "steps in a list"],
)
def test_what_can_be_understood_works(described: dict[str, Any]) -> None:
    output, steps = run(subject(**described))
    expected, own = run(subject(build=build))
    assert torch.equal(output, expected)
    assert torch.equal(steps, own)


def test_arrays_of_numpy_are_samples() -> None:
    taken = Sample(name="a", features=SAMPLES[0].features.numpy(), target=SAMPLES[0].target.numpy())  # type: ignore[arg-type]
    assert torch.equal(taken.features, SAMPLES[0].features)
    assert torch.equal(taken.target, SAMPLES[0].target)


def test_arrays_that_hold_no_numbers_are_refused() -> None:
    with pytest.raises(BadSample, match="sample a: features must be a float tensor"):
        Sample(name="a", features=np.array([["x"]]), target=SAMPLES[0].target)  # type: ignore[arg-type]


def test_torchs_own_ctc_loss_is_called_in_its_own_order() -> None:
    assert check(subject(build=build, loss=nn.CTCLoss()), SAMPLES) == check(
        subject(build=build), SAMPLES
    )


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            FeaturesOnly,
            (
                "forward of FeaturesOnly takes no frames: give Subject\\(forward=lambda network, "
                "features, frames"
            ),
        ),
        (
            OutputOnly,
            "forward must return output and steps, got torch.float32 .*: give Subject\\(forward=",
        ),
        (BatchFirst, "after reading its layout as TBV: try Subject\\(layout='BTV'\\)"),
    ],
)
def test_what_a_network_does_otherwise_is_told_with_the_field_that_says_so(
    network: type[BiGRU], message: str
) -> None:
    with pytest.raises(BadSubject, match=message):
        run(subject(build=lambda vocab_size, feature_dim, seed: network(feature_dim, vocab_size)))


def test_an_instance_for_a_builder_is_refused_with_the_builder_that_is_meant() -> None:
    with pytest.raises(
        BadSubject,
        match=r"build must be a function .*, got a BiGRU: build=lambda vocab_size, feature_dim, "
        "seed: BiGRU",
    ):
        subject(build=BiGRU(24, 25))


def test_a_builder_that_returns_no_network_is_named() -> None:
    with pytest.raises(BadSubject, match=r"build must return a torch.nn.Module, got NoneType"):
        run(subject(build=lambda vocab_size, feature_dim, seed: None))


def test_pictures_and_video_are_told_how_to_become_frames() -> None:
    with pytest.raises(
        BadSample, match=r"sample a: features must be \(frames, dim\), got .*: put time first"
    ):
        Sample(name="a", features=torch.zeros(3, 8, 40), target=torch.tensor([1]))


def test_features_with_time_last_are_recognised() -> None:
    turned = [replace(sample, features=sample.features.T.contiguous()) for sample in SAMPLES]
    with pytest.raises(BadSample, match=r"they look like \(dim, frames\): give \(frames, dim\)"):
        collate(turned)
    found = check(replace(bigru(), samples=turned), turned)
    assert (found[0].name, found[0].try_) == (
        "bad_features",
        "they look like (dim, frames): give (frames, dim)",
    )


NETWORK = BiGRU(24, 25)


def test_a_network_for_a_subject_is_refused() -> None:
    with pytest.raises(BadSubject, match=r"is a BiGRU, expected a pytest_overfit.Subject"):
        import_subject("tests.engine.test_mistakes:NETWORK")


class LongestFirst(BiGRU):
    """As networks of old, which take clips in descending order alone."""

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        nn.utils.rnn.pack_padded_sequence(features, frames, batch_first=True)
        return super().forward(features, frames)


def longest_first(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    order = frames.argsort(descending=True)
    output, steps = network(features[order], frames[order])
    back = order.argsort()
    return output[:, back], steps[back]


def test_a_network_that_wants_clips_longest_first_is_told_how_it_gets_them() -> None:
    def old(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
        return LongestFirst(feature_dim, vocab_size)

    (finding,) = check(subject(build=old), SAMPLES)
    assert finding.name == "network_fails"
    assert "Subject(forward=...)" in (finding.try_ or "")
    assert check(subject(build=old, forward=longest_first), SAMPLES) == ()
