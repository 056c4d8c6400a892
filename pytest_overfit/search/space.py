"""What a search chooses: fields of a recipe and keywords of the subject's `build`, each an `Axis`.

An axis is named after its recipe field, or `network.KEYWORD`, or `layer_decay`: the factor from
each module to the one before it, in the order in which the network defines them, so that the last
one has the full rate. Source: Clark et al. 2020, ELECTRA, arXiv 2003.10555, section 3.1.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pytest_overfit.recipe import BadRecipe, Recipe, changed, notes_recipe
from pytest_overfit.search.errors import BadSearch
from pytest_overfit.subject import Subject

if TYPE_CHECKING:
    from optuna import Trial

Value = str | int | float | bool | None
NETWORK, LAYER_DECAY = "network.", "layer_decay"
NOTES_SCALES = (1, 5, 10, 50)
"""One rung of each recipe that the notes write down."""
LARGEST_BATCH = 50
"""Clips: a whole rung above that is no usual batch."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing to choose: from `choices`, or a number from `low` to `high`, even in its
    logarithm.
    """

    name: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0

    def suggest(self, trial: Trial) -> Any:
        """What Optuna's sampler proposes for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        return trial.suggest_float(self.name, self.low, self.high, log=True)

    def with_value(self, value: Value) -> Axis:
        """This axis, so that it holds `value` too."""
        if self.choices:
            return self if value in self.choices else replace(self, choices=(value, *self.choices))
        number = float(value)  # type: ignore[arg-type]  # an axis without choices is of numbers
        return replace(self, low=min(self.low, number), high=max(self.high, number))

    def to_json(self) -> list[Any]:
        """In plain types, so that two searches can be compared."""
        return [self.name, list(self.choices), self.low, self.high]


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched. grid: every combination once, else as many as are asked for.

    layers: names of the network's modules that have parameters, in order, for `layer_decay`.
    """

    axes: tuple[Axis, ...]
    layers: tuple[str, ...] = ()
    grid: bool = False

    @property
    def combinations(self) -> int:
        """How many there are of a grid."""
        return math.prod(len(axis.choices) for axis in self.axes)

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A value of each axis."""
        return {axis.name: axis.suggest(trial) for axis in self.axes}

    def recipe(self, base: Recipe, values: Mapping[str, Any], samples: int) -> Recipe:
        """`base` with the values of a trial, for a rung of `samples`.

        The budget is as many clips as that of `base`, so that recipes are compared at equal work.
        There are no other rates and no overtime: a trial is about one recipe.
        """
        plain = {name: value for name, value in values.items() if name not in self._special}
        own = {n.removeprefix(NETWORK): v for n, v in values.items() if n.startswith(NETWORK)}
        network = {
            name: value for name, value in {**base.network, **own}.items() if value is not None
        }
        recipe = changed(base, {**plain, "network": network, "fallbacks": (), "overtime": 0.0})
        if LAYER_DECAY in values:
            recipe = replace(recipe, layer_lr=decayed(self.layers, values[LAYER_DECAY]))
        if recipe.optimizer == "sgd":
            recipe = replace(recipe, beta2=Recipe().beta2)
        elif "momentum" in values:
            recipe = replace(recipe, momentum=0.0)
        steps = math.ceil(clips_of(base, samples) / clips_a_step(recipe, samples))
        return replace(recipe, budget=steps)

    def values_of(self, base: Recipe) -> dict[str, Any]:
        """The values that leave `base` as it is; a network keyword that it does not set is left
        out.
        """
        known: dict[str, Any] = {}
        for axis in self.axes:
            if axis.name == LAYER_DECAY:
                known[axis.name] = 1.0
            elif not axis.name.startswith(NETWORK):
                known[axis.name] = getattr(base, axis.name)
            elif axis.name.removeprefix(NETWORK) in base.network:
                known[axis.name] = base.network[axis.name.removeprefix(NETWORK)]
        return known

    @property
    def _special(self) -> set[str]:
        named = {axis.name for axis in self.axes if axis.name.startswith(NETWORK)}
        return {LAYER_DECAY, *named}


def clips_a_step(recipe: Recipe, samples: int) -> int:
    """Clips that one optimiser step sees."""
    return recipe.batch_of(samples) * recipe.accumulation


def clips_of(recipe: Recipe, samples: int) -> int:
    """Clips that a recipe's budget sees."""
    return recipe.budget * clips_a_step(recipe, samples)


def decayed(layers: Sequence[str], factor: float) -> dict[str, float]:
    """`layer_lr` of a recipe: 1 for the last of `layers`, `factor` times less for each before
    it.
    """
    if factor == 1.0:
        return {}
    return {f"{name}.": factor**place for place, name in enumerate(reversed(layers)) if place}


def layers_of(network: nn.Module, subject: Subject) -> tuple[str, ...]:
    """The modules right below a network that have trained parameters, in the order of
    definition.
    """
    trained = [name for name, _ in subject.trainable(network)]
    children = [name for name, _ in network.named_children()]
    return tuple(name for name in children if any(one.startswith(f"{name}.") for one in trained))


def free_space(
    subject: Subject, base: Recipe, samples: int, layers: Sequence[str], fixed: Sequence[str] = ()
) -> Space:
    """What is searched where no grid is asked for. fixed: recipe fields that stay as they are.

    Each axis holds the value of `base` too. Raises BadSearch where everything is fixed.
    """
    parts = [min(math.ceil(samples / share), LARGEST_BATCH) for share in (1, 2, 4)]
    batches = tuple(dict.fromkeys(None if part == samples else part for part in parts))
    axes = [
        Axis(name="optimizer", choices=("adam", "adamw", "sgd")),
        Axis(name="lr", low=1e-4, high=1.0),
        Axis(name="momentum", choices=(0.0, 0.9)),
        Axis(name="beta2", choices=(0.9, 0.95, 0.99, 0.999)),
        Axis(name="weight_decay", choices=(0.0, 1e-4, 1e-2)),
        Axis(name="clip", choices=(None, 1.0, 5.0, 10.0)),
        Axis(name="batch", choices=batches),
        Axis(name="accumulation", choices=(1, 2, 4)),
        Axis(name="schedule", choices=("constant", "cosine", "restarts")),
        Axis(name="warmup", choices=(0, 10, 50)),
        Axis(name="label_smoothing", choices=(0.0, 0.01, 0.1)),
    ]
    if subject.loss is None:
        axes.append(Axis(name="reduction", choices=("mean", "sum")))
    if len(layers) > 1 and "layer_lr" not in fixed and not base.layer_lr:
        axes.append(Axis(name=LAYER_DECAY, choices=(0.5, 0.8, 1.0)))
    axes = [axis for axis in axes if axis.name not in fixed]
    known = Space(axes=tuple(axes)).values_of(base)
    axes = [axis.with_value(known[axis.name]) for axis in axes if axis.name in known]
    axes += [] if "network" in fixed else _variants(subject)
    if not axes:
        raise BadSearch("nothing is left to search: every field was set")
    return Space(axes=tuple(axes), layers=tuple(layers))


def _variants(subject: Subject) -> list[Axis]:
    named = subject.variants.items()
    return [Axis(name=f"{NETWORK}{name}", choices=tuple(values)) for name, values in named]


def notes_grid() -> dict[str, tuple[Value, ...]]:
    """Every value that the recipes of the notes write down for a field, largest rung last."""
    recipes = [notes_recipe(samples) for samples in NOTES_SCALES]
    fields = ("optimizer", "lr", "momentum", "clip", "batch", "schedule")
    grid = {name: tuple(dict.fromkeys(getattr(r, name) for r in recipes)) for name in fields}
    grid["momentum"] = (max(grid["momentum"]),)  # of SGD alone, which has one
    widths = (recipe.network.get("hidden_dim") for recipe in recipes)
    return {**grid, "network.hidden_dim": tuple(dict.fromkeys(widths))}


def load_grid(source: str) -> dict[str, tuple[Value, ...]]:
    """Axis -> its values, of the grid called `notes` or from a TOML file of lists.

    Raises BadSearch where the file is missing, is no TOML, or holds something else than lists.
    """
    if source == "notes":
        return notes_grid()
    path = Path(source)
    if not path.is_file():
        raise BadSearch(f"search {source!r} is no number of trials, no file, and not `notes`")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSearch(f"grid {source} is no TOML: {error}") from error
    network = table.pop("network", {})
    if not isinstance(network, dict):
        raise BadSearch(f"grid {source}: network must be a table of keywords, got {network!r}")
    grid: dict[str, tuple[Value, ...]] = {}
    for name, values in (
        table | {f"{NETWORK}{key}": value for key, value in network.items()}
    ).items():
        if not isinstance(values, list) or not values:
            raise BadSearch(f"grid {source}: {name} must be a list of values, got {values!r}")
        grid[name] = tuple(None if value == "none" else value for value in values)
    if not grid:
        raise BadSearch(f"grid {source} is empty")
    return grid


def grid_space(
    grid: Mapping[str, Sequence[Value]], subject: Subject, base: Recipe, layers: Sequence[str]
) -> Space:
    """A grid as a space; of network keywords those that `build` takes, as in any recipe.

    Raises BadSearch where a field does not exist or cannot have a value.
    """
    keywords = {name: name.removeprefix(NETWORK) for name in grid if name.startswith(NETWORK)}
    taken = subject.accepted(dict.fromkeys(keywords.values()))
    axes = [
        Axis(name=name, choices=tuple(values))
        for name, values in grid.items()
        if name not in keywords or keywords[name] in taken
    ]
    for axis in axes:
        _check(axis, base)
    return Space(axes=tuple(axes), layers=tuple(layers), grid=True)


def _check(axis: Axis, base: Recipe) -> None:
    """Raises BadSearch where a recipe cannot have a value of the axis."""
    for value in axis.choices:
        if axis.name == LAYER_DECAY:
            if not isinstance(value, int | float) or not value > 0:
                raise BadSearch(f"grid: {LAYER_DECAY} must be a positive number, got {value!r}")
        elif not axis.name.startswith(NETWORK):
            try:
                changed(base, {axis.name: value})
            except BadRecipe as error:
                raise BadSearch(f"grid: {error}") from error
