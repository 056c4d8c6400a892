"""Does the team's cure (dropout 0.3 -> 0.5, weight decay x 10) mend what they hoped for?

Each half of it and the whole, over the same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from examination.health_judged import Judged
from examination.health_rivals import Row
from examination.health_runs import CURE, CURE_BASE
from model.tables import Column, markdown_table

BEFORE, AFTER = CURE[0], CURE[-1]


@dataclass(frozen=True, kw_only=True)
class Cured:
    """One run: what was measured of it, and what the health report said."""

    dropout: float
    weight_decay: float
    seed: int
    measured: dict[str, float]
    judged: Judged


@dataclass(frozen=True)
class Measured:
    """A number of a run. hoped: whether the team hoped that it falls (-1), or nothing (0)."""

    heading: str
    hoped: int
    percent: bool = False


MEASURED: dict[str, Measured] = {
    "best_epoch": Measured("best epoch", 0),
    "best_val_loss": Measured("best val loss", -1),
    "last_train_loss": Measured("last train loss", 0),
    "last_train_eval_loss": Measured("the same without dropout", 0),
    "last_val_loss": Measured("last val loss", -1),
    "rise": Measured("val rise since best", -1, percent=True),
    "gap": Measured("gap at the end", -1),
    "last_train_wer": Measured("last train WER", 0, percent=True),
    "best_val_wer": Measured("best val WER", -1, percent=True),
    "last_val_wer": Measured("last val WER", -1, percent=True),
}


def measured(rows: Sequence[Row]) -> dict[str, float]:
    """MEASURED of a run's rows.

    Gap: validation minus training loss, both in eval mode: dropout inflates the loss it trains on.
    """
    best, last = min(rows, key=lambda row: row["val_loss"]), rows[-1]
    return {
        "best_epoch": best["epoch"],
        "best_val_loss": best["val_loss"],
        "last_train_loss": last["train_loss"],
        "last_train_eval_loss": last["train_eval_loss"],
        "last_val_loss": last["val_loss"],
        "rise": last["val_loss"] / best["val_loss"] - 1,
        "gap": last["val_loss"] - last["train_eval_loss"],
        "last_train_wer": last["train_wer"],
        "best_val_wer": min(row["val_wer"] for row in rows),
        "last_val_wer": last["val_wer"],
    }


def cure_section(cured: Sequence[Cured]) -> list[str]:
    """The section of the page."""
    title = ["", "## Does the team's cure mend it?", ""]
    recipes = [
        recipe for recipe in CURE if any((run.dropout, run.weight_decay) == recipe for run in cured)
    ]
    if BEFORE not in recipes:
        return [*title, "Not measured yet."]
    seeds = sorted({run.seed for run in cured})
    words = [
        (
            f"`python -m model.train {CURE_BASE}`, without augmentation, seeds "
            f"{', '.join(map(str, seeds))}. Mean over the seeds, in brackets least and"
        ),
        (
            "greatest. Last: the last epoch trained. WER is of unseen sentences whose signing is "
            "altered."
        ),
        "",
    ]
    columns = [
        Column("dropout", lambda recipe: f"{recipe[0]:g}"),
        Column("weight decay", lambda recipe: f"{recipe[1]:g}"),
        *(_column(cured, name, what) for name, what in MEASURED.items()),
        Column("health report", lambda recipe: _said(cured, recipe)),
    ]
    changes = [f"- {line}" for recipe in recipes[1:] for line in [_change(cured, recipe)]]
    return [
        *title,
        *words,
        markdown_table(columns, recipes),
        "Against the same seeds of the first row:",
        "",
        *changes,
        "",
        *_bluntly(cured, recipes),
    ]


def _column(cured: Sequence[Cured], name: str, what: Measured) -> Column:
    return Column(what.heading, lambda recipe: _cell(_values(cured, recipe, name), what))


def _values(cured: Sequence[Cured], recipe: tuple[float, float], name: str) -> list[float]:
    return [
        run.measured[name]
        for run in sorted(cured, key=lambda run: run.seed)
        if (run.dropout, run.weight_decay) == recipe
    ]


def _shown(value: float, what: Measured) -> str:
    return (
        f"{value:.0%}"
        if what.percent
        else f"{value:.2f}"
        if what.hoped or "loss" in what.heading or "dropout" in what.heading
        else f"{value:.0f}"
    )


def _cell(values: list[float], what: Measured) -> str:
    spread = (
        f" ({_shown(min(values), what)} to {_shown(max(values), what)})" if len(values) > 1 else ""
    )
    return _shown(fmean(values), what) + spread


def _said(cured: Sequence[Cured], recipe: tuple[float, float]) -> str:
    said = [run.judged.said for run in cured if (run.dropout, run.weight_decay) == recipe]
    names = [name for each in said for name in each.found]
    verdicts = [each.verdict for each in said]
    counts = [f"{name} {names.count(name)}x" for name in dict.fromkeys(names)]
    return "; ".join(
        [
            ", ".join(
                f"{verdict} {verdicts.count(verdict)}x" for verdict in dict.fromkeys(verdicts)
            ),
            *counts,
        ]
    )


def _differences(cured: Sequence[Cured], recipe: tuple[float, float], name: str) -> list[float]:
    """Of each seed that both recipes were trained with."""
    before, after = (
        {run.seed: run.measured[name] for run in cured if (run.dropout, run.weight_decay) == which}
        for which in (BEFORE, recipe)
    )
    return [after[seed] - before[seed] for seed in sorted(before.keys() & after.keys())]


def _change(cured: Sequence[Cured], recipe: tuple[float, float]) -> str:
    parts = []
    for name, what in MEASURED.items():
        if not what.hoped:
            continue
        differences = _differences(cured, recipe, name)
        unit = 100 if what.percent else 1
        shown = ", ".join(
            f"{unit * difference:+.0f}" if what.percent else f"{difference:+.2f}"
            for difference in differences
        )
        parts.append(f"{what.heading} {shown}" + (" points" if what.percent else ""))
    return f"dropout {recipe[0]:g}, weight decay {recipe[1]:g}: " + "; ".join(parts)


def _bluntly(cured: Sequence[Cured], recipes: Sequence[tuple[float, float]]) -> list[str]:
    """What each hope came to, counted over seeds."""
    if AFTER not in recipes:
        return []
    lines = []
    for name, what in MEASURED.items():
        if not what.hoped:
            continue
        differences = _differences(cured, AFTER, name)
        better, worse = (
            sum(difference < 0 for difference in differences),
            sum(difference > 0 for difference in differences),
        )
        word = (
            "better"
            if better == len(differences)
            else "worse"
            if worse == len(differences)
            else "undecided"
        )
        left = fmean(_values(cured, AFTER, name))
        lines.append(
            f"- {what.heading}: {word} ({better} of {len(differences)} seeds lower); "
            f"{_shown(left, what)} is left"
        )
    for name in ("last_train_eval_loss", "last_train_wer"):
        before, after = (
            _shown(fmean(_values(cured, recipe, name)), MEASURED[name])
            for recipe in (BEFORE, AFTER)
        )
        lines.append(
            "- on the training clips themselves, "
            f"{'loss without dropout' if 'loss' in name else 'WER'}: {before} before, {after} "
            "with the cure"
        )
    return ["What came of the whole cure:", "", *lines]
