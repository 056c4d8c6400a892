"""What other tools say of the same real logs, each through its own command with its defaults:
runmedic, trainspotter, finetune-doctor, losslint and ftdoctor. `pip install
"pytest-overfit[rivals]"` brings them; one that is not there is left out.

They are given the run's folder and, where they cannot read that, each of its files in turn. To be
fair to them: a check that can be taken to fit names an illness, at any severity; they have no
verdicts, so *stop* is a check of at least a warning, of a sick run one that fits.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 60
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "runmedic": ("runmedic", "diagnose", "{}", "--json"),
    "trainspotter": ("trainspotter", "analyze", "{}", "--output", "json"),
    "finetune-doctor": ("finetune-doctor", "diagnose", "{}", "--format", "json"),
    "losslint": ("losslint", "check", "{}", "--format", "json"),
    "ftdoctor": ("ftdoctor", "diagnose", "{}", "--format", "json"),
}
FITTING: Mapping[str, str] = {
    "overfit": "overfit|generali[sz]",
    "never learn": "plateau|stagnat|not_learning|no_progress|flat|constant|lr_|learning_rate|stuck",
    "diverge": "diverg|nan|spike|degenerate|unstable|explod",
    "damage": "diverg|spike|overfit|degenerate|unstable",
    "unstable": "spike|noise|noisy|unstable|oscillat|diverg",
    "rate": "lr_|learning_rate|spike|diverg|oscillat|noise|plateau",
}
"""Words in the expert's name of an illness -> checks that can be taken to name it."""
REMARKS = (
    "no_eval",
    "stopped_improving",
    "eval_below_train",
    "incomplete",
    "metric_disagreement",
    "throughput",
)
"""Checks that say of themselves that nothing is wrong with what is learnt; they count as no alarm.
"""
ALARMS = ("warning", "error", "critical", "high")


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a rival raised. at: where it says that it began."""

    name: str
    severity: str
    at: float | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a rival said of a run. counts: readings of each of its series."""

    checks: tuple[Check, ...]
    counts: tuple[int, ...]


def installed(bin_folder: Path | None = None) -> dict[str, tuple[str, ...]]:
    """The commands of the rivals that are there, in a folder or on the path."""
    found = {
        name: shutil.which(words[0], path=str(bin_folder) if bin_folder else None)
        for name, words in COMMANDS.items()
    }
    return {name: (path, *COMMANDS[name][1:]) for name, path in found.items() if path}


def answer(command: Sequence[str], folder: Path, label: str) -> Answer | None:
    """What a rival says of the run in a folder, without its label; None where it can read none of
    it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / folder.name
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns(label))
        for path in (place, *sorted(path for path in place.rglob("*") if path.is_file())):
            words = [word.format(path) for word in command]
            try:
                said = subprocess.run(
                    words, capture_output=True, text=True, timeout=SECONDS, check=False
                ).stdout
                found = _understood(json.loads(said))
            except (subprocess.TimeoutExpired, ValueError):
                continue
            if found.counts or found.checks:
                return found
    return None


def _understood(said: Any) -> Answer:
    """The findings and the lengths of series, wherever they stand in a rival's JSON."""
    checks = [
        Check(
            name=str(one.get("check") or one.get("detector") or one.get("id")),
            severity=str(one.get("severity", "")).lower(),
            at=_began(one),
        )
        for found in _values(said, "findings")
        if isinstance(found, list)
        for one in found
        if isinstance(one, dict)
    ]
    numbers = [
        count
        for key in ("points", "count", "n_evals", "n_train")
        for count in _values(said, key)
        if isinstance(count, int)
    ]
    return Answer(
        checks=tuple(check for check in checks if not check.name.startswith(REMARKS)),
        counts=tuple(numbers),
    )


def _values(said: Any, key: str) -> Iterator[Any]:
    if isinstance(said, dict):
        for name, value in said.items():
            if name == key:
                yield value
            yield from _values(value, key)
    elif isinstance(said, list):
        for value in said:
            yield from _values(value, key)


def _began(finding: Mapping[str, Any]) -> float | None:
    """Where a finding says that it began: its own place, or the first one among its details."""
    for key in ("best_step", "since_step", "step", "step_start", "best_epoch", "epoch"):
        for value in _values(finding, key):
            if isinstance(value, int | float):
                return float(value)
    return None


def totals(
    folders: Sequence[Path],
    label: str,
    commands: Mapping[str, Sequence[str]],
    near: Callable[[Path, float], bool],
) -> str:
    """A line a rival: how many runs it reads, judges and names, dates and accuses.

    near: whether a place is the labelled onset of a run.
    """
    rows = ["rival                read       stop/not   named      onset      accused"]
    for name, command in commands.items():
        read = judged = named = dated = accused = sick = onsets = 0
        for folder in folders:
            said = json.loads((folder / label).read_text(encoding="utf-8"))
            told = answer(command, folder, label)
            checks = told.checks if told else ()
            wanted = [
                each["count"]
                for each in (said.get("train"), said.get("valid"))
                if each and each.get("count")
            ]
            read += (
                bool(told)
                and bool(told.counts)
                and all(any(abs(own - count) <= 1 for own in told.counts) for count in wanted)
            )
            fit = [check for check in checks if _fits(check.name, said["illness"])]
            alarms = [
                check for check in (fit if said["illness"] else checks) if check.severity in ALARMS
            ]
            judged += bool(told) and (
                "stop" in said["verdict"]
                if alarms
                else any(verdict != "stop" for verdict in said["verdict"])
            )
            sick, named = sick + bool(said["illness"]), named + bool(said["illness"] and fit)
            if said["illness"] and said["onset"]:
                onsets, dated = (
                    onsets + 1,
                    dated + any(check.at is not None and near(folder, check.at) for check in fit),
                )
            accused += not said["illness"] and bool(alarms)
        well = len(folders) - sick
        counts = (
            (read, len(folders)),
            (judged, len(folders)),
            (named, sick),
            (dated, onsets),
            (accused, well),
        )
        rows.append(f"{name:<20} " + " ".join(f"{f'{count} of {of}':<10}" for count, of in counts))
    return "\n".join(rows)


def _fits(name: str, illnesses: Sequence[str]) -> bool:
    return any(
        word in illness.lower() and re.search(pattern, name.lower())
        for illness in illnesses
        for word, pattern in FITTING.items()
    )
