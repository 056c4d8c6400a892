"""Several runs of one task beside each other: which is best, and where each broke.

They are ranked by what all of them tell, most telling first: an error rate, a score, the validation
loss. Losses of different trainers may have different scales; an error rate and a score are shares
in all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from rich import box
from rich.table import Table

from pytest_overfit.health import report
from pytest_overfit.health.checkup import Checkup
from pytest_overfit.health.curves.curve import Point
from pytest_overfit.health.curves.metric import MEASURED, metric
from pytest_overfit.health.rules.words import number, place, share
from pytest_overfit.health.run import Run
from pytest_overfit.plugin.wording import WIDTH, rendered

ORDER = ("error rate", "score", "loss")
"""Kinds of metrics by which runs are told apart, most telling first."""


def measure_of(runs: Sequence[Run]) -> str | None:
    """The validation metric by which these runs are ranked: the first in order that all of them
    tell, else that any does.
    """
    names = [f"val_{name}" for kind in ORDER for name, one in MEASURED.items() if one.kind == kind]
    runs_with = {name: sum(best_point(run, name) is not None for run in runs) for name in names}
    return next(
        (name for least in (len(runs), 1) for name in names if runs_with[name] >= least), None
    )


def best_point(run: Run, name: str) -> Point | None:
    """The best finite reading of a metric, the first of equal ones; None where it has none."""
    measured = metric(name)
    points = [point for point in run.curve(name).points if math.isfinite(point.value)]
    if not points or measured is None or measured.better is None:
        return None
    return (max if measured.better == "higher" else min)(points, key=lambda point: point.value)


def ranked(checkups: Sequence[Checkup]) -> tuple[Checkup, ...]:
    """Best first; runs that do not tell the measure come last, in their order."""
    name = measure_of([checkup.run for checkup in checkups])
    measured = metric(name) if name else None

    def key(checkup: Checkup) -> float:
        point = best_point(checkup.run, name) if name else None
        if point is None:
            return math.inf
        return -point.value if measured and measured.better == "higher" else point.value

    return tuple(sorted(checkups, key=key))


def value_and_place(run: Run, name: str, point: Point | None) -> str:
    """A reading with its place: "21.0 % at epoch 40"."""
    if point is None:
        return "not told"
    measured = metric(name)
    return (
        f"{share(point.value) if measured and measured.share else number(point.value)} at "
        f"{place(run, point.at)}"
    )


def text(checkups: Sequence[Checkup]) -> str:
    """The runs as a table, best first, and in words which is best and where the others broke."""
    order = ranked(checkups)
    runs = [checkup.run for checkup in order]
    name = measure_of(runs)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (
        "",
        "verdict",
        f"best {words_of(name)}" if name else "",
        "validation loss: best",
        "last",
        "broke",
    ):
        table.add_column(column, overflow="fold")
    for checkup in order:
        run, last = checkup.run, checkup.run.curve("val_loss").points[-1:]
        table.add_row(
            run.name,
            checkup.verdict,
            value_and_place(run, name, best_point(run, name)) if name else "",
            value_and_place(run, "val_loss", best_point(run, "val_loss")),
            number(last[0].value) if last else "not told",
            broke(checkup),
        )
    return "\n\n".join(
        [f"{len(order)} runs, best first", rendered(table, WIDTH).strip("\n"), _best(order, name)]
    )


def words_of(name: str) -> str:
    """ "val_wer" -> "WER"."""
    measured = metric(name)
    return measured.words if measured else name


def broke(checkup: Checkup) -> str:
    """What was found first, and since when; "-" where nothing was."""
    began = [finding for finding in checkup.findings if finding.began is not None]
    first = min(began, key=lambda finding: finding.began or 0.0, default=None)
    if first is None or first.began is None:
        return ", ".join(finding.name for finding in checkup.findings) or "-"
    return f"{first.name} since {place(checkup.run, first.began)}"


def _best(order: Sequence[Checkup], name: str | None) -> str:
    first = order[0].run
    point = best_point(first, name) if name else None
    if name is None or point is None:
        return "best       not told: no run tells a validation loss, an error rate or a score"
    cited = f" ({first.cite(name, point.at)})" if first.cite(name, point.at) else ""
    return f"best       {first.name}: {words_of(name)} {value_and_place(first, name, point)}{cited}"


def to_json(checkups: Sequence[Checkup]) -> str:
    """The reports of all runs for machines, best first."""
    order = ranked(checkups)
    content = {
        "version": 1,
        "ranked_by": measure_of([checkup.run for checkup in order]),
        "best": order[0].run.name,
        "runs": [json.loads(report.to_json(checkup)) for checkup in order],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
