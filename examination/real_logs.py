"""`python -m examination real-logs DIR`: what the health report says of real logs that an
expert judged before.

DIR holds a folder for each run, with its log and a `label.json`. Of that are used:

    train, valid, rate   null, or count, first, best, best_at, last, all of them null if no
                         reading is a number; of the rate also its unit, "percent" or "share"
    verdict              all acceptable answers: healthy, go on, stop, cannot tell
    illness              acceptable names of it; empty where nothing is wrong
    onset                null, or value, unit (epoch or step), tolerance in words, with a number in
                         brackets where it is one

A run is read right when each curve has the labelled count, first, best and last value, and the best
where the label says. Nothing here decides by the name of a run or of a file.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from examination.real_logs_rivals import installed
from examination.real_logs_rivals import totals as rivals_totals
from pytest_overfit.finding import Finding
from pytest_overfit.health.checkup import Checkup, check_up
from pytest_overfit.health.curves.curve import Curve, Point
from pytest_overfit.health.curves.metric import metric
from pytest_overfit.health.readers import read_run
from pytest_overfit.health.run import BadRun, Run

LABEL = "label.json"
NEAR = 0.006
"""Share of a value by which a reading may differ from the label's: half of a digit in the second
place.
"""
FEW_LOST = 0.01
"""Share of readings by which a count may differ: the first and last may be counted or not."""
CURVES = ("train", "valid", "rate")
SEVERAL = re.compile(r"\b(?:runs|starts|restarts?|resumed|appended)\b")
"""Words by which a label says that its log holds several runs."""
ILLNESSES: Mapping[str, tuple[str, ...]] = {
    "overfits": (
        "validation_loss_rises",
        "validation_stands",
        "gap_wide",
        "validation_error_rises",
    ),
    "never learn": (
        "loss_never_falls",
        "training_stands",
        "nothing_learnt",
        "validation_wer_stuck",
        "predictions_too_short",
        "learning_rate_zero",
    ),
    "carr": ("nothing_carries_over", "gap_wide", "validation_wer_stuck"),
    "diverge": (
        "training_diverges",
        "loss_not_finite",
        "loss_never_falls",
        "validation_loss_rises",
        "learning_undone",
    ),
    "nan": ("loss_not_finite", "training_diverges"),
    "rate too high": (
        "training_diverges",
        "loss_oscillates",
        "loss_spikes",
        "validation_loss_rises",
        "learning_undone",
    ),
    "rate": ("learning_rate_zero", "training_diverges", "loss_oscillates", "loss_never_falls"),
    "damage": ("validation_loss_rises", "training_diverges", "loss_spikes", "learning_undone"),
    "collapse": (
        "training_diverges",
        "loss_never_falls",
        "validation_loss_rises",
        "predictions_too_short",
        "validation_wer_stuck",
        "learning_undone",
    ),
    "unstable": ("loss_oscillates", "loss_spikes", "training_diverges"),
    "swing": ("loss_oscillates", "loss_spikes"),
    "plateau": (
        "loss_never_falls",
        "training_stands",
        "nothing_learnt",
        "validation_wer_stuck",
        "validation_stands",
    ),
    "undone": ("learning_undone", "validation_error_rises", "validation_loss_rises"),
    "stuck": ("loss_never_falls", "training_stands", "nothing_learnt", "validation_wer_stuck"),
    "dead": ("learning_rate_zero", "loss_never_falls", "validation_wer_stuck"),
}
"""Words in the expert's name of an illness -> the findings that name it."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One log against its label. misread: what was read otherwise, in words. onset: None where the
    label has none.

    notes: of the label, which may allow another reading. named: whether a finding names the
    illness; None where the label has none. accused: the findings where nothing is wrong.
    """

    name: str
    sick: bool
    misread: tuple[str, ...]
    verdict: str
    verdict_right: bool
    named: bool | None
    onset: bool | None
    accused: tuple[str, ...]
    found: tuple[str, ...]
    expected: str
    notes: str


def judge(folder: Path) -> Judged:
    """Read and judge the log of a labelled folder, without showing its label to the reader."""
    label = json.loads((folder / LABEL).read_text(encoding="utf-8"))
    expected = f"{' or '.join(label['verdict'])}; {', '.join(label['illness']) or 'nothing wrong'}"
    sick = bool(label["illness"])
    try:
        run = _read(folder)
    except BadRun as error:
        return Judged(
            name=folder.name,
            sick=sick,
            misread=(str(error),),
            verdict="not read",
            verdict_right=False,
            named=False if sick else None,
            onset=False if sick and label["onset"] else None,
            accused=(),
            found=(),
            expected=expected,
            notes=label.get("notes") or "",
        )
    checkup = check_up(run)
    named = _naming(checkup.findings, label["illness"])
    return Judged(
        name=folder.name,
        sick=sick,
        misread=tuple(_misread(run, label)),
        verdict=checkup.verdict,
        verdict_right=checkup.verdict in label["verdict"],
        named=bool(named) if sick else None,
        onset=_onset_right(run, named, label["onset"]) if sick and label["onset"] else None,
        accused=() if sick else _accusing(checkup),
        found=tuple(
            f"{one.name}{'' if one.began is None else f' since {one.began:g}'} ({one.status})"
            for one in checkup.findings
        ),
        expected=expected,
        notes=label.get("notes") or "",
    )


def _read(folder: Path) -> Run:
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / folder.name
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns(LABEL))
        return read_run(place)


def _accusing(checkup: Checkup) -> tuple[str, ...]:
    """Findings that fail a case, and a verdict that stops a run."""
    return tuple(finding.name for finding in checkup.findings) + (
        ("stopped",) if checkup.verdict == "stop" else ()
    )


def _naming(findings: Sequence[Finding], illnesses: Sequence[str]) -> list[Finding]:
    names = {
        name
        for illness in illnesses
        for words, found in ILLNESSES.items()
        if words in illness.lower()
        for name in found
    }
    return [finding for finding in findings if finding.name in names]


def _onset_right(run: Run, named: Sequence[Finding], onset: Mapping[str, Any]) -> bool:
    return any(
        _near_onset(run, finding.began, onset) for finding in named if finding.began is not None
    )


def _near_onset(run: Run, began: float, onset: Mapping[str, Any]) -> bool:
    """Whether a place of the axis is the labelled one, in the label's unit, within the words of its
    tolerance or one evaluation.
    """
    by_epoch = "epoch" in str(onset["unit"])
    reading = next(
        (
            name
            for name in ("val_loss", run.read_by("val"), "train_loss")
            if name and len(run.curve(name))
        ),
        None,
    )
    if reading is None:
        return False
    curve = run.curve(reading)
    nearest = min(curve.points, key=lambda point: abs(point.at - began))
    place = _in_unit(run, nearest, by_epoch)
    places = [
        told for point in curve.points if (told := _in_unit(run, point, by_epoch)) is not None
    ]
    if place is None:
        return False
    return abs(place - float(onset["value"])) <= _tolerance(places, onset, by_epoch=by_epoch)


def _tolerance(places: Sequence[float], onset: Mapping[str, Any], *, by_epoch: bool) -> float:
    """How far an onset may be off: one evaluation, or as far as the label says, and an epoch at
    least where epochs count.
    """
    distance = median([b - a for a, b in pairwise(places)] or [0.0])
    stated = [
        float(number) for number in re.findall(r"\d+(?:\.\d+)?", str(onset.get("tolerance") or ""))
    ]
    return max(distance, *stated, 1.0 if by_epoch else 0.0) + 1e-6


def rivals(folders: Sequence[Path], programs: Path) -> str:
    """What other tools say of the same logs, a line a tool."""
    from examination.real_rivals import TOOLS, counts

    judged = []
    for folder in folders:
        label = json.loads((folder / LABEL).read_text(encoding="utf-8"))
        try:
            run = _read(folder)
        except BadRun:
            files = [path for path in sorted(folder.iterdir()) if path.name != LABEL]
            judged.append((label, files[0], 1.0))
            continue
        onset, log = label["onset"] or {"value": 0, "unit": "step"}, folder / run.sources[0].name
        by_epoch = "epoch" in str(onset["unit"])
        places = [
            told
            for point in run.curve("val_loss").points
            if (told := _in_unit(run, point, by_epoch)) is not None
        ]
        judged.append((label, log, _tolerance(places, onset, by_epoch=by_epoch)))
    lines = []
    for tool in TOOLS:
        told = "  ".join(
            f"{name} {right} of {of}"
            for name, (right, of) in counts(tool, judged, programs).items()
        )
        lines.append(f"{tool:<20} {told}")
    return "\n".join(lines)


def _in_unit(run: Run, point: Point, by_epoch: bool) -> float | None:
    if (run.clock == "epoch") == by_epoch:
        return point.at
    told = point.epoch if by_epoch else point.step
    return told if told == told else None


def _misread(run: Run, label: Mapping[str, Any]) -> Iterator[str]:
    """What the run's curves tell otherwise than the label, a few words each.

    Of a log of several runs the last alone may be read.
    """
    told = " ".join(str(label.get(field)) for field in ("form", "axes", "notes", "finished"))
    if SEVERAL.search(told):
        label = label | {
            key: {**said, "count": None, "first": None, "best": None}
            for key in CURVES
            if (said := label.get(key))
        }
    for key, names in (
        ("train", ("train_loss", "train_perplexity")),
        ("valid", ("val_loss", "val_perplexity")),
    ):
        said = label.get(key)
        if said:
            said = _as_loss(said)
            yield from _differs(
                run, key, said, [name for name in names if name in run.curves], "lower", 1.0
            )
    said = label.get("rate")
    if said:
        names = [
            name
            for name in run.curves
            if (told := metric(name)) and told.kind in ("error rate", "score")
        ]
        percent = "percent" in str(said.get("unit", ""))
        yield from _differs(
            run,
            f"rate ({said['name']})" if "name" in said else "rate",
            said,
            names,
            said.get("better"),
            100.0 if percent else 1.0,
        )


def _as_loss(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """A label's objective that grows towards 0 from below, Kaldi's, as the loss that it is upside
    down.
    """
    first, best = said.get("first"), said.get("best")
    if not (isinstance(first, int | float) and isinstance(best, int | float) and first < best < 0):
        return said
    return said | {key: -said[key] for key in ("first", "best", "last")}


def _differs(
    run: Run,
    key: str,
    said: Mapping[str, Any],
    names: Sequence[str],
    better: str | None,
    scale: float,
) -> Iterator[str]:
    if not names:
        yield f"{key}: not read"
        return
    each = [
        _difference(
            run.curves[name],
            said,
            better or getattr(metric(name), "better", "lower"),
            scale if getattr(metric(name), "share", False) else 1.0,
        )
        for name in names
    ]
    if all(each):
        yield f"{key}: {min(each, key=len)}"


def _difference(curve: Curve, said: Mapping[str, Any], better: str, scale: float) -> str:
    values = [value * scale for value in curve.ascending.values if math.isfinite(value)]
    if said["last"] is None and said.get("best") is None:  # of a curve that is NaN throughout
        return "finite readings, where none is" if values else ""
    if not values:
        return "nothing finite"
    best = max(values) if better == "higher" else min(values)
    found = {"first": values[0], "best": best, "last": values[-1]}
    told = {"first": curve.values[0], "last": curve.values[-1]}
    wrong = [
        f"{name} {value:g}, not {said[name]}"
        for name, value in told.items()
        if (name == "last" or said.get(name) is not None)  # a first one of null is not compared
        and _no_number(said.get(name))
        and math.isfinite(value)
    ]
    wrong += [
        f"{name} {value:g}, not {said[name]:g}"
        for name, value in found.items()
        if not _no_number(said.get(name)) and not _near(value, said[name])
    ]
    if (
        said.get("best") is not None
        and isinstance(said.get("best_at"), int | float)
        and not _best_at(curve, said["best_at"], best / scale)
    ):
        wrong.append(f"best not at {said['best_at']:g}")
    allowed = max(1, FEW_LOST * said["count"]) if said.get("count") else math.inf
    if (
        said.get("count")
        and min(abs(len(values) - said["count"]), abs(len(curve) - said["count"])) > allowed
    ):
        wrong.append(f"{len(values)} readings, not {said['count']}")
    return ", ".join(wrong)


def _best_at(curve: Curve, place: float, best: float) -> bool:
    """Whether a reading as good as the best stands at this epoch or step, or is the one of this
    number; beside it, where counts begin elsewhere. A place beyond all that the curve counts is of a
    count that its log does not tell, as of batches over all epochs, and is not compared.
    """
    places = [
        (point.at, point.epoch, point.step, index) for index, point in enumerate(curve.points)
    ]
    near = [
        told
        for own, point in zip(places, curve.points, strict=True)
        if _near(point.value, best)
        for told in own
    ]
    if place > max(told for own in places for told in own if told == told) + 1:
        return True
    return any(abs(told - place) <= max(1.0, NEAR * place) for told in near)


def _no_number(said: object) -> bool:
    """Whether a label's figure is NaN or infinite: as JSON of Python, in words, or null."""
    return (
        said is None
        or isinstance(said, str)
        or (isinstance(said, float) and not math.isfinite(said))
    )


def _near(value: float, said: float) -> bool:
    return abs(value - said) <= NEAR * max(abs(value), abs(said)) + 1e-6


def table(all_judged: Sequence[Judged]) -> str:
    """A line a log, and the totals."""
    lines = []
    for one in all_judged:
        marks = {
            "read": not one.misread,
            "verdict": one.verdict_right,
            "named": one.named,
            "onset": one.onset,
        }
        shown = "  ".join(
            f"{name} {'-' if right is None else 'right' if right else 'WRONG'}"
            for name, right in marks.items()
        )
        lines.append(
            f"{one.name:<44} {shown}  "
            f"{one.verdict}{'' if one.verdict_right else f' (expected {one.expected})'}"
        )
        lines += [f"    misread {why}" for why in one.misread]
        lines += [f"    notes   {one.notes}"] if one.misread and one.notes else []
        lines += [f"    found   {', '.join(one.found)}"] if one.found else []
        lines += [f"    ACCUSED {', '.join(one.accused)}"] if one.accused else []
    return "\n".join([*lines, "", totals(all_judged)])


def totals(all_judged: Sequence[Judged]) -> str:
    sick, well = (
        [one for one in all_judged if one.sick],
        [one for one in all_judged if not one.sick],
    )
    onsets = [one for one in sick if one.onset is not None]
    beyond_doubt = [one for one in sick if one.expected.startswith("stop; ")]
    counts = {
        "read right": (sum(not one.misread for one in all_judged), len(all_judged)),
        "verdict right": (sum(one.verdict_right for one in all_judged), len(all_judged)),
        "sick named": (sum(bool(one.named) for one in sick), len(sick)),
        "surely sick named": (sum(bool(one.named) for one in beyond_doubt), len(beyond_doubt)),
        "onset right": (sum(bool(one.onset) for one in onsets), len(onsets)),
        "sound runs accused": (sum(bool(one.accused) for one in well), len(well)),
        "sound runs stopped": (sum("stopped" in one.accused for one in well), len(well)),
    }
    return "\n".join(f"{name:<20} {count} of {of}" for name, (count, of) in counts.items())


def near_onset(folder: Path, began: float) -> bool:
    """Whether a place, in epochs or in steps, is the labelled onset of a run, as near as a finding
    of the health report must be.
    """
    onset = json.loads((folder / LABEL).read_text(encoding="utf-8"))["onset"]
    try:
        run = _read(folder)
    except BadRun:
        return abs(began - float(onset["value"])) <= 1
    nearest = [_near_onset(run, began, onset)]
    told = [point for name in ("val_loss", "train_loss") for point in run.curve(name).points]
    nearest += [
        _near_onset(run, point.at, onset) for point in told if began in (point.step, point.epoch)
    ]
    return any(nearest)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examination real-logs",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="holds a folder for each run, with its log and a label.json in it",
    )
    parser.add_argument(
        "--rivals",
        action="store_true",
        help="what the other tools that are installed say of the same logs, too",
    )
    parser.add_argument(
        "--rivals-in", type=Path, help="the folder that their commands are in, by default the path"
    )
    options = parser.parse_args(arguments)
    if options.folder is None:
        parser.error(
            "needs DIR, a folder of labelled logs of your own, a folder a run: its log and its "
            f"{LABEL}. The logs of docs/real_logs.md belong to others and are not kept here. "
            "--help tells what stands in a label"
        )
    folders = sorted(path.parent for path in options.folder.glob(f"*/{LABEL}"))
    if not folders:
        parser.error(
            f"no folder in {options.folder} has a {LABEL}; --help tells what stands in one"
        )
    print(table([judge(folder) for folder in folders]))
    if options.rivals or options.rivals_in:
        print("\n" + rivals_totals(folders, LABEL, installed(options.rivals_in), near_onset))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
