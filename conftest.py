"""Registers the subjects of this repository, on its own clips or on yours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fixtures.own_features import Corpus
    from pytest_overfit import Subject

CORPUS: pytest.StashKey[Corpus] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("overfit").addoption(
        "--overfit-features",
        metavar="PATH",
        type=Path,
        help="your own clips: a folder of landmarks or features, and what says what they say",
    )
    parser.getgroup("overfit").addoption(
        "--overfit-width",
        metavar="N",
        type=int,
        help="numbers a frame of --overfit-features, of any kind",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Look at the clips of --overfit-features before anything else; where none can be used the
    session ends here.
    """
    path = config.getoption("--overfit-features")
    if path is None:
        return
    from fixtures import BadFeatures, load_features
    from fixtures.usable import usable
    from pytest_overfit.finding import counted
    from pytest_overfit.plugin.options import rungs_asked

    rungs = rungs_asked(config)
    try:
        corpus = usable(load_features(path, width=config.getoption("--overfit-width")), max(rungs))
    except BadFeatures as error:
        raise pytest.UsageError(str(error)) from error
    held = counted(len(corpus.samples), "clip")
    if len(corpus.samples) < min(rungs):
        raise pytest.UsageError(
            f"{path}: nothing can be climbed: the lowest rung is {min(rungs)}, and the corpus "
            f"has {held}"
        )
    config.stash[CORPUS] = corpus


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What will be climbed on, and a line for each clip or row that will not."""
    if CORPUS not in config.stash:
        return []
    corpus, path = config.stash[CORPUS], config.getoption("--overfit-features")
    first = (
        f"overfit features: {len(corpus.samples)} clips, {len(corpus.vocabulary)} tokens in {path}"
    )
    return [first, *corpus.left_out, *(f"warning: {finding.headline}" for finding in corpus.look())]


def pytest_overfit_subjects(config: pytest.Config) -> Iterable[Subject]:
    from model.subjects import healthy

    if CORPUS not in config.stash:
        return healthy(config.getoption("--overfit-size"))
    corpus = config.stash[CORPUS]
    own = {
        "samples": corpus.samples,
        "vocabulary": corpus.vocabulary,
        "parts": corpus.parts,
        "contracts": corpus.contracts,
    }
    return [replace(subject, **own) for subject in healthy()]
