"""A search: trials until there are as many as were asked for, by this process and any other."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from pytest_overfit.climb.attempt import OnStep, Progress, unwatched
from pytest_overfit.host import own_randomness
from pytest_overfit.search.climbing import Climb, Overtaken, TrialResult, climb_trial
from pytest_overfit.search.errors import BadSearch
from pytest_overfit.search.identity import of_network, of_samples
from pytest_overfit.search.sampling import RESULT, LevelPruner, sampler_of
from pytest_overfit.search.scores import NOT_FINITE, WORST, level_at, score_of_broken
from pytest_overfit.search.storage import (
    MOST_LOST,
    Worker,
    bury,
    give_up,
    open_storage,
    quiet,
    shown,
)
from pytest_overfit.subject import Sample

POLL_SECONDS = 1.0
ASKED, AS_GIVEN = "asked", "as_given"
ALL_FAIL = 5
"""Trials that could not be trained, and none that could, after which a search ends."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that count."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is asked for. trials: that end. storage: journal file or database URL.

    grid: its name.
    """

    climb: Climb
    trials: int
    storage: str
    grid: str | None = None

    @property
    def rungs(self) -> tuple[int, ...]:
        """What each trial climbs, ascending."""
        return tuple(self.climb.base)

    @property
    def name(self) -> str:
        """Of the study: several can share a storage."""
        rungs = ",".join(map(str, self.rungs))
        return f"{self.climb.subject.name} at {rungs}" + (
            f", grid {self.grid}" if self.grid else ""
        )

    def _identities(self) -> dict[str, str]:
        """Of the network and its samples: before and after a change are two searches."""
        samples = self.climb.subject.offered(max(self.rungs))
        return {"network": self._network(samples), "samples": of_samples(samples)}

    def _network(self, samples: Sequence[Sample]) -> str:
        climb = self.climb
        dim = samples[0].features.shape[-1] if samples else 1
        try:
            with own_randomness():
                fresh = climb.subject.fresh(feature_dim=dim, seed=climb.seed, size=climb.size)
        except Exception as error:  # its first trial tells what it raises, and where
            return type(error).__name__
        return of_network(fresh)

    def described(self) -> dict[str, Any]:
        """What must be the same for trials to be of one search, in plain types."""
        climb = self.climb
        settings = {
            "axes": [axis.to_json() for axis in climb.space.axes],
            "recipes": {str(n): asdict(recipe) for n, recipe in climb.base.items()},
            "bounds": dict(climb.bounds),
            "seed": climb.seed,
            "size": climb.size,
            **self._identities(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain


@dataclass(frozen=True)
class Trial:
    """An ended trial. retried: after the process that first had it was lost."""

    number: int
    values: dict[str, Any]
    result: TrialResult


OnTrial = Callable[[Trial, int], None]
"""Called with a trial of this process that ended, and how many of the search have ended."""


def _do_nothing(*_: object) -> None:
    """Nobody listens."""


def run(
    search: Search,
    *,
    on_begin: Callable[[int], None] = _do_nothing,
    on_trial: OnTrial = _do_nothing,
    on_wait: Callable[[int], None] = _do_nothing,
    on_step: OnStep = unwatched,
) -> tuple[Trial, ...]:
    """Climb trials until the search has as many as it asks for; returns all that ended, best first.

    Stopped in any way, it goes on where it was, with what was under way begun anew. on_begin:
    called with how many trials have ended before, in an earlier run. on_wait: called once, with the
    number of trials that others have under way where there is nothing left to begin.
    Raises BadSearch where the storage cannot be used or holds another search under this name.
    """
    with quiet():
        storage, worker = open_storage(search.storage), Worker()
        study = open_study(search, storage)
        on_begin(len(ended_trials(study)))
        with worker.at_work():
            waited = False
            while (ended := len(ended_trials(study))) < search.trials:
                bury(study, storage, _lost)
                under_way = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
                if ended + under_way < search.trials:
                    _one(search, study, storage, worker, on_trial, on_step)
                    _check_some_train(study)
                    continue
                if not waited:
                    on_wait(under_way)
                waited = True
                time.sleep(POLL_SECONDS)
        return ranked(study)


def open_study(search: Search, storage: BaseStorage) -> optuna.Study:
    """The search in its storage, begun with the recipe as it is where it is not a grid.

    Raises BadSearch where it was asked for with other settings.
    """
    sampler, asked = sampler_of(search.climb.space, search.climb.seed), search.described()
    study = optuna.create_study(
        storage=storage,
        study_name=search.name,
        sampler=sampler,
        pruner=LevelPruner(),
        load_if_exists=True,
    )
    before = study.user_attrs.get(ASKED)
    if before is None:
        study.set_user_attr(ASKED, asked)
        if not search.climb.space.grid:
            highest = search.climb.base[search.rungs[-1]]
            given = search.climb.space.values_of(highest)
            study.enqueue_trial(given, user_attrs={AS_GIVEN: True}, skip_if_exists=True)
    elif other := [name for name, value in asked.items() if before.get(name) != value]:
        raise BadSearch(
            f"{shown(search.storage)} holds `{search.name}` with other {' and '.join(other)}: "
            f"ask for the same, or give another storage"
        )
    return study


def _one(
    search: Search,
    study: optuna.Study,
    storage: BaseStorage,
    worker: Worker,
    on_trial: OnTrial,
    on_step: OnStep,
) -> None:
    """Climb one trial and tell the study."""
    trial = study.ask()
    worker.sign(trial)
    began = time.perf_counter()
    last: list[Progress] = []

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise Overtaken

    def watch(progress: Progress) -> None:
        worker.word(trial)
        last[:] = [progress]
        on_step(progress)

    try:
        values = search.climb.space.suggest(trial)
        best = min((one.result.score for one in ended_trials(study)), default=math.inf)
        state = TrialState.COMPLETE
        try:
            result = climb_trial(search.climb, values, best=best, report=report, on_step=watch)
        except Overtaken:
            state = TrialState.PRUNED
            result = _overtaken(search, study.trials[trial.number], last[-1], began)
        result = replace(result, as_given=AS_GIVEN in trial.user_attrs)
        trial.set_user_attr(RESULT, result.to_json())
        study.tell(trial, result.score if state is TrialState.COMPLETE else None, state=state)
    except UpdateFinishedTrialError:  # taken for dead, and climbed by another process
        return
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        give_up(study, storage, trial.number, None if stopped else _lost)
        raise
    on_trial(Trial(trial.number, values, result), len(ended_trials(study)))


def _lost(trial: FrozenTrial) -> dict[str, Any]:
    """The result of a trial that took its process with it again and again."""
    result = TrialResult(
        score=WORST,
        held=False,
        ended=f"lost: {MOST_LOST} processes ended during it",
        rungs_held=0,
        steps=0,
        seconds=0.0,
        token_error_rate=math.nan,
        loss=math.nan,
        level=level_at(NOT_FINITE),
    )
    return {RESULT: result.to_json()}


def _overtaken(search: Search, trial: FrozenTrial, last: Progress, began: float) -> TrialResult:
    """How a trial stood that was given up."""
    place = search.rungs.index(last.samples)
    reached = trial.intermediate_values[trial.last_step or 0]
    return TrialResult(
        score=score_of_broken(place, len(search.rungs), 1.0),
        held=False,
        ended=f"given up: stood on `{level_at(reached)}`, others were below",
        rungs_held=place,
        steps=last.step,
        seconds=time.perf_counter() - began,
        token_error_rate=last.token_error_rate,
        loss=last.nats,
        level=level_at(reached),
    )


def ended_trials(study: optuna.Study) -> list[Trial]:
    """All that ended, in the order of their numbers."""
    return [_trial(one) for one in study.get_trials(deepcopy=False, states=ENDED)]


def _trial(frozen: FrozenTrial) -> Trial:
    return Trial(frozen.number, dict(frozen.params), TrialResult(**frozen.user_attrs[RESULT]))


def ranked(study: optuna.Study) -> tuple[Trial, ...]:
    """All that ended, best first."""
    return tuple(sorted(ended_trials(study), key=lambda trial: (trial.result.score, trial.number)))


def _check_some_train(study: optuna.Study) -> None:
    """Raises BadSearch where none of the first trials could be trained."""
    results: Sequence[TrialResult] = [trial.result for trial in ended_trials(study)]
    failed = [one.ended for one in results if one.ended.startswith("could not be trained")]
    if len(failed) == len(results) >= ALL_FAIL:
        raise BadSearch(f"none of {len(results)} trials {failed[-1].replace('could not', 'could')}")
