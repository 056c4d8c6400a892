"""Registers the subjects of this repository."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_overfit import Subject


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("overfit").addoption(
        "--overfit-features", metavar="PATH", type=Path, help="your own clips: a folder of .npy, .npz or .pose files with its corpus csv"
    )


def pytest_overfit_subjects(config: pytest.Config) -> Iterable[Subject]:
    from model.subjects import healthy

    path = config.getoption("--overfit-features")
    if path is None:
        return healthy()
    from fixtures import load_features

    corpus = load_features(path)
    return [replace(subject, samples=corpus.samples, vocabulary=corpus.vocabulary) for subject in healthy()]
