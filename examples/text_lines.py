"""Lines of text, a picture's columns as frames: EXAMPLE_DATA=DIR pytest -m overfit
--overfit-subject examples.text_lines:subject
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from examples.reading import subject_of
from pytest_overfit import Subject


def columns(path: Path) -> torch.Tensor:
    return torch.tensor(np.asarray(Image.open(path)) / 255, dtype=torch.float32).T


def subject() -> Subject:
    return subject_of("text_lines", ".png", columns)
