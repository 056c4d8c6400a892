"""What a module's own parameters say: their gain, their bias against their response, their gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def fan_in(module: nn.Linear | _ConvNd) -> float:
    """Inputs that one output of a linear layer or convolution adds up; groups divide it, and so does a transposed one's stride."""
    if isinstance(module, nn.Linear):
        return module.in_features
    inputs = module.in_channels / module.groups * math.prod(module.kernel_size)
    return max(inputs / math.prod(module.stride), 1.0) if isinstance(module, _ConvTransposeNd) else inputs


def weight_gain(module: nn.Module) -> float | None:
    """Root mean square of the weights times sqrt(fan_in), of a linear layer or convolution. Source: He et al. 2015, arXiv 1502.01852."""
    if not isinstance(module, nn.Linear | _ConvNd):
        return None
    return float(module.weight.detach().float().square().mean().sqrt()) * math.sqrt(fan_in(module))


def linear_response(module: nn.Module, output: Tensor) -> tuple[Tensor, Tensor] | None:
    """The output of a linear layer or convolution less its bias, and the bias; None for other modules and where there is none."""
    if not isinstance(module, nn.Linear | _ConvNd) or module.bias is None:
        return None
    bias = module.bias.detach()
    spatial = len(module.kernel_size) if isinstance(module, _ConvNd) else 0
    if output.shape[-1 - spatial] != len(bias):
        return None
    return output - bias.view(-1, *[1] * spatial), bias


def gradient_norm(module: nn.Module, gradients: Mapping[int, Tensor]) -> float | None:
    """L2 norm of the gradient of all parameters in `module`; None where none got one. gradients: id of a parameter -> its gradient."""
    reached = [gradients[id(parameter)] for parameter in module.parameters() if id(parameter) in gradients]
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient.float()) for gradient in reached]))) if reached else None
