"""The network: blocks between two projections."""

from blocks import Block
from torch import Tensor, nn

WIDTH = 32
DILATIONS = (1, 2, 4)


class Net(nn.Module):
    """Features (batch, frames, dim) to log-probabilities (frames, batch, vocabulary)."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, WIDTH)
        self.blocks = nn.Sequential(*(Block(WIDTH, dilation) for dilation in DILATIONS))
        self.head = nn.Linear(WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.project(features).transpose(1, 2)
        x = self.blocks(x).transpose(1, 2)
        logits = self.head(x)
        return logits.log_softmax(-1).transpose(0, 1), frames
