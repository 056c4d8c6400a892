"""Ways of planting a defect in a subject: in what it builds, forwards, feeds, loses or decodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pytest_overfit import ctc
from pytest_overfit.subject import Loss, Sample, Subject

Plant = Callable[[Subject], Subject]


def altered(subject: Subject, alter: Callable[[nn.Module], None]) -> Subject:
    """The subject with something done to each network it builds."""

    def build(**keywords: Any) -> nn.Module:
        network = subject.build(**keywords)
        with torch.no_grad():
            alter(network)
        return network

    return replace(subject, build=build)


def rebuilt(network: Callable[[int, int], nn.Module]) -> Plant:
    """The subject with another network: (dim, vocabulary) -> network."""
    return lambda subject: replace(
        subject, build=lambda vocab_size, feature_dim, seed: network(feature_dim, vocab_size)
    )


def forwarded(
    subject: Subject, after: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Subject:
    """The subject with its log-probabilities (T, B, V), steps and frames passed through `after`."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, steps = subject.log_probs(network, features, frames)
        return after(log_probs, steps, frames)

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")


def fed(subject: Subject, before: Callable[[Tensor], Tensor]) -> Subject:
    """The subject whose network is given other features."""
    return replace(
        subject,
        forward=lambda network, features, frames: subject.forward(
            network, before(features), frames
        ),
    )


def sampled(subject: Subject, change: Callable[[list[Sample]], list[Sample]]) -> Subject:
    return replace(
        subject,
        samples=change(list(subject.samples(50) if callable(subject.samples) else subject.samples)),
    )


def first(**changes: Any) -> Callable[[list[Sample]], list[Sample]]:
    """Change fields of the first sample; a value may be a function of the sample."""

    def change(samples: list[Sample]) -> list[Sample]:
        made = {
            name: value(samples[0]) if callable(value) else value for name, value in changes.items()
        }
        return [replace(samples[0], **made), *samples[1:]]

    return change


def of_loss(change: Callable[[Loss], Loss], blank: int | None = None) -> Plant:
    """The subject with its CTC loss, of the given blank, changed."""

    def plant(subject: Subject) -> Subject:
        used = subject.blank if blank is None else blank
        return replace(subject, loss=change(lambda *batch: ctc.nats_per_token(*batch, blank=used)))

    return plant


def decoded(decode: Callable[[list[int], int], list[int]]) -> Plant:
    """The subject that reads each clip's best path by (path, blank) -> tokens."""

    def plant(subject: Subject) -> Subject:
        def read(log_probs: Tensor, steps: Tensor) -> list[list[int]]:
            paths = log_probs.argmax(-1).T.tolist()
            return [
                decode(path[:length], subject.blank)
                for path, length in zip(paths, steps.tolist(), strict=True)
            ]

        return replace(subject, decode=read)

    return plant


def head_of(network: nn.Module) -> str:
    """The name of the last layer: the last linear or convolutional module."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d)
    ][-1]


def collapsed(path: list[int]) -> list[int]:
    return [token for i, token in enumerate(path) if i == 0 or token != path[i - 1]]


def hooked(path: str, change: Callable[[Tensor], Tensor]) -> Plant:
    """The subject with the output of one module changed on its way."""

    def alter(network: nn.Module) -> None:
        network.get_submodule(path).register_forward_hook(lambda _, __, output: change(output))

    return lambda subject: altered(subject, alter)
