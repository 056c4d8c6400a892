"""From what a command line says to a `Search`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_overfit.plugin.settings import Settings
from pytest_overfit.recipe import Recipe
from pytest_overfit.search.climbing import Climb
from pytest_overfit.search.errors import BadSearch
from pytest_overfit.search.running import Search
from pytest_overfit.search.space import free_space, grid_space, layers_of, load_grid
from pytest_overfit.subject import Subject

RUNGS = (10,)
"""Searched where no rungs are asked for: where teams break."""
JOURNAL = "trials.journal"


def search_of(
    asked: str, subject: Subject, settings: Settings, *, folder: Path, storage: str | None = None
) -> Search:
    """The search that is asked for.

    asked: a number of trials, or a grid: `notes`, or a TOML file of lists. What `settings` change
    in a recipe is not searched. storage: None is a journal in `folder`. Raises BadSearch,
    BadRecipe, BadSubject, TooFewSamples or BadSample where there is none.
    """
    if subject.loop is not None:
        raise BadSearch(f"{subject.name} is trained by its own loop: there is no recipe to search")
    free = asked.isdecimal()
    if free and not int(asked):
        raise BadSearch("a search needs at least 1 trial")
    rungs = settings.rungs or RUNGS
    samples = subject.take(rungs[-1])
    bases = {n: _base(asked, subject, settings, n) for n in rungs}
    last = bases[rungs[-1]]
    network = subject.fresh(
        feature_dim=samples[0].features.shape[1],
        seed=settings.seeds[0],
        size=settings.size,
        network=last.network,
    )
    layers = layers_of(network, subject)
    space = (
        free_space(subject, last, rungs[-1], layers, tuple(settings.changes))
        if free
        else grid_space(load_grid(asked), subject, last, layers)
    )
    climb = Climb(
        subject=subject,
        base=bases,
        space=space,
        bounds=settings.bounds,
        seed=settings.seeds[0],
        device=settings.device,
        size=settings.size,
    )
    return Search(
        climb=climb,
        trials=int(asked) if free else space.combinations,
        storage=storage or str(folder / JOURNAL),
        grid=None if free else Path(asked).stem,
    )


def _base(asked: str, subject: Subject, settings: Settings, samples: int) -> Recipe:
    """The recipe that the search changes: for the grid of the notes theirs, unless another is asked
    for.
    """
    if asked == "notes" and settings.recipe_source == "default":
        settings = replace(settings, recipe_source="notes")
    recipe = settings.recipe(subject, samples)
    if recipe.batch_of(samples) == samples:  # however it is written: the whole rung
        recipe = replace(recipe, batch=None)
    return replace(recipe, network={**defaults_of(subject, settings.size), **recipe.network})


def defaults_of(subject: Subject, size: str | None) -> Mapping[str, Any]:
    """What `build` takes for the subject's variants where a recipe says nothing."""
    parameters = inspect.signature(subject.build).parameters
    known = {
        n: p.default
        for n, p in parameters.items()
        if n in subject.variants and p.default is not p.empty
    }
    sized = {n: v for n, v in subject.size_keywords(size).items() if n in subject.variants}
    return {**known, **sized}


def folder_of(subject: str, root: Path) -> Path:
    """Where the results of a subject's search go."""
    readable = "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in subject)
    return root / "logs" / "overfitting_search" / readable
