"""Networks that were written first and examined last: no mend was made on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from examination.sound.networks import WIDTH, padding


class Separable(nn.Module):
    """Blocks of masked time-channel separable convolutions with residuals behind norms.

    After Kriman et al. 2019, arXiv 1910.10261.
    """

    def __init__(self, dim: int, vocabulary: int, *, blocks: int = 2, repeats: int = 2) -> None:
        super().__init__()
        self.enter, self.enter_norm = (
            nn.Conv1d(dim, WIDTH, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm1d(WIDTH, eps=1e-3),
        )
        self.deep = nn.ModuleList(
            nn.ModuleList(
                nn.Conv1d(WIDTH, WIDTH, 11, padding=5, groups=WIDTH, bias=False)
                for _ in range(repeats)
            )
            for _ in range(blocks)
        )
        self.wide = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 1, bias=False) for _ in range(repeats))
            for _ in range(blocks)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm1d(WIDTH, eps=1e-3) for _ in range(repeats))
            for _ in range(blocks)
        )
        self.around = nn.ModuleList(
            nn.Sequential(nn.Conv1d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm1d(WIDTH, eps=1e-3))
            for _ in range(blocks)
        )
        self.drop, self.head = nn.Dropout(0.1), nn.Conv1d(WIDTH, vocabulary, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.xavier_uniform_(module.weight, gain=1.0)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter_norm(
            self.enter(
                features.transpose(1, 2).masked_fill(padding(frames, features.shape[1])[:, None], 0)
            )
        ).relu()
        steps = (frames + 1) // 2
        mask = padding(steps, x.shape[-1])[:, None]
        for deep, wide, norms, around in zip(
            self.deep, self.wide, self.norms, self.around, strict=True
        ):
            y = x
            for place, (conv, point, norm) in enumerate(zip(deep, wide, norms, strict=True)):
                y = norm(point(conv(y.masked_fill(mask, 0)).masked_fill(mask, 0)))
                y = self.drop(y.relu()) if place < len(deep) - 1 else y
            x = self.drop((y + around(x.masked_fill(mask, 0))).relu())
        return self.head(x.masked_fill(mask, 0)).transpose(1, 2).log_softmax(-1), steps


class DeepSpeech(nn.Module):
    """Clipped convolutions in two dimensions, masked after each layer, GRUs behind sequence-wise
    norms whose directions are summed.

    Wants clips sorted from long to short. After Amodei et al. 2015, arXiv 1512.02595.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                nn.Conv2d(1, 8, (7, 11), stride=(2, 2), padding=(3, 5)),
                nn.BatchNorm2d(8),
                nn.Hardtanh(0, 20, inplace=True),
            ),
            *(
                nn.Conv2d(8, 8, (7, 11), stride=(2, 1), padding=(3, 5)),
                nn.BatchNorm2d(8),
                nn.Hardtanh(0, 20, inplace=True),
            ),
        )
        widths = (8 * ((dim + 3) // 4), WIDTH, WIDTH)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])
        self.grus = nn.ModuleList(nn.GRU(width, WIDTH, bidirectional=True) for width in widths)
        self.head = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, vocabulary, bias=False))

    def forward(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 1, bins, frames) -> logits (steps, batch, vocabulary)."""
        x, steps = spectrogram, (lengths + 1) // 2
        for layer in self.convs:
            x = layer(x)
            x = x.masked_fill(padding(steps, x.shape[-1])[:, None, None], 0)
        x = x.flatten(1, 2).permute(2, 0, 1).contiguous()
        for place, gru in enumerate(self.grus):
            if place:
                x = self.norms[place - 1](x.flatten(0, 1)).view(x.shape)
            packed, _ = gru(pack_padded_sequence(x, steps.cpu()))
            x, _ = pad_packed_sequence(packed)
            x = x.view(*x.shape[:2], 2, -1).sum(2)
        return self.head(x.flatten(0, 1)).view(*x.shape[:2], -1), steps


def from_long_to_short(
    network: nn.Module, features: Tensor, frames: Tensor
) -> tuple[Tensor, Tensor]:
    """The adapter of a network that wants sorted clips with time last."""
    frames, order = frames.sort(descending=True)
    logits, steps = network(features[order].transpose(1, 2)[:, None], frames)
    back = order.argsort()
    return logits[:, back], steps[back]


class Selective(nn.Module):
    """A state-space layer whose paces hang on the input, step by step, between a short causal
    convolution and a gate. After arXiv 2312.00752.
    """

    def __init__(self, width: int, *, states: int = 8) -> None:
        super().__init__()
        self.enter, self.leave = (
            nn.Linear(width, 4 * width, bias=False),
            nn.Linear(2 * width, width, bias=False),
        )
        self.conv = nn.Conv1d(2 * width, 2 * width, 4, padding=3, groups=2 * width)
        self.choose, self.pace = (
            nn.Linear(2 * width, 2 + 2 * states, bias=False),
            nn.Linear(2, 2 * width),
        )
        self.decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(2 * width, 1))
        self.skip, self.states = nn.Parameter(torch.ones(2 * width)), states
        with torch.no_grad():
            paces = torch.exp(torch.rand(2 * width) * 4.6 - 6.9).clamp(min=1e-4)
            self.pace.bias.copy_(paces + torch.log(-torch.expm1(-paces)))

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.enter(x).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        pace, into, out = self.choose(x).split([2, self.states, self.states], -1)
        pace = F.softplus(self.pace(pace))
        kept = torch.exp(pace[..., None] * -self.decay.exp())
        added = (pace * x)[..., None] * into[:, :, None]
        state, said = torch.zeros_like(added[:, 0]), []
        for step in range(x.shape[1]):
            state = kept[:, step] * state + added[:, step]
            said.append((state * out[:, step, None]).sum(-1))
        return self.leave((torch.stack(said, 1) + self.skip * x) * F.silu(gate))


class SelectiveStack(nn.Module):
    """Two such layers behind norms of the root mean square."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, WIDTH)
        self.norms, self.layers = (
            nn.ModuleList(nn.RMSNorm(WIDTH) for _ in range(2)),
            nn.ModuleList(Selective(WIDTH) for _ in range(2)),
        )
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, vocabulary, bias=False)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.head(self.norm(x)), frames


class Mixed(nn.Module):
    """Linear attention as a recurrence with decays, tokens mixed with those before, squared ReLUs.

    After Peng et al. 2023, arXiv 2305.13048.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.shares = nn.Parameter(torch.rand(5, width))
        self.key, self.value, self.accept, self.leave = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.decay, self.first = (
            nn.Parameter(torch.linspace(-5, 1, width)),
            nn.Parameter(torch.full((width,), 0.3)),
        )
        self.rise, self.fall, self.gate = (
            nn.Linear(width, 3 * width, bias=False),
            nn.Linear(3 * width, width, bias=False),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        key, value, accept = (
            layer(mixed)
            for layer, mixed in zip(
                (self.key, self.value, self.accept), self._mixed(y, 0, 3), strict=True
            )
        )
        x = x + self.leave(accept.sigmoid() * self._recur(key, value))
        into, gate = self._mixed(self.norms[1](x), 3, 5)
        return x + self.gate(gate).sigmoid() * self.fall(self.rise(into).relu().square())

    def _mixed(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        before = F.pad(x, (0, 0, 1, -1))
        return [share * x + (1 - share) * before for share in self.shares[first:last]]

    def _recur(self, key: Tensor, value: Tensor) -> Tensor:
        decay, said = -self.decay.exp(), []
        above, below, most = (
            torch.zeros_like(key[:, 0]),
            torch.zeros_like(key[:, 0]),
            torch.full_like(key[:, 0], -1e30),
        )
        for now, what in zip(key.unbind(1), value.unbind(1), strict=True):
            peak = torch.maximum(most, self.first + now)
            old, new = torch.exp(most - peak), torch.exp(self.first + now - peak)
            said.append((old * above + new * what) / (old * below + new))
            peak = torch.maximum(most + decay, now)
            old, new = torch.exp(most + decay - peak), torch.exp(now - peak)
            above, below, most = old * above + new * what, old * below + new, peak
        return torch.stack(said, 1)


class Receptance(nn.Module):
    """Two such blocks."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.enter, self.blocks = (
            nn.Linear(dim, WIDTH),
            nn.Sequential(*(Mixed(WIDTH) for _ in range(2))),
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary, bias=False)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.norm(self.blocks(self.enter(features)))), frames


class Graph(nn.Module):
    """Joints of a skeleton mixed over a graph with learned weights of its edges, then over time.

    After Yan et al. 2018, arXiv 1801.07455.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        joints = dim // 3
        self.norm = nn.BatchNorm1d(dim)
        chain = torch.eye(joints).roll(1, 0)
        self.register_buffer("edges", torch.stack([torch.eye(joints), chain, chain.T]))
        self.weights = nn.ParameterList(
            nn.Parameter(torch.ones(3, joints, joints)) for _ in range(2)
        )
        self.spaces = nn.ModuleList(nn.Conv2d(width, 3 * WIDTH, 1) for width in (3, WIDTH))
        self.times = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(WIDTH),
                nn.ReLU(),
                nn.Conv2d(WIDTH, WIDTH, (9, 1), padding=(4, 0)),
                nn.BatchNorm2d(WIDTH),
                nn.Dropout(0.1),
            )
            for _ in range(2)
        )
        self.around = nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.BatchNorm2d(WIDTH))
        self.head = nn.Linear(WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(features.transpose(1, 2)).unflatten(1, (-1, 3)).permute(0, 2, 3, 1)
        for place, (weight, space, time) in enumerate(
            zip(self.weights, self.spaces, self.times, strict=True)
        ):
            y = space(x).unflatten(1, (3, WIDTH))
            y = torch.einsum("bkctv,kvw->bctw", y, self.edges * weight)
            x = (time(y) + (x if place else self.around(x))).relu()
        return self.head(x.mean(-1).transpose(1, 2)), frames


class Pyramid(nn.Module):
    """Recurrent layers each of which reads two steps of the one below as one. After Chan et al.

    2015, arXiv 1508.01211.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.LSTM(2 * width, WIDTH, batch_first=True, bidirectional=True)
            for width in (dim, 2 * WIDTH)
        )
        self.head = nn.Linear(2 * WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x, steps = features, frames
        for layer in self.layers:
            x, steps = x[:, : x.shape[1] // 2 * 2].unflatten(1, (-1, 2)).flatten(2), steps // 2
            x, _ = pad_packed_sequence(
                layer(pack_padded_sequence(x, steps.cpu(), batch_first=True, enforce_sorted=False))[
                    0
                ],
                batch_first=True,
            )
        return self.head(x), steps
