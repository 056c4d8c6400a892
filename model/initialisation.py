"""How weights start."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

BLANK_LOGIT = -3.0
InitialisationName = Literal["kaiming", "xavier"]


def initialise(modules: Iterable[nn.Module], scheme: InitialisationName = "kaiming") -> None:
    """Weights of convolutions and linear layers such that the signal keeps its scale, biases zero.

    fan_in is what one output sums over: inputs / groups * kernel. kaiming: variance 2 / fan_in, for ReLU (He et al. 2015). xavier: variance
    2 / (fan_in + fan_out) (Glorot and Bengio 2010). torch's fan_out ignores groups (pytorch #23854), which makes depthwise weights sqrt(C)
    too small.
    """
    for module in modules:
        if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
            fan_in, fan_out = _fans(module)
            variance = 2 / fan_in if scheme == "kaiming" else 2 / (fan_in + fan_out)
            nn.init.normal_(module.weight, std=math.sqrt(variance))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _fans(module: nn.Linear | nn.Conv1d | nn.ConvTranspose1d) -> tuple[int, int]:
    """Inputs that one output reads, and outputs that one input reaches."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
    kernel, stride = module.kernel_size[0], module.stride[0]
    if isinstance(module, nn.ConvTranspose1d):
        return inputs * kernel // stride, outputs * kernel
    return inputs * kernel, outputs * kernel // stride


def initialise_head(head: nn.Linear, *, blank: int = 0, deviation: float, blank_logit: float = BLANK_LOGIT) -> None:
    """Small random logits and a blank less likely than any token.

    CTC passes through an all-blank phase from a uniform start (Zeyer et al. 2021); a blank that starts low shortens it (5 clips, 145 steps:
    55). deviation: of the weights.
    """
    nn.init.normal_(head.weight, std=deviation)
    nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.bias[blank] = blank_logit
