"""Random clips, and what the tests of every network ask of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 40


def clips(frames: Sequence[int], *, width: int = 1629, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normal features (batch, longest, width), zero past each clip's end, and frames (batch,)."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(frames)
    features = torch.randn(len(frames), max(frames), width, generator=generator)
    return features * (torch.arange(max(frames)) < lengths[:, None])[..., None], lengths


def targets(batch: int, *, tokens: int = 4, vocabulary: int = VOCABULARY, seed: int = 0) -> Tensor:
    """(batch, tokens) without blanks."""
    return torch.randint(
        1, vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(seed)
    )


def ctc(network: nn.Module, features: Tensor, frames: Tensor, target: Tensor) -> Tensor:
    """Loss in nats per token."""
    log_probs, steps = network(features, frames)
    return F.ctc_loss(log_probs, target, steps, torch.full((len(target),), target.shape[1]))


def distance_alone_and_together(
    network: nn.Module, frames: Sequence[int], *, width: int = 1629
) -> float:
    """Largest difference between a clip's output alone and in a batch whose padding holds garbage,
    in eval mode.
    """
    network.eval()
    features, lengths = clips(frames, width=width)
    garbage = torch.where(
        (torch.arange(features.shape[1]) < lengths[:, None])[..., None], features, torch.tensor(1e3)
    )
    worst = 0.0
    with torch.no_grad():
        together, steps = network(garbage, lengths)
        for clip, length in enumerate(frames):
            alone, alone_steps = network(
                features[clip : clip + 1, :length], lengths[clip : clip + 1]
            )
            assert alone_steps.tolist() == [steps[clip]] == [len(alone)]
            worst = max(worst, (together[: steps[clip], clip] - alone[:, 0]).abs().max().item())
    return worst


def descend(
    network: nn.Module,
    features: Tensor,
    frames: Tensor,
    target: Tensor,
    *,
    steps: int,
    lr: float = 1e-3,
) -> list[float]:
    """Losses before each of so many Adam steps, and after the last, in train mode."""
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        loss = ctc(network, features, frames, target)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return [*losses, ctc(network, features, frames, target).item()]


def without_gradient(
    network: nn.Module, features: Tensor, frames: Tensor, target: Tensor
) -> list[str]:
    """Parameters that the loss does not reach, or reaches with nothing but zeros."""
    ctc(network, features, frames, target).backward()
    return [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
