"""Proof by intervention: start a suspect again, soundly, and see whether what follows recovers and what comes before stays as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from pytest_overfit.probes import Observation, constant_signal, faint_output, first_drop, main_path, observe
from pytest_overfit.probes.weights import fan_in
from pytest_overfit.subject import Sample, Subject


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What starting `modules` again did to an untrained or a broken network.

    told_apart_before, told_apart_after: D at the end of the main path. variation_before, variation_after: of the output over the clips.
    upstream_same: nothing before the modules changed. recovered: no drop, no constant signal and no faint output is left.
    """

    modules: tuple[str, ...]
    told_apart_before: float
    told_apart_after: float
    variation_before: float
    variation_after: float
    upstream_same: bool
    recovered: bool


def intervene(
    subject: Subject,
    network: nn.Module,
    samples: Sequence[Sample],
    observations: Sequence[Observation],
    modules: Collection[str],
    *,
    mode: Literal["train", "eval"],
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Proof:
    """Start `modules` again in a copy of the network, observe it, and compare with `observations` of the network as it is, of the same mode.

    Raises ValueError where none of the modules has been observed: then nothing is known of what comes before.
    """
    mended = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name in modules:
            for part in mended.get_submodule(name).modules():
                start_soundly(part)
    after = observe(subject, mended, samples, mode=mode, device=device)
    changed = [index for index, o in enumerate(observations) if any(o.module == name or o.module.startswith(name + ".") for name in modules)]
    if not changed:
        raise ValueError(f"none of {', '.join(modules)} was observed")
    upstream = range(min(changed))
    return Proof(
        modules=tuple(modules),
        told_apart_before=_end(observations).told_apart or 0.0,
        told_apart_after=_end(after).told_apart or 0.0,
        variation_before=_variation(observations),
        variation_after=_variation(after),
        upstream_same=all(_same(observations[index].rms, after[index].rms) for index in upstream),
        recovered=first_drop(after) is None and constant_signal(after) is None and faint_output(after) is None,
    )


def start_soundly(module: nn.Module) -> None:
    """Initialise one module's own parameters so that the signal keeps its scale; modules inside it are left alone.

    Linear layers and convolutions: normal weights of variance 2 / fan_in, zero bias (He et al. 2015). Anything else: its own start.
    """
    if isinstance(module, nn.Linear | _ConvNd):
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in(module)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif callable(reset := getattr(module, "reset_parameters", None)):
        reset()


def _end(observations: Sequence[Observation]) -> Observation:
    return main_path(observations)[-1]


def _variation(observations: Sequence[Observation]) -> float:
    return next((o.output_variation for o in observations if o.output_variation is not None), 0.0)


def _same(before: float, after: float) -> bool:
    return math.isclose(before, after, rel_tol=1e-4, abs_tol=1e-12)
