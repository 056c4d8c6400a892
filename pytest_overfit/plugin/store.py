"""The outcomes of one test session, shared by its worker processes through a folder: a JSON file a
rung, a lock file a claim.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pytest_overfit.atomic_files import write_whole
from pytest_overfit.climb.controls import Control
from pytest_overfit.climb.ladder import (
    Attempt,
    Detour,
    Ended,
    Outcome,
    Progress,
    SecondClip,
    Verdict,
)
from pytest_overfit.climb.misread import Misread
from pytest_overfit.climb.quiet import Quieted
from pytest_overfit.explain.diagnosis import Diagnosis, Row
from pytest_overfit.explain.trials import Trial, TrialEnded
from pytest_overfit.finding import Finding
from pytest_overfit.levels import Level, LevelMatch
from pytest_overfit.recipe import Recipe
from pytest_overfit.training import Reading, Trace


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome in plain types."""
    return asdict(outcome)


Climbed = tuple[Outcome, Diagnosis | None]
"""An outcome and, where it broke, why."""


def climbed_to_json(outcome: Outcome, diagnosis: Diagnosis | None) -> dict[str, Any]:
    """An outcome and its diagnosis in plain types."""
    return {
        "outcome": outcome_to_json(outcome),
        "diagnosis": diagnosis_to_json(diagnosis) if diagnosis else None,
    }


def climbed_from_json(row: dict[str, Any]) -> Climbed:
    """What `told_to_json` wrote."""
    return outcome_from_json(row["outcome"]), diagnosis_from_json(row["diagnosis"]) if row[
        "diagnosis"
    ] else None


def diagnosis_to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis in plain types."""
    return asdict(diagnosis)


def diagnosis_from_json(row: dict[str, Any]) -> Diagnosis:
    """What `diagnosis_to_json` wrote."""
    findings = tuple(finding_from_json(finding) for finding in row["findings"])
    trials = tuple(
        Trial(**{**trial, "ended": TrialEnded(trial["ended"]) if trial["ended"] else None})
        for trial in row["trials"]
    )
    nested = {
        "findings": findings,
        "ruled_out": tuple(row["ruled_out"]),
        "trials": trials,
        "table": tuple(Row(**r) for r in row["table"]),
    }
    return Diagnosis(**{**row, **nested})


def outcome_from_json(row: dict[str, Any]) -> Outcome:
    """What `outcome_to_json` wrote."""
    attempts = tuple(_attempt_from_json(attempt) for attempt in row["attempts"])
    return Outcome(
        **{
            **row,
            "attempts": attempts,
            "findings": tuple(finding_from_json(finding) for finding in row["findings"]),
        }
    )


def _attempt_from_json(row: dict[str, Any]) -> Attempt:
    trace = Trace(
        **{**row["trace"], "readings": [Reading(**reading) for reading in row["trace"]["readings"]]}
    )
    recipe = Recipe(**{**row["recipe"], "fallbacks": tuple(row["recipe"]["fallbacks"])})
    nested = {
        "ended": Ended(row["ended"]) if row["ended"] else None,
        "trace": trace,
        "recipe": recipe,
        "verdicts": tuple(Verdict(**verdict) for verdict in row["verdicts"]),
        "level_match": _level_match_from_json(row["level_match"]) if row["level_match"] else None,
        "detour": Detour(**{**row["detour"], "level": Level(**row["detour"]["level"])})
        if row["detour"]
        else None,
        "second_clip": SecondClip(**row["second_clip"]) if row["second_clip"] else None,
        "quieted": Quieted(**row["quieted"]) if row["quieted"] else None,
        "misread": Misread(**{**row["misread"], "lines": tuple(row["misread"]["lines"])})
        if row["misread"]
        else None,
        "controls": tuple(Control(**control) for control in row["controls"]),
        "findings": tuple(finding_from_json(finding) for finding in row["findings"]),
    }
    return Attempt(**{**row, **nested})


def _level_match_from_json(row: dict[str, Any]) -> LevelMatch:
    return LevelMatch(
        **{
            **row,
            "level": Level(**row["level"]),
            "ladder": tuple(Level(**level) for level in row["ladder"]),
        }
    )


def finding_from_json(row: dict[str, Any]) -> Finding:
    """What `Finding.to_json` wrote."""
    return Finding(**{**row, "evidence": tuple(row["evidence"]), "samples": tuple(row["samples"])})


@dataclass(frozen=True)
class Store:
    """The shared folder.

    Keys name a subject's ladder; a claim is held by one process at a time and ends with it.
    """

    folder: Path

    def get(self, key: str, samples: int) -> Outcome | None:
        """The outcome of a rung; None while it is not known."""
        path = self._path(key, samples, "json")
        return (
            outcome_from_json(json.loads(path.read_text(encoding="utf-8")))
            if path.exists()
            else None
        )

    def put(self, key: str, outcome: Outcome, diagnosis: Diagnosis | None = None) -> None:
        """Make an outcome known; a diagnosis goes first, so that whoever sees the outcome finds
        it.
        """
        if diagnosis is not None:
            write_whole(
                self._path(key, outcome.samples, "diagnosis"),
                json.dumps(diagnosis_to_json(diagnosis)),
            )
        write_whole(self._path(key, outcome.samples, "json"), json.dumps(outcome_to_json(outcome)))

    def diagnosis(self, key: str, samples: int) -> Diagnosis | None:
        """Why a rung broke; None where it did not, or while it is not known."""
        path = self._path(key, samples, "diagnosis")
        return (
            diagnosis_from_json(json.loads(path.read_text(encoding="utf-8")))
            if path.exists()
            else None
        )

    @contextmanager
    def claim(self, key: str, samples: int) -> Iterator[bool]:
        """Whether this process got the rung: no other is at it."""
        lock = FileLock(self._path(key, samples, "lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def device_lock(self, device: str) -> FileLock:
        """One climb at a time on a GPU: several fill its memory."""
        return FileLock(self.folder / f"{device.replace(':', '-')}.lock")

    def show(self, subject: str, progress: Progress) -> None:
        """Leave word of where this process stands, for the live line."""
        write_whole(
            self.folder / f"progress-{os.getpid()}",
            json.dumps({"subject": subject, **asdict(progress)}),
        )

    def _path(self, key: str, samples: int, suffix: str) -> Path:
        # Readable, but two keys that differ only in what a file name cannot hold are two ladders.
        readable = re.sub(r"[^A-Za-z0-9_.-]", "_", key)[-80:]
        return (
            self.folder
            / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:12]}-{samples}.{suffix}"
        )
