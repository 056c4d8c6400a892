"""What does a training step cost?

Forward, loss, backward and optimiser of each network at each rung size.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.subjects import healthy
from pytest_overfit.climb.ladder import RUNGS
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Batch, Subject, collate
from pytest_overfit.training import Training, default_loss
from tests.benchmarks.conftest import PHASES

pytestmark = pytest.mark.benchmark
ROUNDS = 5


class Step:
    """One training step, taken apart: each phase needs those before it."""

    def __init__(self, subject: Subject, samples: int, device: str) -> None:
        self.training = Training(
            subject, subject.take(samples), default_recipe(samples), seed=0, device=device
        )
        batch = self.training.recipe.batch_of(samples)
        self.batch: Batch = collate(self.training.samples[:batch]).to(device)
        self.device = device

    def forward(self) -> None:
        self.training.network.train()
        self.log_probs, self.steps = self.training.subject.log_probs(
            self.training.network, self.batch.features, self.batch.frames
        )
        self.wait()

    def loss(self) -> None:
        self.value = default_loss(
            self.log_probs,
            self.batch,
            self.steps,
            self.training.recipe,
            self.training.subject.blank,
        )
        self.wait()

    def backward(self) -> None:
        self.training.optimizer.zero_grad(set_to_none=True)
        self.value.backward()
        self.wait()

    def optimiser(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.training.parameters, 1.0)
        self.training.optimizer.step()
        self.wait()

    def wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def upto(self, phase: str) -> None:
        for earlier in PHASES[: PHASES.index(phase)]:
            getattr(self, earlier)()


STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak(device: str) -> None:
    """What ran before in this process is no peak of a step. Only Linux can forget it."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    elif PEAK_RESET.exists():
        PEAK_RESET.write_text("5")


def memory_mib(device: str) -> float:
    """The allocator's peak on a GPU; on a CPU the process's own, with Python and torch."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    if PEAK_RESET.exists():
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("samples", RUNGS)
@pytest.mark.parametrize("subject", healthy(), ids=lambda subject: subject.name)
def test_step_time(
    subject: Subject, samples: int, phase: str, benchmark: Any, overfit_device: str
) -> None:
    forget_peak(overfit_device)
    step = Step(subject, samples, overfit_device)
    step.upto("optimiser")
    benchmark.group = f"{subject.name}, {samples} samples"
    benchmark.pedantic(
        getattr(step, phase), setup=lambda: step.upto(phase), rounds=ROUNDS, warmup_rounds=1
    )
    benchmark.extra_info.update(
        subject=subject.name,
        samples=len(step.batch),
        rung=samples,
        phase=phase,
        memory_mib=memory_mib(overfit_device),
    )
