"""Folders with a file for each metric: MLflow's `mlruns/0/RUN/metrics/val_loss`, and csv as
TensorBoard exports it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pytest_overfit.health.readers.fields import as_number
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import LeftOut, Progress, TextLines
from pytest_overfit.health.readers.tables import shortened, split_cells
from pytest_overfit.health.run import Where

METRICS = "metrics"
LINE = re.compile(r"(\d{10,16}) (\S+) (-?\d{1,15})\s*")
"""Milliseconds since 1970, value, step. Source: mlflow/store/tracking/file_store.py."""
COLUMNS = ["wall time", "step", "value"]
TAG = re.compile(r"(?:^|[-_])tag[-_](.+)$")


def is_metric_file(path: Path, text: str) -> bool:
    """Whether it is a metric of MLflow's: below a folder `metrics`, of lines with a time, a value
    and a step.
    """
    return METRICS in path.parent.parts and LINE.fullmatch(text.split("\n", 1)[0]) is not None


def read_metric_files(
    paths: Sequence[Path], prefixes: Sequence[str], gathering: Gathering, progress: Progress
) -> None:
    """The name of a metric is the path of its file below `metrics`; its times say in which order
    metrics were logged.
    """
    for path in paths:
        parts = path.parts
        below = len(parts) - 1 - parts[::-1].index(METRICS)
        name = "/".join(parts[below + 1 :])
        lines, malformed = TextLines(path=path, progress=progress), LeftOut()
        for number, text in lines:
            match = LINE.fullmatch(text)
            value = as_number(match[2])[0] if match else None
            if match is None or value is None:
                malformed.add(number, shortened(text))
            else:
                gathering.add(
                    [(name, value)],
                    step=float(match[3]),
                    where=Where(path, number),
                    order=float(match[1]),
                )
        gathering.warnings += malformed.said(path, "left out: no time, value and step")


def is_scalar_export(text: str) -> bool:
    """Whether a table has the header of TensorBoard's own export."""
    return [cell.lower() for cell in split_cells(text.split("\n", 1)[0], ",")] == COLUMNS


def read_scalar_exports(
    paths: Sequence[Path], prefixes: Sequence[str], gathering: Gathering, progress: Progress
) -> None:
    """The name of a metric is what stands behind `tag-` in the name of its file, else that name."""
    for path in paths:
        tag = TAG.search(path.stem)
        name = tag[1] if tag else path.stem
        lines, malformed = TextLines(path=path, progress=progress), LeftOut()
        for number, text in lines:
            cells = [as_number(cell)[0] for cell in split_cells(text, ",")]
            if number > 1 and len(cells) == len(COLUMNS) and None not in cells:
                time, step, value = cells
                gathering.add(
                    [(name, value or 0.0)], step=step or 0.0, where=Where(path, number), order=time
                )
            elif number > 1 and text.strip():
                malformed.add(number, shortened(text))
        gathering.warnings += malformed.said(path, "left out: no time, step and value")
