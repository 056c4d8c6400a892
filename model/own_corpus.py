"""A corpus of one's own in splits: a folder of features whose csv files say what is trained on and
what is validated on.

Looked for in this order:

    csv files `*train*.csv` and `*dev*.csv` or `*val*.csv`, in the folder or one of the two above it
    (as PHOENIX comes)
    folders `train` and `dev`, `val` or `validation` in it, each with a csv of its own

Landmarks are then z-scored each with its own statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from numpy.random import RandomState

from fixtures.annotations import is_corpus, read_corpus
from fixtures.errors import BadFeatures
from fixtures.own_features import BLANK, Corpus, load_features
from model.augmentation import altered_features
from model.data import Data, Remembered, seed_of
from pytest_overfit.subject import Sample

TRAIN, VAL = ("train",), ("dev", "val", "validation", "valid")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Some clips of a corpus. indices: of its samples. vocabulary: of the corpus."""

    samples: Sequence[Sample]
    indices: Sequence[int]
    vocabulary: tuple[str, ...]
    left_out: tuple[str, ...]


def own_data(folder: Path) -> Data:
    """The training and validation clips of `folder`. Raises BadFeatures, one line, where a split is
    missing or a file cannot be read.

    The vocabulary is that of both splits: a token that only validation has counts as an error.
    """
    if not folder.is_dir():
        raise BadFeatures(
            f"{folder}: there is no such folder; give one of features, with train and dev splits"
        )
    splits = _by_csv(folder) or _by_folder(folder)
    if splits is None:
        raise BadFeatures(
            f"{folder}: no splits; put train and dev csv files in it, or folders train and "
            "dev, each with its csv"
        )
    for name, split in zip(("train", "validation"), splits, strict=True):
        if not split.indices:
            raise BadFeatures(f"{folder}: the {name} split has no clip")
    vocabulary = (BLANK, *sorted({name for split in splits for name in split.vocabulary[1:]}))
    train, val = (_Clips(split, vocabulary) for split in splits)
    return Data(
        train=train.kept,
        val=val.kept,
        vocabulary=vocabulary,
        altered=train.altered,
        described={"kind": "features", "features": str(folder.resolve())},
        remarks=tuple(dict.fromkeys(sentence for split in splits for sentence in split.left_out)),
    )


class _Clips:
    """A split's clips, their tokens as ids of the common vocabulary."""

    def __init__(self, split: Split, vocabulary: tuple[str, ...]) -> None:
        self.split = split
        ids = {name: token for token, name in enumerate(vocabulary)}
        self.ids = torch.tensor([ids[name] for name in split.vocabulary])
        self.kept = Remembered(len(split.indices), self._read)

    def _read(self, index: int) -> Sample:
        sample = self.split.samples[self.split.indices[index]]
        return replace(sample, target=self.ids[sample.target])

    def altered(self, epoch: int, index: int) -> Sample:
        sample = self.kept[index]
        draw = RandomState(seed_of(epoch, index) % 2**32)
        return replace(sample, features=altered_features(sample.features, draw))


def _by_csv(folder: Path) -> tuple[Split, Split] | None:
    """Every clip is read here once, since its name is what the csv files know it by."""
    places = (folder, *folder.resolve().parents[:2])
    near = (sorted(path for path in place.glob("*.csv") if is_corpus(path)) for place in places)
    paths = next((found for found in near if found), [])
    train = [path for path in paths if any(word in path.name.lower() for word in TRAIN)]
    val = [
        path
        for path in paths
        if any(word in path.name.lower() for word in VAL) and path not in train
    ]
    if not train or not val:
        return None
    corpus = load_features(folder)
    samples = Remembered(len(corpus.samples), corpus.samples.__getitem__)
    where = {sample.name: index for index, sample in enumerate(samples)}
    trained, validated = (
        [where[name] for name in _names(split) if name in where] for split in (train, val)
    )
    both = set(trained) & set(validated)
    if both:
        raise BadFeatures(
            f"{val[0]}: {samples[min(both)].name} is a training clip too ({train[0]}); keep it "
            "in one split"
        )
    first, second = (
        Split(
            samples=samples, indices=indices, vocabulary=corpus.vocabulary, left_out=corpus.left_out
        )
        for indices in (trained, validated)
    )
    return first, second


def _by_folder(folder: Path) -> tuple[Split, Split] | None:
    train, val = (
        next((folder / word for word in words if (folder / word).is_dir()), None)
        for words in (TRAIN, VAL)
    )
    if train is None or val is None:
        return None
    return _whole(load_features(train)), _whole(load_features(val))


def _whole(corpus: Corpus) -> Split:
    return Split(
        samples=corpus.samples,
        indices=range(len(corpus.samples)),
        vocabulary=corpus.vocabulary,
        left_out=corpus.left_out,
    )


def _names(paths: list[Path]) -> list[str]:
    return [row.name for path in paths for row in read_corpus(path)]
