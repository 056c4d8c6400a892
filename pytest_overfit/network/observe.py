"""Run a network once, forward and backward, and read every module on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from pytest_overfit.network.layout import find_layouts
from pytest_overfit.network.observation import Observation
from pytest_overfit.network.recorder import undisturbed, watched
from pytest_overfit.network.signal import gradient_norm, weight_gain
from pytest_overfit.network.source import CONTAINERS, where
from pytest_overfit.network.tape import Layouts, Tape, Visit, dominators, feeders
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Batch, Sample, Subject, collate
from pytest_overfit.training import default_loss

Gradients = Mapping[int, Tensor]
"""id of a parameter -> its gradient"""
DROPOUT_FIELDS = (
    "dropout",
    "dropout_p",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout",
    "layerdrop",
)
"""Attributes by which modules that are no nn.Dropout keep their dropout."""


def observe(
    subject: Subject,
    network: nn.Module,
    samples: Sequence[Sample],
    *,
    mode: Literal["train", "eval"],
    device: str | torch.device = "cpu",
) -> tuple[Observation, ...]:
    """Every call of every module that carries the clips, in forward order: submodules before the
    module that holds them.

    The network is left as it was: parameters, gradients, buffers, modes, random state. In train
    mode dropout is switched off: its noise would count as signal. In eval mode, batch norms that
    have never seen data read their statistics off the samples first: nobody evaluates a network
    without any. samples: at least two, or nothing can be told apart; 8 to 10 are plenty.
    """
    network.to(device)
    batch = collate(samples).to(device)
    with undisturbed(network, train=False, seed=0):
        layouts = find_layouts(subject, network, batch)
        if mode == "eval":
            calibrate(subject, network, batch)
        network.train(mode == "train")
        with _without_dropout(network):
            try:
                tape, log_probs, gradients = _pass(subject, network, batch, layouts, tracked=True)
            except RuntimeError as error:
                if "requires_grad" not in str(error):
                    raise
                tape, log_probs, gradients = _pass(
                    subject, network, batch, layouts, tracked=False
                )  # it sets that flag itself
    last = feeders(log_probs.grad_fn, tape.owners, tape.root)[0] or {len(tape.visits) - 1}
    path = dominators([visit.fed_by for visit in tape.visits], last)
    path |= {index for index, visit in enumerate(tape.visits) if visit.same_as in path}
    observations = []
    for index, visit in enumerate(tape.visits):
        read = _observation(network, visit, on_path=index in path)
        observations.append(
            read if visit.module is None else _with_parameters(read, visit.module, gradients)
        )
    return tuple(observations)


def _pass(
    subject: Subject, network: nn.Module, batch: Batch, layouts: Layouts, *, tracked: bool
) -> tuple[Tape, Tensor, Gradients]:
    """Forward and backward with a tape running. Returns the tape, log-probabilities, and gradients
    by the id of their parameter.

    tracked: the features take part in the graph, so that what hangs on them is told from what is
    cut off.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        leaf = batch.features.clone().requires_grad_(tracked)
        features = leaf * 1.0  # no leaf, so that the network may write into it
        tape = Tape(layouts, batch, features.grad_fn)
        with watched(network, tape.leave, tape.enter):
            log_probs, steps = subject.log_probs(network, features, batch.frames)
        if subject.loss is None:
            loss = default_loss(log_probs, batch, steps, Recipe(), subject.blank)
        else:
            loss = subject.loss(log_probs, steps, batch.targets, batch.target_lengths)
    if not loss.requires_grad:
        return tape, log_probs, {}
    wanted = [*parameters, leaf] if tracked else parameters
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return (
        tape,
        log_probs,
        {
            id(p): gradient
            for p, gradient in zip(wanted, found, strict=True)
            if gradient is not None
        },
    )


def calibrate(subject: Subject, network: nn.Module, batch: Batch) -> bool:
    """One pass in train mode with a momentum of 1 for batch norms that have no statistics yet; whether
    there are any. The caller puts modes and buffers back.
    """
    norms = [
        (module, module.momentum)
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.num_batches_tracked == 0
    ]
    if not norms:
        return False
    network.train()
    for norm, momentum in norms:
        norm.momentum = 1.0 if momentum else momentum
    with torch.no_grad(), _without_dropout(network):
        subject.forward(network, batch.features, batch.frames)
    for norm, momentum in norms:
        norm.momentum = momentum
    return True


def _observation(network: nn.Module, visit: Visit, *, on_path: bool) -> Observation:
    """What the visit read, without what the module's parameters say."""
    name, module = visit.call[0], visit.module
    entering, signal = visit.entering, visit.signal
    return Observation(
        module=name,
        call=visit.call[1],
        kind=visit.kind,
        where=where(network, name) if module is not None else None,
        leaf=module is None or next(module.children(), None) is None,
        container=isinstance(module, CONTAINERS),
        on_main_path=on_path,
        fed_by=tuple(sorted(visit.fed_by)),
        through=visit.through,
        same_as=visit.same_as,
        steps_out=signal.steps,
        between_sample_share_in=entering.between_sample_share if entering else None,
        between_sample_share=signal.between_sample_share,
        between_step_share_in=entering.between_step_share if entering else None,
        between_step_share=signal.between_step_share,
        rms_in=entering.rms if entering else None,
        rms=signal.rms,
        rank=visit.rank,
        dead_share=signal.dead_share,
        gradient_norm=visit.gradient_norm,
        bias_to_signal=visit.bias_to_signal,
    )


def _with_parameters(
    observation: Observation, module: nn.Module, gradients: Gradients
) -> Observation:
    return replace(
        observation,
        parameters=sum(
            parameter.numel() for parameter in module.parameters() if parameter.requires_grad
        ),
        parameter_gradient_norm=gradient_norm(module, gradients),
        weight_gain=weight_gain(module),
        groups=module.groups if isinstance(module, _ConvNd) else None,
    )


@contextmanager
def _without_dropout(network: nn.Module) -> Iterator[None]:
    changed: list[tuple[object, str, float]] = []
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
        for holder, name in product((module, getattr(module, "config", None)), DROPOUT_FIELDS):
            if isinstance(getattr(holder, name, None), float):
                changed.append((holder, name, getattr(holder, name)))
                setattr(holder, name, 0.0)
    try:
        yield
    finally:
        for holder, name, value in reversed(changed):
            setattr(holder, name, value)
