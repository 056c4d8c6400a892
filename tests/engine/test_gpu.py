"""What only a GPU can show: the same loss as on the CPU, climbs on the device, full-size networks,
two workers on one GPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pytest_overfit import ctc
from pytest_overfit.climb.ladder import Outcome, Rung, criteria_for
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject
from tests.engine.subjects import HEALTHY

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


def climb(subject: Subject, samples: int, device: str, size: str | None = None) -> Outcome:
    rung = Rung(
        subject=subject,
        samples=samples,
        recipe=default_recipe(samples),
        criteria=criteria_for(samples),
        device=device,
        size=size,
    )
    return rung.climb()


def test_the_loss_is_the_same_on_cpu_and_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(60, 4, 30, generator=generator).log_softmax(-1)
    targets = torch.randint(1, 30, (4, 9), generator=generator)
    targets[:, 3] = targets[:, 2]
    steps, lengths = torch.tensor([60, 50, 41, 30]), torch.tensor([9, 7, 5, 4])
    on_cpu = ctc.clip_losses(log_probs, steps, targets, lengths, blank=0)
    on_gpu = ctc.clip_losses(log_probs.cuda(), steps.cuda(), targets, lengths, blank=0)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_foreign_network_climbs_on_the_gpu(name: str) -> None:
    assert [climb(HEALTHY[name](), samples, "cuda:0").status for samples in (1, 2, 5)] == [
        "ok",
        "ok",
        "ok",
    ]


@pytest.mark.parametrize("name", ["mobilenetv3", "i3d_teacher"])
def test_a_full_size_network_climbs_on_the_gpu(name: str) -> None:
    from model import subjects

    assert climb(getattr(subjects, name)(), 10, "cuda:0", size="full").status == "ok"


def test_two_workers_share_one_gpu(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "overfit",
        "tests/overfit/test_ladder.py",
        "-n",
        "2",
        "--overfit-device=cuda",
    ]
    command += [
        "--overfit-subject=mobilenetv3",
        "--overfit-rungs=1,2,5,10",
        f"--overfit-report={tmp_path}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
