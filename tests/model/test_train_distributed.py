"""Two processes on one machine: they share the clips, agree on the metrics, and only the first one
writes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.train import main
from tests.model.training import SMALL, rows

ROOT = Path(__file__).parents[2]
SMOOTH = ["--optimizer", "sgd", "--learning_rate", "1e-3"]
"""Plain clipped steps: Adam's first ones follow the sign of each gradient, and a sign turns with
the last bit.
"""
COMMON = [
    *SMALL,
    *SMOOTH,
    "--variant",
    "layer_norm",
    "--sentences",
    "16",
    "--val_sentences",
    "7",
    "--augment",
    "--epochs",
    "2",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two processes, and one of a single process whose batches are twice as large.

    Layer norms: batch norms see their own process only.
    """
    pair, alone = (tmp_path_factory.mktemp("distributed") / name for name in ("pair", "alone"))
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "model.train",
        *COMMON,
        "--batch_size",
        "4",
        "--devices",
        "2",
        "--output_dir",
        str(pair),
    ]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (pair / "stdout").write_text(ran.stdout)
    assert main([*COMMON, "--batch_size", "8", "--output_dir", str(alone)]) == 0
    return pair, alone


def test_two_processes_train_as_one_with_twice_the_batch(folders: tuple[Path, Path]) -> None:
    pair, alone = (rows(folder) for folder in folders)
    assert [row["epoch"] for row in pair] == ["0", "1"]
    for one, other in zip(pair, alone, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            counted = name.endswith(
                ("_wer", "_ratio", "_share")
            )  # in whole tokens and steps: an arg max may turn with the last bit
            assert float(one[name]) == pytest.approx(
                float(other[name]), rel=0.02 if counted else 1e-3, abs=1e-4
            ), name


def test_only_the_first_process_writes(folders: tuple[Path, Path]) -> None:
    pair, alone = folders
    assert sorted(path.name for path in pair.iterdir() if path.name != "stdout") == sorted(
        path.name for path in alone.iterdir()
    )
    assert len(list((pair / "tensorboard").glob("events.*"))) == 1
    assert len((pair / "predictions.jsonl").read_text().splitlines()) == len(
        (alone / "predictions.jsonl").read_text().splitlines()
    )
    printed = (pair / "stdout").read_text().splitlines()
    for beginning in ("epoch 0: loss", "epoch 1: loss", "ended after 2 epochs"):
        assert sum(line.startswith(beginning) for line in printed) == 1
