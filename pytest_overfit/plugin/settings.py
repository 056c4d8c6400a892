"""What the command line asked for, checked: `Settings`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pytest_overfit.climb.ladder import BadLadder, Rung, check_rungs, criteria_for
from pytest_overfit.climb.seeds import ALPHA, BETA, SeedTest
from pytest_overfit.explain.trials import Trials
from pytest_overfit.loop.training import recipe_of_loop
from pytest_overfit.recipe import Recipe, changed, load_recipes, parse_assignments
from pytest_overfit.subject import BadSubject, Subject


class NoDevice(ValueError):
    """A device that this machine does not have."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """rungs: None leaves each subject its own. recipe_source: a name or TOML file. changes: recipe
    fields set one by one.

    bounds: tighter criteria. seeds, alpha, beta: as in `Rung`. device: a torch device, already
    chosen for this process.
    size: of the subjects' networks. trials: of remedies. strict: warnings fail. threads: of a
    climb, None for those that torch has.
    """

    rungs: tuple[int, ...] | None = None
    recipe_source: str = "default"
    changes: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    alpha: float = ALPHA
    beta: float = BETA
    device: str = "cpu"
    size: str | None = None
    trials: Trials = "auto"
    strict: bool = False
    threads: int | None = None

    def recipe(self, subject: Subject, samples: int) -> Recipe:
        """The recipe of a rung: the subject's own where it has one and none was asked for, with the
        changes asked for.
        """
        own = subject.recipes.get(samples) if self.recipe_source == "default" else None
        return changed(own or load_recipes(self.recipe_source)(samples), self.changes)

    def rung(self, subject: Subject, samples: int) -> Rung:
        """The rung of so many samples that these settings ask for.

        A script is run from one seed: another draws other samples.
        """
        recipe = self.recipe(subject, samples)
        scripted = subject.loop is not None and subject.loop.outside
        return Rung(
            subject=subject,
            samples=samples,
            recipe=recipe if subject.loop is None else recipe_of_loop(recipe, subject.loop),
            criteria=criteria_for(samples, self.bounds),
            seeds=self.seeds[:1] if scripted else self.seeds,
            alpha=self.alpha,
            beta=self.beta,
            device=self.device,
            size=self.size,
        )

    def check(self) -> Settings:
        """Raises BadRecipe or BadLadder where the recipes or bounds of these rungs cannot be used,
        ValueError where alpha or beta cannot.
        """
        SeedTest(alpha=self.alpha, beta=self.beta, most=len(self.seeds))
        rungs = self.rungs or (1, 2, 10, 50)
        for samples in rungs:
            changed(load_recipes(self.recipe_source)(samples), self.changes)
            criteria_for(samples, self.bounds)
        for name, bound in self.bounds.items():
            if all(
                criteria_for(samples, {name: bound}) == criteria_for(samples) for samples in rungs
            ):
                raise BadLadder(
                    f"bound {name} {bound:g} is looser than that of every rung: bounds can "
                    "only be tightened"
                )
        return self


def parse_rungs(text: str) -> tuple[int, ...]:
    """ "1,2,5" -> (1, 2, 5). Raises BadLadder."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadLadder(
            f"rungs must be numbers with commas between them, like 1,2,5: got {text!r}"
        ) from error
    return check_rungs(numbers)


def parse_bounds(assignments: list[str]) -> dict[str, float]:
    """`name=bound` assignments -> bounds by name. Raises BadLadder where a bound is no number."""
    bounds = parse_assignments(assignments)
    for name, bound in bounds.items():
        if not isinstance(bound, int | float) or isinstance(bound, bool):
            raise BadLadder(f"bound {name} must be a number, got {bound!r}")
    return bounds


def choose_device(asked: str, worker: int = 0) -> str:
    """A torch device for this process: under several workers each its own GPU, in turn.

    Raises NoDevice where there is none.
    """
    count = torch.cuda.device_count()
    if asked == "cpu" or (asked == "auto" and not count):
        return "cpu"
    if asked in ("auto", "cuda"):
        if not count:
            raise NoDevice(
                f"device {asked} was asked for, but torch {torch.__version__} sees no GPU "
                f"(CUDA_VISIBLE_DEVICES={_visible()})"
            )
        return f"cuda:{worker % count}"
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise NoDevice(f"{asked!r} is no device: use auto, cpu or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise NoDevice(
            f"device {asked} was asked for, but torch {torch.__version__} sees {count} GPUs "
            f"(CUDA_VISIBLE_DEVICES={_visible()})"
        )
    return str(device)


def _visible() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "not set")


def import_subject(spec: str, run: Path | None = None) -> Subject:
    """`package.module:attribute` -> the subject there, or what a function there returns. Raises
    BadSubject.

    run: a training run's folder, for a function that asks for one: the subject is then the network
    that the run trained.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise BadSubject(f"subject {spec!r} must read package.module:attribute")
    if (
        os.getcwd() not in sys.path
    ):  # as `python -m pytest` does: the subject is looked for where the command is given
        sys.path.insert(0, os.getcwd())
    # What a module does when it is imported, or a function when it is called, can fail in any way.
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise BadSubject(
            f"subject {spec}: cannot import {module_name}: {_error_words(error)}"
        ) from error
    if not hasattr(module, attribute):
        raise BadSubject(f"subject {spec}: module {module_name} has no attribute {attribute!r}")
    value = getattr(module, attribute)
    try:
        asked = callable(value) and not isinstance(value, Subject | torch.nn.Module)
        subject = value(*_asked_for(value, run)) if asked else value
    except Exception as error:
        raise BadSubject(
            f"subject {spec}: calling {attribute} raised {_error_words(error)}"
        ) from error
    if not isinstance(subject, Subject):
        raise BadSubject(
            f"subject {spec} is a {type(value).__name__}, expected a pytest_overfit.Subject or "
            "a function that returns one"
        )
    return subject


def _asked_for(function: Callable[..., object], run: Path | None) -> tuple[Path, ...]:
    """The run's folder, for a function that cannot be called without an argument."""
    needed = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if not needed:
        return ()
    if run is None:
        raise TypeError(f"it asks for {needed[0].name!r}: give the run's folder with --overfit-run")
    return (run if run.is_dir() else run.parent,)


def _error_words(error: Exception) -> str:
    """An exception in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
