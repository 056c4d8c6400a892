"""Isolated signs, SIGN/SEQUENCE/FRAME.npy.

EXAMPLE_DATA=MP_Data pytest -m overfit --overfit-subject examples.isolated_signs:subject
"""

import os

from fixtures import load_features
from model.mobilenet import create_mobilenetv3 as mobilenet
from pytest_overfit import Subject


def subject() -> Subject:
    corpus = load_features(os.environ["EXAMPLE_DATA"])
    return Subject(
        name="isolated_signs",
        build=lambda vocab_size, feature_dim, seed: mobilenet(vocab_size, feature_dim=feature_dim),
        samples=corpus.samples,
        vocabulary=corpus.vocabulary,
        parts=corpus.parts,
        contracts=corpus.contracts,
    )
