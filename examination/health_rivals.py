"""What losslint 0.4.1 and ftdoctor 0.1.0 say of the same logs, each given them in a form that it
asks for.

losslint reads JSON lines of {"step", "loss", "eval_loss", "learning_rate", "grad_norm"}, as
`losslint check FILE` does, with its defaults. ftdoctor reads a trainer_state.json whose log_history
has a training and an evaluation row an epoch, as `ftdoctor FILE` does.
`pip install "pytest-overfit[rivals]"` brings them.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Row = Mapping[str, float]
BLIND = (
    "too much dropout",
    "stuck at uniform",
    "learning rate too high",
    "learning rate zero",
    "blank-collapsed",
    "oscillating",
)
FITTING: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "losslint": {
        "overfitting": ("overfit_onset",),
        "label noise": ("overfit_onset", "stagnation"),
        "diverged": ("divergence", "nan_inf", "loss_spike", "stagnation"),
        "not a number": ("nan_inf",),
        **dict.fromkeys(BLIND, ("stagnation", "divergence", "nan_inf", "loss_spike")),
    },
    "ftdoctor": {
        "overfitting": ("overfitting",),
        "label noise": ("overfitting", "not_learning"),
        "diverged": ("not_learning", "loss_degenerate", "loss_spikes", "overfitting"),
        "not a number": ("loss_degenerate",),
        **dict.fromkeys(
            BLIND, ("not_learning", "loss_degenerate", "loss_spikes", "lr_schedule", "gradients")
        ),
    },
}
"""Kind of illness -> checks that can be taken to name it, generously: any of them counts, at any
severity.
"""
REMARKS = ("no_eval", "stopped_improving", "eval_below_train", "incomplete", "metric_disagreement")
"""Checks of ftdoctor that say of themselves that nothing is wrong; they count as no alarm."""


def rows_of(metrics: Path) -> list[Row]:
    """The rows of a run's metrics.csv."""
    with metrics.open(encoding="utf-8", newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def losslint_says(rows: Sequence[Row], place: Path) -> dict[str, str]:
    """Check -> severity. place: a folder to write the log in."""
    from losslint.checks import run_all_checks  # type: ignore[import-untyped]
    from losslint.parsing import load_run  # type: ignore[import-untyped]

    log = place / "metrics.jsonl"
    told = [
        {
            "step": int(row["step"]),
            "loss": row["train_loss"],
            "eval_loss": row["val_loss"],
            **_shared(row),
        }
        for row in rows
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
    return {finding.check: finding.severity for finding in run_all_checks(load_run(log))}


def ftdoctor_says(rows: Sequence[Row], place: Path) -> dict[str, str]:
    """Check -> severity, without REMARKS. place: a folder to write the log in."""
    from ftdoctor.diagnosis import diagnose  # type: ignore[import-untyped]
    from ftdoctor.history import load  # type: ignore[import-untyped]

    history: list[dict[str, float]] = []
    for row in rows:
        at = {"step": int(row["step"]) + 1, "epoch": row["epoch"] + 1}
        history += [
            {**at, "loss": row["train_loss"], **_shared(row)},
            {**at, "eval_loss": row["val_loss"], "eval_wer": row["val_wer"]},
        ]
    state = {
        "log_history": history,
        "global_step": history[-1]["step"],
        "epoch": history[-1]["epoch"],
    }
    log = place / "trainer_state.json"
    log.write_text(json.dumps(state), encoding="utf-8")
    return {
        finding.check: finding.severity.name.lower()
        for finding in diagnose(load(str(log))).findings
        if finding.check not in REMARKS
    }


def _shared(row: Row) -> dict[str, float]:
    return (
        {"learning_rate": row["lr"], "grad_norm": row["grad_norm"]}
        if math.isfinite(row["grad_norm"])
        else {"learning_rate": row["lr"]}
    )


RIVALS: Mapping[str, Callable[[Sequence[Row], Path], dict[str, str]]] = {
    "losslint": losslint_says,
    "ftdoctor": ftdoctor_says,
}
