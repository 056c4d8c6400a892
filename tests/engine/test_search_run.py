"""Searches that climb: by one process, by one after another that was killed, in a pytest session."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from pytest_overfit.climb.ladder import Progress
from pytest_overfit.plugin.settings import Settings
from pytest_overfit.recipe import load_recipes
from pytest_overfit.search.asking import search_of
from pytest_overfit.search.errors import BadSearch
from pytest_overfit.search.result import write
from pytest_overfit.search.running import Search, run
from pytest_overfit.search.storage import open_storage
from tests.engine.searched import small, subject
from tests.inner_sessions import WITHOUT

ROOT = Path(__file__).parents[2]
QUICK = {"network": {}, "layer_lr": {}, "accumulation": 1, "batch": None, "warmup": 0}
"""Leaves optimiser, rate, schedule and the like to the search."""


def quick(folder: Path, trials: int, **settings: object) -> Search:
    """A search at one clip in which trials take a tenth of a second."""
    given = {"rungs": (1,), "changes": QUICK, **settings}
    return search_of(str(trials), small, Settings(**given), folder=folder)


def states(search: Search) -> list[TrialState]:
    study = optuna.load_study(study_name=search.name, storage=open_storage(search.storage))
    return [trial.state for trial in study.trials]


def test_a_search_goes_on_where_it_was_and_ends_with_a_recipe_that_climbs(tmp_path: Path) -> None:
    run(quick(tmp_path, 2))
    search = quick(tmp_path, 4)
    begun: list[int] = []
    trials = run(search, on_trial=lambda trial, _: begun.append(trial.number))
    assert begun == [2, 3]
    assert [trial.result.score for trial in trials] == sorted(
        trial.result.score for trial in trials
    )
    given = next(trial for trial in trials if trial.result.as_given)
    assert given.number == 0
    assert given.result.held
    assert trials[0].result.seeds_held == trials[0].result.seeds == 3
    written = {path.name for path in write(search, trials, tmp_path)}
    assert {"table.txt", "best.toml", "history.png", "values.png"} <= written
    best = load_recipes(str(tmp_path / "best.toml"))(1)
    climbed = search.climb.recipes(trials[0].values)[1]
    assert dataclasses.replace(best, fallbacks=(), overtime=0.0) == climbed


def test_another_search_under_the_same_name_is_refused(tmp_path: Path) -> None:
    run(quick(tmp_path, 1))
    with pytest.raises(BadSearch, match="holds `small at 1` with other bounds and seed"):
        run(quick(tmp_path, 1, seeds=(7,), bounds={"wer": 0.0}))


def test_stopped_by_hand_a_trial_is_begun_anew(tmp_path: Path) -> None:
    search = quick(tmp_path, 2)

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(search, on_step=stop)
    assert states(search) == [TrialState.FAIL, TrialState.WAITING]
    assert {trial.number for trial in run(search)} == {1, 2}


def test_a_variant_that_cannot_be_trained_is_told_and_ranks_last(tmp_path: Path) -> None:
    def build(vocab_size: int, feature_dim: int, seed: int, width: int = 16) -> object:
        if width == 8:
            raise RuntimeError("too narrow")
        return small.build(vocab_size, feature_dim, seed, width)

    odd = dataclasses.replace(small, build=build, variants={"width": (8, 16)})
    grid = tmp_path / "grid.toml"
    grid.write_text("[network]\nwidth = [8, 16]\n")
    search = search_of(str(grid), odd, Settings(rungs=(1,)), folder=tmp_path)
    best, worst = run(search)
    assert best.result.held
    assert worst.result.ended == "could not be trained: RuntimeError: too narrow"
    assert states(search) == [TrialState.COMPLETE] * 2


def test_a_subject_that_trains_in_its_own_loop_is_refused(tmp_path: Path) -> None:
    own = dataclasses.replace(small, loop=lambda *_: None)
    with pytest.raises(BadSearch, match="trained by its own loop"):
        search_of("5", own, Settings(), folder=tmp_path)


def test_killed_it_loses_nothing_but_what_was_under_way(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest_overfit.search", "tests.engine.searched:slow"]
    command += ["--trials", "2", "--rungs", "1", "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE)
    journal = tmp_path / "trials.journal"
    while process.poll() is None and not (journal.exists() and b'"seen"' in journal.read_bytes()):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    # The same search, whose network takes no pauses: they are no part of what makes it the same.
    quickly = dataclasses.replace(subject("slow"), build=small.build)
    settings = Settings(rungs=(1,))
    search = search_of("2", quickly, settings, folder=tmp_path)
    assert states(search) == [TrialState.RUNNING]
    ended: list[int] = []
    trials = run(search, on_trial=lambda trial, _: ended.append(trial.number))
    assert states(search)[:2] == [TrialState.FAIL, TrialState.COMPLETE]
    assert ended == [1, 2]
    assert len(trials) == 2


def test_a_session_searches_in_the_place_of_rungs(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        *WITHOUT.split(),
        "-p",
        "no:cacheprovider",
        "-k",
        "overfits",
    ]
    command += ["--overfit-search", "2", "--overfit-rungs", "1", "--rootdir", str(tmp_path)]
    command += ["--overfit-subject", "tests.engine.searched:small", "-m", "overfit"]
    ran = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "small at 1: " in ran.stdout
    assert "of 2 trials held" in ran.stdout
    folder = tmp_path / "logs" / "overfitting_search" / "small"
    assert (folder / "best.toml").is_file()
    assert (folder / "trials.journal").is_file()
