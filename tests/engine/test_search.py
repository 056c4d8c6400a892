"""What a search chooses, how it ranks, what it keeps and what it writes, without any training."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from filelock import FileLock
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from pytest_overfit.levels import Level
from pytest_overfit.plugin.settings import Settings
from pytest_overfit.recipe import Recipe, changed, default_recipe, load_recipes, notes_recipe
from pytest_overfit.search import scores, storage
from pytest_overfit.search.__main__ import BAD_INPUT, main
from pytest_overfit.search.asking import search_of
from pytest_overfit.search.climbing import TrialResult
from pytest_overfit.search.errors import BadSearch
from pytest_overfit.search.pictures import draw_history, draw_values
from pytest_overfit.search.result import as_text, importances, recipe_file
from pytest_overfit.search.running import Search, Trial
from pytest_overfit.search.sampling import OTHERS, RESULT, TENTHS, LevelPruner, TrialSeeded
from pytest_overfit.search.space import (
    LAYER_DECAY,
    clips_of,
    decayed,
    load_grid,
    notes_grid,
)
from pytest_overfit.subject import BadSubject, TooFewSamples
from tests.engine.searched import samples, small

LEVELS = tuple(
    Level(name=name, loss=loss)
    for name, loss in (
        ("uniform", 8.0),
        ("blank", 4.0),
        ("unigram", 2.4),
        ("bag of clip", 1.2),
        ("aligned", 0.0),
    )
)


def search(asked: str = "20", folder: Path = Path("nowhere"), **settings: Any) -> Search:
    """A search for the small subject."""
    return search_of(asked, small, Settings(**{"rungs": (4,), **settings}), folder=folder)


def ended(number: int, score: float, values: dict[str, Any], **changes: Any) -> Trial:
    """A trial that ended with a score."""
    held = score < 1
    one = TrialResult(
        score=score,
        held=held,
        ended="held" if held else "stood still",
        rungs_held=int(held),
        steps=40,
        seconds=1.5,
        token_error_rate=0.0 if held else 0.75,
        loss=0.1 if held else 4.0,
        level="aligned" if held else "blank",
        seeds_held=int(held),
    )
    return Trial(number, values, dataclasses.replace(one, **changes))


# -- what is chosen --------------------------------------------------------------------------------


def test_the_recipe_as_it_is_lies_in_the_space_and_stays_as_it_is() -> None:
    climb = search().climb
    base = climb.base[4]
    values = climb.space.values_of(base)
    assert values.keys() == {axis.name for axis in climb.space.axes}
    assert all(values[axis.name] in axis.choices for axis in climb.space.axes if axis.choices)
    same = dataclasses.replace(base, fallbacks=(), overtime=0.0)
    assert climb.space.recipe(base, values, 4) == same


@pytest.mark.parametrize("batch", [1, 2, None])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_every_recipe_may_see_as_many_clips(batch: int | None, accumulation: int) -> None:
    climb = search().climb
    base = climb.base[4]
    values = {**climb.space.values_of(base), "batch": batch, "accumulation": accumulation}
    assert clips_of(climb.space.recipe(base, values, 4), 4) == clips_of(base, 4)


def test_what_is_set_is_not_searched() -> None:
    space = search(changes={"lr": 0.01, "network": {"width": 8}}).climb.space
    names = {axis.name for axis in space.axes}
    assert "lr" not in names
    assert not any(name.startswith("network.") for name in names)
    assert {"optimizer", "schedule", "clip", "batch", "accumulation", LAYER_DECAY} <= names


def test_a_search_in_which_everything_is_set_is_refused() -> None:
    every = {axis.name: None for axis in search().climb.space.axes if "." not in axis.name}
    fixed = {name: getattr(default_recipe(4), name) for name in every if name != LAYER_DECAY}
    with pytest.raises(BadSearch, match="nothing is left to search"):
        search(changes={**fixed, "layer_lr": {}, "network": {}})


def test_a_subject_with_a_loss_of_its_own_has_no_reduction_to_choose() -> None:
    own = dataclasses.replace(small, loss=lambda log_probs, *_: log_probs.mean())
    found = search_of("5", own, Settings(rungs=(4,)), folder=Path())
    assert "reduction" not in {axis.name for axis in found.climb.space.axes}


def test_layers_are_decayed_from_the_last_to_the_first() -> None:
    assert decayed(("first", "lstm", "head"), 0.5) == {"lstm.": 0.5, "first.": 0.25}
    assert decayed(("first", "lstm", "head"), 1.0) == {}
    assert search().climb.space.layers == ("first", "lstm", "head")


def test_momentum_is_of_sgd_alone() -> None:
    climb = search().climb
    values = climb.space.values_of(climb.base[4]) | {"momentum": 0.9}
    assert climb.space.recipe(climb.base[4], values, 4).momentum == 0.0
    values |= {"optimizer": "sgd"}
    assert climb.space.recipe(climb.base[4], values, 4).momentum == 0.9


def test_the_grid_of_the_notes_is_what_they_write_down() -> None:
    assert notes_grid() == {
        "optimizer": ("sgd", "adam", "adamw"),
        "lr": (1.0, 0.1, 0.01, 0.001),
        "momentum": (0.9,),
        "clip": (10.0, 5.0, 1.0),
        "batch": (1, 5, 8),
        "schedule": ("constant", "cosine"),
        "network.hidden_dim": (32, 64, 128),
    }


def test_a_grid_counts_its_combinations_and_changes_the_recipe_of_the_notes() -> None:
    found = search("notes")
    # The small subject has no hidden_dim: as in any recipe, such a keyword is left out.
    assert found.trials == 3 * 4 * 1 * 3 * 3 * 2
    assert found.climb.base[4].warmup == notes_recipe(4).warmup == 0
    assert found.name == "small at 4, grid notes"


def test_a_grid_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('lr = [0.1, 0.01]\nclip = ["none", 1.0]\n[network]\nwidth = [8]\n')
    found = search(str(path))
    assert found.trials == 4
    assert found.grid == "own"
    assert {axis.name: axis.choices for axis in found.climb.space.axes} == {
        "lr": (0.1, 0.01),
        "clip": (None, 1.0),
        "network.width": (8,),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 0.1", "lr must be a list of values, got 0.1"),
        ("lr = []", r"lr must be a list of values, got \[\]"),
        ("", "is empty"),
        ("lr = [", "is no TOML"),
        ("lr = [-1.0]", "lr must be a positive number, got -1.0"),
        ("rate = [0.1]", "recipes have no field 'rate'"),
        ("network = 3", "network must be a table of keywords, got 3"),
        ("layer_decay = [0]", "layer_decay must be a positive number, got 0"),
    ],
)
def test_a_bad_grid_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(BadSearch, match=message):
        search(str(path))


def test_what_cannot_be_searched_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadSearch, match="is no number of trials, no file, and not `notes`"):
        load_grid("nots")
    with pytest.raises(BadSearch, match="at least 1 trial"):
        search("0")
    few = dataclasses.replace(small, samples=samples(2))
    with pytest.raises(TooFewSamples, match="has 2 samples"):
        search_of("5", few, Settings(rungs=(4,)), folder=tmp_path)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"depth": (1, 2)}, r"variants\['depth'\] is no argument of its build"),
        ({"width": 8}, r"variants\['width'\] must list numbers, words or None, got 8"),
        ({"width": ()}, r"variants\['width'\] must list"),
        ({"width": ([8],)}, r"variants\['width'\] must list"),
    ],
)
def test_variants_are_checked_with_the_subject(variants: Any, message: str) -> None:
    with pytest.raises(BadSubject, match=message):
        dataclasses.replace(small, variants=variants)


def test_each_trial_has_a_seed_of_its_own_and_the_same_one_again() -> None:
    def drawn(number: int) -> float:
        study = optuna.create_study(sampler=TrialSeeded(0))
        for _ in range(number):
            study.tell(study.ask(), 1.0)
        return study.ask().suggest_float("lr", 0.0, 1.0)

    assert drawn(0) == drawn(0)
    assert len({drawn(0), drawn(1), drawn(2)}) == 3


# -- how it is ranked ------------------------------------------------------------------------------


def test_what_holds_ranks_before_what_breaks_and_a_higher_rung_before_a_lower() -> None:
    slowest = scores.score_of_held([1.0, 1.0])
    at_second = scores.score_of_broken(1, 2, 1.0)
    at_first = scores.score_of_broken(0, 2, 1e-3)
    assert slowest <= 1.0 < scores.score_of_broken(1, 2, 1e-3) <= at_second < at_first
    assert at_first < scores.score_of_broken(0, 2, 1.0) == scores.WORST


def test_the_distance_falls_with_error_and_loss() -> None:
    assert scores.distance(8.0, 1.0, LEVELS) == 1.0
    assert scores.distance(math.nan, 0.0, LEVELS) == 1.0
    assert scores.distance(4.0, 0.5, LEVELS) == 0.5
    assert 0 < scores.distance(0.0, 0.0, LEVELS) < scores.distance(0.8, 0.0, LEVELS)


def test_the_height_falls_with_the_loss_through_the_levels() -> None:
    losses = [100.0, 8.0, 7.0, 4.0, 3.5, 2.4, 1.2, 0.5, 0.0]
    heights = [scores.height(loss, LEVELS) for loss in losses]
    assert heights == sorted(heights, reverse=True)
    names = [scores.level_at(height) for height in heights]
    assert names[:2] == ["above uniform", "uniform"]
    assert [names[3], names[5], names[6], names[8]] == [
        "blank",
        "unigram",
        "bag of clip",
        "aligned",
    ]
    assert scores.level_at(scores.height(math.nan, LEVELS)) == "not finite"


def study_with(others: list[list[float]], held: bool = False) -> optuna.Study:
    """A study of ended trials with these heights at tenths 1, 2, ..."""
    study = optuna.create_study()
    for heights in others:
        study.add_trial(
            optuna.create_trial(
                value=1.5,
                intermediate_values=dict(enumerate(heights, 1)),
                user_attrs={RESULT: {"rungs_held": int(held)}},
            )
        )
    return study


def asks(study: optuna.Study, heights: list[float]) -> list[bool]:
    """Whether a trial with these heights would be given up, at each of them."""
    trial = study.ask()
    answers = []
    for tenth, value in enumerate(heights, 1):
        trial.report(value, tenth)
        answers.append(LevelPruner().prune(study, study.trials[trial.number]))
    return answers


def test_a_trial_is_given_up_that_stands_on_a_level_which_others_had_left() -> None:
    study = study_with([[3.5, 3.2, 1.4, 0.2, 0.1]] * OTHERS)
    assert asks(study, [3.9, 3.8, 3.7, 3.6]) == [False, False, True, True]


@pytest.mark.parametrize(
    ("others", "heights"),
    [
        ([[3.5, 3.4, 3.3, 3.2]] * 9, [3.9, 3.9, 3.9, 3.9]),  # nobody was below
        ([[3.5, 3.2, 1.4, 0.2]] * (OTHERS - 1), [3.9, 3.9, 3.9, 3.9]),  # too few were
        ([[3.5, 3.2, 0.4, 0.2]] * 9, [5.9, 4.1, 3.9, 2.5]),  # it falls from level to level
        ([[0.5, 0.2, 0.1]] * 9, [3.9, 3.9]),  # too early
    ],
)
def test_a_trial_goes_on_otherwise(others: list[list[float]], heights: list[float]) -> None:
    assert not any(asks(study_with(others), heights))


def test_a_trial_that_held_counts_as_below_from_then_on() -> None:
    assert asks(study_with([[3.5]] * OTHERS, held=True), [3.9] * 3)[-1]
    assert not asks(study_with([[3.5]] * OTHERS, held=False), [3.9] * 3)[-1]
    assert TENTHS > 10  # tenths of two rungs do not mix


# -- what is kept ----------------------------------------------------------------------------------


def test_a_journal_that_a_kill_cut_off_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "trials.journal"
    study = optuna.create_study(storage=storage.open_storage(str(path)), study_name="one")
    for _ in range(3):
        study.tell(study.ask(), 1.0)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(1, len(lines[-1])):
        path.write_bytes(whole[:-cut])
        again = optuna.load_study(study_name="one", storage=storage.open_storage(str(path)))
        assert len(again.trials) == 3
        assert path.read_bytes() == b"".join(lines[:-1])
    again.tell(2, 2.0)
    kept = optuna.load_study(study_name="one", storage=storage.open_storage(str(path)))
    assert [trial.value for trial in kept.trials] == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("content", ["hello\n", "hello", "[1, 2]\n", '{"a": 1}\n'])
def test_another_file_is_no_journal(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.txt"
    path.write_text(content)
    with pytest.raises(BadSearch, match=r"other\.txt is no journal of a search"):
        storage.open_storage(str(path))
    assert path.read_text() == content


@pytest.mark.parametrize("url", ["nosuch://host/db", "sqlite:////no/such/folder/a.db"])
def test_a_bad_database_is_one_line(url: str) -> None:
    with pytest.raises(BadSearch, match="search storage ") as caught:
        storage.open_storage(url)
    assert "\n" not in str(caught.value)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(BadSearch, match="search storage nosuch://me:") as caught:
        storage.open_storage("nosuch://me:secret@host/db")
    assert "secret" not in str(caught.value)
    assert storage.shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert storage.shown("a.journal") == "a.journal"


def running(**attributes: Any) -> tuple[optuna.Study, Any]:
    """A study with one trial under way."""
    kept = InMemoryStorage()
    study = optuna.create_study(storage=kept)
    trial = study.ask()
    trial.suggest_categorical("lr", (0.1, 0.2))
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    return study, kept


def attributes_of_lost(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return {RESULT: {"number": trial.number}}


def test_a_trial_of_a_process_that_ended_is_put_in_the_queue_again() -> None:
    worker = storage.Worker()
    study, kept = running(worker=[worker.host, worker.name], seen=time.time())
    with worker.at_work():
        storage.bury(study, kept, attributes_of_lost)
        assert study.trials[0].state is TrialState.RUNNING
        left = storage.lock_of(worker.name).read_bytes()
    with FileLock(storage.lock_of(worker.name)):
        pass  # the file of a process that was killed lies there, and nobody holds it
    assert left == b""
    storage.bury(study, kept, attributes_of_lost)
    storage.lock_of(worker.name).unlink()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    again = study.ask()
    assert again.suggest_categorical("lr", (0.1, 0.2)) == study.trials[0].params["lr"]


@pytest.mark.parametrize(
    ("attributes", "dead"),
    [
        ({"worker": ["elsewhere", "w"], "seen": 1000.0}, False),
        ({"worker": ["elsewhere", "w"], "seen": 1000.0 - storage.LOST_SECONDS}, True),
        ({}, True),
    ],
)
def test_a_trial_of_another_machine_is_dead_when_it_is_silent(
    attributes: dict[str, Any], dead: bool
) -> None:
    study, _ = running(**attributes)
    assert storage.is_dead(study.trials[0], now=1001.0) is (dead and bool(attributes))
    later = study.trials[0].datetime_start.timestamp() + storage.UNSIGNED_SECONDS + 1
    assert storage.is_dead(study.trials[0], now=max(later, 1001.0)) is True


def test_what_ends_one_process_after_another_is_not_tried_for_ever() -> None:
    study, kept = running()
    for lost in range(1, storage.MOST_LOST + 1):
        storage.give_up(study, kept, len(study.trials) - 1, attributes_of_lost)
        if lost < storage.MOST_LOST:
            study.ask()
    last = study.trials[-1]
    assert (last.state, last.value) == (TrialState.COMPLETE, scores.WORST)
    assert last.user_attrs[storage.LOST] == storage.MOST_LOST
    assert RESULT in last.user_attrs


def test_a_trial_stopped_by_hand_does_not_count_as_lost() -> None:
    study, kept = running()
    storage.give_up(study, kept, 0, None)
    assert study.trials[1].state is TrialState.WAITING
    assert study.trials[1].user_attrs[storage.LOST] == 0


# -- what is said and written ----------------------------------------------------------------------


def made_up() -> tuple[Search, tuple[Trial, ...]]:
    """A search of 30 made-up trials whose score is the distance of the rate from 0.01."""
    asked = search("30")
    base = asked.climb.space.values_of(asked.climb.base[4])
    trials = []
    for number in range(30):
        rate = 10 ** (-4 + 4 * number / 29)
        values = {**base, "lr": rate, "clip": (None, 1.0, 5.0)[number % 3]}
        score = 0.1 + abs(math.log10(rate) + 2)
        trials.append(ended(number, score, values, as_given=number == 3))
    return asked, tuple(sorted(trials, key=lambda trial: trial.result.score))


def test_what_mattered_is_found() -> None:
    asked, trials = made_up()
    weights = importances(asked.climb.space, trials)
    assert max(weights, key=weights.__getitem__) == "lr"
    assert importances(asked.climb.space, trials[:5]) == {}


def test_the_result_reads(snapshot: Any) -> None:
    asked, trials = made_up()
    assert as_text(asked, trials, earlier=12).split("\nimportance")[0] == snapshot


def test_pictures_show_every_trial() -> None:
    asked, trials = made_up()
    history = draw_history(asked, trials).axes[0]
    assert sum(len(marks.get_offsets()) for marks in history.collections) == len(trials)
    panels = [axes for axes in draw_values(asked, trials).axes if axes.get_title(loc="left")]
    assert len(panels) == len(asked.climb.space.axes)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"clip": None, "batch": None, LAYER_DECAY: 0.5},
        {"optimizer": "sgd", "momentum": 0.9, "schedule": "cosine", "network.width": 8},
    ],
)
def test_the_best_recipe_is_read_back_as_it_was(tmp_path: Path, chosen: dict[str, Any]) -> None:
    asked = search()
    values = asked.climb.space.values_of(asked.climb.base[4]) | chosen
    path = tmp_path / "best.toml"
    path.write_text(recipe_file(asked, ended(0, 0.5, values)))
    back = load_recipes(str(path))(4)
    climbed = asked.climb.recipes(values)[4]
    assert dataclasses.replace(back, fallbacks=(), overtime=0.0) == climbed


def test_clipping_can_be_turned_off_in_a_file() -> None:
    assert changed(Recipe(), {"clip": "none"}).clip is None


def test_without_optuna_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tests.engine.searched:small"]) == BAD_INPUT
    said = capsys.readouterr().err
    assert said == "error: a search needs optuna: pip install 'pytest-overfit[search]'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere:subject"], "cannot import nowhere"),
        (["tests.engine.searched:small", "--rungs", "5,2"], "rungs must ascend"),
        (["tests.engine.searched:small", "--set", "rate=3"], "recipes have no field 'rate'"),
        (["tests.engine.searched:small", "--trials", "many"], "is no number of trials"),
    ],
)
def test_bad_input_to_the_command_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == BAD_INPUT
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_search_describes_itself_in_plain_types() -> None:
    described = search().described()
    assert json.loads(json.dumps(described)) == described


def test_a_mended_network_and_other_samples_are_another_search() -> None:
    def identities(**changes: Any) -> dict[str, str]:
        climb = search().climb
        changed = dataclasses.replace(climb, subject=dataclasses.replace(climb.subject, **changes))
        described = dataclasses.replace(search(), climb=changed).described()
        return {name: described[name] for name in ("network", "samples")}

    as_it_is = identities()
    assert identities() == as_it_is

    def with_a_bias(**given: Any) -> torch.nn.Module:
        network = small.build(**given)
        network.added = torch.nn.Parameter(torch.zeros(1))
        return network

    mended, fewer = identities(build=with_a_bias), identities(samples=list(small.take(5))[1:])
    assert mended["network"] != as_it_is["network"]
    assert mended["samples"] == as_it_is["samples"]
    assert fewer["samples"] != as_it_is["samples"]
