"""Small training runs for tests."""

from __future__ import annotations

import csv
from pathlib import Path

from model.settings import Settings, checked

SMALL = [
    "mobilenetv3",
    "--hidden_dim",
    "16",
    "--sentences",
    "12",
    "--val_sentences",
    "6",
    "--batch_size",
    "4",
    "--epochs",
    "4",
    "--accelerator",
    "cpu",
]


def small(folder: Path, **changes: object) -> Settings:
    """A run of seconds: 12 sentences, 6 of validation."""
    given = {
        "network": "mobilenetv3",
        "hidden_dim": 16,
        "sentences": 12,
        "val_sentences": 6,
        "batch_size": 4,
        "epochs": 2,
        "accelerator": "cpu",
    }
    return checked(Settings(output_dir=folder, **{**given, **changes}))  # type: ignore[arg-type]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))
