"""Read a run from whatever its trainer wrote: TensorBoard events, csv, JSON lines, `trainer_state.json`, or a plain log.

    run = read_run(Path("checkpoints/teacher_high_reg"))

Where a folder has the same run in two formats, the richer is taken: the one that tells more canonical metrics, then more points.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_overfit.health.readers.beside import PREDICTIONS, RUN_JSON, find_beside, newest_checkpoint, read_facts, read_predictions
from pytest_overfit.health.readers.events import read_events
from pytest_overfit.health.readers.folder import Log, logs_in
from pytest_overfit.health.readers.gather import Gathering, Reading
from pytest_overfit.health.readers.lines import Progress
from pytest_overfit.health.readers.plain import read_plain
from pytest_overfit.health.readers.recognise import Kind, kind_of
from pytest_overfit.health.readers.tables import read_csv, read_jsonl
from pytest_overfit.health.readers.trainer_state import read_trainer_state
from pytest_overfit.health.run import BadRun, Facts, Run

__all__ = ["read_run"]

LARGE = 64 << 20
"""Bytes of a log that is not read where a smaller one of the same run has both losses."""
ALIKE = ({"csv", "TensorBoard events"},)
"""Formats that one trainer writes side by side as a matter of course: which of them was read says the run's sources."""
READERS = {"csv": read_csv, "JSON lines": read_jsonl, "JSON list": read_trainer_state, "plain log": read_plain}


def read_run(path: Path, *, progress: Callable[[float], None] | None = None) -> Run:
    """The run whose log, or whose folder, is `path`.

    progress: told the share of bytes read, from 0 to 1. Memory is bounded, however long the log: see MOST_POINTS and MOST_PREDICTIONS.
    Raises BadRun, with one line that says what to do, where there is no log, none that can be read, or more than one run.
    """
    path = Path(path)
    logs, left_out = _logs(path)
    folders = _folders(path, logs)
    facts_file, predictions_file = find_beside(RUN_JSON, folders), find_beside(PREDICTIONS, folders)
    facts = read_facts(facts_file) if facts_file else Facts()
    total = sum(file.stat().st_size for file in (*(log.path for log in logs), predictions_file) if file)
    heard = Progress(bytes_total=total, heard=progress)
    kind, reading, complaints = _richest(path, logs, heard, shares=facts_file is not None)
    if predictions_file is not None:
        shown = Gathering()
        read_predictions(predictions_file, shown, heard)
        reading = replace(reading, predictions=shown.reading().predictions)
        complaints += tuple(shown.complaints)
    complaints = (*left_out, *complaints)
    if progress is not None:
        progress(1.0)
    sources = (*(log.path for log in logs if log.kind == kind), *(file for file in (facts_file, predictions_file) if file))
    return Run(
        name=path.resolve().name,
        sources=sources,
        clock=reading.clock,
        curves=reading.curves,
        predictions=reading.predictions,
        facts=_with_told(facts, reading),
        complaints=complaints,
        checkpoint=newest_checkpoint(folders),
    )


def _logs(path: Path) -> tuple[list[Log], tuple[str, ...]]:
    try:
        if path.is_dir():
            return logs_in(path)
        if path.is_file():
            return [Log(path=path, kind=kind_of(path))], ()
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror or error})") from error
    raise BadRun(f"{path}: no such file or folder; give a log or the folder that it is in")


def _folders(path: Path, logs: Sequence[Log]) -> list[Path]:
    """Where to look for what stands beside: the log's folder, and those above it up to the one given."""
    top = path if path.is_dir() else path.parent
    found = [folder for log in logs for folder in (log.path.parent, *log.path.parent.parents) if folder == top or top in folder.parents]
    return list(dict.fromkeys(found))


def _richest(path: Path, logs: Sequence[Log], progress: Progress, *, shares: bool) -> tuple[Kind, Reading, tuple[str, ...]]:
    """The kind of log that tells most, what it tells, and the complaints. Predictions may come from another."""
    readings: dict[Kind, Reading] = {}
    left_out: list[str] = []
    sizes = {kind: sum(log.path.stat().st_size for log in logs if log.kind == kind) for kind in dict.fromkeys(log.kind for log in logs)}
    for kind in sorted(sizes, key=lambda kind: sizes[kind]):
        if sizes[kind] > LARGE and any({"train_loss", "val_loss"} <= reading.curves.keys() for reading in readings.values()):
            progress.advance(sizes[kind])
            continue
        try:
            readings[kind] = _read(path, [log for log in logs if log.kind == kind], progress, shares=shares)
        except BadRun as error:
            if len(sizes) == 1:
                raise
            left_out.append(str(error))
    if not readings:
        raise BadRun(left_out[0])
    best = max(readings, key=lambda kind: _richness(readings[kind]))
    reading, complaints = readings[best], (*readings[best].complaints, *left_out)
    if set(sizes) not in ALIKE and len(sizes) > 1:
        names = ", ".join(sorted({log.path.name for log in logs if log.kind != best}))
        complaints = (f"{path}: two formats of one run; read from the {best}, which tells no less than {names}", *complaints)
    for kind, other in readings.items():
        if other.predictions and not reading.predictions and other.clock == reading.clock:
            reading = replace(reading, predictions=other.predictions)
            complaints += (f"predictions are from the {kind}",)
    return best, reading, complaints


def _richness(reading: Reading) -> tuple[int, int]:
    canonical = [name for name in reading.curves if name in ("lr", "grad_norm") or name.startswith(("train_", "val_"))]
    return len(canonical), sum(len(reading.curves[name]) for name in canonical)


def _read(path: Path, logs: Sequence[Log], progress: Progress, *, shares: bool) -> Reading:
    gathering = Gathering(shares=shares)
    try:
        if logs[0].kind == "TensorBoard events":
            read_events([log.path for log in logs], gathering, progress, [log.prefix for log in logs])
        else:
            READERS[logs[0].kind](logs[0].path, gathering, progress)
    except OSError as error:
        raise BadRun(f"{logs[0].path}: cannot be read ({os.strerror(error.errno) if error.errno else error})") from error
    reading = gathering.reading()
    if not reading.curves:
        reasons = f" ({reading.complaints[0]})" if reading.complaints else ""
        raise BadRun(f"{logs[0].path}: no metric with an epoch or a step in this {logs[0].kind}{reasons}; give a log with both")
    return reading


def _with_told(facts: Facts, reading: Reading) -> Facts:
    """Facts from run.json, and where it is silent from the log's text."""
    missing = {name: value for name, value in reading.told.items() if getattr(facts, name) is None}
    return replace(facts, **missing)  # type: ignore[arg-type]  # told holds counts only
