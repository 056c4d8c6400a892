"""Evidence: what diagnoses read of a rung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from pytest_overfit.climb.ladder import Attempt, Outcome, Rung
from pytest_overfit.network import Observation, observe
from pytest_overfit.subject import Sample
from pytest_overfit.training import keep_up_norms

PROBED = 8
"""Clips that probes read: more tell nothing new."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What diagnoses read: the rung, its attempts, probes of a fresh network in both modes.

    train, eval: on clips cut to one length, so that what tells clips apart is what they hold and
    not where they end. whole: train mode, uncut.
    """

    rung: Rung
    samples: Sequence[Sample]
    outcome: Outcome
    train: tuple[Observation, ...]
    eval: tuple[Observation, ...]
    whole: tuple[Observation, ...]

    def fresh(self) -> nn.Module:
        """A network as the rung's first attempt began with."""
        return fresh(self.rung, self.samples)

    @property
    def attempt(self) -> Attempt | None:
        """The first attempt, with the recipe as it was given."""
        return self.outcome.attempts[0] if self.outcome.attempts else None


def gather(rung: Rung, outcome: Outcome) -> Evidence:
    """Observe a fresh network of the rung on its first samples, in train and in eval mode."""
    samples = rung.subject.take(rung.samples)
    network = fresh(rung, samples)
    shown = rung.subject.take(min(PROBED, len(rung.subject.offered(PROBED))))
    cut = _cut(shown)

    def read(clips: Sequence[Sample], mode: Literal["train", "eval"]) -> tuple[Observation, ...]:
        return tuple(observe(rung.subject, network, clips, mode=mode, device=rung.device))

    train = read(cut, "train")
    whole = train if cut == shown else read(shown, "train")
    return Evidence(
        rung=rung,
        samples=samples,
        outcome=outcome,
        train=train,
        eval=read(cut, "eval"),
        whole=whole,
    )


def unobserved(rung: Rung, outcome: Outcome) -> Evidence:
    """What can be read of a rung whose network cannot be observed module by module."""
    samples = rung.subject.take(rung.samples)
    return Evidence(rung=rung, samples=samples, outcome=outcome, train=(), eval=(), whole=())


def _cut(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The beginnings of clips, as long as the shortest, with as much of their targets."""
    shortest = min(sample.frames for sample in samples)
    if all(sample.frames == shortest for sample in samples):
        return samples
    return [
        replace(
            s,
            features=s.features[:shortest],
            target=s.target[: max(1, len(s.target) * shortest // max(s.frames, 1))],
        )
        for s in samples
    ]


def fresh(rung: Rung, samples: Sequence[Sample]) -> nn.Module:
    """A network as a rung's first attempt begins with, on its device."""
    network = rung.subject.fresh(
        feature_dim=samples[0].features.shape[1],
        seed=rung.seeds[0],
        size=rung.size,
        network=rung.recipe.network,
    )
    keep_up_norms(network, rung.recipe.norm_momentum)
    return network.to(rung.device)
