"""Small networks after structures that people publish, which mends may be made on.

None takes anything from the engine.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

WIDTH = 32


def padding(steps: Tensor, length: int) -> Tensor:
    """(batch, length) bool: true past each clip's end."""
    return torch.arange(length, device=steps.device) >= steps[:, None]


class NormLinear(nn.Module):
    """Logits by direction alone: the columns of the weight have norm 1."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, vocabulary))
        nn.init.xavier_uniform_(self.weight, gain=nn.init.calculate_gain("relu"))

    def forward(self, x: Tensor) -> Tensor:
        return x @ F.normalize(self.weight, dim=0)


class VisualAlignment(nn.Module):
    """Unpadded convolutions and pools, a BiLSTM, one classifier for both: of sign language.

    After Min et al. 2021, arXiv 2104.02330.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (dim, 2 * WIDTH):
            layers += [
                nn.Conv1d(width, 2 * WIDTH, 3),
                nn.BatchNorm1d(2 * WIDTH),
                nn.ReLU(inplace=True),
                nn.MaxPool1d(2),
            ]
        self.conv = nn.Sequential(*layers)
        self.lstm = nn.LSTM(2 * WIDTH, WIDTH, num_layers=2, dropout=0.3, bidirectional=True)
        self.classifier = NormLinear(2 * WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.conv(features.transpose(1, 2)).permute(2, 0, 1)
        steps = ((frames - 2) // 2 - 2) // 2
        self.early = self.classifier(seen)  # another CTC loss and a distillation are taken of it
        packed, _ = self.lstm(pack_padded_sequence(seen, steps.cpu(), enforce_sorted=False))
        return self.classifier(pad_packed_sequence(packed)[0]), steps


class AttentionPooled(nn.Module):
    """A GRU whose every step is also told a summary of the clip, weighed by attention."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, WIDTH, batch_first=True, bidirectional=True)
        self.score = nn.Sequential(
            nn.Linear(2 * WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1, bias=False)
        )
        self.head = nn.Sequential(
            nn.Linear(4 * WIDTH, 2 * WIDTH),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(2 * WIDTH, vocabulary),
        )

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(
            features, frames.cpu(), batch_first=True, enforce_sorted=False
        )
        heard = pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]
        weights = (
            self.score(heard)[..., 0]
            .masked_fill(padding(frames, heard.shape[1]), -math.inf)
            .softmax(-1)
        )
        summary = torch.einsum("bt,btc->bc", weights, heard)
        return self.head(torch.cat([heard, summary[:, None].expand_as(heard)], -1)), frames


class ConvNextBlock(nn.Module):
    """A wide depthwise kernel, a norm of channels, a thin bottleneck turned outwards, a norm of
    responses over time.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.norm = (
            nn.Conv1d(width, width, 7, padding=3, groups=width),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.out, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gain, self.shift = (
            nn.Parameter(torch.zeros(4 * width)),
            nn.Parameter(torch.zeros(4 * width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.out(self.norm(self.wide(x).transpose(1, 2))))
        energy = y.norm(dim=1, keepdim=True)
        y = self.gain * (y * energy / (energy.mean(-1, keepdim=True) + 1e-6)) + self.shift + y
        return x + self.back(y).transpose(1, 2)


class ConvNext(nn.Module):
    """ConvNeXt of the second version, in one dimension. After Woo et al. 2023, arXiv 2301.00808."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(dim, WIDTH, 2, stride=2)
        self.blocks = nn.Sequential(*(ConvNextBlock(WIDTH) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(WIDTH, eps=1e-6), nn.Linear(WIDTH, vocabulary)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.blocks(self.stem(features.transpose(1, 2))).transpose(1, 2)
        return self.head(self.norm(x)), frames // 2


class SubsampledTransformer(nn.Module):
    """Two unpadded convolutions over time and features, sinusoids, layers with norms before the
    sums: of speech toolkits.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.subsample = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, 2), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, 2), nn.ReLU()
        )
        self.out = nn.Linear(WIDTH * (((dim - 1) // 2 - 1) // 2), WIDTH)
        self.places = nn.Parameter(_sinusoids(200, WIDTH), requires_grad=False)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, 0.1, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, 3, nn.LayerNorm(WIDTH), enable_nested_tensor=False
        )
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.out(self.subsample(features[:, None]).transpose(1, 2).flatten(2))
        steps = ((frames - 1) // 2 - 1) // 2
        x = self.drop(math.sqrt(WIDTH) * x + self.places[: x.shape[1]])
        return self.head(self.layers(x, src_key_padding_mask=padding(steps, x.shape[1]))), steps


def _sinusoids(length: int, width: int) -> Tensor:
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class DepthSeparable(nn.Module):
    """Blocks that mix time within channels by unpadded convolutions, then channels within frames.

    After Hannun et al. 2019, arXiv 1904.02619.
    """

    CHANNELS, KERNEL = 4, 9

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.enter = nn.Sequential(nn.Linear(dim, 2 * WIDTH), nn.ReLU())
        self.convs = nn.ModuleList(
            nn.Conv2d(self.CHANNELS, self.CHANNELS, (1, self.KERNEL)) for _ in range(2)
        )
        self.conv_norms, self.full_norms = (
            nn.ModuleList(nn.LayerNorm(2 * WIDTH) for _ in range(2)) for _ in range(2)
        )
        self.fulls = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, 2 * WIDTH)
            )
            for _ in range(2)
        )
        self.head = nn.Linear(2 * WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(self.norm(features.transpose(1, 2)).transpose(1, 2))
        for conv, conv_norm, full, full_norm in zip(
            self.convs, self.conv_norms, self.fulls, self.full_norms, strict=True
        ):
            y = (
                conv(x.transpose(1, 2).unflatten(1, (self.CHANNELS, -1)))
                .relu()
                .flatten(1, 2)
                .transpose(1, 2)
            )
            x = conv_norm(y + x[:, -y.shape[1] :])
            x = full_norm(full(x) + x)
        return self.head(x).log_softmax(-1), frames - 2 * (self.KERNEL - 1)


class Lips(nn.Module):
    """Convolutions in space and time, whole channels dropped, two unpacked GRUs with orthogonal
    weights. After Assael et al. 2016, 1611.01599.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv3d(1, 8, (3, 5, 5), padding=(1, 2, 2)),
            nn.Conv3d(8, 16, (3, 3, 3), padding=1),
        )
        self.pool, self.drop = nn.MaxPool3d((1, 2, 2)), nn.Dropout3d(0.2)
        self.grus = nn.ModuleList(
            nn.GRU(width, WIDTH, batch_first=True, bidirectional=True)
            for width in (16 * dim // 24, 2 * WIDTH)
        )
        self.head = nn.Linear(2 * WIDTH, vocabulary)
        for name, parameter in self.grus.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(parameter)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        film = features.unflatten(2, (4, -1))[:, None]
        film = self.drop(self.pool(self.first(film).relu()))
        film = self.drop(self.pool(self.second(film).relu()))
        x = film.transpose(1, 2).flatten(2)
        for gru in self.grus:
            gru.flatten_parameters()
            x, _ = gru(x)
        return self.head(x), frames
