"""Read a run from whatever its trainer wrote: TensorBoard events, csv, JSON, `trainer_state.json`,
plain logs, see `formats`.

    run = read_run(Path("checkpoints/teacher_high_reg"))
    runs = read_runs([Path("mlruns")])

Where a folder has the same run in two logs, the richer is taken: the one that tells more canonical
metrics, then more points; what only the other tells is added where both are on one clock.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pytest_overfit.finding import naming
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.curves.log_builder import LogBuilder, LogContents
from pytest_overfit.health.curves.metric import metric
from pytest_overfit.health.readers.folder import (
    RUN_JSON,
    LogFile,
    LogSet,
    RunLogs,
    find_beside,
    find_runs,
    named,
    newest_checkpoint,
    read_facts,
    read_predictions,
    split_of,
)
from pytest_overfit.health.readers.formats import PREDICTIONS, format_of, head_of
from pytest_overfit.health.readers.rows import Progress
from pytest_overfit.health.run import BadRun, Facts, Run

LARGE = 64 << 20
"""Bytes of a log that is not read where a smaller one of the same run has both losses."""
ALIKE = ({"csv", "TensorBoard events"},)
"""Formats that one trainer writes side by side as a matter of course: which of them was read says
the run's sources.
"""
AGREES = 0.02
"""Share by which two logs of one run may differ in a reading, by rounding."""


@dataclass(frozen=True, kw_only=True)
class _MergedRun:
    """A run as some logs tell it; the first is the richest."""

    log_sets: tuple[LogSet, ...]
    contents: LogContents


def read_run(
    path: Path,
    *,
    progress: Callable[[float], None] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> Run:
    """The run whose log, or whose folder, is `path`.

    progress: told the share of bytes read, from 0 to 1. Memory is bounded, however long the log:
    see MOST_POINTS and MOST_PREDICTIONS.
    meanings: names of columns or tags -> the canonical names that they stand for.
    Of several runs that one log tells apart by their names it is the last.
    Raises BadRun, with one line that says what to do, where there is no log, none that can be read,
    or more than one run in several.
    """
    path = Path(path)
    logs_of_runs, left_out = _find_runs(path)
    if len(logs_of_runs) > 1:
        raise BadRun(
            f"{path}: holds {len(logs_of_runs)} runs, "
            f"{named(path, [run_logs.folder for run_logs in logs_of_runs])}; give one of them"
        )
    runs = _runs_of(path, logs_of_runs[0], progress, meanings or {})
    if len(runs) > 1 and len({run.sources[0] for run in runs}) == 1:
        names = naming([run.name for run in runs])
        runs = [
            replace(
                runs[-1],
                warnings=(
                    f"{path}: tells {len(runs)} runs apart by name, {names}; the last is read",
                    *runs[-1].warnings,
                ),
            )
        ]
    if len(runs) > 1:
        raise BadRun(
            f"{path}: holds {len(runs)} runs, {named(path, [run.sources[0] for run in runs])}; "
            "give one of them"
        )
    return replace(runs[0], warnings=(*left_out, *runs[0].warnings))


def read_runs(
    paths: Sequence[Path],
    *,
    progress: Callable[[float], None] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> tuple[Run, ...]:
    """Every run of these logs and folders, in their order, each named so that it can be told from
    the others. Raises BadRun as `read_run` does.
    """
    runs: list[Run] = []
    for path in map(Path, paths):
        logs_of_runs, left_out = _find_runs(path)
        for run_logs in logs_of_runs:
            found = _runs_of(path, run_logs, progress, meanings or {})
            if len(logs_of_runs) > 1 or len(found) > 1:
                found = [
                    replace(run, name=_name_below(path, run_logs, run, alone=len(found) == 1))
                    if run.name == path.resolve().name
                    else run
                    for run in found
                ]
            runs += [replace(run, warnings=(*left_out, *run.warnings)) for run in found]
    return tuple(_with_unique_names(runs))


def _with_unique_names(runs: Sequence[Run]) -> list[Run]:
    """Each with a name of its own: with the folders above it, as far as that takes."""
    for depth in range(1, max((len(run.sources[0].parts) for run in runs), default=1)):
        names = [run.name for run in runs]
        if len(set(names)) == len(names):
            break
        runs = [
            replace(run, name="/".join(run.sources[0].resolve().parts[-1 - depth :]))
            if names.count(run.name) > 1
            else run
            for run in runs
        ]
    return list(runs)


def _find_runs(path: Path) -> tuple[list[RunLogs], tuple[str, ...]]:
    try:
        if path.is_dir():
            found, others = find_runs(path)
            warning = (
                f"{path}: {len(others)} log{'s' * (len(others) > 1)} of other runs in folders "
                f"below left out: {named(path, others)}"
            )
            return found, (warning,) if others else ()
        if path.is_file():
            form = format_of(head_of(path))
            return [
                RunLogs(
                    folder=path.parent,
                    log_sets=(LogSet(format=form, logs=(LogFile(path=path, format=form),)),),
                )
            ], ()
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror or error})") from error
    raise BadRun(f"{path}: no such file or folder; give a log or the folder that it is in")


def _name_below(path: Path, run_logs: RunLogs, run: Run, *, alone: bool) -> str:
    """What tells a run from the others below a path: its folder, and its file where several runs
    stand in one.
    """
    place = run_logs.folder if alone else run.sources[0]
    return str(place.relative_to(path)) if place != path else path.name


def _runs_of(
    path: Path,
    run_logs: RunLogs,
    progress: Callable[[float], None] | None,
    meanings: Mapping[str, str],
) -> list[Run]:
    """The run of these logs; more than one where its logs contradict each other."""
    folders = _folders(path, run_logs)
    facts_file, predictions_file = find_beside(RUN_JSON, folders), find_beside(PREDICTIONS, folders)
    facts = read_facts(facts_file) if facts_file else Facts()
    on_progress = Progress(
        bytes_total=sum(log_set.size for log_set in run_logs.log_sets)
        + (predictions_file.stat().st_size if predictions_file else 0),
        on_progress=progress,
    )
    logs_read, left_out = _read_all(
        path,
        run_logs.log_sets,
        on_progress,
        LogBuilder(shares=facts_file is not None, meanings=meanings),
    )
    shown = LogBuilder()
    if predictions_file is not None:
        read_predictions(predictions_file, shown, on_progress)
    runs = []
    for merged in _by_run(path, logs_read):
        contents = (
            replace(merged.contents, predictions=shown.contents().predictions)
            if predictions_file
            else merged.contents
        )
        runs.append(
            Run(
                name=contents.run or path.resolve().name,
                sources=(
                    *(log.path for log_set in merged.log_sets for log in log_set.logs),
                    *(file for file in (facts_file, predictions_file) if file),
                ),
                clock=contents.clock,
                curves=contents.curves,
                predictions=contents.predictions,
                facts=_with_logged(facts, contents),
                warnings=(*contents.warnings, *left_out, *shown.warnings),
                checkpoint=newest_checkpoint(folders),
                finished=contents.finished,
                planned_steps=contents.planned_steps,
                not_understood=contents.not_understood,
            )
        )
    if progress is not None:
        progress(1.0)
    return runs


def _folders(path: Path, run_logs: RunLogs) -> list[Path]:
    """Where to look for what stands beside: the log's folder, and those above it up to the one
    given.
    """
    top = path if path.is_dir() else path.parent
    logs = [log for log_set in run_logs.log_sets for log in log_set.logs]
    found = [
        folder
        for log in logs
        for folder in (log.path.parent, *log.path.parent.parents)
        if folder == top or top in folder.parents
    ]
    return list(dict.fromkeys(found))


def _read_all(
    path: Path, log_sets: Sequence[LogSet], progress: Progress, empty: LogBuilder
) -> tuple[list[tuple[LogSet, LogContents]], tuple[str, ...]]:
    """What each set of logs tells, and a warning for each that cannot be read.

    Raises BadRun where none can.
    """
    logs_read: list[tuple[LogSet, LogContents]] = []
    refused: list[str] = []
    for log_set in sorted(log_sets, key=lambda log_set: log_set.size):
        if log_set.size > LARGE and any(
            {"train_loss", "val_loss"} <= contents.curves.keys() for _, contents in logs_read
        ):
            progress.advance(log_set.size)
            continue
        try:
            logs_read += [
                (log_set, contents)
                for contents in _read(
                    log_set, progress, empty.empty_copy(split=_split_of(log_set, log_sets))
                )
            ]
        except BadRun as error:
            refused.append(str(error))
    if not logs_read:
        raise BadRun(refused[0])
    not_found = [
        name
        for name in empty.meanings
        if all(name in contents.not_found for _, contents in logs_read)
    ]
    if not_found:
        there = naming(
            sorted(
                {
                    name
                    for _, contents in logs_read
                    for name in (*contents.not_understood, *contents.curves)
                }
            ),
            20,
        )
        raise BadRun(
            f"{path}: --overfit-metric: no column or tag {not_found[0]!r}; there are {there}"
        )
    return logs_read, tuple(refused)


def _split_of(log_set: LogSet, log_sets: Sequence[LogSet]) -> str:
    """The split that the name of a file, or of its folder, tells where another of its format is of
    another: of `train.log` beside `valid.log`. And of the only file, if that is validation: what is
    called training may tell of both.
    """
    own = split_of(log_set.logs[0])
    if len(log_sets) == 1 and own == "val":
        return own
    named = [one.logs[0] for one in log_sets if one.format is log_set.format]
    return own if len({split for log in named if (split := split_of(log))}) > 1 else ""


def _read(log_set: LogSet, progress: Progress, builder: LogBuilder) -> list[LogContents]:
    """What a set of logs tells, of each run that it names."""
    paths = [log.path for log in log_set.logs]
    try:
        log_set.format.read(paths, [log.prefix for log in log_set.logs], builder, progress)
    except OSError as error:
        raise BadRun(
            f"{paths[0]}: cannot be read ({os.strerror(error.errno) if error.errno else error})"
        ) from error
    runs = [replace(one.contents(), run=name) for name, one in builder.runs.items()]
    if runs:
        return [replace(run, warnings=(*builder.warnings, *run.warnings)) for run in runs]
    contents = builder.contents()
    if not contents.curves:
        reasons = f" ({contents.warnings[0]})" if contents.warnings else ""
        raise BadRun(
            f"{paths[0]}: no metric with an epoch or a step in this "
            f"{log_set.format.name}{reasons}; give a log with both"
        )
    return [contents]


def _by_run(path: Path, logs_read: Sequence[tuple[LogSet, LogContents]]) -> list[_MergedRun]:
    """The runs that these logs are of, each from its richest log."""
    runs: list[list[tuple[LogSet, LogContents]]] = []
    for one in sorted(logs_read, key=lambda one: _richness(one[1]), reverse=True):
        own = next((run for run in runs if all(_one_run(one, other) for other in run)), None)
        if own is None:
            runs.append([one])
        else:
            own.append(one)
    in_order = [id(contents) for _, contents in logs_read]
    runs.sort(key=lambda run: in_order.index(id(run[0][1])) if run[0][1].run else 0)
    return [_merged(path, run) for run in runs]


def _one_run(a: tuple[LogSet, LogContents], b: tuple[LogSet, LogContents]) -> bool:
    """Whether two logs tell of one run: of two formats always; of one, where they agree on what
    both tell and tell something else besides.
    """
    (first, one), (second, other) = a, b
    if one.run and other.run:
        return one.run == other.run
    if first.format is not second.format:
        return True
    shared = [name for name in one.curves.keys() & other.curves.keys() if metric(name)]
    compared = [
        abs(x - y) <= AGREES * max(abs(x), abs(y))
        for name in shared
        for x, y in _values_at_same_place(one, other, name)
    ]
    return sum(compared) > len(compared) / 2 if compared else not shared


def _values_at_same_place(
    one: LogContents, other: LogContents, name: str
) -> list[tuple[float, float]]:
    """The readings of a metric that both logs tell, by step where both know it."""
    a, b = (
        {(p.step if p.step == p.step else p.epoch): p.value for p in contents.curves[name].points}
        for contents in (one, other)
    )
    return [
        (a[at], b[at])
        for at in a.keys() & b.keys()
        if math.isfinite(a[at]) and math.isfinite(b[at])
    ]


def _merged(path: Path, parts: Sequence[tuple[LogSet, LogContents]]) -> _MergedRun:
    (best, contents), *others = parts
    formats = {log_set.format.name for log_set, _ in parts}
    warnings = contents.warnings
    if others and formats not in ALIKE:
        names = ", ".join(sorted({log.path.name for log_set, _ in others for log in log_set.logs}))
        what = "two formats of one run" if len(formats) > 1 else f"{len(parts)} logs of one run"
        where = best.format.name if len(formats) > 1 else best.logs[0].path.name
        warnings = (
            f"{path}: {what}; read from the {where}, which tells no less than {names}",
            *warnings,
        )
    log_sets = [best]
    for log_set, other in others:
        if formats not in ALIKE:
            contents = replace(
                contents,
                curves={
                    name: _finer(name, curve, other) for name, curve in contents.curves.items()
                },
            )
        other = _on_clock(other, contents.clock)
        more = {
            name: curve
            for name, curve in other.curves.items()
            if name not in contents.curves and metric(name)
        }
        if more and other.clock == contents.clock and formats not in ALIKE:
            contents, log_sets = (
                replace(contents, curves={**contents.curves, **more}),
                [*log_sets, log_set],
            )
            warnings += (f"{', '.join(sorted(more))} from {log_set.logs[0].path.name}",)
        if other.predictions and not contents.predictions and other.clock == contents.clock:
            contents = replace(contents, predictions=other.predictions)
            warnings += (f"predictions are from the {log_set.format.name}",)
        contents = replace(
            contents,
            finished=contents.finished or other.finished,
            facts={**other.facts, **contents.facts},
        )
    return _MergedRun(log_sets=tuple(log_sets), contents=replace(contents, warnings=warnings))


def _on_clock(contents: LogContents, clock: Literal["epoch", "step"]) -> LogContents:
    """What a log tells, by another clock, where each of its readings knows its place there."""
    if contents.clock == clock:
        return contents
    curves = {
        name: [point._replace(at=getattr(point, clock)) for point in curve.points]
        for name, curve in contents.curves.items()
    }
    if any(math.isnan(point.at) for points in curves.values() for point in points):
        return contents
    placed = {name: Curve.of(points) for name, points in curves.items()}
    return replace(contents, clock=clock, curves=placed)


def _finer(name: str, curve: Curve, other: LogContents) -> Curve:
    """The curve with the readings of another log that tells the same ones with more digits, each
    where it tells them at the same step or epoch.
    """
    rival = other.curves.get(name)
    if rival is None or metric(name) is None or len(set(rival.values)) <= len(set(curve.values)):
        return curve
    exact = {
        (point.step if point.step == point.step else point.epoch): point for point in rival.points
    }
    pairs = [
        (point, exact.get(point.step if point.step == point.step else point.epoch))
        for point in curve.points
    ]
    return Curve.of(
        point if finer is None else point._replace(value=finer.value, where=finer.where)
        for point, finer in pairs
    )


def _richness(contents: LogContents) -> tuple[int, int]:
    canonical = [name for name in contents.curves if metric(name)]
    return len(canonical), sum(len(contents.curves[name]) for name in canonical)


def _with_logged(facts: Facts, contents: LogContents) -> Facts:
    """Facts from run.json, and where it is silent from the log's text."""
    missing = {
        name: value for name, value in contents.facts.items() if getattr(facts, name) is None
    }
    return replace(facts, **missing)  # type: ignore[arg-type]  # the log's facts are counts only
