"""A subject made of a training script: its network, its clips and its loop are the script's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from torch import nn

from pytest_overfit import errors
from pytest_overfit.loop.loop import Loop
from pytest_overfit.loop.script.driving import steps_of
from pytest_overfit.loop.script.loaders import Cut, Kind
from pytest_overfit.loop.script.process import CannotDrive, Script, read_command
from pytest_overfit.loop.script.survey import Survey
from pytest_overfit.loop.script.watching import Watcher
from pytest_overfit.subject import Subject


def subject_of(command: str, *, clips: int, seed: int = 0) -> Subject:
    """A script with its arguments, "train.py --epochs 3", as a subject of up to `clips` samples.

    Every run begins from `seed`. Raises CannotDrive, which says why in one line, where it cannot be
    driven from outside.
    """
    script = read_command(command)
    survey = Survey(script, clips, seed)
    network = survey.network
    assert network is not None
    names = [f"{token}" for token in range(survey.vocabulary)]
    names[survey.blank] = "<blank>"
    return Subject(
        name=script.name,
        build=lambda vocab_size, feature_dim, seed: copy.deepcopy(network),
        samples=survey.reading.samples,
        vocabulary=tuple(names),
        blank=survey.blank,
        forward=survey.reading.log_probs,
        loop=ScriptLoop(
            train=_train(survey), loader=survey.loader, rows=survey.reading.rows_of, outside=True
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Batches:
    """What a script's own loader is cut to. items: length of an epoch."""

    samples: int
    items: int
    drawn: Callable[[Sequence[int]], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScriptLoop(Loop):
    """A loop that builds its own batches and its own network."""

    def batches(self, samples: int, drawn: Callable[[Sequence[int]], None]) -> Any:
        """How the script's loader is to be cut."""
        return Batches(samples=samples, items=len(self.loader.dataset), drawn=drawn)  # type: ignore[arg-type]


def _train(survey: Survey) -> Callable[[Any, Any], Iterator[float]]:
    def train(network: nn.Module, batches: Batches) -> Iterator[float]:
        cut = Cut(samples=batches.samples, items=batches.items, training=survey.training)
        driven = _Driven(survey, network, batches)
        with closing(steps_of(survey.script, cut, driven, seed=survey.seed)) as steps:
            try:
                first = next(steps, None)
            except Exception as error:
                if driven.found:
                    raise
                raise _not_again(survey.script, error) from error
            if first is not None:
                yield first
                yield from steps

    return train


def _not_again(script: Script, error: Exception) -> CannotDrive:
    """What a run raises before it calls its network, where the first run came to its steps."""
    return CannotDrive(
        f"{script.name} cannot be driven: its first run went well, and run again in the same process it "
        f"raises {type(error).__name__}: {errors.first_line(error)} ({errors.place_of(error)}). Close what "
        "a run leaves open, or write the loop: see own_loop.md"
    )


class _Driven(Watcher):
    """Makes the network that is judged and the one that the script trains the same."""

    def __init__(self, survey: Survey, network: nn.Module, batches: Batches) -> None:
        self.survey, self.network, self.batches = survey, network, batches
        self.found = False

    def drawn(self, kind: Kind, indices: Sequence[int]) -> None:
        """Tell the ladder of a batch that is trained on."""
        if kind == self.survey.training:
            self.batches.drawn(indices)

    def began(self, network: nn.Module) -> None:
        """Make the two networks one, at the first call of it."""
        if not self.found and type(network).__qualname__ == type(self.network).__qualname__:
            self.found = True
            object.__setattr__(
                self.network, "__dict__", network.__dict__
            )  # two names of one network from here on
