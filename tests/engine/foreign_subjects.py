"""Subjects that are not ours, small, with samples of their own: none of them subclasses anything of
ours, and no recipe was tuned on them.
"""

import math
import os

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pytest_overfit import Sample, Subject

RATE = 16_000


def numbers(generator, low, high, count=None):
    drawn = torch.randint(low, high + 1, (count or 1,), generator=generator)
    return drawn if count else int(drawn)


def gestures(count, *, vocabulary=12, dim=24):
    """Each token is a pattern held for 6 to 12 frames between pauses, under noise; every other clip
    has an adjacent repeat.
    """
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(vocabulary, dim, generator=generator)
    clips = []
    for i in range(count):
        target = numbers(generator, 1, vocabulary - 1, numbers(generator, 3, 7))
        if i % 2 == 0:
            target[1] = target[0]
        parts = [torch.zeros(numbers(generator, 2, 6), dim)]
        for token in target:
            parts += [
                patterns[token].expand(numbers(generator, 6, 12), -1),
                torch.zeros(numbers(generator, 2, 6), dim),
            ]
        features = torch.cat(parts)
        clips.append(
            Sample(
                name=f"clip{i}",
                features=features + 0.3 * torch.randn(features.shape, generator=generator),
                target=target,
            )
        )
    return clips


def melodies(count, *, vocabulary=8):
    """Raw waveforms of 0.2 to 0.5 s: each token is a tone of its own pitch."""
    generator = torch.Generator().manual_seed(0)
    clips = []
    for i in range(count):
        target = numbers(generator, 1, vocabulary - 1, 2 + i % 3)
        if i % 2 == 0:
            target[1] = target[0]
        parts = []
        for token in target.tolist():
            length = numbers(generator, int(0.07 * RATE), int(0.09 * RATE))
            tone = torch.sin(2 * math.pi * 300 * 1.35**token * torch.arange(length) / RATE)
            parts += [tone * torch.hann_window(length), torch.zeros(int(0.03 * RATE))]
        wave = torch.cat(parts)
        wave = wave + 0.01 * torch.randn(len(wave), generator=generator)
        clips.append(
            Sample(
                name=f"melody{i}",
                features=((wave - wave.mean()) / wave.std())[:, None],
                target=target,
            )
        )
    return clips


def words(count):
    return ("<blank>", *(f"W{i}" for i in range(1, count)))


class BiGRU(nn.Module):
    def __init__(self, dim, vocabulary, hidden=64):
        super().__init__()
        self.rnn = nn.GRU(dim, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, vocabulary)

    def forward(self, features, frames):
        packed = pack_padded_sequence(
            features, frames.cpu(), batch_first=True, enforce_sorted=False
        )
        hidden, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(hidden).log_softmax(-1).transpose(0, 1), frames


class Encoder(nn.Module):
    """torch's own Transformer layers as they come: norms after the sums, dropout 0.1."""

    def __init__(self, dim, vocabulary, hidden=64):
        super().__init__()
        self.enter = nn.Linear(dim, hidden)
        angles = torch.arange(256)[:, None] / 10_000 ** (torch.arange(0, hidden, 2) / hidden)
        self.register_buffer("places", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
        layer = nn.TransformerEncoderLayer(hidden, 4, 4 * hidden, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, features, frames):
        length = features.shape[1]
        hidden = self.enter(features) + self.places[:length]
        return self.head(
            self.layers(hidden, src_key_padding_mask=torch.arange(length) >= frames[:, None])
        ), frames


class Convolutions(nn.Module):
    def __init__(self, dim, vocabulary, hidden=64):
        super().__init__()
        self.first, self.first_norm = nn.Conv1d(dim, hidden, 5, padding=2), nn.BatchNorm1d(hidden)
        self.second, self.second_norm = (
            nn.Conv1d(hidden, hidden, 5, stride=2, padding=2),
            nn.BatchNorm1d(hidden),
        )
        self.head = nn.Conv1d(hidden, vocabulary, 1)

    def forward(self, features, frames):
        hidden = torch.relu(self.first_norm(self.first(features.transpose(1, 2))))
        hidden = torch.relu(self.second_norm(self.second(hidden)))
        return self.head(hidden).transpose(1, 2), (frames + 1) // 2


def wav2vec2(vocab_size, feature_dim, seed):
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(32,) * 7,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        mask_time_prob=0.0,
    )
    return transformers.Wav2Vec2ForCTC(config)


def hear(network, features, frames):
    """features (batch, samples, 1) -> logits (batch, steps, vocabulary), steps (batch,)."""
    heard = (torch.arange(features.shape[1]) < frames[:, None]).long()
    return network(
        input_values=features[..., 0], attention_mask=heard
    ).logits, network._get_feat_extract_output_lengths(frames)


def of(network):
    return lambda vocab_size, feature_dim, seed: network(feature_dim, vocab_size)


GESTURES = {"samples": gestures(5), "vocabulary": words(12)}
SUBJECTS = [
    Subject(name="bigru", build=of(BiGRU), **GESTURES),
    Subject(name="transformer", build=of(Encoder), outputs="logits", layout="BTV", **GESTURES),
    Subject(
        name="convolutions", build=of(Convolutions), outputs="logits", layout="BTV", **GESTURES
    ),
    Subject(
        name="wav2vec2",
        build=wav2vec2,
        samples=melodies(5),
        vocabulary=words(8),
        forward=hear,
        outputs="logits",
        layout="BTV",
    ),
]
