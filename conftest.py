"""Registers the subjects of this repository, on its own clips or on yours."""

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
        "--overfit-features", metavar="PATH", type=Path, help="your own clips: a folder of landmarks or features, and what says what they say"
    )
    parser.getgroup("overfit").addoption("--overfit-width", metavar="N", type=int, help="numbers a frame of --overfit-features, of any kind")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Says what was found at --overfit-features, rows that make no clip included; bad files end the session here."""
    path = config.getoption("--overfit-features")
    if path is None:
        return []
    from fixtures import BadFeatures, load_features

    try:
        corpus = load_features(path, width=config.getoption("--overfit-width"))
    except BadFeatures as error:
        raise pytest.UsageError(str(error)) from error
    return [f"overfit features: {len(corpus.samples)} clips, {len(corpus.vocabulary)} tokens in {path}", *corpus.left_out]


def pytest_overfit_subjects(config: pytest.Config) -> Iterable[Subject]:
    from model.subjects import healthy

    path = config.getoption("--overfit-features")
    if path is None:
        return healthy(config.getoption("--overfit-size"))
    from fixtures import load_features

    corpus = load_features(path, width=config.getoption("--overfit-width"))
    return [replace(subject, samples=corpus.samples, vocabulary=corpus.vocabulary, parts=corpus.parts) for subject in healthy()]
