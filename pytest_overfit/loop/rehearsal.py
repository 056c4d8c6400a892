"""A rehearsal: a few steps of a loop, watched closely. What the contracts of the loop read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pytest_overfit.loop.loop import Loop
from pytest_overfit.loop.training import LoopFailed
from pytest_overfit.loop.watcher import Watcher
from pytest_overfit.loop.windows import Loss, Update, Window
from pytest_overfit.subject import Sample, Subject, collate
from pytest_overfit.training import NonFiniteLoss

STEPS = 16
"""Optimiser steps of a rehearsal."""


EPOCH = 4
"""Batches of its epochs: what is done once an epoch is seen several times."""


SAMPLES = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Rehearsal:
    """windows: one a loss that the loop gave. rest: what it did after the last. failed: what ended
    it. reached: parameters that our loss reaches. levels: how many different numbers the samples
    have, and the rows that were seen of them.
    """

    subject: Subject
    network: nn.Module
    samples: Sequence[Sample]
    windows: Sequence[Window]
    rest: Window
    failed: LoopFailed | NonFiniteLoss | None
    reached: frozenset[str]
    trainable: frozenset[str]
    levels: tuple[int, int] | None

    @property
    def updates(self) -> list[Update]:
        """Every step of every window."""
        return [update for window in self.windows for update in window.updates]

    @property
    def losses(self) -> list[Loss]:
        """Every loss, in the order in which they were taken."""
        return [loss for window in (*self.windows, self.rest) for loss in window.losses]

    @property
    def graded(self) -> list[Loss]:
        """Those that have a gradient."""
        return [loss for loss in self.losses if loss.graded]

    def first(self, kind: str) -> str | None:
        """`file:line` of the first event of a kind."""
        return next(
            (
                event.where
                for window in (*self.windows, self.rest)
                for event in window.of(kind)
                if event.where
            ),
            None,
        )


def rehearse(subject: Subject, *, seed: int = 0) -> Rehearsal:
    """Watch the subject's loop for STEPS steps on short epochs, without dropout.

    Where it takes no step in one, on epochs of its own length.
    """
    assert subject.loop is not None
    short = replace(subject, loop=replace(subject.loop, loader=_short(subject.loop)))
    rehearsal = _rehearse(short, seed)
    if isinstance(rehearsal.failed, LoopFailed) and rehearsal.failed.stepless:
        return _rehearse(subject, seed)
    return rehearsal


def _short(loop: Loop) -> Any:
    """The loader over a dataset of EPOCH batches."""
    from torch.utils.data import DataLoader, RandomSampler, Subset

    loader = loop.loader
    if loader.batch_size is None:
        return loader
    length = min(len(loader.dataset), EPOCH * loader.batch_size)  # type: ignore[arg-type]
    cut = Subset(loader.dataset, range(length))
    return DataLoader(
        cut,
        batch_size=loader.batch_size,
        shuffle=isinstance(loader.sampler, RandomSampler),
        drop_last=loader.drop_last,
        collate_fn=loader.collate_fn,
    )


def _rehearse(subject: Subject, seed: int) -> Rehearsal:
    offered = subject.offered(SAMPLES)
    samples = subject.take(len(offered))
    watcher = Watcher(subject, samples, seed)
    failed: LoopFailed | NonFiniteLoss | None = None
    try:
        for loss in watcher.training.advance(STEPS):
            watcher.turn(loss)
    except (LoopFailed, NonFiniteLoss) as error:
        failed = error
    finally:
        watcher.training.close()
    network = watcher.training.network
    return Rehearsal(
        subject=subject,
        network=network,
        samples=samples,
        windows=watcher.windows,
        rest=watcher.window,
        failed=failed,
        reached=_reached(subject, samples, seed),
        trainable=frozenset(watcher.trainable),
        levels=watcher.levels(),
    )


def _reached(subject: Subject, samples: Sequence[Sample], seed: int) -> frozenset[str]:
    """Parameters that our own loss has a gradient for."""
    from pytest_overfit import ctc

    network = subject.fresh(feature_dim=samples[0].features.shape[1], seed=seed).train()
    batch = collate(samples)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        log_probs, steps = subject.log_probs(network, batch.features, batch.frames)
        ctc.nats_per_token(
            log_probs, steps, batch.targets, batch.target_lengths, blank=subject.blank
        ).backward()
    return frozenset(
        name for name, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())
    )
