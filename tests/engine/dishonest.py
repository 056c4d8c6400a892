"""Faults behind which a network may pass all the same: what it cannot see, cannot place, is not
shown, or is told wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit.subject import Sample, Subject
from tests.engine.faults import Fault
from tests.engine.foreign import HIDDEN, Augmented, PostNorm
from tests.engine.planting import Plant, altered, forwarded, head_of, hooked, rebuilt, sampled
from tests.engine.subjects import BiGRU, TemporalConv, inside

FILLER = 24


def frozen_gain(network: nn.Module) -> None:
    """The norm of the encoder has a gain of zero, and is frozen so; its bias moves."""
    norm = network.get_submodule("encoder.1")
    assert isinstance(norm, nn.LayerNorm)
    norm.weight.zero_().requires_grad_(False)


class Gated(TemporalConv):
    """Features pass a gate that is kept as a buffer, shut."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.register_buffer("gate", torch.zeros(dim))

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(features * self.gate, frames)


class FrozenStem(PostNorm):
    """The first layer is frozen at zero: what is left are positions."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        nn.init.zeros_(self.enter.weight)
        self.enter.weight.requires_grad_(False)


class RowsAsTime(nn.Module):
    """A picture is read along its columns of features: time is summed away before."""

    def __init__(self, dim: int, vocabulary: int, *, width: int = 76) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 1)))
        self.enter, self.rnn = (
            nn.Linear(8 * (width // 2), HIDDEN),
            nn.GRU(HIDDEN, HIDDEN, batch_first=True, bidirectional=True),
        )
        self.head, self.width = nn.Linear(2 * HIDDEN, vocabulary), width

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        page = F.pad(features[:, : self.width], (0, 0, 0, max(self.width - features.shape[1], 0)))
        x = self.look(page[:, None]).permute(0, 3, 1, 2).flatten(2)
        x = self.head(self.rnn(self.enter(x).relu())[0]).log_softmax(-1)
        return x.transpose(0, 1), torch.full_like(frames, x.shape[1])


class Reshaped(nn.Module):
    """(batch, time, channels) is viewed, not transposed, as (batch, channels, time)."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(dim, HIDDEN), nn.Conv1d(HIDDEN, vocabulary, 5, padding=2)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features).relu()
        x = x.reshape(len(x), HIDDEN, x.shape[1])
        return self.head(x).permute(2, 0, 1).log_softmax(-1), frames


class Turned(nn.Module):
    """The backward half of a recurrence is turned round and never back, in a module of its own."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.enter, self.both = nn.Linear(dim, HIDDEN), BothWays(HIDDEN)
        self.head = nn.Linear(HIDDEN, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.both(self.enter(features).relu())
        return self.head(x).log_softmax(-1).transpose(0, 1), frames


class BothWays(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.back = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.back(x.flip(1))[0])
        return out


class HandsOn(BiGRU):
    """A block that computes a residual and hands on what it was given."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.block = Idle(dim)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.block(features), frames)


class Idle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        self.conv(x.transpose(1, 2)).relu()
        return x


class Unplaced(PostNorm):
    """A table of places that is multiplied by a mask which is zero wherever there is a clip."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary, placed=False)
        self.places = Places(dim)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(features + self.places(features, frames), frames)


class Places(nn.Module):
    table: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(400, dim))

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        return self.table[: x.shape[1]] * ~inside(frames, x.shape[1])[..., None]


class Pooled(nn.Module):
    """Each frame sees itself and the mean of all: a bag of frames."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(dim, HIDDEN), nn.Linear(2 * HIDDEN, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features).relu()
        mask = inside(frames, x.shape[1])[..., None]
        mean = (x * mask).sum(1, keepdim=True) / frames[:, None, None]
        return self.head(torch.cat([x, mean.expand_as(x)], -1)).log_softmax(-1).transpose(
            0, 1
        ), frames


def backwards(log_probs: Tensor, steps: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """A flip of time that nobody turns back, clip by clip."""
    turned = [
        torch.cat([log_probs[:n, i].flip(0), log_probs[n:, i]])
        for i, n in enumerate(steps.tolist())
    ]
    return torch.stack(turned, 1), steps


def filled(length: int | None, *, front: bool = False) -> Callable[[list[Sample]], list[Sample]]:
    """Targets filled up to a length, or that of the longest, with an ordinary token."""

    def change(samples: list[Sample]) -> list[Sample]:
        most = length or max(len(sample.target) for sample in samples)

        def fill(target: Tensor) -> Tensor:
            own = target[target != FILLER]
            run = torch.full((most - len(own),), FILLER)
            return torch.cat([run, own] if front else [own, run])

        return [replace(sample, target=fill(sample.target)) for sample in samples]

    return change


def one_token(samples: list[Sample]) -> list[Sample]:
    return [replace(sample, target=torch.tensor([7, 7, 7])) for sample in samples]


class Masked(BiGRU):
    """In train mode nine in ten steps of what the encoder makes are replaced."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.encoder.register_forward_hook(
            lambda module, _, x: (
                x * (torch.rand(x.shape[:2]) > 0.9)[..., None] if module.training else x
            )
        )


class Absent(BiGRU):
    """In train mode every other clip is not shown at all."""

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            features = features * (torch.rand(len(features)) > 0.5)[:, None, None]
        return super().forward(features, frames)


class Floored(BiGRU):
    """A floor above all features: each frame of each clip becomes the same."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.floor = nn.Threshold(50.0, 1.0)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.floor(features), frames)


class Skipping(BiGRU):
    """In train mode a layer is skipped nine times in ten."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.extra = nn.Linear(dim, dim)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training or torch.rand(()) > 0.9:
            features = features + self.extra(features)
        return super().forward(features, frames)


def gradient_of(path: str, change: Callable[[Tensor], Tensor]) -> Plant:
    """The gradient of one module's output changed on its way back."""

    def pass_on(output: Tensor) -> Tensor:
        if output.requires_grad:
            output.register_hook(change)
        return output

    return hooked(path, pass_on)


def without_first_clip(gradient: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(gradient[:1]), gradient[1:]])


def half_turned(gradient: Tensor) -> Tensor:
    signs = torch.ones(gradient.shape[1]).to(gradient)
    signs[::2] = -1
    return gradient * signs[:, None]


class _Bent(torch.autograd.Function):
    """tanh, whose backward takes it for a sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return gradient * y * (1 - y)


class Rounded(BiGRU):
    """What the encoder makes is rounded to tenths, and its gradient passed through."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.encoder.register_forward_hook(
            lambda _, __, x: x + ((10 * x).round() / 10 - x).detach()
        )


class LayerScaled(PostNorm):
    """A second branch of attention behind factors that are frozen at zero."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.extra, self.factors = (
            nn.TransformerEncoderLayer(HIDDEN, 4, 64, batch_first=True),
            nn.Parameter(torch.zeros(HIDDEN), requires_grad=False),
        )

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features)
        return super().forward(
            features + (self.factors * self.extra(x)).mean(-1, keepdim=True), frames
        )


class NormedShut(PostNorm):
    """The norm before the attention has a gain frozen at zero: attention is given the same at every
    frame.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.before, self.attend = (
            nn.LayerNorm(HIDDEN),
            nn.MultiheadAttention(HIDDEN, 4, batch_first=True),
        )
        nn.init.zeros_(self.before.weight)
        self.before.weight.requires_grad_(False)
        self.enter.register_forward_hook(lambda _, __, x: x + self._branch(x))

    def _branch(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return self.attend(y, y, y, need_weights=False)[0]


class ShutResidual(TemporalConv):
    """A residual convolution behind a scalar that is frozen at zero."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.side, self.opening = (
            nn.Conv1d(dim, dim, 1),
            nn.Parameter(torch.zeros(()), requires_grad=False),
        )

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(
            features + self.opening * self.side(features.transpose(1, 2)).transpose(1, 2), frames
        )


def masking(tokens: list[int], value: float) -> Plant:
    """The logits of some tokens masked."""

    def mask(network: nn.Module) -> None:
        def change(_: nn.Module, __: Any, logits: Tensor) -> Tensor:
            logits = logits.clone()
            axis = [d for d in range(1, logits.ndim) if logits.shape[d] == 25][-1]
            logits.index_fill_(axis, torch.tensor(tokens), value)
            return logits

        network.get_submodule(head_of(network)).register_forward_hook(change)

    return lambda subject: altered(subject, mask)


def logits_of(network: Callable[[int, int], nn.Module]) -> Plant:
    """The subject with a network that gives logits, batch first."""

    def plant(subject: Subject) -> Subject:
        return replace(rebuilt(network)(subject), outputs="logits", layout="BTV")

    return plant


DISHONEST: tuple[Fault, ...] = (
    Fault(
        name="net-frozen-gain",
        plant=lambda s: altered(s, frozen_gain),
        finding="input_ignored",
        module="encoder.1",
        home="bigru",
    ),
    Fault(name="net-shut-buffer", plant=logits_of(Gated), finding="input_ignored", home="bigru"),
    Fault(name="net-rows-as-time", plant=rebuilt(RowsAsTime), finding="place_lost", home="bigru"),
    Fault(
        name="net-no-positions",
        plant=logits_of(lambda d, v: PostNorm(d, v, placed=False)),
        finding="order_blind",
        home="bigru",
    ),
    Fault(
        name="data-filled", plant=lambda s: sampled(s, filled(None)), finding="degenerate_targets"
    ),
    Fault(
        name="data-one-token", plant=lambda s: sampled(s, one_token), finding="degenerate_targets"
    ),
    Fault(
        name="train-input-dropout",
        plant=logits_of(lambda d, v: Augmented(d, v, masks=0, dropout=0.95)),
        finding="input_destroyed",
        home="bigru",
    ),
    Fault(
        name="grad-silent-clip",
        plant=gradient_of("encoder", without_first_clip),
        finding="false_gradient",
        module="encoder.1",
        home="bigru",
    ),
    Fault(
        name="grad-wrong-backward",
        plant=hooked("norm", _Bent.apply),
        finding="false_gradient",
        module="norm",
        home="bigru",
    ),
    Fault(
        name="grad-undeclared-rounding",
        plant=rebuilt(Rounded),
        finding="false_gradient",
        module="encoder.1",
        home="bigru",
    ),
    Fault(
        name="net-frozen-scale", plant=logits_of(LayerScaled), finding="dead_branch", home="bigru"
    ),
    Fault(
        name="net-shut-norm",
        plant=logits_of(NormedShut),
        finding="dead_branch",
        module="before",
        home="bigru",
    ),
    Fault(
        name="head-masked-labels", plant=masking([3, 5, 9, 14], -1e4), finding="unreachable_label"
    ),
)
HELD_OUT: tuple[Fault, ...] = (
    Fault(
        name="net-frozen-stem",
        plant=logits_of(FrozenStem),
        finding="input_ignored",
        module="enter",
        home="bigru",
    ),
    Fault(name="net-reshaped", plant=rebuilt(Reshaped), finding="place_lost", home="bigru"),
    Fault(
        name="net-turned",
        plant=rebuilt(Turned),
        finding="place_lost",
        module="both",
        home="bigru",
    ),
    Fault(
        name="net-hands-on",
        plant=rebuilt(HandsOn),
        finding="unused_module",
        module="block",
        home="bigru",
    ),
    Fault(
        name="net-unplaced",
        plant=logits_of(Unplaced),
        finding="order_blind",
        module="places",
        home="bigru",
    ),
    Fault(name="net-backwards", plant=lambda s: forwarded(s, backwards), finding="place_lost"),
    Fault(name="net-pooled", plant=rebuilt(Pooled), finding="order_blind", home="bigru"),
    Fault(
        name="data-filled-in-front",
        plant=lambda s: sampled(s, filled(11, front=True)),
        finding="degenerate_targets",
    ),
    Fault(
        name="train-latents-masked", plant=rebuilt(Masked), finding="input_destroyed", home="bigru"
    ),
    Fault(
        name="train-clips-absent", plant=rebuilt(Absent), finding="input_destroyed", home="bigru"
    ),
    Fault(
        name="net-clips-alike",
        plant=rebuilt(Floored),
        finding="input_ignored",
        module="floor",
        home="bigru",
    ),
    Fault(
        name="train-layers-skipped",
        plant=rebuilt(Skipping),
        finding="layers_skipped",
        module="extra",
        home="bigru",
    ),
    Fault(
        name="grad-half-turned",
        plant=gradient_of("conv", half_turned),
        finding="false_gradient",
        module="conv.conv",
        home="bigru",
    ),
    Fault(
        name="grad-clamped",
        plant=gradient_of("norm", lambda g: g.clamp(-1e-3, 1e-3)),
        finding="false_gradient",
        module="norm",
        home="bigru",
    ),
    Fault(
        name="net-shut-residual", plant=logits_of(ShutResidual), finding="dead_branch", home="bigru"
    ),
    Fault(name="head-masked-label", plant=masking([8], -1e9), finding="unreachable_label"),
)
"""Written with the others and run for the first time when all was done, so that they tell how well
it does on what it was not made on.
"""
