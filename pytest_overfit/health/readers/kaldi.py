"""Kaldi's nnet3: a folder of logs, one for each iteration and split, `compute_prob_valid.12.log`,
with a log-probability a frame in each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import Progress, TextLines
from pytest_overfit.health.run import Where

FILE = re.compile(r"compute_prob_(train|valid)\.(\d+)\.log")
PROBABILITY = re.compile(
    r"Overall (?:log-(?:probability|likelihood)|objective)(?: per frame)? for '?output'? is "
    r"(-?[\d.]+(?:e-?\d+)?)",
    re.IGNORECASE,
)
ACCURACY = re.compile(r"Overall accuracy for '?output'? is ([\d.]+)", re.IGNORECASE)


def is_kaldi(path: Path) -> bool:
    """Whether a file is named as Kaldi names its progress logs."""
    return FILE.fullmatch(path.name) is not None


def read_kaldi(
    paths: Sequence[Path], prefixes: Sequence[str], gathering: Gathering, progress: Progress
) -> None:
    """The loss is the log-probability with its sign turned.

    Iterations are steps, in their order, whatever that of the files' names.
    """
    numbered = sorted(
        (int(match[2]), path) for path in paths if (match := FILE.fullmatch(path.name))
    )
    for iteration, path in numbered:
        split = "train" if "_train." in path.name else "val"
        for number, text in TextLines(path=path, progress=progress):
            for name, pattern in (("log_probability", PROBABILITY), ("accuracy", ACCURACY)):
                if match := pattern.search(text):
                    gathering.add(
                        [(name, float(match[1]))],
                        step=iteration,
                        split=split,
                        where=Where(path, number),
                        order=iteration,
                    )
