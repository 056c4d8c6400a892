"""TensorBoard curves of every attempt, below `logs/overfitting_tests`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from pytest_overfit.climb.ladder import Attempt, Outcome


def available() -> bool:
    """Whether TensorBoard is installed."""
    return find_spec("tensorboard") is not None


def write_curves(outcomes: Iterable[Outcome], folder: Path) -> int:
    """One run an attempt: loss, gradient norm, learning rate a step, and the readings.

    Returns how many were written. Needs tensorboard.
    """
    written = 0
    for outcome in outcomes:
        for number, attempt in enumerate(outcome.attempts):
            name = f"seed {attempt.seed}, lr {attempt.recipe.lr:g}" + (
                f", attempt {number + 1}" if number else ""
            )
            _write(attempt, folder / outcome.subject / f"{outcome.samples} samples" / name)
            written += 1
    return written


def _write(attempt: Attempt, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for old in folder.glob("events.out.tfevents.*") if folder.exists() else ():
        old.unlink()
    trace = attempt.trace
    with SummaryWriter(str(folder)) as writer:
        for tag, values in (
            ("train/loss", trace.losses),
            ("train/gradient_norm", trace.gradient_norms),
            ("train/lr", trace.lrs),
        ):
            for step, value in enumerate(values, start=1):
                writer.add_scalar(tag, value, step)
        for reading in trace.readings:
            for tag in (
                "loss",
                "token_error_rate",
                "blank_share",
                "entropy_ratio",
                "emission_ratio",
            ):
                writer.add_scalar(f"eval/{tag}", getattr(reading, tag), reading.step)
