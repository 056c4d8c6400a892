"""Networks of four more kinds that people publish, written after all findings and looked at once:
none of nine such, of which these stay, called for a mend.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examination.sound.networks import WIDTH
from examination.sound.unseen import Attention, Over, Packed, feed_forward, inside


class MemoryBesideAttention(nn.Module):
    """Attention whose values also pass a memory: a depthwise convolution without a norm; the first
    layer widens and has no residual.

    After Gao et al. 2020, arXiv 2006.01713, and modelscope/FunASR, funasr/models/sanm.
    """

    def __init__(self, dim: int, vocabulary: int, *, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        widths = (dim, *(WIDTH for _ in range(layers - 1)))
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.read = nn.ModuleList(nn.Linear(width, 3 * WIDTH) for width in widths)
        self.memory = nn.ModuleList(
            nn.Conv1d(WIDTH, WIDTH, 11, padding=5, groups=WIDTH, bias=False) for _ in widths
        )
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in widths)
        self.wide_norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in widths)
        self.wide = nn.ModuleList(feed_forward(WIDTH, nn.ReLU()) for _ in widths)
        self.drop, self.norm = nn.Dropout(0.1), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary)

    def attend(self, x: Tensor, shown: Tensor, i: int) -> Tensor:
        query, key, value = self.read[i](self.norms[i](x)).chunk(3, -1)
        kept = value * shown
        memory = self.drop(self.memory[i](kept.transpose(1, 2)).transpose(1, 2) + kept) * shown
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        hidden = (shown == 0).transpose(1, 2)[:, None]
        weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1)
        said = self.drop(weights.masked_fill(hidden, 0.0)) @ value
        out: Tensor = self.out[i](said.transpose(1, 2).flatten(2)) + memory
        return out

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        shown, width = inside(frames, features.shape[1]), features.shape[-1]
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        angle = torch.arange(1, features.shape[1] + 1)[:, None] * rates
        x = features * WIDTH**0.5 + torch.cat([angle.sin(), angle.cos()], -1)[:, :width]
        for i in range(len(self.wide)):
            said = self.attend(x, shown, i)
            x = said if said.shape != x.shape else x + said
            x = x + self.wide[i](self.wide_norms[i](x))
        return self.head(self.norm(x)), frames


def _moved(x: Tensor, by: int) -> Tensor:
    """(batch, time, ...) a step later or sooner in time, zeros in the free place."""
    part = x[:, :-1] if by > 0 else x[:, 1:]
    zeros = torch.zeros_like(x[:, :1])
    return torch.cat([zeros, part] if by > 0 else [part, zeros], 1)


class CorrelatedFrames(nn.Module):
    """Pictures each of whose cells is compared with all cells of the frames beside it; what comes
    of that is added behind a factor that begins at zero. Then convolutions, pools and a BiLSTM.

    After Hu et al. 2023, arXiv 2303.03202, and hulianyuyy/CorrNet, modules/resnet.py.
    """

    def __init__(self, dim: int, vocabulary: int, *, width: int = 16) -> None:
        super().__init__()
        self.see = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1, bias=False) for c in (1, width))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.compare = nn.Conv2d(width, width // 2, 1, bias=False)
        self.factor = nn.Parameter(torch.zeros(1))
        self.flat = nn.Linear(width * (dim // 4), WIDTH)
        self.over_time = nn.Conv1d(WIDTH, WIDTH, 5, padding=2)
        self.time_norm = nn.BatchNorm1d(WIDTH)
        self.recur, self.head = Packed(WIDTH, WIDTH), nn.Linear(2 * WIDTH, vocabulary)

    def correlated(self, x: Tensor, shape: tuple[int, int], shown: Tensor) -> Tensor:
        """x: (batch * time, channels, height, width)."""
        cells = self.compare(x).flatten(2).transpose(1, 2).unflatten(0, shape)
        values = x.flatten(2).transpose(1, 2).unflatten(0, shape)
        values = values * shown[..., None]
        told = torch.zeros_like(values)
        for by in (1, -1):
            others, theirs = (_moved(part, by) for part in (cells, values))
            told = told + (torch.sigmoid(cells @ others.transpose(-1, -2)) - 0.5) @ theirs
        return told.flatten(0, 1).transpose(1, 2).unflatten(2, x.shape[2:])

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        batch, time, dim = features.shape
        shown = inside(frames, time)
        x = features.reshape(batch * time, 1, dim // 4, 4)
        x = F.relu(self.norms[0](self.see[0](x)))
        x = x + self.factor * self.correlated(x, (batch, time), shown)
        x = F.relu(self.norms[1](self.see[1](x)))
        x = F.max_pool2d(x, (1, 4)).flatten(1).unflatten(0, (batch, time))
        x = self.flat(x) * shown
        x = F.relu(self.time_norm(self.over_time(x.transpose(1, 2)))) * shown.transpose(1, 2)
        x = F.max_pool1d(x, 2).transpose(1, 2)
        return self.head(self.recur(x, frames // 2)), frames // 2


class LocalThenGlobal(nn.Module):
    """Lines of text as a grid of patches: attention within a window of the grid, then among all,
    norms behind the sums; rows are merged between them and averaged at the end.

    After Du et al. 2022, arXiv 2205.00159, and PaddlePaddle/PaddleOCR.
    """

    def __init__(self, dim: int, vocabulary: int, *, rows: int = 6, longest: int = 96) -> None:
        super().__init__()
        self.rows = rows
        self.patch = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=(2, 1), padding=1),
            nn.BatchNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, WIDTH, 3, stride=(dim // 2 // rows, 1), padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.GELU(),
        )
        self.places = nn.Parameter(torch.zeros(1, rows, longest, WIDTH))
        nn.init.trunc_normal_(self.places, std=0.02)
        self.attend = nn.ModuleList(
            nn.MultiheadAttention(WIDTH, 4, batch_first=True) for _ in range(4)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(8))
        self.wide = nn.ModuleList(feed_forward(WIDTH, nn.GELU()) for _ in range(4))
        self.merge = nn.Conv2d(WIDTH, WIDTH, 3, stride=(2, 1), padding=1)
        self.merge_norm, self.last = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(WIDTH, vocabulary)

    @staticmethod
    def far(rows: int, columns: int) -> Tensor:
        """(cells, cells) bool: true where two cells are more than a window apart."""
        row, column = torch.arange(rows), torch.arange(columns)
        apart = ((row[:, None] - row).abs() > 3)[:, None, :, None] | (
            (column[:, None] - column).abs() > 5
        )[None, :, None]
        return apart.flatten(2).flatten(0, 1)

    def mix(self, x: Tensor, i: int, mask: Tensor | None) -> Tensor:
        x = self.norms[2 * i](x + self.attend[i](x, x, x, attn_mask=mask, need_weights=False)[0])
        out: Tensor = self.norms[2 * i + 1](x + self.wide[i](x))
        return out

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patch(features.transpose(1, 2)[:, None]).permute(0, 2, 3, 1)
        shape = x.shape[1:3]
        x = (x + self.places[:, : shape[0], : shape[1]]).flatten(1, 2)
        mask = self.far(*shape)
        x = self.mix(self.mix(x, 0, mask), 1, mask)
        x = self.merge(x.unflatten(1, shape).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        shape = x.shape[1:3]
        x = self.merge_norm(x).flatten(1, 2)
        x = self.mix(self.mix(x, 2, None), 3, None).unflatten(1, shape).mean(1)
        return self.head(self.drop(F.hardswish(self.last(x)))), frames


class SelfConditioned(nn.Module):
    """Layers between which a guess at the labels is made by the head and handed back to the rest.

    After Nozaki and Komatsu 2021, arXiv 2104.02724, and espnet, without the losses of the guesses.
    """

    def __init__(self, dim: int, vocabulary: int, *, layers: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, WIDTH)
        self.near = nn.ModuleList(Over(WIDTH, 5) for _ in range(layers))
        self.attend = nn.ModuleList(Attention(WIDTH) for _ in range(layers))
        self.wide = nn.ModuleList(feed_forward(WIDTH, nn.SiLU()) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3 * layers))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary)
        self.condition = nn.Linear(vocabulary, WIDTH)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features)
        last = len(self.near) - 1
        for i, (near, attend, wide) in enumerate(
            zip(self.near, self.attend, self.wide, strict=True)
        ):
            x = x + near(self.norms[3 * i](x), frames)
            x = x + attend(self.norms[3 * i + 1](x), frames)
            x = x + wide(self.norms[3 * i + 2](x))
            if i < last:
                x = self.norm(x)
                x = x + self.condition(self.head(x).softmax(-1))
        return self.head(self.norm(x)), frames


FURTHER: dict[str, type[nn.Module]] = {
    "memory beside attention": MemoryBesideAttention,
    "correlated frames": CorrelatedFrames,
    "local, then global": LocalThenGlobal,
    "self-conditioned": SelfConditioned,
}
OF_ONE_LENGTH = frozenset({"local, then global"})
"""What knows nothing of padding, and is given pages of one width."""
