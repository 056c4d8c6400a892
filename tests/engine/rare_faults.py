"""Faults of code that raises, of numbers that are not finite, and of losses and decoders that are
wrong in no usual way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pytest_overfit import ctc
from pytest_overfit.subject import Sample, Subject
from tests.engine.dishonest import gradient_of
from tests.engine.faults import Fault
from tests.engine.planting import altered, collapsed, decoded, forwarded, rebuilt, sampled
from tests.engine.subjects import BiGRU


def fail(*_: Any) -> Any:
    raise ZeroDivisionError("no width left")


def fetched_once(subject: Subject) -> Subject:
    """The samples come from a file that is closed after the first read."""
    kept, reads = list(subject.samples(50) if callable(subject.samples) else subject.samples), []

    def fetch(n: int) -> Sequence[Sample]:
        if reads:
            raise OSError("the file is closed")
        reads.append(n)
        return kept[:n]

    return replace(subject, samples=fetch)


def length_weighted(subject: Subject) -> Subject:
    """Each clip's nats times its tokens, in the place of over them."""

    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        return (
            ctc.clip_losses(log_probs, steps, targets, lengths, blank=subject.blank) * lengths
        ).mean()

    return replace(subject, loss=loss)


def inverted_mask(log_probs: Tensor, steps: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Attention that leaves out what it should attend to: of the longest clip, everything."""
    inside = torch.arange(len(log_probs))[:, None] < steps
    weights = torch.zeros_like(log_probs[..., 0]).masked_fill(inside, -torch.inf).softmax(0)
    return (log_probs + (weights[..., None] * log_probs).sum(0)).log_softmax(-1), steps


def rooted(log_probs: Tensor, steps: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """The root of a distance that is zero."""
    distance = (log_probs - log_probs.detach()).square().sum(-1, keepdim=True).sqrt()
    return (log_probs + 0.1 * distance).log_softmax(-1), steps


class Carrying(BiGRU):
    """A BiGRU that adds what the last call left behind."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.last = torch.zeros(dim)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        before, self.last = self.last, features.detach().mean((0, 1))
        return super().forward(features + 20 * before, frames)


def differing_on_gpu(subject: Subject) -> Subject:
    """On a GPU the loss leaves out what is past the tenth step."""

    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        weight = 1.1 if log_probs.is_cuda else 1.0
        return ctc.nats_per_token(
            (weight * log_probs).log_softmax(-1), steps, targets, lengths, blank=subject.blank
        )

    return replace(subject, loss=loss)


def poisoned(network: nn.Module) -> None:
    next(network.parameters()).fill_(torch.nan)


def one_buffer(samples: list[Sample]) -> list[Sample]:
    """Each clip a view of one piece of memory, in which the last clips that were read lie; no two as
    long as each other.
    """
    buffer = torch.zeros(
        max(s.frames for s in samples) + len(samples), samples[0].features.shape[1]
    )
    views = []
    for place, sample in enumerate(samples):
        view = buffer[: sample.frames + place]
        view[: sample.frames] = sample.features
        views.append(replace(sample, features=view))
    return views


def misspelled(subject: Subject) -> Subject:
    """The vocabulary knows one word in ten of those that the labels hold."""
    vocabulary = [*subject.vocabulary]
    vocabulary[1] = "<UNK>"
    unknown = sampled(
        subject,
        lambda samples: [
            replace(sample, target=torch.where(sample.target % 10 == 0, sample.target, 1))
            for sample in samples
        ],
    )
    return replace(unknown, vocabulary=vocabulary)


def filled_up(subject: Subject) -> Subject:
    """Targets are filled up with a label, which the loss learns as if it were said."""

    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        longest = targets.shape[1]
        filled = targets.masked_fill(torch.arange(longest) >= lengths[:, None], 1)
        return nn.functional.ctc_loss(
            log_probs, filled, steps, torch.full_like(lengths, longest), zero_infinity=True
        )

    return replace(subject, loss=loss)


def masked_in_place(subject: Subject) -> Subject:
    """Masks of training are written into the batch itself."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        if network.training:
            start = int(torch.randint(features.shape[1] - 4, ()))
            features[:, start : start + 4] = 0
        return subject.forward(network, features, frames)

    return replace(subject, forward=forward)


RARE: tuple[Fault, ...] = (
    Fault(
        name="net-overwrites-input",
        plant=masked_in_place,
        finding="input_overwritten",
        severity="warning",
    ),
    Fault(name="data-unknown", plant=misspelled, finding="degenerate_targets"),
    Fault(name="ctc-targets-filled-up", plant=filled_up, finding="wrong_targets"),
    Fault(
        name="data-buffer",
        plant=lambda s: sampled(s, one_buffer),
        finding="conflicting_samples",
    ),
    Fault(name="net-raises", plant=lambda s: replace(s, forward=fail), finding="network_fails"),
    Fault(name="data-raises", plant=fetched_once, finding="data_fails"),
    Fault(name="ctc-loss-raises", plant=lambda s: replace(s, loss=fail), finding="loss_fails"),
    Fault(
        name="ctc-decoder-raises", plant=lambda s: replace(s, decode=fail), finding="decoder_fails"
    ),
    Fault(name="ctc-length-weighted", plant=length_weighted, finding="wrong_loss"),
    Fault(
        name="ctc-decoder-reversed",
        plant=decoded(lambda path, blank: [t for t in collapsed(path) if t != blank][::-1]),
        finding="wrong_decoder",
    ),
    Fault(
        name="net-empty-mask",
        plant=lambda s: forwarded(s, inverted_mask),
        finding="non_finite_output",
    ),
    Fault(
        name="grad-root-of-zero",
        plant=lambda s: forwarded(s, rooted),
        finding="non_finite_gradient",
    ),
    Fault(
        name="net-carried-state",
        plant=rebuilt(Carrying),
        finding="carried_state",
        module="encoder.0",
        home="bigru",
    ),
    Fault(
        name="grad-slower",
        plant=gradient_of("encoder", lambda g: 0.1 * g),
        finding="scaled_gradient",
        home="bigru",
        severity="warning",
    ),
    Fault(
        name="accept-nothing",
        plant=lambda s: replace(s, accept={"place_lost": "it is a mirror"}),
        finding="stale_acceptance",
        caught_by="acceptance",
    ),
    Fault(
        name="gpu-loss-differs", plant=differing_on_gpu, finding="device_mismatch", caught_by="gpu"
    ),
    Fault(
        name="checkpoint-not-finite",
        plant=lambda s: altered(s, poisoned),
        finding="weights_not_finite",
        caught_by="health",
    ),
    Fault(name="tool-probe-raises", finding="tool_fails", caught_by="a defect of this tool"),
)
