"""Faults to plant in a healthy subject, one small function each, and what must be said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit import ctc
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Loss, Sample, Subject, all_parameters
from tests.engine.planting import (
    Plant,
    altered,
    collapsed,
    decoded,
    fed,
    first,
    forwarded,
    head_of,
    hooked,
    of_loss,
    rebuilt,
    sampled,
)
from tests.engine.subjects import BiGRU


def healthy(whole: Any) -> Any:
    return whole


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A defect. plant: healthy subject -> faulty one. recipe: the given recipe -> a faulty one.

    finding: its name. module: where it must be located; None where it sits in no module; "head" is
    the last layer of any network. caught_by: where it may be noticed, in words: "contract",
    "control", "R2" for the rung of two samples; "R2 R5" for one of both. home: the one network it
    can be planted in, if any. severity: of the finding.
    """

    name: str
    plant: Plant = healthy
    finding: str
    module: str | None = None
    caught_by: str = "contract"
    home: Literal["any", "bigru"] = "any"
    recipe: Callable[[Recipe], Recipe] = healthy
    severity: Literal["failure", "warning"] = "failure"


class Strided(BiGRU):
    """A BiGRU whose convolution strides far, with its steps drawn out again before the recurrent
    layer, behind the head, or not at all.
    """

    def __init__(
        self,
        dim: int,
        vocabulary: int,
        *,
        stride: int,
        drawn: Literal["before", "behind", "not"] = "not",
        mode: str = "linear",
    ) -> None:
        super().__init__(dim, vocabulary)
        self.conv.conv.stride = (stride,)
        self.stride, self.drawn, self.mode = stride, drawn, mode

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(features).transpose(1, 2)
        x = self.activation(self.norm(self.conv(x, frames)))
        steps = (frames - 1) // self.stride + 1
        if self.drawn == "before":
            x, steps = self._drawn(x, steps, frames)
        packed = nn.utils.rnn.pack_padded_sequence(
            x.transpose(1, 2), steps.cpu(), batch_first=True, enforce_sorted=False
        )
        x, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        logits = self.head(x)
        if self.drawn == "behind":
            logits, steps = self._drawn(logits.transpose(1, 2), steps, frames)
            logits = logits.transpose(1, 2)
        return logits.log_softmax(-1).transpose(0, 1), steps

    def _drawn(self, x: Tensor, steps: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        rows = [
            F.interpolate(row[None, :, :n], size=int(f), mode=self.mode)[0].T
            for row, n, f in zip(x, steps, frames, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).transpose(1, 2), frames


class Unmasked(BiGRU):
    """A BiGRU that reads padding like anything else."""

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(features).transpose(1, 2)
        x = self.activation(self.norm(self.conv.conv(x))).transpose(1, 2)
        return self.head(self.rnn(x)[0]).log_softmax(-1).transpose(0, 1), (frames + 1) // 2


class SecondEye(BiGRU):
    """A BiGRU with an encoder for the second half of the features, of which nothing is made."""

    def __init__(self, dim: int, vocabulary: int, *, weight: float | None) -> None:
        super().__init__(dim // 2, vocabulary)
        self.second = nn.Linear(dim - dim // 2, 48)
        self.weight = weight

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        half = features.shape[-1] // 2
        output, steps = super().forward(features[..., :half], frames)
        if self.weight is not None:
            output = output + self.weight * self.second(features[..., half:]).mean()
        return output, steps


class Repeated(nn.Module):
    """An encoder's last state, repeated for a decoder at every frame."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.encoder = nn.GRU(dim, 48, batch_first=True)
        self.decoder = nn.GRU(48, 48, batch_first=True)
        self.head = nn.Linear(48, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        packed = nn.utils.rnn.pack_padded_sequence(
            features, frames.cpu(), batch_first=True, enforce_sorted=False
        )
        last = self.encoder(packed)[1][-1]
        code = last[:, None].expand(-1, features.shape[1], -1)
        return self.head(self.decoder(code)[0]).log_softmax(-1).transpose(0, 1), frames


class Auxiliary(BiGRU):
    """A BiGRU with a second head that serves another loss."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary)
        self.second = nn.Linear(dim, vocabulary)


def shuffled_at_each_fetch(subject: Subject) -> Subject:
    samples = list(subject.samples(50) if callable(subject.samples) else subject.samples)
    generator = torch.Generator().manual_seed(0)

    def fetch(n: int) -> list[Sample]:
        return [
            replace(s, features=s.features[torch.randperm(s.frames, generator=generator)])
            for s in samples[:n]
        ]

    return replace(subject, samples=fetch)


def without_head(network: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return [
        (name, parameter)
        for name, parameter in all_parameters(network)
        if not name.startswith(head_of(network))
    ]


def last_bias(network: nn.Module) -> nn.Parameter:
    bias = network.get_submodule(head_of(network)).bias
    assert isinstance(bias, nn.Parameter)
    return bias


def with_blank_bias(value: float) -> Plant:
    def plant(subject: Subject) -> Subject:
        return altered(
            subject, lambda network: last_bias(network)[subject.blank].fill_(value) and None
        )

    return plant


def in_half(loss: Loss) -> Loss:
    return lambda log_probs, *lengths: loss(log_probs.half(), *lengths)


def in_bfloat(loss: Loss) -> Loss:
    return lambda log_probs, *lengths: loss(log_probs.bfloat16(), *lengths).bfloat16()


def hiding_infinity(subject: Subject) -> Subject:
    def loss(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        return F.ctc_loss(
            log_probs, targets.clamp(min=0), steps, lengths, blank=subject.blank, zero_infinity=True
        )

    return replace(subject, loss=loss)


def swapped_if_square(log_probs: Tensor, steps: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    return (
        log_probs.transpose(0, 1) if log_probs.shape[0] == log_probs.shape[1] else log_probs
    ), steps


def over_batch(log_probs: Tensor, steps: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    return (log_probs - log_probs.mean(1, keepdim=True)).log_softmax(-1), steps


def strided(
    stride: int, drawn: Literal["before", "behind", "not"] = "not", mode: str = "linear"
) -> Plant:
    return lambda subject: hiding_infinity(
        rebuilt(
            lambda dim, vocabulary: Strided(dim, vocabulary, stride=stride, drawn=drawn, mode=mode)
        )(subject)
    )


def duplicated(samples: list[Sample]) -> list[Sample]:
    return [*samples[:3], replace(samples[3], features=samples[1].features.clone()), *samples[4:]]


def scaled_samples(factor: float) -> Callable[[list[Sample]], list[Sample]]:
    return lambda samples: [
        replace(sample, features=factor * sample.features) for sample in samples
    ]


def with_nan(sample: Sample) -> Tensor:
    features = sample.features.clone()
    features[3, 5] = torch.nan
    return features


def renamed(tokens: list[int]) -> Callable[[Sample], Tensor]:
    return lambda sample: torch.tensor(tokens, dtype=torch.long)


def dead_relu(network: nn.Module) -> None:
    layer = network.get_submodule("encoder.1")
    assert isinstance(layer, nn.LayerNorm)
    layer.bias.fill_(-50)


def frozen_head(network: nn.Module) -> None:
    for parameter in network.get_submodule(head_of(network)).parameters():
        parameter.requires_grad_(False)


def louder(network: nn.Module) -> None:
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.mul_(50)


def always_dropping(subject: Subject) -> Subject:
    return fed(subject, lambda features: F.dropout(features, 0.3))


def every_other_column(features: Tensor) -> Tensor:
    features = features.clone()
    features[..., 1::2] = 0
    return features


def every_fourth_frame(features: Tensor) -> Tensor:
    return features[:, (torch.arange(features.shape[1]) // 4) * 4]


def without_its_middle(features: Tensor) -> Tensor:
    """Frames 10 to 29 zeroed, as where what precedes and follows a gap are the halves that were
    read.
    """
    return torch.cat([features[:, :10], torch.zeros_like(features[:, 10:30]), features[:, 30:]], 1)


FAULTS: tuple[Fault, ...] = (
    Fault(
        name="ctc-infeasible",
        plant=strided(40),
        finding="time_collapse",
        module="conv.conv",
        home="bigru",
    ),
    Fault(
        name="ctc-part-infeasible",
        plant=strided(9),
        finding="time_collapse",
        module="conv.conv",
        home="bigru",
    ),
    Fault(
        name="ctc-hidden-collapse",
        plant=strided(16, "before"),
        finding="time_collapse",
        module="conv.conv",
        home="bigru",
    ),
    Fault(
        name="ctc-hidden-collapse-nearest",
        plant=strided(16, "before", "nearest"),
        finding="time_collapse",
        module="conv.conv",
        home="bigru",
    ),
    Fault(
        name="ctc-hidden-collapse-logits",
        plant=strided(16, "behind"),
        finding="time_collapse",
        module="conv.conv",
        home="bigru",
    ),
    Fault(
        name="ctc-decoder-blank",
        plant=lambda s: replace(
            s,
            decode=lambda log_probs, steps: ctc.greedy_decode(
                log_probs, steps, blank=len(s.vocabulary) - 1
            ),
        ),
        finding="loss_decoder_disagree",
    ),
    Fault(
        name="ctc-loss-blank",
        plant=of_loss(lambda loss: loss, blank=1),
        finding="loss_decoder_disagree",
    ),
    Fault(
        name="ctc-no-collapse",
        plant=decoded(lambda path, blank: [t for t in path if t != blank]),
        finding="decoder_repeats",
    ),
    Fault(name="ctc-raw-path", plant=decoded(lambda path, blank: path), finding="decoder_repeats"),
    Fault(
        name="ctc-collapse-late",
        plant=decoded(lambda path, blank: collapsed([t for t in path if t != blank])),
        finding="decoder_repeats",
    ),
    Fault(
        name="ctc-decoder-steps",
        plant=lambda s: replace(
            s,
            decode=lambda log_probs, steps: ctc.greedy_decode(
                log_probs, torch.full_like(steps, len(log_probs)), blank=s.blank
            ),
        ),
        finding="wrong_steps",
    ),
    Fault(
        name="ctc-softmax",
        plant=lambda s: forwarded(s, lambda out, steps, _: (out.exp(), steps)),
        finding="unnormalised_output",
    ),
    Fault(
        name="ctc-softmax-twice",
        plant=lambda s: replace(
            forwarded(s, lambda out, steps, _: (out.exp(), steps)), outputs="logits"
        ),
        finding="unnormalised_output",
    ),
    Fault(
        name="ctc-logits",
        plant=lambda s: forwarded(s, lambda out, steps, _: (out + 5.0, steps)),
        finding="unnormalised_output",
    ),
    Fault(
        name="ctc-loss-softmax",
        plant=of_loss(lambda loss: lambda out, *rest: loss(out.exp(), *rest)),
        finding="unnormalised_output",
    ),
    Fault(
        name="ctc-axes",
        plant=of_loss(lambda loss: lambda out, *rest: loss(out.transpose(0, 1), *rest)),
        finding="batch_leak",
    ),
    Fault(
        name="ctc-axes-output",
        plant=lambda s: replace(s, layout="BTV" if s.layout == "TBV" else "TBV"),
        finding="batch_leak",
    ),
    Fault(
        name="ctc-axes-square",
        plant=lambda s: forwarded(s, swapped_if_square),
        finding="batch_leak",
    ),
    Fault(name="net-batch-mean", plant=lambda s: forwarded(s, over_batch), finding="batch_leak"),
    Fault(
        name="ctc-input-lengths",
        plant=lambda s: forwarded(s, lambda out, steps, frames: (out, frames * 2)),
        finding="wrong_steps",
    ),
    Fault(
        name="ctc-input-lengths-max",
        plant=lambda s: forwarded(s, lambda out, steps, _: (out, torch.full_like(steps, len(out)))),
        finding="wrong_steps",
    ),
    Fault(
        name="ctc-input-lengths-half",
        plant=lambda s: forwarded(s, lambda out, steps, _: (out, steps // 2)),
        finding="wrong_steps",
    ),
    Fault(
        name="ctc-loss-lengths-max",
        plant=of_loss(
            lambda loss: (
                lambda out, steps, *rest: loss(out, torch.full_like(steps, len(out)), *rest)
            )
        ),
        finding="wrong_steps",
    ),
    Fault(
        name="ctc-loss-lengths-short",
        plant=of_loss(lambda loss: lambda out, steps, *rest: loss(out, steps - 1, *rest)),
        finding="wrong_steps",
    ),
    Fault(
        name="ctc-target-lengths",
        plant=of_loss(
            lambda loss: lambda out, steps, targets, lengths: loss(out, steps, targets, lengths - 1)
        ),
        finding="wrong_targets",
    ),
    Fault(
        name="ctc-target-lengths-over",
        plant=of_loss(
            lambda loss: lambda out, steps, targets, lengths: loss(out, steps, targets, lengths + 1)
        ),
        finding="wrong_targets",
    ),
    Fault(
        name="ctc-targets-shifted",
        plant=of_loss(
            lambda loss: (
                lambda out, steps, targets, lengths: loss(out, steps, targets.roll(1, 1), lengths)
            )
        ),
        finding="wrong_targets",
    ),
    Fault(
        name="ctc-blank-target",
        plant=lambda s: sampled(s, first(target=renamed([3, s.blank, 4]))),
        finding="bad_target",
    ),
    Fault(
        name="ctc-label-range",
        plant=lambda s: sampled(s, first(target=renamed([3, len(s.vocabulary)]))),
        finding="bad_target",
    ),
    Fault(
        name="ctc-empty-target",
        plant=lambda s: sampled(s, first(target=renamed([]))),
        finding="bad_target",
    ),
    Fault(
        name="ctc-loss-detached",
        plant=of_loss(lambda loss: lambda *batch: loss(*batch).detach()),
        finding="wrong_gradient",
    ),
    Fault(
        name="ctc-cross-entropy",
        plant=of_loss(
            lambda loss: lambda out, steps, targets, lengths: _frame_loss(out, targets, lengths)
        ),
        finding="wrong_steps",
    ),
    Fault(name="train-fp16", plant=of_loss(in_half), finding="low_precision_loss"),
    Fault(name="train-bf16", plant=of_loss(in_bfloat), finding="low_precision_loss"),
    Fault(name="head-blank-bias", plant=with_blank_bias(12.0), finding="blank_prior"),
    Fault(name="head-relu", plant=lambda s: altered(s, _clip_head), finding="clipped_output"),
    Fault(
        name="data-duplicate", plant=lambda s: sampled(s, duplicated), finding="conflicting_samples"
    ),
    Fault(
        name="data-constant",
        plant=lambda s: sampled(s, first(features=lambda c: torch.ones_like(c.features))),
        finding="dead_input",
    ),
    Fault(
        name="data-nan",
        plant=lambda s: sampled(s, first(features=with_nan)),
        finding="bad_features",
    ),
    Fault(
        name="data-scale", plant=lambda s: sampled(s, scaled_samples(1e4)), finding="unscaled_input"
    ),
    Fault(
        name="data-faint",
        plant=lambda s: sampled(s, scaled_samples(1e-5)),
        finding="unscaled_input",
    ),
    Fault(name="data-order", plant=shuffled_at_each_fetch, finding="unstable_input"),
    Fault(
        name="data-padding",
        plant=rebuilt(Unmasked),
        finding="padding_leak",
        module="conv.conv",
        home="bigru",
        severity="warning",
    ),
    Fault(
        name="train-optimizer-misses",
        plant=lambda s: replace(s, trainable=without_head),
        finding="parameter_not_trained",
        module="head",
    ),
    Fault(
        name="train-frozen-head",
        plant=lambda s: altered(s, frozen_head),
        finding="parameter_not_trained",
        module="head",
    ),
    Fault(
        name="net-detach",
        plant=hooked("norm", torch.detach),
        finding="detached_branch",
        module="rnn",
        home="bigru",
    ),
    Fault(name="net-last-state", plant=rebuilt(Repeated), finding="place_lost", home="bigru"),
    Fault(
        name="net-router",
        plant=lambda s: altered(s, routed),
        finding="detached_branch",
        module="encoder.4.router",
        home="bigru",
    ),
    Fault(
        name="net-dead-relu",
        plant=lambda s: altered(s, dead_relu),
        finding="dead_units",
        module="encoder.2",
        home="bigru",
    ),
    Fault(name="net-explode", plant=lambda s: altered(s, louder), finding="exploding_signal"),
    Fault(name="net-dropout-in-eval", plant=always_dropping, finding="random_in_eval"),
    Fault(
        name="net-input-ignored",
        plant=hooked("encoder", lambda x: x * 0),
        finding="input_ignored",
        module="encoder",
        home="bigru",
    ),
    Fault(
        name="net-columns-ignored",
        plant=lambda s: fed(s, every_other_column),
        finding="columns_ignored",
    ),
    Fault(
        name="net-frames-ignored",
        plant=lambda s: fed(s, every_fourth_frame),
        finding="skipped_frames",
        severity="warning",
    ),
    Fault(
        name="net-frames-cut", plant=lambda s: fed(s, without_its_middle), finding="skipped_frames"
    ),
    Fault(
        name="net-auxiliary-head",
        plant=rebuilt(Auxiliary),
        finding="unused_module",
        module="second",
        home="bigru",
        severity="warning",
    ),
    Fault(
        name="net-modality",
        plant=rebuilt(lambda d, v: SecondEye(d, v, weight=None)),
        finding="unused_module",
        module="second",
        home="bigru",
    ),
    Fault(
        name="net-modality-times-0",
        plant=rebuilt(lambda d, v: SecondEye(d, v, weight=0.0)),
        finding="unused_module",
        module="second",
        home="bigru",
    ),
)


def _frame_loss(out: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """Cross entropy of the first steps, as if step and token were one."""
    count = int(lengths.min())
    return F.nll_loss(out[:count].flatten(0, 1), targets[:, :count].T.flatten())


class OneExpert(nn.Module):
    """Each frame through the one of two layers that a router prefers; the layer's output is weighed
    by the router's softmax, over both or, by mistake, over the preferred one alone.
    """

    def __init__(self, width: int, *, over_both: bool = False) -> None:
        super().__init__()
        self.router = nn.Linear(width, 2)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.over_both = over_both

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        if self.over_both:
            gates, chosen = logits.softmax(-1).max(-1, keepdim=True)
        else:
            best, chosen = logits.max(-1, keepdim=True)
            gates = best.softmax(-1)
        first, second = (expert(x) for expert in self.experts)
        return gates * torch.where(chosen == 0, first, second)


def routed(network: nn.Module, *, over_both: bool = False) -> None:
    """A router and its layers behind the encoder."""
    encoder = network.get_submodule("encoder")
    assert isinstance(encoder, nn.Sequential)
    encoder.append(OneExpert(48, over_both=over_both))


class Cosine(nn.Module):
    """Cosines of what it is given and one vector a token, without a scale."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = head.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) @ F.normalize(self.weight, dim=-1).T


def cosine_head(network: nn.Module) -> None:
    """Cosines in the place of the last layer."""
    path = head_of(network)
    parent, _, name = path.rpartition(".")
    head = network.get_submodule(path)
    assert isinstance(head, nn.Linear)
    setattr(network.get_submodule(parent), name, Cosine(head))


def _clip_head(network: nn.Module) -> None:
    network.get_submodule(head_of(network)).register_forward_hook(
        lambda _, __, logits: logits.relu()
    )
