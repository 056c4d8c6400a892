"""How a network is trained on a rung: `Recipe`, the default of each scale, and the recipes written
down by the original team.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal


class BadRecipe(ValueError):
    """A recipe that cannot be trained with; the message names the field."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. All lengths are in optimiser steps.

    lr:            peak learning rate. layer_lr: parameter-name prefix -> factor on it (the longest
                   matching prefix wins).
    beta2:         decay of Adam's average of squared gradients. It has to forget within a plateau:
                   torch's 0.999 remembers 1000 steps, so that on a
                   saddle of CTC (a repeat that has not found its blank) the steep start of the run
                   still divides every step. Noise of batches, which the long memory is for, a whole
                   rung has none of.
    clip:          largest gradient norm; None leaves gradients alone.
    batch:         samples a backward pass; None takes the whole rung. accumulation: backward passes
                   a step.
    schedule:      after `warmup` linear steps: constant, cosine down to lr_min at the end of the
                   budget, or cosine with warm restarts
                   (first period restart, each restart_factor times the last; Loshchilov & Hutter
                   2017, arXiv 1608.03983).
    reduction:     of the default CTC loss over a batch: "mean" of nats per target token, or "sum" of
                   nats.
    label_smoothing: weight of KL(uniform || output), summed over steps (Kim et al. 2017, arXiv
    1711.02212).
    norm_momentum: of batch norms that have torch's default; a short run needs running statistics
    that keep up. None leaves them alone.
    network:       keywords for the subject's `build`, such as hidden_dim or dropout; those it does
                   not take are left out.
    overtime:      share of the budget that may be added while the loss still falls.
    fallbacks:     factors on lr that are raced when the recipe fails: a rung is broken only if they
                   fail too.
    own:           the user's own loop trains; of this recipe it has the budget alone, and `batch`
                   says what its loader gives.
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 5e-3
    momentum: float = 0.0
    beta2: float = 0.95
    weight_decay: float = 0.0
    clip: float | None = 1.0
    batch: int | None = None
    accumulation: int = 1
    schedule: Literal["constant", "cosine", "restarts"] = "constant"
    warmup: int = 10
    restart: int = 100
    restart_factor: int = 2
    lr_min: float = 0.0
    layer_lr: Mapping[str, float] = field(default_factory=dict)
    reduction: Literal["mean", "sum"] = "mean"
    label_smoothing: float = 0.0
    norm_momentum: float | None = 0.3
    network: Mapping[str, Any] = field(default_factory=dict)
    budget: int = 400
    overtime: float = 1.0
    fallbacks: tuple[float, ...] = (0.3, 0.1, 0.03, 3.0)
    own: bool = False

    def __post_init__(self) -> None:
        for name, (kind, fits) in _KINDS.items():
            if not fits(getattr(self, name)):
                raise BadRecipe(f"recipe: {name} must be {kind}, got {getattr(self, name)!r}")

    def batch_of(self, samples: int) -> int:
        """Clips in a batch of a rung of so many samples."""
        return min(self.batch or samples, samples)

    def lr_factor(self, step: int) -> float:
        """Share of the peak learning rate at optimiser step `step`, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        done, length = step - self.warmup, max(self.budget - self.warmup, 1)
        if self.schedule == "restarts":
            length = self.restart
            while done >= length:
                done, length = done - length, length * self.restart_factor
        floor = self.lr_min / self.lr
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(done / length, 1.0))) / 2

    def layer_factor(self, parameter: str) -> float:
        """By what the learning rate of a parameter is multiplied: of the prefixes that match its
        name the longest decides.
        """
        prefixes = [prefix for prefix in self.layer_lr if parameter.startswith(prefix)]
        return self.layer_lr[max(prefixes, key=len)] if prefixes else 1.0

    def describe(self) -> str:
        """One line: what differs from a plain optimiser."""
        if self.own:
            return "your loop"
        words = [f"{self.optimizer} lr {self.lr:g}"]
        words += [f"momentum {self.momentum:g}"] if self.momentum else []
        words += [f"weight decay {self.weight_decay:g}"] if self.weight_decay else []
        words += [f"clip {self.clip:g}"] if self.clip else []
        words += [f"batch {self.batch}"] if self.batch else []
        words += [f"accumulation {self.accumulation}"] if self.accumulation > 1 else []
        words += [f"{self.schedule} schedule"] if self.schedule != "constant" else []
        words += [f"warm-up {self.warmup}"] if self.warmup else []
        words += [f"label smoothing {self.label_smoothing:g}"] if self.label_smoothing else []
        words += [f"{self.reduction} reduction"] if self.reduction != "mean" else []
        words += [f"{name} {value}" for name, value in self.network.items()]
        return ", ".join(words)


Recipes = Callable[[int], Recipe]
"""samples of a rung -> its recipe"""


def default_recipe(samples: int) -> Recipe:
    """Found by measurement over the healthy networks of this repository and of its tests."""
    if samples < 50:
        return Recipe()
    passes_of_80 = 80 * math.ceil(samples / 10)
    return Recipe(lr=3e-3, batch=10, norm_momentum=0.05, budget=max(600, passes_of_80))


def notes_recipe(samples: int) -> Recipe:
    """What the original team wrote down, exactly. "Scheduler" was not named further: cosine.

    Those for 1 and for 5 samples do not climb.
    """
    plain: dict[str, Any] = {
        "warmup": 0,
        "norm_momentum": None,
        "fallbacks": (),
        "overtime": 0.0,
        "beta2": 0.999,
    }
    if samples == 1:
        return Recipe(
            **plain,
            optimizer="sgd",
            lr=1.0,
            momentum=0.9,
            clip=10.0,
            batch=1,
            network={"hidden_dim": 32, "dropout": 0.0},
            budget=500,
        )
    if samples < 10:
        return Recipe(
            **plain, lr=0.1, clip=5.0, batch=samples, network={"hidden_dim": 64}, budget=400
        )
    if samples < 50:
        steps = 300 * math.ceil(samples / 5)
        return Recipe(
            **plain,
            lr=0.01,
            clip=5.0,
            batch=5,
            schedule="cosine",
            network={"hidden_dim": 128},
            budget=steps,
        )
    steps_a_pass = math.ceil(samples / 8)
    return replace(
        Recipe(
            **plain,
            optimizer="adamw",
            lr=0.001,
            clip=1.0,
            batch=8,
            schedule="cosine",
            network={"hidden_dim": 128},
            budget=500 * steps_a_pass,
        ),
        warmup=10 * steps_a_pass,
    )


RECIPES: Mapping[str, Recipes] = {"default": default_recipe, "notes": notes_recipe}


def load_recipes(source: str) -> Recipes:
    """A recipe by name, or from a TOML file: recipe fields at the top, and those of one rung in a
    table `[rungs.10]`.

    Raises BadRecipe where the file is missing, is no TOML, or has a field that recipes do not have.
    """
    if source in RECIPES:
        return RECIPES[source]
    table, rungs = read_recipe(source)

    def recipes(samples: int) -> Recipe:
        return changed(default_recipe(samples), {**table, **rungs.get(str(samples), {})})

    return recipes


def read_recipe(source: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What a TOML file of a recipe sets: for every rung, and for single ones by their number.

    Raises BadRecipe as `load_recipes` does.
    """
    path = Path(source)
    if not path.is_file():
        raise BadRecipe(f"recipe {source!r} is neither a file nor one of {', '.join(RECIPES)}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRecipe(f"recipe {source} is no TOML: {error}") from error
    rungs = table.pop("rungs", {})
    odd = [
        value
        for value in (rungs.values() if isinstance(rungs, dict) else [rungs])
        if not isinstance(value, dict)
    ]
    if odd:
        raise BadRecipe(f"recipe {source}: rungs must be tables like [rungs.10], got {odd[0]!r}")
    for name in rungs:
        if not name.isdecimal():
            raise BadRecipe(f"recipe {source}: rungs are numbers of samples, got {name!r}")
    for changes in (table, *rungs.values()):
        changed(Recipe(), changes)
    return table, rungs


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`["lr=0.01", "schedule=cosine"]` -> values, read as TOML and else as text."""
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise BadRecipe(f"{assignment!r} must read field=value, for example lr=0.01")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = None if text == "none" else text
        changes[name.strip()] = value
    return changes


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """`recipe` with other field values.

    Raises BadRecipe where one does not exist or has a wrong value.
    """
    names = [f.name for f in fields(Recipe)]
    for name in changes:
        if name not in names:
            raise BadRecipe(f"recipes have no field {name!r}; they have {', '.join(names)}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
    }
    values = {
        name: None if value == "none" else value for name, value in values.items()
    }  # TOML has no null
    return replace(recipe, **values)


def _number(value: object, *, kinds: Any = int | float) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _not_negative(value: Any) -> bool:
    return _number(value) and value >= 0


def _count(value: Any) -> bool:
    return _number(value, kinds=int) and value > 0


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _one_of(*words: str) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(words)}", lambda value: value in words


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "optimizer": _one_of("adam", "adamw", "sgd"),
    "schedule": _one_of("constant", "cosine", "restarts"),
    "reduction": _one_of("mean", "sum"),
    "lr": ("a positive number", _positive),
    "momentum": ("a number not below 0", _not_negative),
    "beta2": ("a number from 0 to 1, below 1", lambda value: _share(value) and value < 1),
    "weight_decay": ("a number not below 0", _not_negative),
    "clip": ("a positive number or none", lambda value: value is None or _positive(value)),
    "batch": ("a positive whole number or none", lambda value: value is None or _count(value)),
    "accumulation": ("a positive whole number", _count),
    "warmup": ("a whole number not below 0", lambda value: value == 0 or _count(value)),
    "restart": ("a positive whole number", _count),
    "restart_factor": ("a positive whole number", _count),
    "lr_min": ("a number not below 0", _not_negative),
    "layer_lr": (
        "a table of prefixes and factors not below 0",
        lambda value: isinstance(value, Mapping) and all(map(_not_negative, value.values())),
    ),
    "label_smoothing": ("a number from 0 to 1", _share),
    "norm_momentum": ("a number from 0 to 1 or none", lambda value: value is None or _share(value)),
    "network": ("a table of keywords", lambda value: isinstance(value, Mapping)),
    "budget": ("a positive whole number", _count),
    "own": ("true or false", lambda value: isinstance(value, bool)),
    "fallbacks": (
        "a list of positive factors",
        lambda value: isinstance(value, tuple) and all(map(_positive, value)),
    ),
}
"""What the value of a field must be, in words and as a test."""
