"""Tests of the networks: one thread (OMP_NUM_THREADS says otherwise), so that they share the
machine and repeat bit by bit.
"""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def number_of_threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
