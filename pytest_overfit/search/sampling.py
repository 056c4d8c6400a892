"""Optuna's samplers and its pruner, as a search of several processes needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GridSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from pytest_overfit.search.space import Space

TENTHS = 100
"""Reports of a rung, one for each tenth of its budget, are numbered from 100 times its place."""
WAITS = 3
"""Tenths of a budget for which no trial is given up: CTC passes through a plateau of blanks."""
STANDS = 2
"""Tenths over which a level must not have changed for a trial to stand on it."""
OTHERS = 4
"""Trials that must have been below that level by then."""
FAR_APART = 100_003
"""Between the seeds of two searches."""
RESULT = "result"


class TrialSeeded(BaseSampler):
    """TPE, with the seed of each trial from its number.

    So processes that began together draw different trials, and one that was resumed goes on as it
    would have. Source: Bergstra et al. 2011, Algorithms for hyper-parameter optimization.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._number, self._tpe = -1, TPESampler()

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if trial.number != self._number:
            seed = (self.seed * FAR_APART + trial.number) % 2**32
            self._number = trial.number
            self._tpe = TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return self._tpe

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As TPE does."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE does."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As TPE does."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)


class Grid(GridSampler):
    """Every combination once, in an order of its seed. The search counts for itself when to end."""

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Optuna's would stop `study.optimize`, which is not in use."""


def sampler_of(space: Space, seed: int) -> BaseSampler:
    """What proposes trials."""
    if space.grid:
        return Grid({axis.name: list(axis.choices) for axis in space.axes}, seed=seed)
    return TrialSeeded(seed)


class LevelPruner(BasePruner):
    """Gives a trial up that stands on a level of the loss while others were below it by then."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to end at its last report."""
        step = trial.last_step
        if step is None or step % TENTHS < WAITS:
            return False
        own = trial.intermediate_values
        level = int(own[step])
        before = [own.get(step - back) for back in range(1, STANDS + 1)]
        if any(value is None or int(value) != level for value in before):
            return False
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        others = study.get_trials(deepcopy=False, states=ended)
        return sum(int(height_by(other, step)) < level for other in others) >= OTHERS


def height_by(trial: FrozenTrial, step: int) -> float:
    """Where an ended trial stood at a report: 0 where it had held its rung, 6 where it had
    ended.
    """
    if step in trial.intermediate_values:
        return trial.intermediate_values[step]
    return 0.0 if step // TENTHS < trial.user_attrs[RESULT]["rungs_held"] else 6.0
