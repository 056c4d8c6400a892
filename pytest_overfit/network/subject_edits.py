"""Changes around a network: what a remedy does to what a subject feeds it, or makes of its output.
What functions do within it: `function_edits`.

Each function takes a subject and returns another; the network itself is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit import ctc
from pytest_overfit.network.network_edits import CannotEdit, edited
from pytest_overfit.network.recorder import undisturbed
from pytest_overfit.subject import Subject, call_network


def stateless(subject: Subject) -> Subject:
    """The subject whose network begins every call with the attributes it had before its first,
    parameters aside, and writes into its buffers in train mode alone.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        kept = [(module, dict(vars(module))) for module in network.modules()]
        buffers = [] if network.training else [(b, b.clone()) for b in network.buffers()]
        try:
            return subject.forward(network, features, frames)
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
            for module, attributes in kept:
                vars(module).clear()
                vars(module).update(attributes)

    return replace(subject, forward=forward)


def called_first(subject: Subject) -> Subject:
    """The subject whose networks have run on its first sample once, in eval mode.

    Building one raises CannotEdit where that makes no parameter.
    """

    def call(network: nn.Module) -> bool:
        before, sample = dict(network.named_parameters()), subject.take(1)[0]
        with undisturbed(network, train=False, seed=0):
            features = sample.features[None].to(torch.get_default_dtype())
            subject.forward(network, features, torch.tensor([sample.frames]))
        return any(one is not before.get(name) for name, one in network.named_parameters())

    return edited(subject, call)


def plainly_called(subject: Subject) -> Subject:
    """The subject without its own `forward`: the network is called with features and frames.

    Raises CannotEdit where it has none.
    """
    if subject.forward is call_network:
        raise CannotEdit(f"{subject.name} has no forward of its own")
    return replace(subject, forward=call_network)


def of_output(subject: Subject, change: Callable[[Tensor], Tensor]) -> Subject:
    """The subject with its network's output changed, whatever its axes."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        output, steps = subject.forward(network, features, frames)
        return change(output), steps

    return replace(subject, forward=forward)


def normalised(subject: Subject) -> Subject:
    """The subject whose output is passed through log_softmax, which leaves log-probabilities as
    they are.
    """
    return of_output(subject, lambda output: output.log_softmax(-1))


def logarithms(subject: Subject) -> Subject:
    """The subject with the logarithm of what are probabilities.

    Running it raises CannotEdit where the output has negative numbers.
    """

    def logarithm(output: Tensor) -> Tensor:
        if float(output.detach().min()) < 0:
            raise CannotEdit("the output holds negative numbers: they are no probabilities")
        return output.clamp(min=torch.finfo(output.dtype).tiny).log()

    return of_output(subject, logarithm)


def from_head(subject: Subject) -> Subject:
    """The subject that reads the last layer's own output, before whatever stands behind it, through
    log_softmax.

    Running it raises CannotEdit where no layer has the vocabulary for its width.
    """
    size = len(subject.vocabulary)
    turned = [subject.layout == "BTV"]

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with _outputs(network, size) as logits:
            after, steps = subject.log_probs(network, features, frames)
        if not logits:
            raise CannotEdit(f"no layer of {subject.name} puts out {size} numbers a step")
        if (
            after.shape[0] != after.shape[1]
        ):  # where there are as many clips as steps, an earlier call tells which axis is which
            turned[0] = logits[-1].shape != after.shape
        own = logits[-1].transpose(0, 1) if turned[0] else logits[-1]
        if own.shape != after.shape:
            raise CannotEdit(
                f"the last layer puts out {tuple(logits[-1].shape)}, the subject "
                f"{tuple(after.shape)}"
            )
        return own.log_softmax(-1), steps

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")


@contextmanager
def _outputs(network: nn.Module, size: int) -> Iterator[list[Tensor]]:
    """What layers with weights put out, `size` wide, in order: before any hook of the subject
    changes it.
    """
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 3:
            found.extend(
                [output.movedim(1, -1)]
                if output.shape[1] == size != output.shape[-1]
                else [output]
                if output.shape[-1] == size
                else []
            )

    layers = [
        module
        for module in network.modules()
        if isinstance(getattr(module, "weight", None), Tensor)
    ]
    handles = [layer.register_forward_hook(keep, prepend=True) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def other_layout(subject: Subject) -> Subject:
    """The subject with time and batch read the other way round."""
    return replace(subject, layout="BTV" if subject.layout == "TBV" else "TBV")


def slower(subject: Subject, times: int) -> Subject:
    """The subject that is fed each frame `times` times: that many times the steps, whatever in the
    network takes them away.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return subject.forward(network, features.repeat_interleave(times, 1), frames * times)

    return replace(subject, forward=forward)


def counted_steps(subject: Subject) -> Subject:
    """The subject whose steps are counted on a clip of that many frames alone, whatever the network
    declares.
    """
    known: dict[int, int] = {}

    def count(network: nn.Module, features: Tensor, frames: int) -> int:
        if frames not in known:
            training = [module for module in network.modules() if module.training]
            network.eval()
            with torch.no_grad():
                known[frames] = len(
                    subject.log_probs(
                        network,
                        features[None, :frames],
                        torch.tensor([frames], device=features.device),
                    )[0]
                )
            for module in training:
                module.training = True
        return known[frames]

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        counts = [
            count(network, clip, n) for clip, n in zip(features, frames.tolist(), strict=True)
        ]
        log_probs, steps = subject.log_probs(network, features, frames)
        return log_probs, torch.tensor(counts, dtype=steps.dtype, device=steps.device).clamp(
            max=len(log_probs)
        )

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")


def one_by_one(subject: Subject) -> Subject:
    """The subject that is run on each clip alone: no clip is padded or has batch mates."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        rows = [
            subject.log_probs(network, clip[None, :n], n[None])
            for clip, n in zip(features, frames, strict=True)
        ]
        padded = nn.utils.rnn.pad_sequence([row[:, 0] for row, _ in rows])
        return padded, torch.cat([steps for _, steps in rows])

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")


def order_put_back(subject: Subject) -> Subject:
    """The subject whose clips, which its network hands out longest first, stand in the batch's order
    again; likewise their steps, where those are handed out longest first too.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, steps = subject.log_probs(network, features, frames)
        longest_first = bool((steps[1:] <= steps[:-1]).all())
        lengths = frames if longest_first else steps
        back = lengths.sort(descending=True).indices.argsort()
        there = back.to(log_probs.device)
        return log_probs[:, there], steps[back.to(steps.device)] if longest_first else steps

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")


def loss_on_cpu(subject: Subject) -> Subject:
    """The subject whose loss is computed on the CPU, wherever its output stands."""
    own = subject.loss or (lambda *batch: ctc.nats_per_token(*batch, blank=subject.blank))
    return replace(subject, loss=lambda log_probs, *rest: own(log_probs.cpu(), *rest))


def unmasked(subject: Subject) -> Subject:
    """The subject whose network runs in eval mode while it is trained, but for norms, which gather
    statistics, and recurrent layers.

    Masks and dropout of the input, whatever makes them, are then left out.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        masking = [
            m
            for m in network.modules()
            if m.training and not isinstance(m, _BatchNorm | nn.RNNBase)
        ]
        try:
            for module in masking:
                module.training = False
            return subject.forward(network, features, frames)
        finally:
            for module in masking:
                module.training = True

    return replace(subject, forward=forward)


def placed(subject: Subject) -> Subject:
    """The subject whose features carry the place of their frame. Source: Vaswani et al.

    2017, section 3.5 (sines and cosines).
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        place, column = torch.arange(features.shape[1])[:, None], torch.arange(features.shape[2])
        angle = place / 10_000 ** (2 * (column // 2) / features.shape[2])
        waves = torch.where(column % 2 == 0, angle.sin(), angle.cos()).to(features)
        return subject.forward(network, features + waves, frames)

    return replace(subject, forward=forward)


def turned_back(subject: Subject) -> Subject:
    """The subject with each clip's output the other way round in time."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, steps = subject.log_probs(network, features, frames)
        rows = [
            torch.cat([log_probs[:n, clip].flip(0), log_probs[n:, clip]])
            for clip, n in enumerate(steps.tolist())
        ]
        return torch.stack(rows, 1), steps

    return replace(subject, forward=forward, outputs="log_probs", layout="TBV")
