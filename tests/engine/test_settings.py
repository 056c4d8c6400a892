"""What the command line may ask for, and with which words the rest is turned away."""

import re
import sys

import pytest
import torch

from pytest_overfit import Recipe, Sample, Subject
from pytest_overfit.climb.ladder import BadLadder
from pytest_overfit.plugin.settings import (
    NoDevice,
    Settings,
    choose_device,
    import_subject,
    parse_bounds,
    parse_rungs,
)
from pytest_overfit.recipe import BadRecipe, default_recipe, notes_recipe
from pytest_overfit.subject import BadSubject

CLIP = Sample(name="c", features=torch.ones(4, 2), target=torch.tensor([1]))


def subject(**changes):
    return Subject(
        **{
            "name": "toy",
            "build": lambda **_: torch.nn.Linear(2, 2),
            "samples": [CLIP],
            "vocabulary": ("-", "A"),
            **changes,
        }
    )


def test_rungs_are_numbers_with_commas_between_them():
    assert parse_rungs("1,2,5") == (1, 2, 5)
    assert parse_rungs(" 10 ") == (10,)
    assert parse_rungs("100,200,500,1000") == (100, 200, 500, 1000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,two", "rungs must be numbers with commas between them, like 1,2,5: got '1,two'"),
        ("1;2", "rungs must be numbers with commas between them, like 1,2,5: got '1;2'"),
        ("1,,2", "rungs must be numbers with commas between them"),
        ("20,10", "rungs must ascend: 20 comes before 10"),
        ("0", "a rung has at least 1 sample, got 0"),
        ("-5", "a rung has at least 1 sample, got -5"),
    ],
)
def test_other_rungs_are_turned_away(text, words):
    with pytest.raises(BadLadder, match=re.escape(words)):
        parse_rungs(text)


def test_bounds_are_numbers():
    assert parse_bounds(["wer=0.1", "entropy / ln V=0.5"]) == {"wer": 0.1, "entropy / ln V": 0.5}
    for text, shown in (("wer=low", "'low'"), ("wer=true", "True"), ("wer=none", "None")):
        with pytest.raises(BadLadder, match=f"bound wer must be a number, got {shown}"):
            parse_bounds([text])


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"recipe_source": "fast"}, BadRecipe, "recipe 'fast' is neither a file nor one of"),
        ({"changes": {"rate": 1}}, BadRecipe, "recipes have no field 'rate'"),
        ({"changes": {"lr": -1}}, BadRecipe, "lr must be a positive number, got -1"),
        ({"bounds": {"wer": 0.9}}, BadLadder, "bound wer 0.9 is looser than that of every rung"),
        ({"bounds": {"speed": 0.9}}, BadLadder, "no criterion is called 'speed'"),
    ],
)
def test_what_cannot_be_climbed_with_is_found_before_any_climb(fields, error, words):
    with pytest.raises(error, match=words):
        Settings(**fields).check()


def test_a_bound_concerns_only_the_rungs_that_are_asked_for():
    assert Settings(rungs=(10, 20), bounds={"loss": 2.0}).check()


def test_a_subjects_own_recipe_is_used_unless_another_is_asked_for():
    own = Recipe(lr=0.5)
    described = subject(recipes={5: own})
    assert Settings().recipe(described, 5) == own
    assert Settings().recipe(described, 10) == default_recipe(10)
    assert Settings(recipe_source="notes").recipe(described, 5) == notes_recipe(5)
    assert Settings(changes={"budget": 7}).recipe(described, 5) == Recipe(lr=0.5, budget=7)


def test_the_cpu_is_taken_where_no_gpu_is_seen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    for asked in ("cuda", "cuda:0", "cuda:3"):
        with pytest.raises(
            NoDevice,
            match=rf"device {asked} was asked for, but torch .* sees (no GPU|0 GPUs) "
            r"\(CUDA_VISIBLE_DEVICES=",
        ):
            choose_device(asked)


def test_each_worker_has_its_own_gpu_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device("auto", worker) for worker in range(4)] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
        "cuda:1",
    ]
    assert choose_device("cuda:1", 0) == "cuda:1"
    assert choose_device("cpu", 1) == "cpu"
    with pytest.raises(NoDevice, match=r"device cuda:2 was asked for, but torch .* sees 2 GPUs"):
        choose_device("cuda:2")


@pytest.mark.parametrize("asked", ["gpu", "cuda:x", "meta", ""])
def test_what_is_no_device_is_turned_away(asked):
    with pytest.raises(NoDevice, match=f"'{asked}' is no device: use auto, cpu or cuda:N"):
        choose_device(asked)


MODULE = """
import torch
from pytest_overfit import Sample, Subject

clip = Sample(name="c", features=torch.ones(4, 2), target=torch.tensor([1]))
gru = Subject(name="gru", build=dict, samples=[clip], vocabulary=("-", "A"))
number = 3

def make():
    return gru

def of_run(folder):
    return Subject(name=folder.name, build=dict, samples=[clip], vocabulary=("-", "A"))

def fails():
    raise RuntimeError("no data here\\nsecond line")

def nothing():
    pass
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    (tmp_path / "of_good.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "of_syntax.py").write_text("def (:", encoding="utf-8")
    (tmp_path / "of_raises.py").write_text("1 / 0", encoding="utf-8")
    (tmp_path / "of_lacks.py").write_text("import a_module_that_is_not_there", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("of_")]:
        del sys.modules[name]


@pytest.mark.usefixtures("modules")
def test_a_subject_or_a_function_that_makes_one_is_imported_from_where_the_command_is_given():
    assert import_subject("of_good:gru").name == import_subject("of_good:make").name == "gru"


@pytest.mark.usefixtures("modules")
def test_a_function_that_asks_for_a_run_is_given_its_folder(tmp_path):
    assert import_subject("of_good:of_run", tmp_path).name == tmp_path.name
    assert import_subject("of_good:of_run", tmp_path / "metrics.csv").name == tmp_path.name
    with pytest.raises(
        BadSubject,
        match=(
            "calling of_run raised TypeError: it asks for 'folder': give the run's folder with "
            "--overfit-run"
        ),
    ):
        import_subject("of_good:of_run")


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "of_missing:gru",
            (
                "subject of_missing:gru: cannot import of_missing: ModuleNotFoundError: No module "
                "named 'of_missing'"
            ),
        ),
        (
            "of_lacks:gru",
            (
                "subject of_lacks:gru: cannot import of_lacks: ModuleNotFoundError: No module "
                "named 'a_module_that_is_not_there'"
            ),
        ),
        ("of_syntax:gru", "subject of_syntax:gru: cannot import of_syntax: SyntaxError: "),
        (
            "of_raises:gru",
            "subject of_raises:gru: cannot import of_raises: ZeroDivisionError: division by zero",
        ),
        ("of_good:lstm", "subject of_good:lstm: module of_good has no attribute 'lstm'"),
        (
            "of_good:number",
            (
                "subject of_good:number is a int, expected a pytest_overfit.Subject or a function "
                "that returns one"
            ),
        ),
        (
            "of_good:nothing",
            (
                "subject of_good:nothing is a function, expected a pytest_overfit.Subject or a "
                "function that returns one"
            ),
        ),
        ("of_good:fails", "subject of_good:fails: calling fails raised RuntimeError: no data here"),
        ("of_good:", "subject 'of_good:' must read package.module:attribute"),
        (":gru", "subject ':gru' must read package.module:attribute"),
    ],
)
def test_what_is_no_subject_is_turned_away_in_one_line(spec, words):
    with pytest.raises(BadSubject, match=f"^{re.escape(words)}[^\n]*$"):
        import_subject(spec)
