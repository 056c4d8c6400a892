"""A small subject with variants, for searches: `pytest_overfit.search tests.engine.searched:small`.

`slow` takes its time for each forward pass, so that a process can be killed while it is at work.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from pytest_overfit.subject import Sample, Subject


class Net(nn.Module):
    """A linear layer, an LSTM in both directions, a linear layer."""

    def __init__(self, vocabulary: int, dim: int, width: int, dropout: float, pause: float) -> None:
        super().__init__()
        self.first = nn.Linear(dim, width)
        self.lstm = nn.LSTM(width, width, bidirectional=True, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, vocabulary)
        self.pause = pause

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        time.sleep(self.pause)
        hidden, _ = self.lstm(torch.relu(self.first(features)))
        return self.head(self.dropout(hidden)).log_softmax(-1).transpose(0, 1), frames


def samples(n: int) -> list[Sample]:
    """Noise of one length, with three tokens each."""
    draw = torch.Generator().manual_seed(3)
    return [
        Sample(
            name=f"clip-{number}",
            target=torch.randint(1, 6, (3,), generator=draw),
            features=torch.randn(12, 8, generator=draw),
        )
        for number in range(n)
    ]


def subject(name: str = "small", pause: float = 0.0) -> Subject:
    """A fresh one."""

    def build(
        vocab_size: int, feature_dim: int, seed: int, width: int = 16, dropout: float = 0.0
    ) -> Net:
        return Net(vocab_size, feature_dim, width, dropout, pause)

    return Subject(
        name=name,
        build=build,
        samples=samples,
        vocabulary=("-", "a", "b", "c", "d", "e"),
        variants={"width": (8, 16), "dropout": (0.0, 0.1)},
    )


small = subject()
slow = subject("slow", pause=0.05)
