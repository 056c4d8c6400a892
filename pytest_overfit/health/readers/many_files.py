"""Folders in which many files are one run: a file for each metric, MLflow's
`mlruns/0/RUN/metrics/val_loss` and what TensorBoard exports; or one for each epoch, AllenNLP's
`metrics_epoch_3.json`, WeNet's `3.yaml` and Kaldi's `compute_prob_valid.12.log`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_overfit.health.readers.fields import Row, as_number, flattened, row
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import LeftOut, Progress, TextLines
from pytest_overfit.health.readers.names import known
from pytest_overfit.health.readers.tables import shortened, split_cells
from pytest_overfit.health.run import MEASURED, Where

METRICS = "metrics"
LINE = re.compile(r"(\d{10,16}) (\S+) (-?\d{1,15})\s*")
"""Milliseconds since 1970, value, step. Source: mlflow/store/tracking/file_store.py."""
COLUMNS = ["wall time", "step", "value"]
TAG = re.compile(r"(?:^|[-_])tag[-_](.+)$")
EXPORTED_LIST = re.compile(r"\[\s*\[\s*\d{10}(?:\.\d*)?\s*,\s*\d+\s*,")
EPOCH_FILES = (".json", ".yaml", ".yml")
NUMBERED = re.compile(r"(?:^|\D)(\d{1,6})$")
YAML = re.compile(r"^(\w[\w./-]*):[ \t]+(\S+)[ \t]*$", re.MULTILINE)
"""A field of plain YAML; what is nested is passed over."""


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
    """Whether a table has the header of TensorBoard's own export, or a list is one: [[time, step,
    value], ...].
    """
    header = [cell.lower() for cell in split_cells(text.split("\n", 1)[0], ",")]
    return header == COLUMNS or EXPORTED_LIST.match(text) is not None


def read_scalar_exports(
    paths: Sequence[Path], prefixes: Sequence[str], gathering: Gathering, progress: Progress
) -> None:
    """The name of a metric is what stands behind `tag-` in the name of its file, else that name."""
    for path in paths:
        tag = TAG.search(path.stem)
        name = tag[1] if tag else path.stem
        malformed = LeftOut()
        for number, said in _exported(path, progress):
            cells = [as_number(cell)[0] for cell in said]
            if len(cells) == len(COLUMNS) and None not in cells:
                time, step, value = cells
                where = Where(path, number)
                gathering.add([(name, value or 0.0)], step=step or 0.0, where=where, order=time)
            else:
                malformed.add(number, shortened(str(said)))
        gathering.warnings += malformed.said(path, "left out: no time, step and value")


def _exported(path: Path, progress: Progress) -> Iterator[tuple[int, list[Any]]]:
    """The rows of an export, each with its number."""
    lines = list(TextLines(path=path, progress=progress))
    if lines and lines[0][1].startswith("["):
        yield from enumerate(_json_in("\n".join(text for _, text in lines)) or (), 1)
        return
    for number, text in lines[1:]:
        if text.strip():
            yield number, split_cells(text, ",")


def _json_in(text: str) -> Any:
    """What a text holds that is JSON; None where it is not."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def is_epoch_file(path: Path, text: str) -> bool:
    """Whether it holds what was measured at one epoch alone: an object with a loss or an error rate,
    in a file that ends with a number.
    """
    if path.suffix not in EPOCH_FILES or NUMBERED.search(path.stem) is None:
        return False
    found = _epoch_row(path, text)
    measured = [meaning.metric for name, _ in found.values if (meaning := known(name))]
    return any(MEASURED[name].better for name in measured)


def read_epoch_files(
    paths: Sequence[Path], prefixes: Sequence[str], gathering: Gathering, progress: Progress
) -> None:
    """In the order of their epochs, whatever that of the files' names."""
    rows = [(_epoch_row(path, _whole(path, progress)), path) for path in paths]
    for found, path in sorted(rows, key=lambda one: one[0].epoch):
        found.give(gathering, Where(path, 1), order=found.epoch)


def _whole(path: Path, progress: Progress) -> str:
    return "\n".join(text for _, text in TextLines(path=path, progress=progress))


def _epoch_row(path: Path, text: str) -> Row:
    """What a file tells of its epoch, which is the number at the end of its name where it has none."""
    said = _json_in(text) if path.suffix == ".json" else dict(YAML.findall(text))
    found = row(flattened(said)) if isinstance(said, dict) else Row()
    number = NUMBERED.search(path.stem)
    if found.epoch != found.epoch and number:
        found.epoch = float(number[1])
    return found


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
