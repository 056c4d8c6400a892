"""Sentences to train on, spelled with real recordings of one sign language's letters, and unseen
ones to validate on.

    training     3 to 6 letters, each recording resampled to 10 to 18 frames: 30 to 108 frames
    validation   other sentences, none of which any training set spells, whose recordings are
                 altered: another tempo within each letter, the signer turned, scaled and moved, and
                 every point trembling

There is one recording a letter, so validation measures new sequences and altered signing, not new
signers. Sentence i follows from the seed and from i alone: the first n of a longer list are the
list of n, and every list is validated on the same sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.random import RandomState

from fixtures.corpus import BLANK
from fixtures.errors import BadFeatures
from fixtures.features import POSITIONS, Statistics, flatten, standardise
from fixtures.landmarks import Landmarks, join, resample
from fixtures.recordings import Recordings, recordings
from model.augmentation import altered
from model.data import Data, Remembered
from pytest_overfit.spilled import KEPT_BYTES
from pytest_overfit.subject import Sample

TRAIN, VAL, NOISE = 0, 1, 2
LETTERS = (3, 6)
FRAMES = (10, 18)  # of a letter
REPEAT = 0.15  # chance that a letter comes twice in a row: who loses repeats must be seen


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """letters: recordings in order. shares: the frames each takes."""

    letters: tuple[int, ...]
    shares: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Which sentences: how many, of which sign languages (`ase`, ...), from which seed.

    label_noise: share of training tokens replaced by another letter, to see what wrong labels do.
    """

    train: int
    val: int = 60
    languages: tuple[str, ...] = ("ase",)
    seed: int = 0
    label_noise: float = 0.0

    def data(self, source: Recordings | None = None) -> Data:
        """The clips, made when they are read. As many as samples in memory may take are kept; to
        make one of the others again costs a seventh of a step on it.

        Raises BadFeatures for a language without recordings.
        """
        clips = _Clips(self, source or recordings())
        described = {
            "kind": "sentences",
            "train": self.train,
            "val": self.val,
            "languages": list(self.languages),
            "seed": self.seed,
        }
        return Data(
            train=Remembered(self.train, clips.train, KEPT_BYTES),
            val=Remembered(self.val, clips.val, KEPT_BYTES),
            vocabulary=clips.vocabulary,
            altered=clips.altered,
            described={**described, "label_noise": self.label_noise},
        )

    @classmethod
    def described_by(cls, described: Mapping[str, object]) -> Sentences:
        """Those of a run.json."""
        known = {name: value for name, value in described.items() if name != "kind"}
        return cls(**{**known, "languages": tuple(known["languages"])})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Plans:
    """The sentences as numbers. recordings: of all letters in use."""

    wanted: Sentences
    recordings: tuple[int, ...]

    @cached_property
    def val(self) -> tuple[Sentence, ...]:
        """Sentences to validate on."""
        return tuple(
            _sentence(RandomState([self.wanted.seed, VAL, index]), self.recordings)
            for index in range(self.wanted.val)
        )

    @cached_property
    def train(self) -> tuple[Sentence, ...]:
        """Sentences to train on; none is among those to validate on."""
        held_out = {sentence.letters for sentence in self.val}
        return tuple(self._train(index, held_out) for index in range(self.wanted.train))

    def _train(self, index: int, held_out: set[tuple[int, ...]]) -> Sentence:
        draw = RandomState([self.wanted.seed, TRAIN, index])
        while True:
            sentence = _sentence(draw, self.recordings)
            if sentence.letters not in held_out:
                return sentence

    def labels(self, index: int) -> tuple[int, ...]:
        """What training sentence `index` is labelled with."""
        letters = self.train[index].letters
        if not self.wanted.label_noise:
            return letters
        draw = RandomState([self.wanted.seed, NOISE, index])
        others = draw.randint(len(self.recordings), size=len(letters))
        wrong = draw.random_sample(len(letters)) < self.wanted.label_noise
        return tuple(
            self.recordings[other] if replaced else letter
            for letter, other, replaced in zip(letters, others, wrong, strict=True)
        )


def _sentence(draw: RandomState, letters: Sequence[int]) -> Sentence:
    spelled: list[int] = []
    for _ in range(draw.randint(LETTERS[0], LETTERS[1] + 1)):
        again = spelled and draw.random_sample() < REPEAT
        spelled.append(spelled[-1] if again else letters[draw.randint(len(letters))])
    return Sentence(
        letters=tuple(spelled),
        shares=tuple(draw.randint(FRAMES[0], FRAMES[1] + 1, size=len(spelled)).tolist()),
    )


class _Clips:
    """Composes the sentences."""

    def __init__(self, wanted: Sentences, source: Recordings) -> None:
        self.wanted = wanted
        used = [
            index
            for index, gloss in enumerate(source.glosses)
            if gloss.split(":")[0] in wanted.languages
        ]
        known = sorted({gloss.split(":")[0] for gloss in source.glosses})
        for language in wanted.languages:
            if language not in known:
                raise BadFeatures(
                    f"there are no recordings of the sign language {language!r}; there are "
                    f"{', '.join(known)}"
                )
        self.plans = Plans(wanted=wanted, recordings=tuple(used))
        self.letters = {recording: _in_memory(source[recording]) for recording in used}
        self.ids = {recording: token for token, recording in enumerate(used, 1)}
        self.vocabulary = (BLANK, *(source.glosses[recording] for recording in used))
        self.statistics = Statistics(
            mean=source.statistics.mean[:POSITIONS],
            deviation=source.statistics.deviation[:POSITIONS],
        )

    def train(self, index: int) -> Sample:
        return self._sample(f"train-{index:04d}", self.plans.train[index], self.plans.labels(index))

    def val(self, index: int) -> Sample:
        sentence = self.plans.val[index]
        return self._sample(
            f"val-{index:04d}",
            sentence,
            sentence.letters,
            RandomState([self.wanted.seed, VAL, index, 1]),
        )

    def altered(self, epoch: int, index: int) -> Sample:
        """A training sentence, its recordings altered as those of validation are, another way each
        epoch.
        """
        draw = RandomState([self.wanted.seed, TRAIN, index, 1 + epoch])
        return self._sample(
            f"train-{index:04d}", self.plans.train[index], self.plans.labels(index), draw
        )

    def _sample(
        self, name: str, sentence: Sentence, labels: Sequence[int], draw: RandomState | None = None
    ) -> Sample:
        parts = [
            self._part(letter, share, draw)
            for letter, share in zip(sentence.letters, sentence.shares, strict=True)
        ]
        values, known = flatten(join(parts))
        features = torch.from_numpy(
            np.ascontiguousarray(standardise(values, known, self.statistics))
        )
        return Sample(
            name=name, features=features, target=torch.tensor([self.ids[label] for label in labels])
        )

    def _part(self, letter: int, frames: int, draw: RandomState | None) -> Landmarks:
        clip = self.letters[letter]
        return resample(clip, frames) if draw is None else altered(clip, frames, draw)


def _in_memory(clip: Landmarks) -> Landmarks:
    return Landmarks(points=np.array(clip.points), seen=np.array(clip.seen))
