"""Trains the runs that are missing, one after another in one process: a folder with a `result.json`
is done, another is gone on with.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from examination.health_runs import HealthRun

RESULT, METRICS = "result.json", "metrics.csv"
POLL_SECONDS = 0.5
LONGEST_SECONDS = 1800


def trained(folder: Path) -> bool:
    return (folder / RESULT).is_file()


def train_missing(runs: Iterable[HealthRun], root: Path) -> list[str]:
    """Train what has no result in `root`. Returns the names of runs that could not be trained."""
    failed = []
    for run in runs:
        folder = root / run.name
        if trained(folder):
            continue
        began = time.perf_counter()
        if run.killed_at is not None and not folder.exists():
            kill_after(run, folder, run.killed_at)
        code = _train([*run.arguments, "--output_dir", str(folder), "--resume"])
        print(f"{run.name}: exit {code}, {time.perf_counter() - began:.0f} s", flush=True)
        if not trained(folder):
            failed.append(run.name)
        for checkpoint in folder.glob("*.ckpt") if trained(folder) else ():
            checkpoint.unlink()  # the logs are judged; 30 MB a run of weights are not
    return failed


def _train(arguments: list[str]) -> int:
    from model.train import main

    return main(arguments)


def kill_after(run: HealthRun, folder: Path, epochs: int) -> None:
    """Begin a run in a process of its own and kill it once so many epochs are logged.

    Raises TimeoutError where they never are.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "model.train", *run.arguments, "--output_dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + LONGEST_SECONDS
    while epochs_logged(folder) < epochs and process.poll() is None:
        if time.monotonic() > until:
            process.kill()
            raise TimeoutError(
                f"{folder}: {epochs} epochs were not logged within {LONGEST_SECONDS} s"
            )
        time.sleep(POLL_SECONDS)
    process.send_signal(signal.SIGKILL)
    process.wait()


def epochs_logged(folder: Path) -> int:
    metrics = folder / METRICS
    return (
        max(len(metrics.read_text(encoding="utf-8").splitlines()) - 1, 0)
        if metrics.is_file()
        else 0
    )
