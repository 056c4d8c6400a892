"""What the examples of files with a corpus.csv share: from the files of a folder to a subject."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fixtures.annotations import read_corpus
from model.mobilenet import create_mobilenetv3
from pytest_overfit import Sample, Subject


def subject_of(name: str, ending: str, read: Callable[[Path], Tensor]) -> Subject:
    """The clips of EXAMPLE_DATA, each file's features (frames, width) as `read` gives them, scored
    over the clip.
    """
    folder = Path(os.environ["EXAMPLE_DATA"])
    rows = read_corpus(folder / "corpus.csv")
    vocabulary = ["<blank>", *sorted({token for row in rows for token in row.glosses})]

    def sample(clip: str, tokens: tuple[str, ...]) -> Sample:
        features = read(folder / f"{clip}{ending}")
        features = (features - features.mean(0)) / (features.std(0) + 1e-3)
        return Sample(
            name=clip,
            features=features,
            target=torch.tensor([vocabulary.index(token) for token in tokens]),
        )

    return Subject(
        name=name,
        build=lambda vocab_size, feature_dim, seed: create_mobilenetv3(
            vocab_size, feature_dim=feature_dim
        ),
        samples=[sample(row.name, row.glosses) for row in rows],
        vocabulary=vocabulary,
    )
