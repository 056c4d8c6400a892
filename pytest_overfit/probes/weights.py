"""What a module's own parameters say: their gain, their bias against their response, their gradient, how far they moved."""

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
