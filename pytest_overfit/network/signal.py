"""What one tensor says, as pure functions from (clips, steps, channels) to numbers, in which
padding never counts; and what a module's own parameters say: their gain, their bias against their
response, their gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

RANK_ROWS = 128
TINY = 1e-30

RECTIFIERS = {
    "ReluBackward0",
    "HardtanhBackward0",
    "ThresholdBackward0",
    "HardswishBackward0",
    "GeluBackward0",
    "SiluBackward0",
}
"""Names of the autograd nodes of activations that can shut a unit."""
ACTIVATIONS = RECTIFIERS | {"SigmoidBackward0", "TanhBackward0", "HardsigmoidBackward0"}
"""Those of activations that are observed also where they are functions in a module's code."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """between_sample_share, between_step_share, rms, dead_share: as in `Observation`.

    steps: of the tensor.
    """

    steps: int
    between_sample_share: float | None
    between_step_share: float | None
    rms: float
    dead_share: float | None


def valid_mask(frames: Tensor, steps: int, longest: int) -> Tensor:
    """Which steps are not padding, when `longest` frames became `steps`: (clips, steps) bool.

    frames: (clips,).
    """
    lengths = (frames * steps / longest).ceil().clamp(min=1)
    return torch.arange(steps, device=frames.device)[None] < lengths[:, None]


def read_signal(h: Tensor, valid: Tensor, activation: str) -> Signal:
    """h: (clips, steps, channels). valid: (clips, steps).

    activation: name of the autograd node that made `h`, or "".
    """
    h = without_common_level(h.float())
    h = torch.where(valid[..., None], h, 0.0)
    energies = h.square().sum(-1)
    count = valid.sum() * h.shape[2]
    is_dead = (h == 0).all(1).all(0).float().mean() if activation in RECTIFIERS else None
    return Signal(
        steps=h.shape[1],
        between_sample_share=_share_of_variation(h, energies, valid, across=0),
        between_step_share=_share_of_variation(h, energies, valid, across=1),
        rms=float((energies.sum() / count).sqrt()),
        dead_share=None if is_dead is None else float(is_dead),
    )


def without_common_level(h: Tensor) -> Tensor:
    """Log-probabilities and probabilities less their mean over the channels; any other tensor as it
    is.

    The log-normaliser adds the same large number to every class. It says nothing, yet it drowns the
    share that tells clips apart.
    """
    if h.shape[2] < 2 or not (h[:, :1].amax() <= 0 or h[:, :1].amin() >= 0):
        return h
    sums = h.exp().sum(-1) if h.amax() <= 0 else h.sum(-1)
    return h - h.mean(-1, keepdim=True) if bool(((sums - 1).abs() < 1e-3).all()) else h


def _share_of_variation(h: Tensor, energies: Tensor, valid: Tensor, across: int) -> float | None:
    """E||h - mean||^2 / E||h||^2, the mean taken over clips at each step (across 0) or over the
    steps of each clip (across 1).

    None where nothing can differ: one clip, one step. 0 where h is zero throughout.
    h: (clips, steps, channels), zero where not valid. energies: ||h||^2, (clips, steps). valid:
    (clips, steps).
    """
    count = valid.sum(across, keepdim=True)
    several = valid & (count > 1)
    if not several.any():
        return None
    mean = h.sum(across, keepdim=True) / count.clamp(min=1)[..., None]
    energy = float(energies[several].sum())
    return float((h - mean).square_().sum(-1)[several].sum()) / energy if energy > TINY else 0.0


def effective_rank(h: Tensor, valid: Tensor) -> float | None:
    """exp(entropy of sigma / sum sigma), sigma the singular values of the centred valid steps, at
    most 128 of them, spread evenly.

    h: (clips, steps, channels). Between 1 and 128; 0 where nothing varies; None where a value is
    not finite.
    Source: Roy & Vetterli 2007, "The effective rank".
    """
    rows = h.float()[valid]
    rows = rows[torch.linspace(0, len(rows) - 1, min(RANK_ROWS, len(rows))).long()]
    rows = rows - rows.mean(0)
    rows = rows / rows.abs().amax().clamp(min=TINY)
    if not torch.isfinite(rows).all():
        return None
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    sigma = torch.linalg.eigvalsh(gram.double()).clamp(min=0).sqrt()
    total = sigma.sum()
    return float(torch.special.entr(sigma / total).sum().exp()) if float(total) > 0 else 0.0


def fan_in(module: nn.Linear | _ConvNd) -> float:
    """Inputs that one output of a linear layer or convolution adds up; groups divide it, and so
    does a transposed one's stride.
    """
    if isinstance(module, nn.Linear):
        return module.in_features
    inputs = module.in_channels / module.groups * math.prod(module.kernel_size)
    return (
        max(inputs / math.prod(module.stride), 1.0)
        if isinstance(module, _ConvTransposeNd)
        else inputs
    )


def weight_gain(module: nn.Module) -> float | None:
    """Root mean square of the weights times sqrt(fan_in), of a linear layer or convolution.

    Source: He et al. 2015, arXiv 1502.01852.
    """
    if not isinstance(module, nn.Linear | _ConvNd):
        return None
    return float(module.weight.detach().float().square().mean().sqrt()) * math.sqrt(fan_in(module))


def linear_response(module: nn.Module, output: Tensor) -> tuple[Tensor, Tensor] | None:
    """The output of a linear layer or convolution less its bias, and the bias; None for other
    modules and where there is none.
    """
    if not isinstance(module, nn.Linear | _ConvNd) or module.bias is None:
        return None
    bias = module.bias.detach()
    spatial = len(module.kernel_size) if isinstance(module, _ConvNd) else 0
    if output.shape[-1 - spatial] != len(bias):
        return None
    return output - bias.view(-1, *[1] * spatial), bias


def gradient_norm(module: nn.Module, gradients: Mapping[int, Tensor]) -> float | None:
    """L2 norm of the gradient of all parameters in `module`; None where none got one.

    gradients: id of a parameter -> its gradient.
    """
    reached = [
        gradients[id(parameter)] for parameter in module.parameters() if id(parameter) in gradients
    ]
    return (
        float(
            torch.linalg.vector_norm(
                torch.stack([torch.linalg.vector_norm(gradient.float()) for gradient in reached])
            )
        )
        if reached
        else None
    )
