"""What a module's own parameters say: their gain, their bias against their response, their gradient, how far they moved."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def weight_gain(module: nn.Module) -> float | None:
    """std of the weights times sqrt(fan_in) of a linear layer or convolution; fan_in counts the inputs that one output adds up.

    Groups divide it, and so does the stride of a transposed convolution. Source: He et al. 2015, arXiv 1502.01852, section 2.2.
    """
    if isinstance(module, nn.Linear):
        fan_in: float = module.in_features
    elif isinstance(module, _ConvNd):
        fan_in = module.in_channels / module.groups * math.prod(module.kernel_size)
        if isinstance(module, _ConvTransposeNd):
            fan_in = max(fan_in / math.prod(module.stride), 1.0)
    else:
        return None
    return float(module.weight.detach().float().square().mean().sqrt()) * math.sqrt(fan_in)


def linear_response(module: nn.Module, output: Tensor) -> tuple[Tensor, Tensor] | None:
    """The output of a linear layer or convolution less its bias, and the bias; None for other modules and where there is none."""
    if not isinstance(module, nn.Linear | _ConvNd) or module.bias is None:
        return None
    bias = module.bias.detach()
    spatial = len(module.kernel_size) if isinstance(module, _ConvNd) else 0
    if output.shape[-1 - spatial] != len(bias):
        return None
    return output - bias.view(-1, *[1] * spatial), bias


def gradient_norms(module: nn.Module, gradients: Mapping[int, Tensor]) -> tuple[float | None, float | None]:
    """L2 norm of the gradient of all parameters in `module`, and that over their own norm. gradients: id of a parameter -> its gradient."""
    reached = [(parameter, gradients[id(parameter)]) for parameter in module.parameters() if id(parameter) in gradients]
    if not reached:
        return None, None
    norm = _norm([gradient for _, gradient in reached])
    weight = _norm([parameter.detach() for parameter, _ in reached])
    return norm, norm / weight if weight > 0 else None


def update_size(name: str, module: nn.Module, before: Mapping[str, Tensor] | None) -> float | None:
    """||w - w before|| / ||w before|| over the parameters of module `name`; None without them. before: a state dict of the whole network."""
    named = dict(module.named_parameters(prefix=name))
    if before is None or not named.keys() <= before.keys() or not named:
        return None
    moved = _norm([parameter.detach() - before[key].to(parameter) for key, parameter in named.items()])
    weight = _norm([before[key] for key in named])
    return moved / weight if weight > 0 else math.inf if moved > 0 else 0.0


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor.float()) for tensor in tensors])))
