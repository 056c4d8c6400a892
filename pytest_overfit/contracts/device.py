"""What must hold between devices: the loss is the same on the CPU and on the GPU that the subject is examined on."""

from __future__ import annotations

import torch

from pytest_overfit.contracts.bench import Bench
from pytest_overfit.contracts.loss import STEPS, exercise
from pytest_overfit.finding import Finding

ALIKE = 1e-3


def loss_is_the_same_on_gpu(bench: Bench) -> tuple[Finding, ...]:
    """Values and gradients of a few clips, where the bench stands on a GPU; elsewhere it holds."""
    device = torch.device(bench.device)
    if device.type != "cuda":
        return ()
    trial = exercise(bench)
    count = 4
    here = trial.gradient(trial.logits[:, :count], trial.targets[:count], [STEPS] * count)
    there = trial.gradient(trial.logits[:, :count].to(device), trial.targets[:count], [STEPS] * count).cpu()
    gap = float((here - there).abs().max() / here.abs().max().clamp(min=1e-12))
    if gap <= ALIKE:
        return ()
    return (
        Finding(
            name="device_mismatch",
            headline=f"the loss's gradient on {device} differs from the CPU's by {gap:.2g} of its size",
            try_="give CTC float32 log-probabilities and int64 lengths, or compute it on the CPU",
            status="confirmed",
        ),
    )
