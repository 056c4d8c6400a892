"""A task that takes under a second to learn: patterns of a few numbers, each held for some frames,
to be read in order.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

DIM = 8
VOCABULARY = ("<blank>", "A", "B", "C", "D", "E", "F", "G")
CLIPS = 64
LEVEL, SPREAD = 5.0, 3.0
"""Of the raw features, as of a sensor: far from zero mean and from unit variance."""


@cache
def recordings() -> list[tuple[Tensor, Tensor]]:
    """Raw features (frames, DIM) and the target (tokens,) of each clip, always the same."""
    draw = torch.Generator().manual_seed(3)
    patterns = torch.randn(len(VOCABULARY), DIM, generator=draw)
    return [_recording(patterns, draw) for _ in range(CLIPS)]


def _recording(patterns: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    target = torch.randint(
        1, len(VOCABULARY), (int(torch.randint(3, 7, (1,), generator=draw)),), generator=draw
    )
    held = torch.randint(3, 6, (len(target),), generator=draw)
    frames = patterns[target.repeat_interleave(held)]
    return LEVEL + SPREAD * (frames + 0.2 * torch.randn(frames.shape, generator=draw)), target


class Network(nn.Module):
    """A bidirectional GRU over an encoder of each frame.

    (batch, frames, DIM), frames (batch,) -> log-probabilities (frames, batch, vocabulary), steps
    (batch,). hidden: the state to start from.
    """

    def __init__(self, tokens: int = len(VOCABULARY), width: int = 24) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(DIM, width), nn.ReLU(), nn.Dropout(0.1))
        self.gru = nn.GRU(width, width, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * width, tokens)
        self.hidden: Tensor | None = None

    def forward(
        self, features: Tensor, frames: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.decode(self.encoder(features), frames, hidden)

    def decode(
        self, encoded: Tensor, frames: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """From what the encoder said (batch, frames, width), as `forward`."""
        packed = pack_padded_sequence(encoded, frames.cpu(), batch_first=True, enforce_sorted=False)
        out, reached = self.gru(packed, hidden)
        self.hidden = reached.detach()
        logits = self.head(pad_packed_sequence(out, batch_first=True)[0])
        return logits.float().log_softmax(-1).transpose(0, 1), frames
