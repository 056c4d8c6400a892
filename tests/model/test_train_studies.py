"""The two studies: a curriculum over scales, and regularisers one at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from syrupy.assertion import SnapshotAssertion

import model.curriculum
import model.regularisation
from model.curriculum import Climbed, Stage, rung_recipe
from model.data import Data
from model.fitting import Result, fit
from model.regularisation import BASE, CHANGES, Trained, changes, effects
from model.settings import Settings
from model.train import BAD_INPUT, BROKEN, main
from tests.model.training import SMALL, small


def result(**best: float) -> Result:
    """A run whose best epoch had these metrics."""
    given = {
        "epoch": 3.0,
        "train_eval_loss": 1.0,
        "val_loss": 2.0,
        "train_wer": 0.25,
        "val_wer": 0.5,
        **best,
    }
    return Result(ended="epochs", epochs=5, best=given, last=given)


# -- curriculum ------------------------------------------------------------------------------------


def test_a_curriculum_climbs_a_rung_then_carries_weights_from_scale_to_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*SMALL, "--epochs", "1", "--learning_rate", "0.002", "--output_dir", str(tmp_path)]
    assert main([*flags, "--curriculum", "6,12"]) == 0
    said = json.loads((tmp_path / "curriculum.json").read_text())
    assert said["rung"]["samples"] == 5
    assert said["rung"]["learning_rate"] == 0.002
    assert [stage["samples"] for stage in said["stages"]] == [6, 12]
    assert "rung 5: ok after" in capsys.readouterr().out

    assert main([*flags, "--curriculum", "6,12"]) == BAD_INPUT
    assert capsys.readouterr().err.endswith(
        "holds a curriculum; go on with it by --resume, or give another --output_dir\n"
    )


@pytest.mark.exact_weights
def test_a_run_starts_from_the_weights_it_is_given(tmp_path: Path) -> None:
    first, second = (
        small(tmp_path / name, epochs=1, sentences=4, learning_rate=rate)
        for name, rate in (("first", 0.01), ("second", 0.0))
    )
    fit(first, first.data(), folder=first.output_dir)
    fit(second, second.data(), folder=second.output_dir, weights=first.output_dir / "last.ckpt")
    given, kept = (
        torch.load(run.output_dir / "last.ckpt", weights_only=True)["state_dict"]
        for run in (first, second)
    )
    assert all(torch.equal(given[name], kept[name]) for name in given if "norm" not in name)
    assert not torch.equal(
        given["network.stem.norm.running_mean"], kept["network.stem.norm.running_mean"]
    )


def test_a_curriculum_goes_on_where_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, str | None]] = []

    def stage(
        settings: Settings, data: Data, *, folder: Path, weights: Path | None, command: str
    ) -> Result:
        assert len(data.train) == settings.sentences
        if settings.sentences == 20 and len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(
            (settings.sentences, str(weights.relative_to(tmp_path)) if weights else None)
        )
        return result()

    monkeypatch.setattr(model.curriculum, "fit", stage)
    climbs = iter([Climbed(samples=5, steps=40, learning_rate=0.0003, asked=0.001)])
    monkeypatch.setattr(model.curriculum, "climb_rung", lambda settings: next(climbs))
    settings = small(tmp_path, curriculum=(10, 20))
    with pytest.raises(KeyboardInterrupt):
        model.curriculum.curriculum(settings)
    rung, stages = model.curriculum.curriculum(replace(settings, resume=True))
    assert trained == [
        (10, None),
        (10, None),
        (20, "00010-sentences/best_val_loss.ckpt"),
    ]  # fit knows that 10 is done
    assert rung.learning_rate == 0.0003
    assert [stage.samples for stage in stages] == [10, 20]


def test_a_recipe_that_does_not_climb_the_rung_is_not_scaled_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.curriculum, "RUNG_BUDGET", 8)
    assert main([*SMALL, "--curriculum", "6,12", "--output_dir", str(tmp_path)]) == BROKEN
    assert capsys.readouterr().err.startswith(
        "nothing was trained: mobilenetv3 breaks at 5 samples: "
    )
    assert not list(tmp_path.iterdir())


def test_the_rung_is_climbed_with_the_optimiser_to_be_scaled_up_and_without_regularisers() -> None:
    settings = small(
        Path("run"),
        dropout=0.5,
        weight_decay=0.1,
        label_smoothing=0.1,
        optimizer="sgd",
        learning_rate=0.2,
        clip=5.0,
        schedule="cosine",
    )
    recipe = rung_recipe(settings)
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.clip) == ("sgd", 0.2, 0.9, 5.0)
    assert (
        recipe.weight_decay,
        recipe.label_smoothing,
        recipe.schedule,
        recipe.network["dropout"],
    ) == (0.0, 0.0, "constant", 0.0)


def test_the_table_of_a_curriculum(snapshot: SnapshotAssertion) -> None:
    stages = [
        Stage(samples=50, folder="00050-sentences", result=result(val_loss=3.5, val_wer=0.95)),
        Stage(
            samples=1000,
            folder="01000-sentences",
            result=replace(result(epoch=38.0, train_eval_loss=0.0123), ended="patience", epochs=78),
        ),
    ]
    rung = Climbed(samples=5, steps=45, learning_rate=0.003, asked=0.01)
    assert model.curriculum.stages_in_words(rung, stages, "val_loss") == snapshot


# -- regularisation --------------------------------------------------------------------------------


def test_each_change_is_trained_beside_the_base_run_of_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Settings] = []

    def run(settings: Settings, data: Data, *, folder: Path, command: str) -> Result:
        trained.append(replace(settings, output_dir=folder))
        return result(val_loss=2.0 - settings.dropout + settings.seed)

    monkeypatch.setattr(model.regularisation, "fit", run)
    found = model.regularisation.regularisation(small(tmp_path, regularisation=True, seeds=(0, 3)))
    beside = [
        (0.0, 0.0, False),
        (0.1, 0.0, False),
        (0.2, 0.0, False),
        (0.0, 1e-5, False),
        (0.0, 1e-4, False),
        (0.0, 0.0, True),
    ]
    assert [(run.dropout, run.weight_decay, run.augment) for run in trained] == 2 * beside
    assert [run.seed for run in trained] == 6 * [0] + 6 * [3]
    assert len({run.output_dir for run in trained}) == 12
    assert [effect.change for effect in found] == list(CHANGES)
    assert found[1].deltas["val_loss"] == pytest.approx((-0.1, -0.1))
    assert found[1].means["val_loss"] == pytest.approx(3.4)
    said = json.loads((tmp_path / "regularisation.json").read_text())
    assert [effect["change"] for effect in said["effects"]] == list(CHANGES)
    assert len(said["runs"]) == 12
    assert (tmp_path / "regularisation.md").read_text().count("\n| ") == 8


def test_a_change_that_the_base_has_already_is_left_out() -> None:
    assert list(changes(small(Path("run"), dropout=0.2, augment=True))) == [
        BASE,
        "dropout 0.1",
        "weight decay 1e-5",
        "weight decay 1e-4",
    ]


def test_a_study_is_not_begun_twice_in_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "regularisation.json").write_text("{}")
    assert main([*SMALL, "--regularisation", "--output_dir", str(tmp_path)]) == BAD_INPUT
    assert capsys.readouterr().err == (
        f"error: {tmp_path} holds a study; go on with it by --resume, or give another "
        "--output_dir\n"
    )


def test_the_table_of_regularisers(snapshot: SnapshotAssertion) -> None:
    trained = [
        Trained(
            change=change,
            seed=seed,
            folder="",
            result=result(val_loss=loss + seed / 10, val_wer=wer, train_wer=0.01, epoch=7.0),
        )
        for change, loss, wer in (
            (BASE, 2.0, 0.8),
            ("dropout 0.1", 1.9, 0.75),
            ("augmentation", 0.8, 0.25),
        )
        for seed in (0, 1)
    ]
    trained[3] = replace(trained[3], result=result(val_loss=2.25, val_wer=0.85))
    assert model.regularisation.effects_in_words(effects(trained)) == snapshot
