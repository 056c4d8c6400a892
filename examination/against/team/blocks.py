"""Blocks over time."""

from torch import Tensor, nn


def depthwise(width: int, dilation: int) -> nn.Conv1d:
    """A convolution of each channel by itself."""
    convolution = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, groups=width)
    nn.init.normal_(convolution.weight, std=3**-0.5)
    return convolution


class Block(nn.Module):
    """Looks around in time, then mixes channels."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.over_time = depthwise(width, dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.over_time(x)
        mixed = self.mix(hidden.relu())
        return x + mixed
