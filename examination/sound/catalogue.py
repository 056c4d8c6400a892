"""The sound networks: those that mends may be made on, and those kept aside until all mends are
made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from examination.others import post_norm_transformer
from examination.sound import further, kept_aside, networks, published, unseen
from pytest_overfit.subject import Sample, Subject
from tests.engine.foreign import FOREIGN
from tests.engine.subjects import VOCABULARY, clips

RATE = 16_000
SAMPLES = 12


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A network that learns. aside: whether it was kept aside. rungs: that it is climbed on."""

    name: str
    make: Callable[[], Subject]
    aside: bool = False
    rungs: tuple[int, ...] = (1, 5)


@cache
def waves() -> list[Sample]:
    """Raw waveforms of a second or more: each token is a tone of its own pitch between pauses."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for place in range(SAMPLES):
        target = torch.randint(1, len(VOCABULARY), (3 + place % 3,), generator=draw)
        if place % 2 == 0:
            target[1] = target[0]
        parts = []
        for token in target.tolist():
            length = int(torch.randint(4000, 5200, (1,), generator=draw))
            tone = torch.sin(2 * math.pi * 200 * 1.12**token * torch.arange(length) / RATE)
            parts += [tone * torch.hann_window(length), torch.zeros(1600)]
        wave = torch.cat(parts)
        wave = wave + 0.01 * torch.randn(len(wave), generator=draw)
        made.append(
            Sample(
                name=f"wave-{place:02}",
                features=((wave - wave.mean()) / wave.std())[:, None],
                target=target,
            )
        )
    return made


def films() -> list[Sample]:
    """Clips of one length, as corpora of lips have them: what reads them knows nothing of
    padding.
    """
    return [replace(clip, features=clip.features[:48]) for clip in clips(SAMPLES)]


def of(
    network: Callable[[int, int], nn.Module], name: str, *, aside: bool = False, **described: Any
) -> Sound:
    """One that takes features (batch, frames, dim) and frames."""

    def make() -> Subject:
        fields: dict[str, Any] = {
            "outputs": "logits",
            "layout": "BTV",
            "samples": clips(SAMPLES),
            **described,
        }
        return Subject(
            name=name,
            build=lambda vocab_size, feature_dim, seed: network(feature_dim, vocab_size),
            vocabulary=VOCABULARY,
            **fields,
        )

    return Sound(name=name, make=make, aside=aside)


def of_transformers(
    name: str, build: Callable[..., nn.Module], forward: Any, *, waveforms: bool, aside: bool
) -> Sound:
    """One of transformers."""

    def make() -> Subject:
        samples = waves() if waveforms else clips(SAMPLES)
        return Subject(
            name=name,
            build=build,
            samples=samples,
            vocabulary=VOCABULARY,
            forward=forward,
            outputs="logits",
            layout="BTV",
        )

    return Sound(name=name, make=make, aside=aside)


SOUND: dict[str, Sound] = {
    sound.name: sound
    for sound in (
        *(Sound(name=name, make=make) for name, make in FOREIGN.items()),
        Sound(
            name="8 x 256 post-norm Transformer",
            make=lambda: replace(post_norm_transformer(), name="8 x 256 post-norm Transformer"),
            rungs=(1,),
        ),
        of(networks.VisualAlignment, "visual alignment", layout="TBV"),
        of(networks.AttentionPooled, "attention-pooled GRU"),
        of(networks.ConvNext, "ConvNeXt"),
        of(networks.SubsampledTransformer, "subsampled pre-norm Transformer"),
        of(networks.DepthSeparable, "depth-separable", outputs="log_probs"),
        of(networks.Lips, "lips", samples=films()),
        of_transformers(
            "wav2vec2-base",
            published.WAVES["wav2vec2-base"],
            published.hear,
            waveforms=True,
            aside=False,
        ),
        of(kept_aside.Separable, "time-channel separable", aside=True, outputs="log_probs"),
        of(
            kept_aside.DeepSpeech,
            "DeepSpeech 2",
            aside=True,
            layout="TBV",
            forward=kept_aside.from_long_to_short,
        ),
        of(kept_aside.SelectiveStack, "selective state space", aside=True),
        of(kept_aside.Receptance, "linear attention", aside=True),
        of(kept_aside.Graph, "graph over joints", aside=True),
        of(kept_aside.Pyramid, "pyramid of LSTMs", aside=True),
        *(
            of_transformers(name, build, published.hear, waveforms=True, aside=True)
            for name, build in published.WAVES.items()
            if name != "wav2vec2-base"
        ),
        of_transformers(
            "wav2vec2-bert",
            published.wav2vec2_bert,
            published.read_filterbank,
            waveforms=False,
            aside=True,
        ),
        of_transformers(
            "parakeet", published.parakeet, published.read_subsampled, waveforms=False, aside=True
        ),
        *(
            of(
                network,
                name,
                aside=name in unseen.ASIDE,
                samples=films() if name in unseen.OF_ONE_LENGTH else clips(SAMPLES),
            )
            for name, network in unseen.UNSEEN.items()
        ),
        *(
            of(
                network,
                name,
                samples=films() if name in further.OF_ONE_LENGTH else clips(SAMPLES),
            )
            for name, network in further.FURTHER.items()
        ),
    )
}
