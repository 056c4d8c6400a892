"""Layers over a padded batch of clips, (batch, steps, channels), which never let padding reach a
clip.

Every layer owns its length rule: `steps(n)` says how many steps come out of n, for one clip (int)
and for a batch of them (tensor). An `Extent` carries each clip's steps beside the values; layers
keep everything past a clip's end at zero, so a clip gives the same output alone and beside longer
ones, and batch statistics are taken over real steps only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.extent import Extent, Steps

NormName = Literal["batch", "layer", "group", "none"]


class Layer(nn.Module):
    """A layer called with (values (batch, steps, channels), extent) that keeps the number of steps
    unless it overrides `steps`.
    """

    def steps(self, n: Steps) -> Steps:
        """Steps that it makes of `n`: as many, unless a layer says otherwise."""
        return n


class Stages(nn.ModuleList):
    """Layers one after another."""

    @property
    def layers(self) -> Iterable[Layer]:
        """The layers, in their order."""
        return cast("Iterable[Layer]", self)

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        for layer in self.layers:
            x, extent = layer(x, extent), extent.after(layer)
        return x

    def steps(self, n: Steps) -> Steps:
        """Steps that all of them together make of `n`."""
        for layer in self.layers:
            n = layer.steps(n)
        return n


class TemporalConv(nn.Conv1d):
    """Convolution over time, odd kernel, zero padding, no bias: (batch, steps, in) -> (batch,
    ceil(steps / stride), out).

    It runs as a convolution of height 1 with the channels last, as the values lie in memory; two to
    three times as fast on a CPU as Conv1d.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        image = x.transpose(1, 2).unsqueeze(2)
        out = F.conv2d(
            image,
            self.weight.unsqueeze(2),
            None,
            (1, *self.stride),
            (0, self.kernel_size[0] // 2),
            groups=self.groups,
        )
        return out.squeeze(2).transpose(1, 2)

    def steps(self, n: Steps) -> Steps:
        """Steps that it makes of `n`."""
        return (n - 1) // self.stride[0] + 1


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation, (rows, channels), whose running variance is the batch's own and not
    Bessel's estimate of a population's.

    With one clip of 44 steps that estimate is 44 / 43 of what training divides by; over twenty
    layers the factor grows into another output in eval mode (measured: loss 0.0005 in train mode,
    15 in eval mode). A batch of one row has no variance: the running statistics are used.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training or len(rows) == 1:
            return F.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        bessel = len(rows) / (len(rows) - 1)
        variance = self.running_var * bessel
        out = F.batch_norm(
            rows,
            self.running_mean,
            variance,
            self.weight,
            self.bias,
            True,
            cast("float", self.momentum),
            self.eps,
        )
        self.running_var.copy_(variance / bessel)
        self.num_batches_tracked.add_(1)
        return out


class ChannelBias(nn.Module):
    """What stands where there is no normalisation, (rows, channels): a bias a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.bias


def norm(name: NormName, channels: int) -> nn.Module:
    """A module over real steps, (rows, channels): statistics over time would change with padding
    unless they are those of a whole batch.

    Groups are at most 8 and have at least four channels: of one that is normalised alone nothing
    is left, and of two the sign.
    """
    match name:
        case "batch":
            return BatchNorm(channels)
        case "layer":
            return nn.LayerNorm(channels)
        case "group":
            groups = math.gcd(8, channels)
            while groups > 1 and channels // groups < 4:
                groups //= 2
            return nn.GroupNorm(groups, channels)
        case "none":
            return ChannelBias(channels)


def normalised(x: Tensor, module: nn.Module, extent: Extent) -> Tensor:
    """`module` over the real steps of (batch, steps, channels), zero in the padding."""
    return extent.unpack(module(extent.pack(x)))


class Downsample(Layer):
    """Temporal convolution, normalisation, activation; with stride 1 it keeps the steps."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.Module] = nn.ReLU,
        normalisation: NormName = "batch",
    ) -> None:
        super().__init__()
        self.conv = TemporalConv(inputs, outputs, kernel, stride=stride, groups=groups)
        self.norm = norm(normalisation, outputs)
        self.activation = activation()

    def steps(self, n: Steps) -> Steps:
        """Steps that its convolution makes of `n`."""
        return self.conv.steps(n)

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        out: Tensor = self.activation(normalised(self.conv(x), self.norm, extent.after(self)))
        return out


class Pointwise(Layer):
    """A convolution of kernel 1, normalisation, activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        activation: type[nn.Module] = nn.ReLU,
        normalisation: NormName = "batch",
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.norm = norm(normalisation, outputs)
        self.activation = activation()

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        out: Tensor = self.activation(normalised(self.linear(x), self.norm, extent))
        return out


class SqueezeExcite(Layer):
    """Scales each channel by a gate that has read the clip's mean. Source: Hu et al.

    2018; the gate as in Howard et al. 2019.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, channels // 4)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        return x * F.hardsigmoid(self.excite(F.relu(self.squeeze(extent.mean(x)))))


class Upsample(Layer):
    """Transposed convolution whose kernel is its stride, normalisation, ReLU: (batch, steps, in) ->
    (batch, steps * factor, out).
    """

    def __init__(
        self, inputs: int, outputs: int, factor: int, *, normalisation: NormName = "batch"
    ) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(inputs, outputs, factor, stride=factor, bias=False)
        self.norm = norm(normalisation, outputs)
        self.activation = nn.ReLU()

    def steps(self, n: Steps) -> Steps:
        """Steps that it makes of `n`."""
        return n * self.conv.stride[0]

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        widened = self.conv(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.activation(normalised(widened, self.norm, extent.after(self)))
        return out


class SelfAttention(Layer):
    """Self-attention over each clip's steps beside the values, which it is added to."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Tensor, extent: Extent) -> Tensor:
        query = normalised(x, self.norm, extent)
        found, _ = self.attention(
            query,
            query,
            query,
            key_padding_mask=~extent.mask if extent.padded else None,
            need_weights=False,
        )
        return x + extent.unpack(extent.pack(found))


class BiLSTM(nn.LSTM):
    """Bidirectional LSTM, `width` a direction: (batch, steps, in) -> (batch, steps, 2 * width).

    Where clips differ in length the way back runs over clips turned round, so that it too starts at
    a clip's last step. On a CPU that is several times as fast as packing; on a GPU packing is used.
    """

    def __init__(self, inputs: int, width: int, *, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__(
            inputs,
            width,
            num_layers=layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
        )

    def steps(self, n: Steps) -> Steps:
        """As many as it is given."""
        return n

    def forward(self, x: Tensor, extent: Extent) -> Tensor:  # type: ignore[override]
        if not extent.padded:
            return super().forward(x)[0]
        if x.is_cuda:
            packed = nn.utils.rnn.pack_padded_sequence(
                x, extent.steps, batch_first=True, enforce_sorted=False
            )
            return nn.utils.rnn.pad_packed_sequence(
                super().forward(packed)[0], batch_first=True, total_length=extent.length
            )[0]
        for layer in range(self.num_layers):
            if layer:
                x = F.dropout(x, self.dropout, self.training)
            x = self._both_ways(x, extent, layer)
        return extent.unpack(extent.pack(x))

    def _both_ways(self, x: Tensor, extent: Extent, layer: int) -> Tensor:
        forth = self._one_way(x, f"l{layer}")
        back = extent.reverse(self._one_way(extent.reverse(x), f"l{layer}_reverse"))
        return torch.cat([forth, back], -1)

    def _one_way(self, x: Tensor, suffix: str) -> Tensor:
        weights = [
            getattr(self, f"{name}_{suffix}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        start = x.new_zeros(1, len(x), self.hidden_size)
        return torch.lstm(x, (start, start), weights, True, 1, 0.0, self.training, False, True)[0]
