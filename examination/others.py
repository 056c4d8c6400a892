"""Sound subjects of other shapes: a masked Conformer on clips, a CRNN that reads lines of rendered
text, and three that stand where CTC is flat.

A CRNN without norms, three BiLSTM layers and eight post-norm Transformer layers come down to where
tokens stand by chance, and stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pytest_overfit.subject import Sample, Subject
from tests.engine.subjects import MaskedConv, StepNorm, _sinusoids, halved, inside, subject

LETTERS = ("<blank>", *"abcdefghijklmnopqrstuvwxyz")
HEIGHT = 24


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, gated depthwise convolution, half a feed-forward.

    Source: Gulati et al. 2020, arXiv 2005.08100.
    """

    def __init__(self, width: int, heads: int = 4, kernel: int = 7) -> None:
        super().__init__()
        self.first, self.last = (
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.SiLU(),
                nn.Linear(4 * width, width),
            )
            for _ in range(2)
        )
        self.before_attention, self.before_conv, self.after = (
            nn.LayerNorm(width) for _ in range(3)
        )
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = StepNorm(width)
        self.point = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        query = self.before_attention(x)
        x = x + self.attention(query, query, query, key_padding_mask=~mask, need_weights=False)[0]
        gated = F.glu(self.gate(self.before_conv(x)), -1) * mask[..., None]
        x = x + self.point(F.silu(self.norm(self.depthwise(gated.transpose(1, 2)))).transpose(1, 2))
        out: Tensor = self.after(x + 0.5 * self.last(x))
        return out


class Conformer(nn.Module):
    def __init__(self, dim: int, vocabulary: int, *, width: int = 48, depth: int = 2) -> None:
        super().__init__()
        self.stem = MaskedConv(dim, width, stride=2)
        self.blocks = nn.ModuleList(ConformerBlock(width) for _ in range(depth))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = F.silu(self.stem(features.transpose(1, 2), frames)).transpose(1, 2)
        steps = halved(frames)
        x = x + _sinusoids(x.shape[1], x.shape[2]).to(x)
        for block in self.blocks:
            x = block(x, inside(steps, x.shape[1]))
        return self.head(x).log_softmax(-1).transpose(0, 1), steps


class DeepBiLSTM(nn.Module):
    def __init__(
        self, dim: int, vocabulary: int, *, hidden: int = 128, layers: int = 3, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.rnn = nn.LSTM(
            dim, hidden, layers, batch_first=True, bidirectional=True, dropout=dropout
        )
        self.head = nn.Linear(2 * hidden, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(
            features, frames.cpu(), batch_first=True, enforce_sorted=False
        )
        out, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(out).log_softmax(-1).transpose(0, 1), frames


class PostNormTransformer(nn.Module):
    def __init__(self, dim: int, vocabulary: int, *, width: int = 256, layers: int = 8) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(features) + _sinusoids(features.shape[1], self.enter.out_features).to(
            features
        )
        out = self.layers(x, src_key_padding_mask=~inside(frames, features.shape[1]))
        return self.head(out).log_softmax(-1).transpose(0, 1), frames


class CRNN(nn.Module):
    """Convolutions over an image whose columns are the frames, then a BiLSTM. Source: Shi et al.

    2015, arXiv 1507.05717.
    """

    def __init__(
        self,
        dim: int,
        vocabulary: int,
        *,
        width: int = 32,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.norm = norm(width)
        self.rnn = nn.LSTM(width * (dim // 4), width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, vocabulary)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        mask = inside(frames, features.shape[1])[:, None, None]
        image = features.transpose(1, 2)[:, None] * mask
        image = F.max_pool2d(F.relu(self.first(image)), (2, 1)) * mask
        image = F.max_pool2d(F.relu(self.norm(self.second(image))), (2, 1))
        columns = image.flatten(1, 2).transpose(1, 2)
        packed = pack_padded_sequence(columns, frames.cpu(), batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(out).log_softmax(-1).transpose(0, 1), frames


def lines(count: int) -> list[Sample]:
    """Words in PIL's own font, white on black, one column of pixels a frame."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=18)
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(count):
        letters = torch.randint(1, len(LETTERS), (4 + i % 4,), generator=generator)
        if i % 2 == 0:
            letters[1] = letters[0]
        text = "".join(LETTERS[letter] for letter in letters.tolist())
        image = Image.new("L", (int(font.getlength(text)) + 4, HEIGHT))
        ImageDraw.Draw(image).text((2, 0), text, fill=255, font=font)
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32).T.copy()) / 255
        made.append(
            Sample(
                name=f"line-{i}", features=(pixels - pixels.mean()) / pixels.std(), target=letters
            )
        )
    return made


def conformer() -> Subject:
    return subject(Conformer, "conformer")


def crnn() -> Subject:
    return Subject(
        name="crnn",
        build=lambda vocab_size, feature_dim, seed: CRNN(feature_dim, vocab_size),
        samples=lines(10),
        vocabulary=LETTERS,
    )


def crnn_without_norm() -> Subject:
    def build(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
        return CRNN(feature_dim, vocab_size, norm=lambda _: nn.Identity())

    return replace(crnn(), name="crnn without norm", build=build)


def deep_bilstm() -> Subject:
    return _of_corpus(DeepBiLSTM, "3 x 128 bilstm")


def post_norm_transformer() -> Subject:
    return _of_corpus(PostNormTransformer, "8 x 256 post-norm transformer")


def _of_corpus(network: Callable[[int, int], nn.Module], name: str) -> Subject:
    """A subject on the repository's clips, of 973 glosses."""
    from fixtures import default_samples, default_vocabulary

    def build(vocab_size: int, feature_dim: int, seed: int) -> nn.Module:
        return network(feature_dim, vocab_size)

    return Subject(name=name, build=build, samples=default_samples, vocabulary=default_vocabulary())


def wav2vec2() -> Subject:
    from tests.engine.foreign_subjects import SUBJECTS

    return next(one for one in SUBJECTS if one.name == "wav2vec2")
