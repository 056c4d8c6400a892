"""The faults of each host: those that need no site, and those that are planted at one of its
own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from examination.hosts import Host
from examination.plants import (
    Averaged,
    Pinched,
    Times0,
    bottleneck,
    faint_depthwise,
    inserted,
    sigmoids,
    silent,
)
from pytest_overfit.subject import Loss, Sample, Subject
from tests.engine.faults import FAULTS, Fault, cosine_head, hiding_infinity
from tests.engine.planting import Plant, altered, hooked, of_loss, sampled

UNSEEN = ("data-shuffled",)
"""Faults that nothing within a rung can show: what is memorised is memorised, and only a held-out
split could tell.
"""


def faults_for(host: Host) -> tuple[Fault, ...]:
    """Every fault that can be planted in `host`."""
    anywhere = [fault for fault in FAULTS if fault.home in ("any", host.name)]
    named = {fault.name for fault in anywhere}
    at_sites = (*anywhere_else(), *of_lengths(host), *of_signal(host), *of_learning(host))
    return (
        *(_located(fault, host) for fault in anywhere),
        *(fault for fault in at_sites if fault.name not in named),
    )


def _located(fault: Fault, host: Host) -> Fault:
    return replace(fault, module=host.head) if fault.module == "head" else fault


def anywhere_else() -> tuple[Fault, ...]:
    """Faults of recipes, of the loss and of samples."""
    return (
        Fault(
            name="train-lr-high",
            recipe=lambda r: replace(r, lr=1000 * r.lr),
            finding="recipe_diverges",
            caught_by="R1 R2 R5 diagnosis",
        ),
        Fault(
            name="train-lr-low",
            recipe=lambda r: replace(r, lr=r.lr / 1000),
            finding="recipe_stalls",
            caught_by="R1 diagnosis",
        ),
        Fault(
            name="train-reg",
            recipe=lambda r: replace(r, weight_decay=1.0),
            finding="regulariser_dominates",
            caught_by="R1 R2 R5 diagnosis",
        ),
        Fault(
            name="train-reg-adamw",
            recipe=lambda r: replace(r, optimizer="adamw", weight_decay=200.0),
            finding="regulariser_dominates",
            caught_by="R1 R2 R5 diagnosis",
        ),
        Fault(
            name="train-reg-term",
            plant=of_loss(_penalised),
            finding="regulariser_dominates",
            caught_by="contract R1 R2 R5",
        ),
        Fault(
            name="train-smoothing",
            recipe=lambda r: replace(r, label_smoothing=0.9),
            finding="regulariser_dominates",
            caught_by="R1 R2 R5 diagnosis",
        ),
        Fault(
            name="data-shuffled",
            plant=lambda s: sampled(s, _rotated),
            finding="-",
            caught_by="nothing",
        ),
        Fault(
            name="net-bn-eval",
            plant=lambda s: altered(s, _frozen_statistics),
            finding="train_eval_gap",
            caught_by="contract control R1 R2 R5 R10",
        ),
    )


def of_lengths(host: Host) -> tuple[Fault, ...]:
    def strided(stride: int) -> Plant:
        def alter(network: nn.Module) -> None:
            network.get_submodule(host.strided).stride = (stride,)  # type: ignore[assignment]

        return lambda subject: hiding_infinity(altered(subject, alter))

    middle = f"{host.middle}.1.inner.conv"
    pinched = inserted(host.middle, lambda: Pinched(host.width, 16))
    return (
        Fault(
            name="ctc-infeasible",
            plant=strided(host.strides[0]),
            finding="time_collapse",
            module=host.strided,
        ),
        Fault(
            name="ctc-part-infeasible",
            plant=strided(host.strides[1]),
            finding="time_collapse",
            module=host.strided,
        ),
        Fault(name="ctc-hidden-collapse", plant=pinched, finding="time_collapse", module=middle),
        Fault(name="data-padding", plant=lambda s: _unaware(s, host), finding="padding_leak"),
    )


def of_signal(host: Host) -> tuple[Fault, ...]:
    """Where the signal dies on its way forward."""
    part = (
        [
            Fault(
                name="net-modality",
                plant=lambda s: altered(s, lambda n: silent(n, host.part)),
                finding="unused_module",
                module=host.part,
            ),
        ]
        if host.part
        else []
    )
    site = f"{host.middle}.1.inner"
    drowned = (
        faint_inside
        if host.name == "mobilenetv3"
        else inserted(host.middle, lambda: faint_depthwise(host.width))
    )
    return (
        *part,
        Fault(
            name="net-dead-relu",
            plant=lambda s: altered(s, lambda n: _bias(n, host.norm, -50.0)),
            finding="dead_units",
            module=host.relu,
        ),
        Fault(
            name="net-input-ignored",
            plant=inserted(host.middle, Times0),
            finding="input_ignored",
            module=f"{host.middle}.1",
        ),
        Fault(
            name="net-init-zero",
            plant=lambda s: altered(s, lambda n: _zeroed(n, host.weights)),
            finding="constant_signal",
            module=host.weights,
            caught_by="contract R1 R2 diagnosis",
        ),
        Fault(
            name="net-depthwise-init",
            plant=drowned,
            finding="signal_drowned",
            caught_by="R1 R2 R5 diagnosis",
            module="temporal_upsample" if host.name == "mobilenetv3" else f"{site}.layers.6",
        ),
        Fault(
            name="net-time-attention",
            plant=inserted(host.middle, lambda: Averaged(host.width)),
            finding="constant_signal",
            module=site,
            caught_by="R1 R2 R5 diagnosis",
        ),
        Fault(
            name="net-capacity",
            plant=inserted(host.middle, lambda: bottleneck(host.width)),
            finding="rank_bottleneck",
            module=f"{site}.0",
            caught_by="R2 R5 R10 diagnosis",
        ),
    )


def of_learning(host: Host) -> tuple[Fault, ...]:
    """Where learning is hindered on its way back."""
    site = f"{host.middle}.1.inner"
    return (
        Fault(
            name="net-detach",
            plant=hooked(host.middle, torch.detach),
            finding="detached_branch",
            module=host.reader,
        ),
        Fault(
            name="net-vanish",
            plant=inserted(host.middle, lambda: sigmoids(host.width)),
            finding="vanishing_gradient",
            module=site,
            caught_by="R1 R2 R5 R10 diagnosis",
        ),
        Fault(
            name="net-dropout",
            plant=inserted(host.middle, lambda: nn.Dropout(0.97)),
            finding="noisy_training",
            module=site,
            caught_by="R1 R2 R5 diagnosis",
        ),
        Fault(
            name="head-cosine",
            plant=lambda s: altered(s, cosine_head),
            finding="bounded_output",
            module=host.head,
            caught_by="R1 R2 R5 diagnosis",
        ),
    )


def faint_inside(subject: Subject) -> Subject:
    """MobileNetV3 as it was without its BatchNorm: depthwise weights too small by sqrt(groups), and
    a transposed convolution with torch's bias.
    """
    from model.mobilenet import create_mobilenetv3

    def build(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
        network = create_mobilenetv3(
            vocab_size, feature_dim=feature_dim, hidden_dim=128, variant="no_norm"
        )
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.Conv1d) and module.groups > 1:
                    module.weight.div_(module.groups**0.5)
            nn.init.uniform_(network.get_submodule("temporal_upsample.norm").bias, -0.1, 0.1)  # type: ignore[arg-type]
        return network

    return replace(subject, build=build)


def _penalised(loss: Loss) -> Loss:
    """The loss drowned by how far the output is from uniform."""

    def penalised(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        valid = torch.arange(len(log_probs), device=log_probs.device)[:, None] < steps.to(
            log_probs.device
        )
        return loss(log_probs, steps, targets, lengths) - 20 * log_probs[valid].mean()

    return penalised


def _rotated(samples: list[Sample]) -> list[Sample]:
    return [replace(sample, features=samples[i - 1].features) for i, sample in enumerate(samples)]


def _frozen_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 0.0


def _bias(network: nn.Module, path: str, value: float) -> None:
    network.get_submodule(path).bias.fill_(value)  # type: ignore[operator, union-attr]


def _zeroed(network: nn.Module, path: str) -> None:
    for parameter in network.get_submodule(path).parameters():
        parameter.zero_()


def _unaware(subject: Subject, host: Host) -> Subject:
    """The network is told that every clip is as long as the batch, and so reads padding like
    anything else.
    """

    def forward(network: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        output, _ = subject.forward(network, features, torch.full_like(frames, features.shape[1]))
        return output, host.steps(frames)

    return replace(subject, forward=forward)
