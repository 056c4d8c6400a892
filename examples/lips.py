"""Lips, a video's pixels as features.

EXAMPLE_DATA=DIR pytest -m overfit --overfit-subject examples.lips:subject
"""

from pathlib import Path

import numpy as np
import torch

from examples.reading import subject_of
from fixtures.video import frames
from pytest_overfit import Subject


def pixels(path: Path) -> torch.Tensor:
    grey = np.stack([frame.mean(-1)[::2, ::2] for frame in frames(path)])
    return torch.tensor(grey.reshape(len(grey), -1) / 255, dtype=torch.float32)


def subject() -> Subject:
    return subject_of("lips", ".mp4", pixels)
