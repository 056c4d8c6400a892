"""Recipes: their schedules against torch's, the written-down ones field by field, and what is
turned away with which words.
"""

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts

from pytest_overfit.recipe import (
    BadRecipe,
    Recipe,
    changed,
    default_recipe,
    load_recipes,
    notes_recipe,
    parse_assignments,
)


def torch_rates(make, *, lr, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def rates_of(recipe, steps):
    return [recipe.lr * recipe.lr_factor(step) for step in range(steps)]


def test_warm_up_rises_in_equal_steps_and_reaches_the_peak_at_its_last():
    recipe = Recipe(warmup=4, lr=0.8)
    assert rates_of(recipe, 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert Recipe(warmup=0).lr_factor(0) == 1.0


@pytest.mark.parametrize("lr_min", [0.0, 1e-3])
def test_the_cosine_schedule_is_torchs(lr_min):
    recipe = Recipe(lr=0.1, lr_min=lr_min, schedule="cosine", warmup=0, budget=50)
    expected = torch_rates(
        lambda optimizer: CosineAnnealingLR(optimizer, 50, eta_min=lr_min), lr=0.1, steps=50
    )
    assert rates_of(recipe, 50) == pytest.approx(expected)


def test_the_cosine_schedule_starts_after_warm_up_and_ends_with_the_budget():
    recipe = Recipe(lr=0.1, schedule="cosine", warmup=10, budget=50)
    assert recipe.lr_factor(9) == recipe.lr_factor(10) == 1.0
    assert recipe.lr_factor(30) == pytest.approx(0.5)
    assert recipe.lr_factor(50) == recipe.lr_factor(80) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("first", "factor", "lr_min"), [(10, 1, 0.0), (10, 2, 1e-3), (7, 3, 0.0), (1, 1, 0.0)]
)
def test_warm_restarts_are_torchs(first, factor, lr_min):
    recipe = Recipe(
        lr=0.1, lr_min=lr_min, schedule="restarts", restart=first, restart_factor=factor, warmup=0
    )
    expected = torch_rates(
        lambda optimizer: CosineAnnealingWarmRestarts(optimizer, first, factor, eta_min=lr_min),
        lr=0.1,
        steps=100,
    )
    assert rates_of(recipe, 100) == pytest.approx(expected)


@given(
    st.sampled_from(["constant", "cosine", "restarts"]),
    st.integers(0, 50),
    st.integers(1, 200),
    st.integers(0, 500),
)
def test_no_schedule_leaves_the_range_from_its_floor_to_its_peak(schedule, warmup, restart, step):
    recipe = Recipe(schedule=schedule, warmup=warmup, restart=restart, lr=0.1, lr_min=0.001)
    factor = recipe.lr_factor(step)
    assert 0 < factor <= 1
    assert factor >= 0.01 - 1e-12 or step < warmup


def test_the_longest_prefix_decides_a_parameters_rate():
    recipe = Recipe(layer_lr={"encoder": 0.1, "encoder.blocks.3": 0.5, "head": 0.0})
    factors = [
        recipe.layer_factor(name)
        for name in (
            "encoder.stem.weight",
            "encoder.blocks.3.conv.weight",
            "head.bias",
            "lstm.weight",
        )
    ]
    assert factors == [0.1, 0.5, 0.0, 1.0]


def test_the_written_down_recipe_of_one_sample_is_exact():
    recipe = notes_recipe(1)
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.clip, recipe.batch) == (
        "sgd",
        1.0,
        0.9,
        10.0,
        1,
    )
    assert recipe.network == {"hidden_dim": 32, "dropout": 0.0}
    assert (recipe.budget, recipe.schedule, recipe.warmup) == (500, "constant", 0)


@pytest.mark.parametrize("samples", [2, 5])
def test_the_written_down_recipe_of_two_to_five_samples_is_exact(samples):
    recipe = notes_recipe(samples)
    assert (recipe.optimizer, recipe.lr, recipe.clip, recipe.batch) == ("adam", 0.1, 5.0, samples)
    assert recipe.network == {"hidden_dim": 64}
    assert (recipe.budget, recipe.schedule, recipe.warmup) == (400, "constant", 0)


@pytest.mark.parametrize(("samples", "steps"), [(10, 300 * 2), (20, 300 * 4)])
def test_the_written_down_recipe_of_ten_to_twenty_samples_is_exact(samples, steps):
    recipe = notes_recipe(samples)
    assert (recipe.optimizer, recipe.lr, recipe.clip, recipe.batch) == ("adam", 0.01, 5.0, 5)
    assert recipe.network == {"hidden_dim": 128}
    assert (recipe.budget, recipe.schedule, recipe.warmup) == (steps, "cosine", 0)


def test_the_written_down_recipe_of_fifty_samples_is_exact():
    recipe = notes_recipe(50)
    assert (recipe.optimizer, recipe.lr, recipe.clip, recipe.batch) == ("adamw", 0.001, 1.0, 8)
    assert recipe.network == {"hidden_dim": 128}
    assert (recipe.budget, recipe.schedule, recipe.warmup) == (500 * 7, "cosine", 10 * 7)


@pytest.mark.parametrize("samples", [1, 2, 5, 10, 20, 50])
def test_the_written_down_recipes_add_nothing_of_ours(samples):
    recipe = notes_recipe(samples)
    assert recipe.fallbacks == ()
    assert recipe.norm_momentum is None
    assert (recipe.accumulation, recipe.label_smoothing, recipe.reduction, recipe.layer_lr) == (
        1,
        0.0,
        "mean",
        {},
    )


@pytest.mark.parametrize("samples", [1, 2, 5, 10, 20, 50, 100, 1000])
def test_every_default_recipe_has_fallbacks_and_room_for_a_pass(samples):
    recipe = default_recipe(samples)
    assert recipe.fallbacks
    assert recipe.budget * recipe.batch_of(samples) >= 40 * samples


def test_a_batch_is_never_larger_than_the_rung():
    assert Recipe(batch=8).batch_of(3) == 3
    assert Recipe(batch=8).batch_of(50) == 8
    assert Recipe(batch=None).batch_of(50) == 50


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optimizer", "lion", "optimizer must be one of adam, adamw, sgd, got 'lion'"),
        ("schedule", "step", "schedule must be one of constant, cosine, restarts, got 'step'"),
        ("reduction", "none", "reduction must be one of mean, sum, got 'none'"),
        ("lr", 0, "lr must be a positive number, got 0"),
        ("lr", None, "lr must be a positive number, got None"),
        ("lr", "0.01", "lr must be a positive number, got '0.01'"),
        ("lr", math.nan, "lr must be a positive number, got nan"),
        ("lr", math.inf, "lr must be a positive number, got inf"),
        ("lr", True, "lr must be a positive number, got True"),
        ("clip", -1.0, "clip must be a positive number or none, got -1.0"),
        ("batch", 0, "batch must be a positive whole number or none, got 0"),
        ("batch", 2.5, "batch must be a positive whole number or none, got 2.5"),
        ("accumulation", 0, "accumulation must be a positive whole number, got 0"),
        ("accumulation", None, "accumulation must be a positive whole number, got None"),
        ("budget", 10.5, "budget must be a positive whole number, got 10.5"),
        ("restart", 0, "restart must be a positive whole number, got 0"),
        ("restart_factor", -2, "restart_factor must be a positive whole number, got -2"),
        ("warmup", -1, "warmup must be a whole number not below 0, got -1"),
        ("warmup", 1.5, "warmup must be a whole number not below 0, got 1.5"),
        ("momentum", -0.1, "momentum must be a number not below 0, got -0.1"),
        ("weight_decay", "a", "weight_decay must be a number not below 0, got 'a'"),
        ("lr_min", -1e-9, "lr_min must be a number not below 0, got -1e-09"),
        ("label_smoothing", 1.5, "label_smoothing must be a number from 0 to 1, got 1.5"),
        ("norm_momentum", 2, "norm_momentum must be a number from 0 to 1 or none, got 2"),
        ("norm_momentum", "a", "norm_momentum must be a number from 0 to 1 or none, got 'a'"),
        ("fallbacks", 0.1, "fallbacks must be a list of positive factors, got 0.1"),
        ("fallbacks", (0.1, -1), "fallbacks must be a list of positive factors, got (0.1, -1)"),
        ("layer_lr", 0.1, "layer_lr must be a table of prefixes and factors not below 0, got 0.1"),
        (
            "layer_lr",
            {"head": "x"},
            "layer_lr must be a table of prefixes and factors not below 0, got {'head': 'x'}",
        ),
        ("network", 3, "network must be a table of keywords, got 3"),
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_what_it_must_be(field, value, words):
    with pytest.raises(BadRecipe, match=f"^{re.escape('recipe: ' + words)}$"):
        Recipe(**{field: value})


def test_what_may_be_none_may():
    recipe = Recipe(clip=None, batch=None, norm_momentum=None)
    assert (recipe.clip, recipe.batch, recipe.norm_momentum) == (None, None, None)


def test_assignments_are_read_as_numbers_lists_tables_words_and_none():
    text = [
        "lr=0.01",
        "schedule=cosine",
        "clip=none",
        "fallbacks=[0.1, 10]",
        "layer_lr={head = 0.5}",
        "network={hidden_dim = 32}",
        "batch=4",
    ]
    recipe = changed(Recipe(), parse_assignments(text))
    assert (recipe.lr, recipe.schedule, recipe.clip, recipe.fallbacks, recipe.batch) == (
        0.01,
        "cosine",
        None,
        (0.1, 10),
        4,
    )
    assert (recipe.layer_lr, recipe.network) == ({"head": 0.5}, {"hidden_dim": 32})


def test_an_assignment_without_an_equals_sign_is_shown_how_to_be_one():
    with pytest.raises(
        BadRecipe, match=re.escape("'lr:0.1' must read field=value, for example lr=0.01")
    ):
        parse_assignments(["lr:0.1"])


def test_an_unknown_field_is_named_with_those_there_are():
    with pytest.raises(
        BadRecipe,
        match=r"recipes have no field 'learning_rate'; they have optimizer, lr, momentum, "
        ".*fallbacks",
    ):
        changed(Recipe(), {"learning_rate": 0.1})


def write(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_sets_fields_for_all_rungs_and_for_one(tmp_path):
    recipes = load_recipes(
        write(
            tmp_path,
            'lr = 0.02\nschedule = "cosine"\nlayer_lr = {head = 0.1}\n[rungs.10]\nlr = 0.03\nfallbacks = [0.5]\n',
        )
    )
    assert recipes(5) == replace(
        default_recipe(5), lr=0.02, schedule="cosine", layer_lr={"head": 0.1}
    )
    assert recipes(10) == replace(
        default_recipe(10), lr=0.03, schedule="cosine", layer_lr={"head": 0.1}, fallbacks=(0.5,)
    )
    assert recipes(50).batch == default_recipe(50).batch


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr = \n", "is no TOML: "),
        ("learning_rate = 0.1", "recipes have no field 'learning_rate'"),
        ("lr = 'fast'", "lr must be a positive number, got 'fast'"),
        ("[rungs.10]\nlr = -1", "lr must be a positive number, got -1"),
        ("[rungs.ten]\nlr = 1", "rungs are numbers of samples, got 'ten'"),
        ("rungs = 3", "rungs must be tables like [rungs.10], got 3"),
        ("[rungs]\n10 = 0.1", "rungs must be tables like [rungs.10], got 0.1"),
    ],
)
def test_a_file_that_is_no_recipe_says_where(tmp_path, text, words):
    with pytest.raises(BadRecipe, match=re.escape(words)):
        load_recipes(write(tmp_path, text))


def test_bytes_that_are_no_text_are_no_recipe(tmp_path):
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRecipe, match="is no TOML"):
        load_recipes(str(tmp_path / "recipe.toml"))


def test_neither_a_name_nor_a_file_is_said_to_be_so(tmp_path):
    with pytest.raises(
        BadRecipe, match=r"recipe 'fast\.toml' is neither a file nor one of default, notes"
    ):
        load_recipes("fast.toml")
    with pytest.raises(BadRecipe, match="is neither a file"):
        load_recipes(str(tmp_path))


def test_a_recipe_describes_itself_in_one_line():
    assert Recipe().describe() == "adam lr 0.005, clip 1, warm-up 10"
    assert (
        notes_recipe(1).describe()
        == "sgd lr 1, momentum 0.9, clip 10, batch 1, hidden_dim 32, dropout 0.0"
    )
    full = Recipe(
        optimizer="adamw",
        weight_decay=0.1,
        clip=None,
        accumulation=2,
        schedule="restarts",
        label_smoothing=0.1,
        reduction="sum",
    )
    assert full.describe() == (
        "adamw lr 0.005, weight decay 0.1, accumulation 2, restarts schedule, warm-up 10, "
        "label smoothing 0.1, sum reduction"
    )
