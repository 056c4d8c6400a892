"""What a climb asks of the process it runs in, for the sake of speed.

None of it changes a verdict.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt, malloc.h."""
LARGEST_BY_ITSELF = 32 << 20
"""DEFAULT_MMAP_THRESHOLD_MAX of 64-bit glibc, which its threshold grows to; the one for trimming is
twice that.
"""
ALLOCATION_CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def lent(threads: int | None = None) -> Iterator[None]:
    """The process as a climb wants it, and afterwards as it was found: other people's tests run in
    it too.

    threads: of torch, where the climb is to have another number of them.
    """
    import torch

    before = torch.get_num_threads()
    with kept_memory(), flushed_denormals():
        torch.set_num_threads(threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def kept_memory() -> Iterator[None]:
    """glibc reuses the large blocks that each training step frees instead of handing them back to
    be faulted in again: 5 to 8 % a step.

    Its thresholds cannot be read. Afterwards they stand at the largest that glibc would have come
    to by itself, which it does as soon as large blocks are freed, and what is free is handed back.
    Nothing is done where the environment has set them.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if (
        libc is None
        or not hasattr(libc, "mallopt")
        or any(name in os.environ for name in ALLOCATION_CHOSEN)
    ):
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BY_ITSELF)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_BY_ITSELF)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers next to zero, as saturated activations make them, count as zero: they are slow on a
    CPU.
    """
    import torch

    before = denormals_are_flushed()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def denormals_are_flushed() -> bool:
    """Whether this thread counts numbers next to zero as zero; torch has no getter for what it
    sets.
    """
    import torch

    return float(torch.tensor(1e-310, dtype=torch.float64) * 1.0) == 0.0


@contextmanager
def own_randomness(device: str | torch.device = "cpu") -> Iterator[None]:
    """Leave the global generators of torch, numpy and Python as they were: they belong to
    others.
    """
    import numpy as np
    import torch

    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(
        [torch.device(device)] if torch.device(device).type == "cuda" else []
    ):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def seed_generators(seed: int) -> None:
    """`torch.manual_seed` for the devices that are in use.

    For each that was never started, torch would keep a formatted traceback of this call until it
    is: a fifth of the time of contracts, and more the deeper the caller.
    """
    import torch

    if torch.cuda.is_initialized() or torch.backends.mps.is_available() or torch.xpu.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def seed_others(seed: int) -> None:
    """Seed the generators of numpy and Python: networks skip layers and draw masks by them too."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
