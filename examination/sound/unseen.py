"""Networks written after all findings, from what people publish, and looked at once before any mend:
a third of them, by lot, at the end only.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from examination.sound.networks import WIDTH, padding

LONGEST = 160
JOINTS = 8


def inside(steps: Tensor, length: int) -> Tensor:
    """(batch, length, 1) float: 1 up to each clip's end."""
    return (~padding(steps, length)).float()[..., None]


class Packed(nn.Module):
    """A BiLSTM over (batch, time, width) that ends where each clip does."""

    def __init__(self, width: int, hidden: int, *, layers: int = 1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, steps.cpu(), batch_first=True, enforce_sorted=False)
        out: Tensor = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=x.shape[1]
        )[0]
        return out


class Attention(nn.Module):
    """Self-attention whose keys end where each clip does."""

    def __init__(self, width: int, *, heads: int = 4) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        out: Tensor = self.inner(
            x, x, x, key_padding_mask=padding(steps, x.shape[1]), need_weights=False
        )[0]
        return out


class Over(nn.Module):
    """A depthwise convolution over time, (batch, time, width), that sees zeros past each end."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        out: Tensor = self.conv((x * inside(steps, x.shape[1])).transpose(1, 2))
        return out.transpose(1, 2)


def feed_forward(width: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 4 * width), activation, nn.Dropout(0.1), nn.Linear(4 * width, width)
    )


class SqueezedSeparable(nn.Module):
    """Separable convolutions whose channels are weighed by a mean over the whole clip.

    After Majumdar et al. 2021, arXiv 2104.01721.
    """

    def __init__(self, dim: int, vocabulary: int, *, blocks: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, WIDTH)
        self.deep = nn.ModuleList(Over(WIDTH, 5 + 2 * i) for i in range(blocks))
        self.wide = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(blocks))
        self.weigh = nn.ModuleList(
            nn.Sequential(
                nn.Linear(WIDTH, WIDTH // 8), nn.ReLU(), nn.Linear(WIDTH // 8, WIDTH), nn.Sigmoid()
            )
            for _ in range(blocks)
        )
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        shown = inside(frames, features.shape[1])
        x = self.enter(features)
        for deep, wide, norm, weigh in zip(
            self.deep, self.wide, self.norms, self.weigh, strict=True
        ):
            y = norm(wide(deep(x, frames)).transpose(1, 2)).transpose(1, 2)
            mean = (y * shown).sum(1) / frames[:, None]
            x = self.drop(F.relu(x + y * weigh(mean)[:, None]))
        return self.head(x), frames


class HalvedAndBack(nn.Module):
    """Norms behind the sums, time halved in the middle and drawn out again over a skip.

    After Kim et al. 2022, arXiv 2206.00888.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, WIDTH)
        self.attend = nn.ModuleList(Attention(WIDTH) for _ in range(3))
        self.near = nn.ModuleList(Over(WIDTH, 7) for _ in range(3))
        self.wide = nn.ModuleList(feed_forward(WIDTH, nn.SiLU()) for _ in range(3))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3)) for _ in range(3)
        )
        self.halve, self.restore = Over(WIDTH, 3), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary)

    def block(self, x: Tensor, steps: Tensor, i: int) -> Tensor:
        after_attention, after_near, after_wide = self.norms[i]  # type: ignore[misc]
        x = after_attention(x + self.attend[i](x, steps))
        x = after_near(x + F.silu(self.near[i](x, steps)))
        out: Tensor = after_wide(x + self.wide[i](x))
        return out

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.block(self.enter(features), frames, 0)
        half = self.block(self.halve(x, frames)[:, ::2], (frames + 1) // 2, 1)
        drawn = half.repeat_interleave(2, 1)[:, : x.shape[1]]
        return self.head(self.block(x + self.restore(drawn), frames, 2)), frames


class BranchedAttention(nn.Module):
    """Attention and a gated perceptron side by side, put together by a depthwise convolution.

    After Kim et al. 2022, arXiv 2210.00077.
    """

    def __init__(self, dim: int, vocabulary: int, *, blocks: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, WIDTH)
        self.blocks = nn.ModuleList(self._block() for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary)

    @staticmethod
    def _block() -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "before": nn.LayerNorm(WIDTH),
                "attend": Attention(WIDTH),
                "before_gate": nn.LayerNorm(WIDTH),
                "turn_out": nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU()),
                "gate_norm": nn.LayerNorm(2 * WIDTH),
                "gate": Over(2 * WIDTH, 7),
                "turn_in": nn.Linear(2 * WIDTH, WIDTH),
                "merge": Over(2 * WIDTH, 3),
                "project": nn.Linear(2 * WIDTH, WIDTH),
                "wide": nn.Sequential(nn.LayerNorm(WIDTH), feed_forward(WIDTH, nn.SiLU())),
            }
        )

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features)
        for block in self.blocks:
            part = dict(block.named_children())
            far = part["attend"](part["before"](x), frames)
            carried, gate = part["turn_out"](part["before_gate"](x)).chunk(2, -1)
            near = part["turn_in"](carried * part["gate"](part["gate_norm"](gate), frames))
            both = torch.cat([far, near], -1)
            x = x + part["project"](both + part["merge"](both, frames))
            x = x + 0.5 * part["wide"](x)
        return self.head(self.norm(x)), frames


class GraphAndLstm(nn.Module):
    """A graph over joints with a learned part, convolutions over time, then a BiLSTM.

    After Yan et al. 2018, arXiv 1801.07455, and Shi et al. 2019, arXiv 1805.07694.
    """

    def __init__(self, dim: int, vocabulary: int, *, width: int = 16) -> None:
        super().__init__()
        chain = torch.eye(JOINTS) + torch.eye(JOINTS).roll(1, 0) + torch.eye(JOINTS).roll(-1, 0)
        self.register_buffer("bones", chain / chain.sum(1, keepdim=True))
        self.learned = nn.Parameter(torch.full((JOINTS, JOINTS), 1e-6))
        self.of_joints = nn.BatchNorm1d(dim)
        self.spread = nn.ModuleList(nn.Conv2d(c, width, 1) for c in (dim // JOINTS, width))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.over_time = nn.ModuleList(
            nn.Conv2d(width, width, (5, 1), padding=(2, 0)) for _ in range(2)
        )
        self.mix = nn.Linear(width * JOINTS, WIDTH)
        self.recur, self.head = Packed(WIDTH, WIDTH), nn.Linear(2 * WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        shown = inside(frames, features.shape[1])[:, None]
        x = self.of_joints(features.transpose(1, 2)).transpose(1, 2)
        x = x.unflatten(-1, (JOINTS, -1)).permute(0, 3, 1, 2)
        for spread, norm, over_time in zip(self.spread, self.norms, self.over_time, strict=True):
            x = F.relu(norm(spread(x) @ (self.bones + self.learned)))
            x = F.relu(over_time(x * shown) + x)
        return self.head(self.recur(self.mix(x.transpose(1, 2).flatten(2)), frames)), frames


class ShiftedFrames(nn.Module):
    """Pictures seen one by one, a part of whose channels is shifted in time, then a BiLSTM.

    After Lin et al. 2019, arXiv 1811.08383.
    """

    def __init__(self, dim: int, vocabulary: int, *, width: int = 16) -> None:
        super().__init__()
        self.see = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1) for c in (1, width))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.flat = nn.Linear(width * (dim // 4), WIDTH)
        self.recur, self.head = Packed(WIDTH, WIDTH), nn.Linear(2 * WIDTH, vocabulary)

    @staticmethod
    def shifted(x: Tensor, shape: tuple[int, int], shown: Tensor) -> Tensor:
        """x: (batch * time, channels, height, width)."""
        clips = x.unflatten(0, shape) * shown[..., None, None]
        part = clips.shape[2] // 8
        later, sooner, rest = clips.split([part, part, clips.shape[2] - 2 * part], 2)
        later = F.pad(later[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        sooner = F.pad(sooner[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
        return torch.cat([later, sooner, rest], 2).flatten(0, 1)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        batch, time, dim = features.shape
        shown = inside(frames, time)
        x = features.reshape(batch * time, 1, dim // 4, 4)
        for see, norm in zip(self.see, self.norms, strict=True):
            x = see(self.shifted(x, (batch, time), shown) if x.shape[1] > 1 else x)
            x = F.relu(norm(x))
        x = F.max_pool2d(x, (1, 4)).flatten(1).unflatten(0, (batch, time))
        return self.head(self.recur(self.flat(x), frames)), frames


class SlowAndFast(nn.Module):
    """A slow stream of many channels and a fast one of few, joined from the fast one to the slow.

    After Ahn et al. 2023, arXiv 2309.12304.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.slow_in, self.fast_in = nn.Linear(dim, WIDTH), nn.Linear(dim, WIDTH // 4)
        self.slow, self.fast = Over(WIDTH, 5), Over(WIDTH // 4, 5)
        self.slow_norm, self.fast_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH // 4)
        self.join = nn.Conv1d(WIDTH // 4, WIDTH, 5, stride=2, padding=2)
        self.recur = Packed(WIDTH + WIDTH // 4, WIDTH)
        self.head = nn.Linear(2 * WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        steps = (frames + 1) // 2
        slow = self.slow_in(features[:, ::2])
        slow = F.relu(self.slow_norm(slow + self.slow(slow, steps)))
        fast = self.fast_in(features)
        fast = F.relu(self.fast_norm(fast + self.fast(fast, frames)))
        fast = fast * inside(frames, fast.shape[1])
        slow = slow + self.join(fast.transpose(1, 2)).transpose(1, 2)
        x = torch.cat([slow, fast[:, ::2]], -1)
        return self.head(self.recur(x, steps)), steps


class Patches(nn.Module):
    """Patches of two frames, learned places, layers with norms before the sums and scaled branches.

    After Touvron et al. 2021, arXiv 2103.17239.
    """

    def __init__(self, dim: int, vocabulary: int, *, layers: int = 3) -> None:
        super().__init__()
        self.patch = nn.Conv1d(dim, WIDTH, 2, stride=2)
        self.places = nn.Parameter(0.02 * torch.randn(LONGEST, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * layers))
        self.attend = nn.ModuleList(Attention(WIDTH) for _ in range(layers))
        self.wide = nn.ModuleList(feed_forward(WIDTH, nn.GELU()) for _ in range(layers))
        self.scales = nn.ParameterList(torch.full((WIDTH,), 1e-2) for _ in range(2 * layers))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        steps = frames // 2
        x = self.patch(features.transpose(1, 2)).transpose(1, 2)
        x = x + self.places[: x.shape[1]]
        for i, (attend, wide) in enumerate(zip(self.attend, self.wide, strict=True)):
            x = x + self.scales[2 * i] * attend(self.norms[2 * i](x), steps)
            x = x + self.scales[2 * i + 1] * wide(self.norms[2 * i + 1](x))
        return self.head(self.norm(x)), steps


class GatedConvolutions(nn.Module):
    """Lines of text: convolutions in two dimensions that gate their own output, then a BiLSTM.

    After Bluche and Messina 2017, Gated convolutional recurrent neural networks for multilingual
    handwriting recognition.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.see = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, stride=(2, 1)) for a, b in ((1, 8), (8, 16))
        )
        self.gates = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for c in (8, 16))
        self.recur = Packed(16 * (dim // 4), WIDTH)
        self.head = nn.Linear(2 * WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        shown = inside(frames, features.shape[1]).transpose(1, 2)[:, None]
        x = features.transpose(1, 2)[:, None]
        for see, gate in zip(self.see, self.gates, strict=True):
            x = torch.tanh(see(x)) * shown
            x = x * torch.sigmoid(gate(x)) * shown
        return self.head(self.recur(x.flatten(1, 2).transpose(1, 2), frames)), frames


class PooledLines(nn.Module):
    """Lines of text: convolutions and pools down to one row, two LSTM layers, a convolution as the
    head, as small recognisers of handwriting have it.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b, pool in ((1, 8, (2, 2)), (8, 16, (2, 1)), (16, 32, (2, 1))):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
            layers += [nn.MaxPool2d(pool)]
        self.see = nn.Sequential(*layers)
        self.recur = nn.LSTM(
            32 * (dim // 8), WIDTH, num_layers=2, batch_first=True, bidirectional=True
        )
        self.head = nn.Conv2d(2 * WIDTH, vocabulary, 1)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.see(features.transpose(1, 2)[:, None]).flatten(1, 2).transpose(1, 2)
        x = self.recur(x)[0].transpose(1, 2)[:, :, None]
        return self.head(x)[:, :, 0].transpose(1, 2), frames // 2


class Bypassed(nn.Module):
    """Stacks at full and at half rate, each with a learned bypass, norms by root mean square and
    activations that swoosh.

    After Yao et al. 2023, arXiv 2310.11230.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, WIDTH)
        self.attend = nn.ModuleList(Attention(WIDTH) for _ in range(3))
        self.near = nn.ModuleList(Over(WIDTH, 5) for _ in range(3))
        self.turn_out = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(3))
        self.turn_in = nn.ModuleList(nn.Linear(3 * WIDTH, WIDTH) for _ in range(3))
        self.biases = nn.ParameterList(torch.zeros(WIDTH) for _ in range(3))
        self.scales = nn.ParameterList(torch.zeros(()) for _ in range(3))
        self.bypasses = nn.ParameterList(torch.full((WIDTH,), 0.5) for _ in range(3))
        self.weights = nn.Parameter(torch.zeros(2))
        self.head = nn.Linear(WIDTH, vocabulary)

    def stack(self, x: Tensor, steps: Tensor, i: int) -> Tensor:
        y = x + self.attend[i](x, steps)
        y = y + self.near[i](y, steps)
        hidden = self.turn_out[i](y)
        swoosh = F.softplus(hidden - 1) - 0.08 * hidden - 0.313
        y = y + self.turn_in[i](swoosh)
        size = (y - self.biases[i]).pow(2).mean(-1, keepdim=True).add(1e-8).rsqrt()
        y = y * size * self.scales[i].exp()
        return x + (y - x) * self.bypasses[i]

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stack(self.enter(features), frames, 0)
        even = x.shape[1] % 2
        pairs = F.pad(x * inside(frames, x.shape[1]), (0, 0, 0, even)).unflatten(1, (-1, 2))
        half = torch.einsum("btkc,k->btc", pairs, self.weights.softmax(0))
        half = self.stack(half, (frames + 1) // 2, 1)
        x = x + half.repeat_interleave(2, 1)[:, : x.shape[1]]
        return self.head(self.stack(x, frames, 2)), frames


class MinimalGates(nn.Module):
    """Recurrence whose gates do not look at the state, both ways, summed in parallel by matrices.

    After Feng et al. 2024, arXiv 2410.01201.
    """

    def __init__(self, dim: int, vocabulary: int, *, layers: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(layers))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(layers))
        self.states = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary)

    @staticmethod
    def run(gate: Tensor, state: Tensor) -> Tensor:
        """h[t] = (1 - gate[t]) h[t-1] + gate[t] state[t], (batch, time, width)."""
        kept = F.logsigmoid(-gate).cumsum(1)
        decay = (kept[:, :, None] - kept[:, None]).clamp(max=0).exp()
        causal = torch.ones(gate.shape[1], gate.shape[1]).tril()[..., None]
        return torch.einsum("btsc,bsc->btc", decay * causal, torch.sigmoid(gate) * state)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x, shown = self.enter(features), inside(frames, features.shape[1])
        for norm, gates, states, out in zip(
            self.norms, self.gates, self.states, self.out, strict=True
        ):
            y = norm(x)
            (ahead, back), (to, fro) = gates(y).chunk(2, -1), (states(y) * shown).chunk(2, -1)
            there = self.run(ahead, to)
            again = self.run(back.flip(1), fro.flip(1)).flip(1)
            x = x + out(torch.cat([there, again], -1))
        return self.head(self.norm(x)), frames


class Retained(nn.Module):
    """Retention: attention without a softmax, faded by distance at a rate of each head's own, group
    norms, a gate.

    After Sun et al. 2023, arXiv 2307.08621, looking both ways.
    """

    def __init__(self, dim: int, vocabulary: int, *, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.enter = heads, nn.Linear(dim, WIDTH)
        self.register_buffer("fade", (1 - 2.0 ** (-1 - torch.arange(heads))).log())
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * layers))
        self.read = nn.ModuleList(nn.Linear(WIDTH, 4 * WIDTH) for _ in range(layers))
        self.groups = nn.ModuleList(nn.GroupNorm(heads, WIDTH) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))
        self.wide = nn.ModuleList(feed_forward(WIDTH, nn.GELU()) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        time = features.shape[1]
        place = torch.arange(time)
        decay = ((place[:, None] - place).abs() * self.fade[:, None, None]).exp()
        decay = decay * inside(frames, time)[:, None, None, :, 0]
        x = self.enter(features)
        for i, (read, group, out, wide) in enumerate(
            zip(self.read, self.groups, self.out, self.wide, strict=True)
        ):
            query, key, value, gate = read(self.norms[2 * i](x)).chunk(4, -1)
            query, key, value = (
                part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
            )
            scores = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])
            said = (scores * decay @ value).transpose(1, 2).flatten(2)
            said = group(said.flatten(0, 1)).unflatten(0, said.shape[:2])
            x = x + out(F.silu(gate) * said)
            x = x + wide(self.norms[2 * i + 1](x))
        return self.head(self.norm(x)), frames


UNSEEN: dict[str, type[nn.Module]] = {
    "squeezed and separable": SqueezedSeparable,
    "halved and back": HalvedAndBack,
    "branched attention": BranchedAttention,
    "graph and BiLSTM": GraphAndLstm,
    "shifted frames": ShiftedFrames,
    "slow and fast": SlowAndFast,
    "patches": Patches,
    "gated convolutions": GatedConvolutions,
    "pooled lines": PooledLines,
    "bypassed stacks": Bypassed,
    "minimal gates": MinimalGates,
    "retention": Retained,
}
ASIDE = frozenset(random.Random(0).sample(sorted(UNSEEN), len(UNSEEN) // 3))
OF_ONE_LENGTH = frozenset({"pooled lines"})
"""What knows nothing of padding, and is given pages of one width."""
