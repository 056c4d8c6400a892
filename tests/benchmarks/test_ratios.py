"""The promises about speed, each as a ratio within one run: a timing alone says more about the
machine than about the code.

A promise is broken where the ratio is beyond its bound by more than its noise."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.subjects import mobilenetv3
from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.host import lent
from pytest_overfit.recipe import default_recipe
from pytest_overfit.subject import Subject, collate
from pytest_overfit.training import Training, keep_up_norms, make_optimizer
from tests.benchmarks.floor import operations_of
from tests.benchmarks.pairs import LEAST, paired

pytestmark = pytest.mark.benchmark
SAMPLES = 10


@pytest.fixture
def one_thread() -> Any:
    """One thread, and memory kept as a climb keeps it, for both sides of a comparison."""
    with lent(threads=1):
        yield


def hand_written_loop(subject: Subject, steps: int, samples: int = SAMPLES) -> None:
    """`steps` steps as one would write them without this package."""
    torch.manual_seed(0)
    batch = collate(subject.take(samples))
    recipe = default_recipe(samples)
    network = subject.fresh(feature_dim=batch.features.shape[2], seed=0)
    keep_up_norms(network, recipe.norm_momentum)
    optimizer = make_optimizer(network, subject, recipe)
    targets = torch.cat(
        [
            row[:length]
            for row, length in zip(batch.targets, batch.target_lengths.tolist(), strict=True)
        ]
    )
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min((step + 1) / 10, 1.0)
        optimizer.zero_grad()
        log_probs, lengths = network(batch.features, batch.frames)
        loss = torch.nn.functional.ctc_loss(log_probs, targets, lengths, batch.target_lengths)
        assert math.isfinite(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()


def engine_loop(subject: Subject, steps: int) -> None:
    for _ in Training(subject, subject.take(SAMPLES), default_recipe(SAMPLES), seed=0).advance(
        steps
    ):
        pass


@pytest.mark.usefixtures("one_thread")
def test_the_engine_adds_less_than_5_percent_to_a_hand_written_loop(ratio: Any) -> None:
    subject, steps = mobilenetv3(), 5
    measured = paired(
        lambda: engine_loop(subject, steps), lambda: hand_written_loop(subject, steps), pairs=9
    )
    ratio(
        "engine / hand-written loop",
        measured,
        f"mobilenetv3, {SAMPLES} samples, {steps} steps; promised < 1.05",
    )
    assert not measured.above(1.05)


@pytest.mark.usefixtures("one_thread")
def test_a_step_comes_near_the_sgemm_rate(ratio: Any) -> None:
    """How near, hangs on the processor's memory too: aimed at 0.60 where it was written, and broken
    anywhere below half of that.
    """
    training = Training(mobilenetv3(), mobilenetv3().take(SAMPLES), default_recipe(SAMPLES), seed=0)
    flops = operations_of(lambda: next(training.advance(1)))
    left, right = torch.randn(1536, 1536), torch.randn(1536, 1536)
    products = round(flops / (2 * 1536**3))
    measured = paired(
        lambda: [left @ right for _ in range(products)], lambda: next(training.advance(1)), pairs=9
    )
    ratio(
        "step / sgemm rate",
        measured,
        (
            f"mobilenetv3, {SAMPLES} samples, one thread, {flops / 1e9:.1f} GFLOP a step; promised "
            "> 0.30"
        ),
    )
    assert not measured.below(0.30)


def test_the_plugin_costs_little_unused(ratio: Any, tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")

    def collect(*options: str) -> None:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-p",
            "no:cacheprovider",
            *options,
        ]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    measured = paired(collect, lambda: collect("-p", "no:overfit"), pairs=9)
    ratio("collect with / without the plugin", measured, "an empty test file; promised < 1.10")
    assert not measured.above(1.10)


@pytest.mark.usefixtures("one_thread")
def test_a_climb_costs_less_than_twice_its_steps(ratio: Any) -> None:
    """Readings, criteria and controls beside the steps.

    How many steps a rung takes, `make overfit` shows.
    """
    subject, samples = mobilenetv3(), 2
    rung = Rung(
        subject=subject,
        samples=samples,
        recipe=default_recipe(samples),
        criteria=criteria_for(samples),
    )
    steps = rung.climb().steps
    measured = paired(rung.climb, lambda: hand_written_loop(subject, steps, samples), pairs=LEAST)
    ratio(
        "climb / its steps by hand",
        measured,
        f"mobilenetv3, {samples} samples, {steps} steps; promised < 2",
    )
    assert not measured.above(2)
