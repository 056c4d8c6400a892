"""The kinds: each a fault that can be planted at any place. A third was held out: written with the
others, and run when all mends were made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from examination.kinds import unseen
from examination.kinds.places import Place
from examination.plants import inserted
from pytest_overfit import ctc
from pytest_overfit.subject import Sample, Subject
from tests.engine.dishonest import _Bent, filled, gradient_of, without_first_clip
from tests.engine.faults import Fault
from tests.engine.planting import Plant, fed, forwarded, hooked, sampled

FILLED = 12


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault. make: place -> the fault there. also: findings that are as true of it."""

    name: str
    make: Callable[[Place], Fault]
    also: tuple[str, ...] = ()
    held_out: bool = False


class ShutNorm(nn.Module):
    """A norm whose gain is frozen at zero; its bias moves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.norm.weight)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


class ShutBranch(nn.Module):
    """A residual branch behind a factor that is frozen at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.factor = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.factor * self.branch(x)
        return out


class OverBatch(nn.Module):
    """A recurrent layer that takes clips for time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.rnn(x)[0]
        return out


class Clobbered(nn.Module):
    """Clips sorted by what they sum to, and put back by writing over rows that are still to be read."""

    def forward(self, x: Tensor) -> Tensor:
        order = x.detach().sum((1, 2)).argsort(descending=True)
        rows = list(x[order].unbind(0))
        for place, row in zip(order.tolist(), list(rows), strict=True):
            rows[place] = rows[order.tolist().index(place)] if place < len(rows) // 2 else row
        return torch.stack(rows)


class Carried(nn.Module):
    """What the last call left behind is added to what this one says."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.last = torch.zeros(width)

    def forward(self, x: Tensor) -> Tensor:
        before, self.last = self.last, x.detach().mean((0, 1))
        return x + 20 * before


class Destroyed(nn.Module):
    """In train mode nine in ten steps are replaced by a learned vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        gone = torch.rand(x.shape[:2], device=x.device) < 0.9
        return torch.where(gone[..., None], self.mask, x) if self.training else x


class PadMean(nn.Module):
    """The mean over a batch's whole length is added to each step, padding included."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 3 * x.mean(1, keepdim=True) + x.shape[1] / 20


def masked_in_training(subject: Subject) -> Subject:
    """Two masks of up to the whole of every clip, in train mode."""

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        shown = torch.ones_like(features)
        for row, length in enumerate(frames.tolist() if network.training else ()):
            for _ in range(2):
                width = int(torch.randint(2 * length // 3, length + 1, ()))
                start = int(torch.randint(length - width + 1, ()))
                shown[row, start : start + width] = 0
        return subject.forward(network, features * shown, frames)

    return replace(subject, forward=forward)


def shuffled(subject: Subject) -> Subject:
    """The frames of each clip in an order drawn by lot for its length."""

    def order(frames: int, length: int) -> Tensor:
        drawn = torch.randperm(frames, generator=torch.Generator().manual_seed(frames))
        return torch.cat([drawn, torch.arange(frames, length)])

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        rows = [
            clip[order(n, len(clip))] for clip, n in zip(features, frames.tolist(), strict=True)
        ]
        return subject.forward(network, torch.stack(rows), frames)

    return replace(subject, forward=forward)


def backwards(log_probs: Tensor, steps: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Each clip's output turned round in time."""
    turned = [
        torch.cat([log_probs[:n, i].flip(0), log_probs[n:, i]])
        for i, n in enumerate(steps.tolist())
    ]
    return torch.stack(turned, 1), steps


def masking(tokens: tuple[int, ...], value: float) -> Plant:
    """The logits of some tokens masked."""

    def mask(log_probs: Tensor, steps: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        off = torch.zeros(log_probs.shape[-1]).index_fill_(0, torch.tensor(tokens), value)
        return (log_probs + off).log_softmax(-1), steps

    return lambda subject: forwarded(subject, mask)


def targets_masked(subject: Subject) -> Subject:
    """The first clip's second token cannot be said."""
    return masking((int(subject.offered(1)[0].target[1]),), -1e4)(subject)


def clipped(log_probs: Tensor, steps: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Logits kept within a nat of one another."""
    centred = log_probs - log_probs.mean(-1, keepdim=True)
    return centred.clamp(-0.5, 0.5).log_softmax(-1), steps


def padding_counted(subject: Subject) -> Subject:
    """The padding of targets is made a token and counted as one."""

    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        token = 1 if subject.blank != 1 else 2
        whole = torch.full_like(lengths, targets.shape[1])
        padded = targets.masked_fill(targets < 0, token)
        return ctc.nats_per_token(log_probs, steps, padded, whole, blank=subject.blank)

    return replace(subject, loss=loss)


def half_softmax(log_probs: Tensor, steps: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithm of a softmax, both in half precision."""
    return log_probs.half().softmax(-1).log().float(), steps


def uneven(samples: list[Sample]) -> list[Sample]:
    """Columns whose sizes and offsets differ thousandfold, as of raw coefficients."""
    width = samples[0].features.shape[1]
    scale = torch.logspace(-1, 2.5, width)
    return [replace(s, features=(s.features + 3) * scale) for s in samples]


def decodes_whole_batch(subject: Subject) -> Subject:
    """The decoder reads each clip to the end of its batch, where it takes padding for a letter."""

    def decode(log_probs: Tensor, steps: Tensor) -> list[list[int]]:
        letter = 1 if subject.blank != 1 else 2
        past = torch.arange(len(log_probs))[:, None] >= steps
        path = log_probs.argmax(-1).masked_fill(past, letter)
        whole = torch.nn.functional.one_hot(path, log_probs.shape[-1]).float()
        return ctc.greedy_decode(whole, torch.full_like(steps, len(log_probs)), blank=subject.blank)

    return replace(subject, decode=decode)


def at(place: Place, module: type[nn.Module], *, inner: str = "") -> tuple[Plant, str]:
    """A module put behind the site, and its name."""
    plant = inserted(
        place.site,
        lambda: module(place.width) if module.__init__ is not nn.Module.__init__ else module(),
    )
    return plant, f"{place.site}.1.inner{inner}"


def put(name: str, finding: str, module: type[nn.Module], *, also: tuple[str, ...] = ()) -> Kind:
    """A kind that is a module behind the site."""

    def make(place: Place) -> Fault:
        plant, path = at(place, module)
        return Fault(name=name, plant=plant, finding=finding, module=path)

    return Kind(name=name, make=make, also=also)


def of(name: str, finding: str, plant: Plant, *, also: tuple[str, ...] = ()) -> Kind:
    """A kind that sits in no module."""
    return Kind(name=name, make=lambda _: Fault(name=name, plant=plant, finding=finding), also=also)


def on_way_back(name: str, change: Callable[[Tensor], Tensor]) -> Kind:
    """A kind that changes the gradient of what the site says."""
    return Kind(
        name=name,
        make=lambda place: Fault(
            name=name, plant=gradient_of(place.site, change), finding="false_gradient"
        ),
    )


ALL: tuple[Kind, ...] = (
    of(
        "features zeroed", "input_ignored", lambda s: fed(s, torch.zeros_like), also=("dead_input",)
    ),
    put("norm shut", "input_ignored", ShutNorm),
    put("clobbered order", "batch_leak", Clobbered),
    of("frames shuffled", "place_lost", shuffled),
    of("filled targets", "degenerate_targets", lambda s: sampled(s, filled(FILLED))),
    of("output backwards", "place_lost", lambda s: forwarded(s, backwards)),
    of("masked in training", "input_destroyed", masked_in_training),
    on_way_back("silent clip", without_first_clip),
    put("destroyed in training", "input_destroyed", Destroyed),
    put("shut branch", "dead_branch", ShutBranch, also=("unused_module",)),
    put("clips for time", "batch_leak", OverBatch),
    Kind(
        name="wrong backward",
        make=lambda place: Fault(
            name="wrong backward", plant=hooked(place.site, _Bent.apply), finding="false_gradient"
        ),
    ),
    put("carried state", "carried_state", Carried),
    of("token masked", "unreachable_label", targets_masked),
    of("tokens masked by -inf", "unreachable_label", masking((3, 5, 9, 14), -1e9)),
    of("columns uneven", "unscaled_input", lambda s: sampled(s, uneven)),
    of("logits clipped", "clipped_output", lambda s: forwarded(s, clipped)),
    on_way_back("gradient clamped", lambda g: g.clamp(-1e-4, 1e-4)),
    of("label padding counted", "wrong_targets", padding_counted),
    of("softmax in half", "non_finite_output", lambda s: forwarded(s, half_softmax)),
    put("padding averaged", "padding_leak", PadMean),
    of("padding decoded", "wrong_steps", decodes_whole_batch, also=("wrong_decoder",)),
)
UNSEEN: tuple[Kind, ...] = (
    put("mask inverted", "non_finite_output", unseen.MaskInverted, also=("padding_leak",)),
    put("weights over clips", "batch_leak", unseen.WeightsOverClips),
    put("last state for all", "constant_signal", unseen.LastStateForAll, also=("place_lost",)),
    put("places by clip", "batch_leak", unseen.PlacesByClip),
    put("layers listed", "parameter_not_trained", unseen.ListedLayers),
    put("codes without gradient", "detached_branch", unseen.NearestCodes),
    put("unit vectors", "non_finite_output", unseen.UnitVectors, also=("non_finite_gradient",)),
    put("rows masked", "non_finite_gradient", unseen.RowsMasked),
    put("reversed with padding", "padding_leak", unseen.ReversedWithPadding, also=("place_lost",)),
    put("axes viewed", "place_lost", unseen.AxesViewed, also=("padding_leak", "order_blind")),
    put("shifted over clips", "batch_leak", unseen.ShiftOverClips),
    put(
        "squares in half",
        "input_ignored",
        unseen.SquaresInHalf,
        also=("constant_signal", "dead_input"),
    ),
    put("places too loud", "signal_drowned", unseen.PlacesTooLoud),
    put("dropout inverted", "input_destroyed", unseen.Dropped, also=("noisy_training",)),
    of("repeats merged", "wrong_targets", unseen.repeats_merged, also=("wrong_loss",)),
)
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(replace(kind, held_out=place % 3 == 2) for place, kind in enumerate(ALL)),
        *(replace(kind, held_out=kind.name in unseen.ASIDE) for kind in UNSEEN),
    )
}
