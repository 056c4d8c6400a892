"""What a network and its samples are, in a few letters each.

Trials of another network or other samples are not of one search.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from pytest_overfit.errors import LIBRARIES
from pytest_overfit.subject import Sample

LETTERS = 16


def of_network(network: nn.Module) -> str:
    """Of the source files of its modules, those of libraries aside, and its parameters' shapes."""
    classes = {kind for module in network.modules() for kind in type(module).__mro__}
    files = {file for kind in classes if (file := _file(kind))}
    digest = hashlib.sha256()
    for content in sorted(Path(file).read_bytes() for file in files):
        digest.update(hashlib.sha256(content).digest())
    for name, parameter in network.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.requires_grad}".encode())
    return digest.hexdigest()[:LETTERS]


def of_samples(samples: Sequence[Sample]) -> str:
    """Of their features, lengths and targets."""
    digest = hashlib.sha256()
    for sample in samples:
        for values in (sample.features, sample.target):
            numbers = torch.as_tensor(values).detach().cpu().contiguous()
            digest.update(f"{tuple(numbers.shape)}".encode())
            digest.update(numbers.numpy().tobytes())
    return digest.hexdigest()[:LETTERS]


def _file(kind: type) -> str | None:
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):  # built in, or typed at a prompt
        return None
    return None if file is None or file.startswith((*LIBRARIES, "<")) else file
