"""What a search has found: the table of the best trials, what mattered, the best recipe as a
file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna
import tomli_w
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from rich import box
from rich.console import Console
from rich.table import Table

from pytest_overfit.atomic_files import write_whole
from pytest_overfit.finding import counted
from pytest_overfit.plugin.wording import percent
from pytest_overfit.recipe import Recipe, default_recipe
from pytest_overfit.search.running import Search, Trial
from pytest_overfit.search.space import NETWORK, Space
from pytest_overfit.search.storage import quiet

SHOWN, WIDTH = 10, 160
BEST, TABLE = "best.toml", "table.txt"
FEW = 20
"""Trials below which an importance says nothing."""


def as_text(search: Search, trials: Sequence[Trial], *, earlier: int = 0) -> str:
    """The result for a terminal. trials: best first. earlier: how many are of an earlier run."""
    lines = [sentence(search, trials, earlier=earlier), "", table(search, trials)]
    weights = importances(search.climb.space, trials)
    if weights:
        shown = ", ".join(
            f"{name} {weight:.0%}" for name, weight in weights.items() if weight >= 0.005
        )
        lines += ["", f"importance (PED-ANOVA, over {len(trials)} trials): {shown}"]
    return "\n".join(lines)


def sentence(search: Search, trials: Sequence[Trial], *, earlier: int = 0) -> str:
    """How many held, how many are of an earlier run, and how the recipe as it is did."""
    held = sum(trial.result.held for trial in trials)
    given_up = sum(trial.result.ended.startswith("given up") for trial in trials)
    seconds = math.fsum(trial.result.seconds for trial in trials)
    text = (
        f"{search.name}: {held} of {len(trials)} trials held, {len(trials) - held - given_up} "
        "broke, "
        f"{given_up} were given up; {seconds:.0f} s of climbing"
    )
    text += f"; {counted(earlier, 'trial')} from an earlier run" if earlier else ""
    as_given = next((trial for trial in trials if trial.result.as_given), None)
    if as_given is None:
        return text
    place = trials.index(as_given) + 1
    which = f"the recipe as it is, trial {as_given.number},"
    return f"{text}\n{which} ranks {place} of {len(trials)} by score: {as_given.result.ended}"


def table(search: Search, trials: Sequence[Trial]) -> str:
    """The best trials, a row each."""
    shown = Table(
        title=f"the best {min(SHOWN, len(trials))}",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    for name in ("trial", "score", "seeds held", "steps", "WER", "level"):
        shown.add_column(name, justify="right" if name != "level" else "left", no_wrap=True)
    shown.add_column("recipe")
    for trial in trials[:SHOWN]:
        one = trial.result
        shown.add_row(
            f"{trial.number}{' *' if one.as_given else ''}",
            f"{one.score:.3f}",
            f"{one.seeds_held} of {one.seeds}",
            f"{one.steps}",
            percent(one.token_error_rate),
            one.level,
            chosen(trial, search),
        )
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None).print(shown)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    stars = any(trial.result.as_given for trial in trials[:SHOWN])
    below = "score: share of the clips allowed until every rung held; from 1 on, a rung broke"
    return "\n".join(lines).strip() + f"\n{below}" + ("; *: the recipe as it is" if stars else "")


def chosen(trial: Trial, search: Search) -> str:
    """What a trial chose, in a line: of a grid everything, else what differs from the recipe as it
    is.

    What its optimiser does not have, momentum with Adam, is left out.
    """
    space, samples = search.climb.space, search.rungs[-1]
    base = search.climb.base[samples]
    given, recipe = space.values_of(base), space.recipe(base, trial.values, samples)
    words = []
    lacks = "beta2" if recipe.optimizer == "sgd" else "momentum"
    for axis in space.axes:
        value = getattr(recipe, axis.name, trial.values[axis.name])
        if axis.name != lacks and (space.grid or value != given.get(axis.name, trial)):
            words.append(f"{axis.name.removeprefix(NETWORK)} {_word(value)}")
    return ", ".join(words) or "as it is"


def _word(value: Any) -> str:
    return "none" if value is None else f"{value:.3g}" if isinstance(value, float) else f"{value}"


def importances(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """Share of each axis in which trials are among the best tenth, largest first; empty for few
    trials.

    All trials count, those that were given up too. Source: Watanabe, Bansal & Hutter 2023,
    PED-ANOVA, arXiv 2304.10255.
    """
    axes = [axis for axis in space.axes if len(axis.choices) != 1]
    if len(trials) < FEW or len({trial.result.score for trial in trials}) < 2 or not axes:
        return {}
    kinds: dict[str, BaseDistribution] = {
        axis.name: CategoricalDistribution(axis.choices)
        if axis.choices
        else FloatDistribution(axis.low, axis.high, log=True)
        for axis in axes
    }
    with quiet():
        study = optuna.create_study()
        for trial in trials:
            values = {name: trial.values[name] for name in kinds}
            score = trial.result.score
            study.add_trial(optuna.create_trial(params=values, distributions=kinds, value=score))
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def recipe_file(search: Search, trial: Trial) -> str:
    """The recipe of a trial as TOML: its fields, and the budget of each rung.

    Fields are written where they differ from the default recipe of any rung of the search.
    """
    recipes = search.climb.recipes(trial.values)
    own = [
        field.name
        for field in fields(Recipe)
        if field.name not in ("budget", "fallbacks", "overtime", "own")
    ]
    last = recipes[search.rungs[-1]]
    searched = {axis.name.split(".")[0] for axis in search.climb.space.axes}
    differ = {
        name
        for name in own
        for samples, recipe in recipes.items()
        if getattr(recipe, name) != getattr(default_recipe(samples), name)
    }
    top = {name: _plain(getattr(last, name)) for name in own if name in differ | searched}
    top = {name: value for name, value in top.items() if value != {}}
    rungs = {str(samples): {"budget": recipe.budget} for samples, recipe in recipes.items()}
    return _heading(search, trial) + tomli_w.dumps({**top, "rungs": rungs})


def _plain(value: Any) -> Any:
    """A recipe's value as TOML has it."""
    if value is None:
        return "none"
    return dict(value) if isinstance(value, Mapping) else value


def _heading(search: Search, trial: Trial) -> str:
    one = trial.result
    how = f"held with {one.seeds_held} of {one.seeds} seeds" if one.held else one.ended
    return f"# {search.name}: trial {trial.number}, {how}, {one.steps} steps\n"


def write(search: Search, trials: Sequence[Trial], folder: Path, *, earlier: int = 0) -> list[Path]:
    """Write table, best recipe (where one holds) and pictures into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / TABLE, as_text(search, trials, earlier=earlier) + "\n")
    written = [folder / TABLE]
    if trials and trials[0].result.held:
        write_whole(folder / BEST, recipe_file(search, trials[0]))
        written.append(folder / BEST)
    try:
        from pytest_overfit.search.pictures import draw_history, draw_values
    except ImportError:
        return written
    from pytest_overfit.health.pictures import save_figure

    for name, figure in (
        ("history", draw_history(search, trials)),
        ("values", draw_values(search, trials)),
    ):
        written += save_figure(figure, folder, name)[:1]
    return written
