"""Sound networks of the field that are not ours, small: what raises no failure, and what of it is
told as a warning.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pytest_overfit.subject import Subject
from tests.engine.subjects import _sinusoids, clips, inside, subject

HIDDEN = 32


class PaddedStack(nn.Module):
    """Five convolutions in a row that know nothing of padding."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        widths = [dim, *[HIDDEN] * 5]
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 5, padding=2) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(HIDDEN) for _ in self.layers)
        self.head = nn.Conv1d(HIDDEN, vocabulary, 1)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = features.transpose(1, 2)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x)).relu()
        return self.head(x).transpose(1, 2), frames


class Causal(nn.Module):
    """Dilated convolutions that look back only, with weight norm."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, HIDDEN)
        self.layers = nn.ModuleList(
            parametrizations.weight_norm(nn.Conv1d(HIDDEN, HIDDEN, 3, dilation=2**i))
            for i in range(4)
        )
        self.head = nn.Linear(HIDDEN, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features).transpose(1, 2)
        for i, layer in enumerate(self.layers):
            x = x + layer(F.pad(x, (2 * 2**i, 0))).relu()
        return self.head(x.transpose(1, 2)), frames


class StateSpace(nn.Module):
    """Long convolutions with decaying waves for kernels, by Fourier transform, in both directions,
    with gates.
    """

    def __init__(self, dim: int, vocabulary: int, *, waves: int = 8) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, HIDDEN)
        self.decay, self.pace = (
            nn.Parameter(torch.rand(2, HIDDEN, waves) - 2),
            nn.Parameter(3 * torch.rand(2, HIDDEN, waves)),
        )
        self.size, self.skip = (
            nn.Parameter(torch.randn(2, HIDDEN, waves) / waves),
            nn.Parameter(torch.ones(HIDDEN)),
        )
        self.gate, self.head = nn.Linear(HIDDEN, 2 * HIDDEN), nn.Linear(HIDDEN, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features) * inside(frames, features.shape[1])[..., None]
        length = x.shape[1]
        at = torch.arange(length, device=x.device)
        kernel = (
            self.size[..., None]
            * (-self.decay.exp()[..., None] * at).exp()
            * (self.pace[..., None] * at).cos()
        ).sum(2)
        wave, there, back = (
            torch.fft.rfft(one, 2 * length) for one in (x.transpose(1, 2), kernel[0], kernel[1])
        )
        y = (
            torch.fft.irfft(wave * (there + back.conj()), 2 * length)[..., :length].transpose(1, 2)
            + self.skip * x
        )
        return self.head(x + F.glu(self.gate(F.gelu(y)))), frames


class Conformer(nn.Module):
    """Two blocks of half feed-forward, attention, convolution with batch norm, half feed-forward;
    its convolution reads padding.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, HIDDEN)
        self.blocks = nn.ModuleList(_Block() for _ in range(2))
        self.head = nn.Linear(HIDDEN, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features) + _sinusoids(features.shape[1], HIDDEN).to(features)
        for block in self.blocks:
            x = block(x, ~inside(frames, features.shape[1]))
        return self.head(x), frames


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (
            nn.Sequential(
                nn.LayerNorm(HIDDEN),
                nn.Linear(HIDDEN, 64),
                nn.SiLU(),
                nn.Dropout(0.1),
                nn.Linear(64, HIDDEN),
            )
            for _ in range(2)
        )
        self.norm, self.attend = (
            nn.LayerNorm(HIDDEN),
            nn.MultiheadAttention(HIDDEN, 4, batch_first=True),
        )
        self.enter, self.middle, self.leave = (
            nn.Conv1d(HIDDEN, 2 * HIDDEN, 1),
            nn.Conv1d(HIDDEN, HIDDEN, 9, padding=4, groups=HIDDEN),
            nn.Conv1d(HIDDEN, HIDDEN, 1),
        )
        self.batch_norm, self.end = nn.BatchNorm1d(HIDDEN), nn.LayerNorm(HIDDEN)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        y = self.norm(x)
        x = x + self.attend(y, y, y, key_padding_mask=padding, need_weights=False)[0]
        y = F.glu(self.enter(x.transpose(1, 2)), 1)
        x = x + self.leave(F.silu(self.batch_norm(self.middle(y)))).transpose(1, 2)
        return self.end(x + 0.5 * self.last(x))


class Recurrent(nn.Module):
    """Two recurrent layers with dropout between them, packed or not."""

    def __init__(
        self, dim: int, vocabulary: int, *, packed: bool, kind: type[nn.RNNBase] = nn.LSTM
    ) -> None:
        super().__init__()
        self.rnn = kind(
            dim, HIDDEN, num_layers=2, dropout=0.2, batch_first=True, bidirectional=True
        )
        self.head = nn.Linear(2 * HIDDEN, vocabulary)
        self.packed = packed

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        if not self.packed:
            return self.head(self.rnn(features)[0]), frames
        packed, _ = self.rnn(
            pack_padded_sequence(features, frames.cpu(), batch_first=True, enforce_sorted=False)
        )
        return self.head(pad_packed_sequence(packed, batch_first=True)[0]), frames


class TwoHeads(Recurrent):
    """A second head for frames and a third for the whole clip, which serve losses of their own, all
    in the optimiser.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__(dim, vocabulary, packed=True)
        self.frame_head, self.clip_head = nn.Linear(dim, vocabulary), nn.Linear(dim, 3)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        self.frame_logits, self.clip_logits = (
            self.frame_head(features),
            self.clip_head(features.mean(1)),
        )
        return super().forward(features, frames)


class Crnn(nn.Module):
    """Convolutions in two dimensions that halve time and pool the height away, a recurrent layer
    behind them.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d((1, 2)),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d((2, 2)),
        )
        self.rnn = nn.LSTM(16 * (dim // 4), HIDDEN, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * HIDDEN, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.look(features[:, None]).transpose(1, 2).flatten(2)
        packed, _ = self.rnn(
            pack_padded_sequence(x, (frames // 2).cpu(), batch_first=True, enforce_sorted=False)
        )
        return self.head(pad_packed_sequence(packed, batch_first=True)[0]), frames // 2


class Squeezed(nn.Module):
    """Convolutions with a group norm over time and squeeze-and-excitation, padding included."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.stem, self.norm = (
            nn.Conv1d(dim, HIDDEN, 5, stride=2, padding=2),
            nn.GroupNorm(4, HIDDEN),
        )
        self.squeeze = nn.Sequential(
            nn.Linear(HIDDEN, 8), nn.ReLU(), nn.Linear(8, HIDDEN), nn.Sigmoid()
        )
        self.mix, self.head = nn.Conv1d(HIDDEN, HIDDEN, 5, padding=2), nn.Linear(HIDDEN, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.stem(features.transpose(1, 2))).relu()
        x = x * self.squeeze(x.mean(-1))[..., None]
        return self.head(self.mix(x).relu().transpose(1, 2)), (frames + 1) // 2


class Scaled(nn.Module):
    """Residual blocks behind trained factors that start at a millionth, each left out at random in
    train mode.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.enter = nn.Conv1d(dim, HIDDEN, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(HIDDEN, HIDDEN, 7, padding=3, groups=HIDDEN),
                nn.Conv1d(HIDDEN, 64, 1),
                nn.GELU(),
                nn.Conv1d(64, HIDDEN, 1),
            )
            for _ in range(3)
        )
        self.factors = nn.ParameterList(
            nn.Parameter(1e-6 * torch.ones(HIDDEN, 1)) for _ in range(3)
        )
        self.head = nn.Linear(HIDDEN, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features.transpose(1, 2))
        for block, factor in zip(self.blocks, self.factors, strict=True):
            if not self.training or torch.rand(()) > 0.2:
                x = x + factor * block(x)
        return self.head(x.transpose(1, 2)), frames


class Augmented(Recurrent):
    """SpecAugment as published, on clips of this length, and dropout on the features."""

    def __init__(
        self, dim: int, vocabulary: int, *, masks: int = 2, width: int = 10, dropout: float = 0.3
    ) -> None:
        super().__init__(dim, vocabulary, packed=True)
        self.masks, self.width, self.drop = masks, width, nn.Dropout(dropout)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        shown = torch.ones_like(features)
        for row, length in enumerate(frames.tolist() if self.training else ()):
            for _ in range(self.masks):
                width = min(int(torch.randint(self.width + 1, ())), length)
                start = int(torch.randint(length - width + 1, ()))
                shown[row, start : start + width] = 0
        return super().forward(self.drop(features * shown), frames)


class PerFrame(nn.Module):
    """Each frame says what it is, on its own."""

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, vocabulary)
        )

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers(features), frames


class PostNorm(nn.Module):
    """torch's Transformer layers as they come, on frames with sinusoids."""

    def __init__(self, dim: int, vocabulary: int, *, placed: bool = True) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, HIDDEN)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(HIDDEN, 4, 64, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(HIDDEN, vocabulary)
        self.placed = placed

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features) + self.placed * _sinusoids(features.shape[1], HIDDEN).to(features)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~inside(frames, x.shape[1]))
        return self.head(x), frames


class Slower(PostNorm):
    """The layer that reads the features learns at a tenth of the pace."""

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features)
        x = 0.1 * x + 0.9 * x.detach() + _sinusoids(features.shape[1], HIDDEN).to(features)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~inside(frames, x.shape[1]))
        return self.head(x), frames


def wav2vec2(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
    """wav2vec 2.0 as it is fine-tuned, tiny: group norm over time, masks of time in train mode.

    Takes (batch, samples).
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    return transformers.Wav2Vec2ForCTC(
        transformers.Wav2Vec2Config(
            vocab_size=vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            conv_dim=(32,) * 7,
            feat_extract_norm="group",
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            layerdrop=0.0,
        )
    )


def hear(network: Any, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    return network(input_values=features[..., 0]).logits, network._get_feat_extract_output_lengths(
        frames
    )


def of(network: Callable[..., nn.Module], name: str, **described: Any) -> Callable[[], Subject]:
    return lambda: subject(
        network, name, samples=clips(12), outputs="logits", layout="BTV", **described
    )


FOREIGN: dict[str, Callable[[], Subject]] = {
    "padded stack": of(PaddedStack, "padded stack"),
    "causal": of(Causal, "causal"),
    "state space": of(StateSpace, "state space"),
    "conformer": of(Conformer, "conformer"),
    "packed LSTM": of(lambda d, v: Recurrent(d, v, packed=True), "packed LSTM"),
    "unpacked GRU": of(lambda d, v: Recurrent(d, v, packed=False, kind=nn.GRU), "unpacked GRU"),
    "three heads": of(TwoHeads, "three heads"),
    "CRNN": of(Crnn, "CRNN"),
    "squeezed": of(Squeezed, "squeezed"),
    "scaled residuals": of(Scaled, "scaled residuals"),
    "augmented": of(Augmented, "augmented"),
    "per frame": of(PerFrame, "per frame"),
    "post-norm Transformer": of(PostNorm, "post-norm Transformer"),
    "slower front": of(Slower, "slower front"),
}
"""Nothing that these do is a failure."""
TOLD = {
    "padded stack": {"padding_leak"},
    "conformer": {"padding_leak"},
    "unpacked GRU": {"padding_leak"},
    "CRNN": {"padding_leak"},
    "squeezed": {"padding_leak"},
    "three heads": {"unused_module"},
    "per frame": {"order_blind"},
    "slower front": {"scaled_gradient"},
}
"""What is told of them as a warning."""
