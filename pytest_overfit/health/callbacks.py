"""What the live callbacks share: their warning, the names that they understand, and the report that
they leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_overfit.atomic_files import write_whole
from pytest_overfit.health.checkup import Checkup
from pytest_overfit.health.curves.metric_names import canonical, known
from pytest_overfit.health.report import text, to_json
from pytest_overfit.health.run import BadRun
from pytest_overfit.health.watch import METRICS

REPORT = "health.txt"
"""File in a run's folder; the report also as .json."""


class HealthWarning(UserWarning):
    """A finding about the training run, at its onset."""


def checked_names(names: Mapping[str, str] | None, callback: str) -> dict[str, str]:
    """What a user calls metrics -> names of `watch.METRICS`.

    Raises BadRun, in the callback's name, where one is none of them.
    """
    for own, name in (names or {}).items():
        if name not in METRICS:
            raise BadRun(
                f"{callback}: names maps {own!r} to {name!r}, which is none of {', '.join(METRICS)}"
            )
    return dict(names or {})


def understood(logged: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """The metrics that are understood, by their canonical names. names: what the user calls others.

    Of several names for one metric the user's counts, then the epoch's, then the plainest.
    """
    found: dict[str, tuple[tuple[int, int], float]] = {}
    for own, value in logged.items():
        meaning = known(own)
        if own in names:
            name, rank, scale = names[own], (-1, 0), 1.0
        elif meaning is not None and (meaning.split or meaning.metric in METRICS):
            name, scale = canonical(meaning.metric, meaning.split), 0.01 if meaning.percent else 1.0
            rank = ({"epoch": 0, "": 1, "step": 2}[meaning.level], meaning.rank)
        else:
            continue
        if name in METRICS and (name not in found or rank < found[name][0]):
            found[name] = (rank, scale * float(value))
    return {name: value for name, (_, value) in found.items()}


def write_report(checkup: Checkup, folder: Path) -> None:
    """Leave a checkup in a folder, which is made: as text, and for machines as .json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / REPORT, text(checkup) + "\n")
    write_whole((folder / REPORT).with_suffix(".json"), to_json(checkup))
