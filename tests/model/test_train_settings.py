"""The command line: what it means, and one clear line for what it cannot mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.fitting import recipe_of
from model.settings import BadSettings, Settings, parse
from model.train import BAD_INPUT, main


def test_the_teams_command_is_understood() -> None:
    command = (
        "i3d_teacher --batch_size 8 --learning_rate 0.0003 --dropout 0.5 --weight_decay 0.001 "
        "--accumulation_steps 2 --patience 40 --epochs 150 "
        "--output_dir checkpoints/teacher_high_reg --hidden_dim 256 --label_smoothing 0.1 "
        "--features data --resume --devices 2 --num_nodes 3"
    )
    settings = parse(command.split())
    assert settings == Settings(
        network="i3d_teacher",
        batch_size=8,
        learning_rate=0.0003,
        dropout=0.5,
        weight_decay=0.001,
        accumulation_steps=2,
        patience=40,
        epochs=150,
        output_dir=Path("checkpoints/teacher_high_reg"),
        hidden_dim=256,
        label_smoothing=0.1,
        features=Path("data"),
        resume=True,
        devices=2,
        num_nodes=3,
    )
    assert settings.processes == 6
    assert settings.keywords == {"hidden_dim": 256, "dropout": 0.5}


def test_a_flag_left_out_has_the_default_of_the_settings() -> None:
    assert parse(["mobilenetv3"]) == Settings(
        network="mobilenetv3", output_dir=Path("checkpoints/run")
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("resnet", "there is no network 'resnet'; there are mobilenetv3, i3d_teacher"),
        ("", "the following arguments are required: network"),
        ("mobilenetv3 --frobnicate", "unrecognized arguments: --frobnicate"),
        (
            "mobilenetv3 --batch_size 0",
            "argument --batch_size: must be a whole number from 1, got '0'",
        ),
        (
            "mobilenetv3 --batch_size 2.5",
            "argument --batch_size: must be a whole number from 1, got '2.5'",
        ),
        (
            "mobilenetv3 --learning_rate -1",
            "argument --learning_rate: must be a number from 0, got '-1'",
        ),
        (
            "mobilenetv3 --learning_rate nan",
            "argument --learning_rate: must be a number from 0, got 'nan'",
        ),
        (
            "mobilenetv3 --learning_rate inf",
            "argument --learning_rate: must be a number from 0, got 'inf'",
        ),
        (
            "mobilenetv3 --dropout 1",
            "argument --dropout: must be a number from 0 to below 1, got '1'",
        ),
        (
            "mobilenetv3 --label_smoothing 1.5",
            "argument --label_smoothing: must be a number from 0 to 1, got '1.5'",
        ),
        (
            "mobilenetv3 --schedule step",
            "argument --schedule: must be one of constant, cosine, restarts, got 'step'",
        ),
        (
            "mobilenetv3 --precision 8",
            "argument --precision: must be one of 32, 16-mixed, bf16-mixed, got '8'",
        ),
        (
            "mobilenetv3 --curriculum 50,20",
            "argument --curriculum: must ascend from 1 or more, got '50,20'",
        ),
        (
            "mobilenetv3 --curriculum few",
            "argument --curriculum: must be whole numbers separated by commas, got 'few'",
        ),
        (
            "mobilenetv3 --curriculum 5 --regularisation",
            "--curriculum and --regularisation are two studies: give one of them",
        ),
        (
            "mobilenetv3 --curriculum 5 --features data",
            "--curriculum scales up composed sentences; it does not go with --features",
        ),
        (
            "mobilenetv3 --seeds 1,2",
            "--seeds belongs to --regularisation; a single run takes --seed",
        ),
        (
            "mobilenetv3 --languages ase,,psr",
            "argument --languages: must be words separated by commas, got 'ase,,psr'",
        ),
        ("mobilenetv3 --warmup 5 --epochs 3", "--warmup 5 is longer than --epochs 3"),
        ("i3d_teacher --variant skip", "--variant skip is one of mobilenetv3, not of i3d_teacher"),
    ],
)
def test_what_it_cannot_mean_is_one_clear_line(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadSettings) as caught:
        parse(flags.split())
    assert str(caught.value) == message
    assert main(flags.split()) == BAD_INPUT
    assert capsys.readouterr().err == f"error: {message}\n"


def test_lengths_of_schedules_are_counted_in_epochs() -> None:
    settings = parse(
        [
            "mobilenetv3",
            "--batch_size",
            "8",
            "--accumulation_steps",
            "2",
            "--schedule",
            "restarts",
            "--warmup",
            "2",
            "--epochs",
            "40",
            "--learning_rate",
            "0.01",
        ]
    )
    recipe = recipe_of(settings, clips=100)  # 13 batches, 7 steps an epoch
    assert (recipe.warmup, recipe.restart, recipe.restart_factor, recipe.budget, recipe.lr_min) == (
        14,
        70,
        2,
        280,
        1e-6,
    )
    at_epoch = {epoch: 0.01 * recipe.lr_factor(7 * epoch) for epoch in (1, 2, 12, 31, 32)}
    assert at_epoch[1] == pytest.approx(0.01 * 8 / 14)
    assert at_epoch[2] == at_epoch[12] == at_epoch[32] == pytest.approx(0.01)
    assert 1e-6 < at_epoch[31] < 1e-4
    assert 0.01 * recipe.lr_factor(7 * 12 - 1) < 2e-5


def test_more_processes_take_fewer_steps_an_epoch() -> None:
    one, four = (
        recipe_of(parse(["mobilenetv3", "--epochs", "1", "--devices", devices]), clips=100).budget
        for devices in ("1", "4")
    )
    assert (one, four) == (13, 4)


def recipe_file(folder: Path, text: str) -> str:
    path = folder / "best.toml"
    path.write_text(text)
    return str(path)


def test_a_run_starts_from_the_recipe_of_a_search(tmp_path: Path) -> None:
    text = (
        'optimizer = "sgd"\nlr = 0.2\nmomentum = 0.5\nclip = "none"\nbatch = 5\n'
        'reduction = "sum"\nwarmup = 50\n[layer_lr]\n"lstm." = 0.5\n'
        '[network]\nhidden_dim = 32\nvariant = "skip"\n[rungs.5]\nbudget = 800\n'
    )
    given = ["mobilenetv3", "--recipe", recipe_file(tmp_path, text), "--batch_size", "4"]
    settings = parse(given)
    assert settings.keywords == {"hidden_dim": 32, "dropout": 0.0, "variant": "skip"}
    recipe = recipe_of(settings, clips=40)
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.clip) == ("sgd", 0.2, 0.5, None)
    assert (recipe.reduction, recipe.layer_lr) == ("sum", {"lstm.": 0.5})
    assert (recipe.batch, recipe.warmup) == (4, 10)  # of the flag; of an epoch


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = -1", "--recipe: recipe: lr must be a positive number, got -1"),
        ("[network]\nwidth = 3", "the networks here have no keyword 'width'"),
        ("lr = ", "is no TOML"),
    ],
)
def test_a_bad_recipe_is_one_line(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mobilenetv3", "--recipe", recipe_file(tmp_path, text)]) == BAD_INPUT
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
