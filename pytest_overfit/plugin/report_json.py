"""The report for machines. Its names are chosen here and described in `report.schema.json`; what a
class of this package is made of may change without them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pytest_overfit.against.comparison import Comparison
from pytest_overfit.climb.ladder import Attempt, Outcome
from pytest_overfit.explain.diagnosis import Diagnosis
from pytest_overfit.finding import Finding
from pytest_overfit.plugin import against_report
from pytest_overfit.plugin.failure import headline
from pytest_overfit.plugin.store import Climbed
from pytest_overfit.plugin.summary import detour_lines, seeds_lines
from pytest_overfit.training import Reading

VERSION = 2
"""Rises when a name changes or goes; new names come without."""


def to_json(climbed: Iterable[Climbed], comparisons: Iterable[Comparison] = ()) -> str:
    """The report of a session: strict JSON, infinite and missing numbers as null. comparisons:
    with another side, where one was asked for.
    """
    rungs = [_rung(outcome, diagnosis) for outcome, diagnosis in climbed]
    document = {"version": VERSION, "outcomes": strict(rungs)}
    if compared := [_comparison(comparison) for comparison in comparisons]:
        document["comparisons"] = strict(compared)
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def strict(value: Any) -> Any:
    """A value for strict JSON: null for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rung(outcome: Outcome, diagnosis: Diagnosis | None) -> dict[str, Any]:
    notes = [line.strip() for line in (*seeds_lines([outcome]), *detour_lines([outcome]))]
    return {
        "subject": outcome.subject,
        "samples": outcome.samples,
        "status": outcome.status,
        "headline": headline(outcome, diagnosis) if outcome.status == "broken" else None,
        "broke_at": outcome.broke_at,
        "available": outcome.available,
        "network": {"where": outcome.where, "parameters": outcome.parameters},
        "seeds": {
            "tried": len(outcome.deciding),
            "held": outcome.seeds_held,
            "chance_of_error": outcome.chance_of_error,
        },
        "error": outcome.error,
        "findings": [_finding(finding) for finding in outcome.findings],
        "attempts": [_attempt(attempt) for attempt in outcome.attempts],
        "diagnosis": _diagnosis(diagnosis) if diagnosis else None,
        "notes": notes,
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    def sides(pair: tuple[float, float] | None) -> dict[str, float] | None:
        return {"ours": pair[0], "theirs": pair[1]} if pair else None

    time, error = comparison.time, comparison.error
    return {
        "subject": comparison.subject,
        "samples": comparison.samples,
        "against": comparison.base,
        "verdict": comparison.verdict,
        "tolerance": comparison.tolerance,
        "together": list(comparison.together),
        "slower": comparison.slower,
        "fails": comparison.fails,
        "headline": against_report.headline(comparison),
        "note": comparison.note,
        "decided": comparison.decided,
        "chance_of_error": comparison.chance_of_error,
        "steps": {
            "ratio": comparison.ratio if comparison.verdict else None,
            "low": comparison.low,
            "high": comparison.high,
            "same": comparison.same,
        },
        "seeds": [
            {
                "seed": seed,
                "ours": ours,
                "ours_held": held,
                "theirs": base,
                "theirs_held": base_held,
            }
            for seed, ours, held, base, base_held in comparison.steps
        ],
        "step_time": time and {"ratio": time.value, "low": time.low, "high": time.high},
        "parameters": sides(comparison.parameters),
        "memory_bytes": sides(comparison.memory_bytes),
        "guilty": [
            {
                "file": one.file,
                "line": one.line,
                "within": one.within,
                "confirmed": one.confirmed,
                "without_it": one.verdict,
                "why": one.why,
            }
            for one in comparison.guilty
        ],
        "climbs": {
            "total": comparison.courses,
            "cached": comparison.cached,
            "cached_of_another_processor": comparison.elsewhere,
        },
        "wer": error and {"step": error[0], "ours": error[1], "theirs": error[2]},
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    trace, level, worst = attempt.trace, attempt.level_match, attempt.misread
    return {
        "seed": attempt.seed,
        "recipe": asdict(attempt.recipe),
        "held": attempt.held,
        "steps": attempt.steps,
        "seconds": attempt.seconds,
        "ended": attempt.ended and attempt.ended.value,
        "why": attempt.why,
        "criteria": [
            {"name": v.name, "value": v.value, "sign": v.sign, "bound": v.bound, "held": v.held}
            for v in attempt.verdicts
        ],
        "loss": list(trace.losses),
        "gradient_norm": list(trace.gradient_norms),
        "learning_rate": list(trace.lrs),
        "readings": [_reading(reading) for reading in trace.readings],
        "level": level
        and {
            "name": level.level.name,
            "predicted": level.level.loss,
            "measured": level.measured,
            "falls": level.descending,
        },
        "levels": {one.name: one.loss for one in level.ladder} if level else {},
        "worst_sample": worst
        and {"sample": worst.sample, "wer": worst.wer, "lines": list(worst.lines)},
        "detour": attempt.detour
        and {
            "level": attempt.detour.level.name,
            "step": attempt.detour.step,
            "path_steps": attempt.detour.path_steps,
        },
        "second_clip": attempt.second_clip and asdict(attempt.second_clip),
        "quieted": attempt.quieted
        and {
            "noise": attempt.quieted.noise,
            "wer": attempt.quieted.token_error_rate,
            "loss": attempt.quieted.nats,
        },
        "controls": [
            {
                "name": control.name,
                "wer": control.as_is,
                "altered": control.altered,
                "held": control.held,
            }
            for control in attempt.controls
        ],
        "findings": [_finding(finding) for finding in attempt.findings],
    }


def _reading(reading: Reading) -> dict[str, Any]:
    values = asdict(reading)
    return {"step": values.pop("step"), "wer": values.pop("token_error_rate"), **values}


def _diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "findings": [_finding(finding) for finding in diagnosis.findings],
        "ruled_out": list(diagnosis.ruled_out),
        "trials": [
            {
                "finding": trial.finding,
                "remedy": trial.remedy,
                "held": trial.held,
                "steps": trial.steps,
                "seconds": trial.seconds,
                "ended": trial.ended and trial.ended.value,
                "why": trial.why,
            }
            for trial in diagnosis.trials
        ],
        "modules": [
            {
                "module": row.module,
                "where": row.where,
                "steps": row.steps,
                "between_sample_share": row.between_sample_share,
                "gradient_norm": row.gradient,
            }
            for row in diagnosis.table
        ],
        "failure": diagnosis.failure,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "headline": finding.headline,
        "evidence": list(finding.evidence),
        "module": finding.module,
        "part": finding.part,
        "samples": list(finding.samples),
        "try": finding.try_,
        "status": finding.status,
        "severity": finding.severity,
        "accepted": finding.accepted,
    }
