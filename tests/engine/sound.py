"""Sound changes: alterations of a healthy subject that must raise no alarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit import ctc
from pytest_overfit.subject import Loss, Subject
from tests.engine.faults import Auxiliary, with_blank_bias
from tests.engine.planting import altered, forwarded, sampled
from tests.engine.subjects import VOCABULARY, BiGRU, StepNorm, clips, subject

Change = Callable[[], Subject]


def net(**keywords: Any) -> Change:
    return lambda: subject(partial(BiGRU, **keywords), "bigru")


def changed(change: Callable[[Subject], Subject]) -> Change:
    return lambda: change(net()())


def with_loss(loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Change:
    return changed(lambda healthy: replace(healthy, loss=loss))


def torch_ctc(reduction: str, *, zero_infinity: bool = True) -> Loss:
    """torch's own CTC on targets one behind the other, as most projects call it."""

    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        flat = torch.cat([row[:length] for row, length in zip(targets, lengths, strict=True)])
        return F.ctc_loss(
            log_probs, flat, steps, lengths, reduction=reduction, zero_infinity=zero_infinity
        )

    return loss


def smoothed(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """CTC with a share of the divergence from a uniform output, over valid steps."""
    valid = torch.arange(len(log_probs))[:, None] < steps
    return (
        0.9 * ctc.nats_per_token(log_probs, steps, targets, lengths, blank=0)
        - 0.1 * log_probs[valid].mean()
    )


def focal(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """CTC that weighs clips by how wrong they are."""
    losses = ctc.clip_losses(log_probs, steps, targets, lengths, blank=0) / lengths
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


def per_step(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    return (ctc.clip_losses(log_probs, steps, targets, lengths, blank=0) / steps).mean()


def with_output_weights(std: float) -> Change:
    def alter(network: nn.Module) -> None:
        network.get_submodule("head").weight.normal_(0, std)  # type: ignore[operator, union-attr]

    return changed(lambda healthy: altered(healthy, alter))


def zeroed_head(network: nn.Module) -> None:
    for parameter in network.get_submodule("head").parameters():
        parameter.zero_()


class Gated(BiGRU):
    """A residual branch behind a gate that starts at zero, as ReZero and zero-gamma norms do."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.branch, self.gate = nn.Linear(dim, dim), nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(features + self.gate * self.branch(features), frames)


class Pretrained(BiGRU):
    """A frozen encoder under no_grad, as pretrained ones are used."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        for parameter in self.encoder.parameters():
            parameter.requires_grad_(False)
        self.encoder.register_forward_hook(lambda _, __, out: out.detach())


def blank_last() -> Subject:
    last = len(VOCABULARY) - 1
    return subject(BiGRU, "bigru", samples=clips(50, blank=last), blank=last)


def cut_short(samples: list[Any]) -> list[Any]:
    return [replace(sample, features=sample.features[:48]) for sample in samples]


def silent_hand(samples: list[Any]) -> list[Any]:
    """A quarter of the columns zero throughout, as an undetected hand is."""
    mask = torch.arange(samples[0].features.shape[1]) >= 6
    return [replace(sample, features=sample.features * mask) for sample in samples]


SOUND: dict[str, Change] = {
    "as it is": net(),
    "log_softmax twice": changed(
        lambda s: forwarded(s, lambda out, steps, _: (out.log_softmax(-1), steps))
    ),
    "no bias before the norm": net(bias=False),
    "GELU": net(activation=nn.GELU),
    "SiLU": net(activation=nn.SiLU),
    "tanh": net(activation=nn.Tanh),
    "GroupNorm": net(norm=StepNorm),
    "no norm": net(norm=lambda _: nn.Identity()),
    "LSTM": net(recurrent=nn.LSTM),
    "half as wide": net(hidden=24),
    "twice as wide": net(hidden=96),
    "no dropout": net(dropout=0.0),
    "much dropout": net(dropout=0.5),
    "other order": changed(lambda s: sampled(s, lambda samples: samples[::-1])),
    "one length": changed(lambda s: sampled(s, cut_short)),
    "a silent hand": changed(lambda s: sampled(s, silent_hand)),
    "pixels as they are, behind a norm": lambda: subject(
        lambda d, v: _Normed(d, v), "bigru", samples=_pixels()
    ),
    "blank last": blank_last,
    "blank bias -3": changed(with_blank_bias(-3.0)),
    "blank bias at the best constant share": changed(with_blank_bias(5.0)),
    "output weights std 0.3": with_output_weights(0.3),
    "output weights zero": changed(lambda s: altered(s, zeroed_head)),
    "a gate at zero": lambda: subject(Gated, "bigru"),
    "a frozen encoder": lambda: subject(Pretrained, "bigru"),
    "another loss's head": lambda: replace(subject(Auxiliary, "bigru"), trainable=_without_second),
    "torch's CTC, mean": with_loss(torch_ctc("mean")),
    "torch's CTC, sum": with_loss(torch_ctc("sum", zero_infinity=False)),
    "CTC a step": with_loss(per_step),
    "label smoothing": with_loss(smoothed),
    "focal CTC": with_loss(focal),
    "CTC in double": with_loss(lambda out, *rest: torch_ctc("mean")(out.double(), *rest)),
}


class _Normed(BiGRU):
    """Features normalised by the network itself."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.input_norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.input_norm(features), frames)


def _pixels() -> list[Any]:
    return [replace(sample, features=128 + 40 * sample.features) for sample in clips(50)]


def _without_second(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [
        (name, parameter)
        for name, parameter in network.named_parameters()
        if not name.startswith("second")
    ]
