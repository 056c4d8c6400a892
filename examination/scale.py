"""`python -m examination.scale`: what rungs of hundreds of samples cost, in memory and in time.

Each rung is climbed by pytest in a process of its own, so that its memory is its own:

    pytest -m overfit tests/overfit/test_ladder.py --overfit-subject mobilenetv3 --overfit-rungs 1000

Prints a row for each: steps it took, clips seen, CPU seconds, milliseconds a clip seen, the largest
resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HEADING = "| samples | | steps | clips seen | CPU s | ms a clip | largest memory, MB |"


def climb(samples: int, width: int) -> tuple[dict[str, Any], float, float]:
    """The rung of the report, CPU seconds, and the largest resident memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "overfit", "-p", "no:cacheprovider"]
        command += ["tests/overfit/test_ladder.py", "--overfit-subject=mobilenetv3"]
        command += [f"--overfit-rungs={samples}", f"--overfit-report={folder}", "--timeout=0"]
        command += [f"--overfit-set=network={{hidden_dim={width}}}", "--overfit-trials=off"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        said = process.stdout.read() if process.stdout else ""
        _, _, used = os.wait4(process.pid, 0)
        report = Path(folder, "overfitting_test_report.json")
        if not report.is_file():
            sys.exit(f"the rung of {samples} left no report:\n{said}")
        [rung] = json.loads(report.read_text(encoding="utf-8"))["outcomes"]
    return rung, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def row(samples: int, rung: dict[str, Any], seconds: float, memory: float) -> str:
    """A line of the table."""
    last = rung["attempts"][-1]
    clips = sum(one["steps"] * one["recipe"]["batch"] for one in rung["attempts"])
    return (
        f"| {samples} | {rung['status']} | {last['steps']} | {clips} | {seconds:.0f} | "
        f"{1000 * seconds / clips:.1f} | {memory:.0f} |"
    )


def main() -> None:
    """Climb the rungs that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m examination.scale", description=__doc__)
    parser.add_argument("--rungs", default="100,200,500,1000", help="to climb, one after another")
    parser.add_argument("--width", type=int, default=64, help="hidden_dim of the network")
    given = parser.parse_args()
    print(f"{HEADING}\n|{' --- |' * 7}", flush=True)
    for samples in map(int, given.rungs.split(",")):
        print(row(samples, *climb(samples, given.width)), flush=True)


if __name__ == "__main__":
    main()
