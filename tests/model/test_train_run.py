"""One run in its folder: what it leaves there, and that what it says is true."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model.atomic_files import PREDICTIONS
from model.feed import Feed
from model.fitting import Result, fit, load_weights, quiet, recipe_of, trainer_for
from model.lightning_ctc import CTC, unfused
from model.run_record import BadRunFolder, read_record, subject_for, subject_of_run
from model.settings import BadSettings, Settings
from model.train import BAD_INPUT, main
from pytest_overfit import ctc, measures
from pytest_overfit.subject import BadSample, Sample, Subject, collate
from tests.fixtures.own_folder import corpus_2014, features
from tests.model.training import SMALL, rows, small


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Result]:
    """A run of three epochs with everything switched on."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    settings = small(
        folder,
        epochs=3,
        dropout=0.3,
        augment=True,
        label_smoothing=0.1,
        accumulation_steps=2,
        schedule="cosine",
        weight_decay=0.01,
    )
    return settings, fit(
        settings, settings.data(), folder=folder, command="python -m model.train ..."
    )


@pytest.fixture
def folder(trained: tuple[Settings, Result]) -> Path:
    return trained[0].output_dir


def network_of(folder: Path, checkpoint: str) -> tuple[Subject, nn.Module]:
    subject = subject_of_run(folder)
    network = subject.fresh(feature_dim=1629, seed=9)
    load_weights(network, folder / checkpoint)
    return subject, network.eval()


def test_each_epoch_is_one_row_under_the_names_that_rules_read(folder: Path) -> None:
    logged = rows(folder)
    assert [row["epoch"] for row in logged] == ["0", "1", "2"]
    of_a_split = {
        f"{split}_{name}"
        for split in ("train", "val")
        for name in ("loss", "wer", "emission_ratio", "blank_share", "entropy_ratio")
    }
    assert set(logged[0]) == {"epoch", "step", "train_eval_loss", "lr", "grad_norm"} | of_a_split
    assert all(math.isfinite(float(value)) for row in logged for value in row.values())


def test_the_last_row_is_what_the_last_checkpoint_does(folder: Path) -> None:
    """Measured again by other means: one clip at a time, with the engine's functions."""
    subject, network = network_of(folder, "last.ckpt")
    losses, hypotheses, entropies, blanks, steps = [], [], [], [], []
    for sample in subject.take(6):
        batch = collate([sample])
        with torch.no_grad():
            log_probs, given = subject.log_probs(network, batch.features, batch.frames)
        losses.append(
            float(
                ctc.nats_per_token(log_probs, given, batch.targets, batch.target_lengths, blank=0)
            )
        )
        hypotheses += ctc.greedy_decode(log_probs, given, blank=0)
        entropies.append(measures.entropy_ratio(log_probs, given) * int(given))
        blanks.append(measures.blank_share(log_probs, given, blank=0) * int(given))
        steps.append(int(given))
    targets = [sample.target.tolist() for sample in subject.take(6)]
    last = {name: float(value) for name, value in rows(folder)[-1].items()}
    assert last["val_loss"] == pytest.approx(sum(losses) / 6, rel=1e-4)
    assert last["val_wer"] == pytest.approx(
        measures.token_error_rate(hypotheses, targets), rel=1e-5
    )
    assert last["val_emission_ratio"] == pytest.approx(
        measures.emission_ratio(hypotheses, targets), rel=1e-5
    )
    assert last["val_entropy_ratio"] == pytest.approx(sum(entropies) / sum(steps), rel=1e-4)
    assert last["val_blank_share"] == pytest.approx(sum(blanks) / sum(steps), abs=1e-5)


def test_predictions_are_those_of_the_checkpoint_by_name(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / PREDICTIONS).read_text().splitlines()]
    assert [(line["epoch"], line["split"]) for line in lines] == [
        (epoch, split) for epoch in range(3) for split in ("val", "train") for _ in range(4)
    ]
    subject, network = network_of(folder, "last.ckpt")
    batch = collate(subject.take(4))
    with torch.no_grad():
        decoded = ctc.greedy_decode(
            *subject.log_probs(network, batch.features, batch.frames), blank=0
        )
    last = [line for line in lines if line["epoch"] == 2 and line["split"] == "val"]
    assert [line["prediction"] for line in last] == [
        [subject.vocabulary[token] for token in tokens] for tokens in decoded
    ]
    assert [line["target"] for line in last] == [
        [subject.vocabulary[token] for token in tokens] for tokens in batch.target_lists()
    ]


def test_the_record_says_what_was_trained_on_what(folder: Path) -> None:
    said = read_record(folder)
    assert {
        name: said[name]
        for name in (
            "version",
            "subject",
            "train_samples",
            "val_samples",
            "vocabulary",
            "epochs",
            "command",
            "network",
        )
    } == {
        "version": 1,
        "subject": "mobilenetv3",
        "train_samples": 12,
        "val_samples": 6,
        "vocabulary": 27,
        "epochs": 3,
        "command": "python -m model.train ...",
        "network": {"hidden_dim": 16, "dropout": 0.3},
    }
    subject, network = network_of(folder, "last.ckpt")
    assert said["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert {
        split: [level["name"] for level in levels] for split, levels in said["levels"].items()
    } == {
        split: ["uniform", "blank", "unigram", "bag of clip", "aligned"]
        for split in ("train", "val")
    }
    uniform = [
        ctc.uniform_level(steps=sample.frames, target=sample.target.tolist(), vocabulary=27)
        for sample in subject.take(6)
    ]
    assert said["levels"]["val"][0]["loss"] == pytest.approx(sum(uniform) / 6)


def test_checkpoints_hold_no_pickled_objects_and_the_best_is_of_the_best_epoch(
    trained: tuple[Settings, Result], folder: Path
) -> None:
    held = {
        name: torch.load(folder / f"{name}.ckpt", weights_only=True)
        for name in ("last", "best_val_loss", "best_val_wer")
    }
    assert held["last"]["epoch"] == 2
    for monitor in ("val_loss", "val_wer"):
        values = [float(row[monitor]) for row in rows(folder)]
        assert held[f"best_{monitor}"]["epoch"] == values.index(min(values))
    assert all(name.startswith("network.") for name in held["last"]["state_dict"])
    assert trained[1].best["epoch"] == held["best_val_loss"]["epoch"]


def test_tensorboard_has_the_same_curves(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard's own
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        told = [event.value for event in events.Scalars("val_loss")]
    assert told == pytest.approx([float(row["val_loss"]) for row in rows(folder)])


def test_the_result_says_how_it_ended(trained: tuple[Settings, Result], folder: Path) -> None:
    assert (trained[1].ended, trained[1].epochs) == ("epochs", 3)
    assert json.loads((folder / "result.json").read_text())["last"] == trained[1].last
    assert trained[1].last["val_loss"] == float(rows(folder)[-1]["val_loss"])


# -- the losses that are trained on ----------------------------------------------------------------


def module_of(settings: Settings, learning: bool = True) -> CTC:
    data = settings.data()
    subject = subject_for(settings.network, data, settings.keywords)
    feed = Feed(data, batch_size=settings.batch_size, seed=settings.seed, augment=False)
    return CTC(
        subject,
        subject.fresh(feature_dim=1629, seed=0),
        recipe_of(settings, 12),
        feed,
        seed=0,
        frozen=not learning,
    )


def test_training_loss_is_the_mean_over_clips_as_they_were_trained(tmp_path: Path) -> None:
    """With a learning rate of zero and no batch statistics, the epoch's loss is that of the first
    weights on every clip.
    """
    settings = small(tmp_path, epochs=1, learning_rate=0.0, variant="layer_norm", sentences=6)
    module = module_of(settings, learning=False)
    batch = collate(list(module.feed.data.train))
    with torch.no_grad():
        log_probs, steps = module.network(batch.features, batch.frames)
    expected = float(
        ctc.nats_per_token(log_probs, steps, batch.targets, batch.target_lengths, blank=0)
    )
    fit(settings, settings.data(), folder=tmp_path)
    row = {name: float(value) for name, value in rows(tmp_path)[0].items()}
    assert row["train_loss"] == pytest.approx(expected, rel=1e-4)
    assert row["train_eval_loss"] == pytest.approx(expected, rel=1e-4)
    assert row["lr"] == 0


def test_ctc_is_computed_in_float32_under_half_precision(tmp_path: Path) -> None:
    settings = small(tmp_path)
    module = module_of(settings)
    batch = collate(list(module.feed.data.train)[:4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs, _ = module.subject.log_probs(module.network, batch.features, batch.frames)
    assert log_probs.dtype == torch.float32
    assert log_probs.exp().sum(-1).sub(1).abs().max() < 1e-5  # bfloat16 would be off by 1e-2


def test_half_precision_trains_to_nearly_the_same_loss(tmp_path: Path) -> None:
    losses = []
    for precision in ("32", "bf16-mixed"):
        settings = small(tmp_path / precision, epochs=1, precision=precision)
        losses.append(fit(settings, settings.data(), folder=settings.output_dir).last["train_loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_float16_without_a_gpu_is_one_clear_line(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(
        BadSettings, match=r"^--precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32$"
    ):
        trainer_for(small(tmp_path, precision="16-mixed"), tmp_path, small(tmp_path).data())
    with pytest.raises(
        BadSettings, match=r"^--accelerator gpu --devices 1: this machine has 0 GPUs$"
    ):
        trainer_for(small(tmp_path, accelerator="gpu"), tmp_path, small(tmp_path).data())
    assert not list(tmp_path.iterdir())


def test_an_unfused_optimiser_is_the_same_but_for_how_it_steps() -> None:
    weight = nn.Parameter(torch.ones(3))
    fused = torch.optim.AdamW(
        [{"params": [weight], "peak_lr": 0.1}],
        lr=0.1,
        betas=(0.9, 0.95),
        weight_decay=0.2,
        fused=True,
    )
    plain = unfused(fused)
    assert isinstance(plain, torch.optim.AdamW)
    assert plain.param_groups[0]["params"] == [weight]
    assert (plain.defaults["lr"], plain.defaults["weight_decay"], plain.defaults["fused"]) == (
        0.1,
        0.2,
        None,
    )
    assert plain.defaults["betas"] == (0.9, 0.95)
    momentum = unfused(torch.optim.SGD([weight], lr=0.3, momentum=0.9, fused=True))
    assert (momentum.defaults["lr"], momentum.defaults["momentum"], momentum.defaults["fused"]) == (
        0.3,
        0.9,
        None,
    )


def test_clips_may_be_read_by_other_processes(tmp_path: Path) -> None:
    apart, here = (
        Feed(small(tmp_path).data(), batch_size=4, seed=0, augment=True, workers=workers)
        for workers in (1, 0)
    )
    for one, other in zip(apart.train_dataloader(), here.train_dataloader(), strict=True):
        assert one.names == other.names
        assert torch.equal(one.features, other.features)


# -- how a run ends --------------------------------------------------------------------------------


def test_patience_ends_a_run_that_does_not_improve_and_resuming_does_not_go_on(
    tmp_path: Path,
) -> None:
    settings = small(tmp_path, learning_rate=0.0, epochs=9, patience=2)
    result = fit(settings, settings.data(), folder=tmp_path)
    assert (result.ended, result.epochs) == ("patience", 3)
    again = fit(replace(settings, resume=True), settings.data(), folder=tmp_path)
    assert (again.ended, again.epochs, len(rows(tmp_path))) == ("patience", 3, 3)
    longer = fit(replace(settings, resume=True, patience=3), settings.data(), folder=tmp_path)
    assert (longer.ended, longer.epochs, len(rows(tmp_path))) == ("patience", 4, 4)


def test_a_loss_that_is_not_finite_is_logged_and_ends_the_run(tmp_path: Path) -> None:
    settings = small(tmp_path, learning_rate=1e30, optimizer="sgd", clip=0.0, warmup=0.0, epochs=5)
    result = fit(settings, settings.data(), folder=tmp_path)
    assert (result.ended, result.epochs) == ("not finite", 1)
    assert rows(tmp_path)[0]["val_loss"] == "nan"
    again = fit(replace(settings, resume=True), settings.data(), folder=tmp_path)
    assert (again.ended, again.epochs, len(rows(tmp_path))) == ("not finite", 1, 1)


# -- what is refused -------------------------------------------------------------------------------


def test_a_folder_with_a_run_is_left_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "metrics.csv").read_bytes()
    assert main([*SMALL, "--output_dir", str(folder)]) == BAD_INPUT
    assert (
        capsys.readouterr().err
        == f"error: {folder} holds a run; go on with it by --resume, or give another --output_dir\n"
    )
    assert main([*SMALL, "--output_dir", str(folder), "--resume"]) == BAD_INPUT
    told = "the run has --dropout 0.3, now 0.0: resume it as it was, or use another --output_dir"
    assert capsys.readouterr().err == f"error: {folder / 'run.json'}: {told}\n"
    assert (folder / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            None,
            r"run\.json: there is no such file; give the --output_dir of a run of python -m "
            r"model\.train$",
        ),
        ("{", r"run\.json: not the record of a run \(JSONDecodeError"),
        ("[]", r"run\.json: not the record of a run"),
        (
            '{"version": 2, "subject": 1, "network": {}, "data": {}, "settings": {}}',
            r"run\.json: a record of another version than 1; train anew$",
        ),
    ],
    ids=["none", "cut short", "a list", "another version"],
)
def test_a_record_that_cannot_be_read_is_one_clear_line(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(BadRunFolder, match=message):
        subject_of_run(tmp_path)


def test_weights_that_do_not_fit_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    other = module_of(small(tmp_path, hidden_dim=24)).network
    with pytest.raises(BadRunFolder, match=r"last\.ckpt: its weights do not fit \(Error"):
        load_weights(other, folder / "last.ckpt")
    with pytest.raises(BadRunFolder, match=r"nothing\.ckpt: its weights do not fit"):
        load_weights(other, tmp_path / "nothing.ckpt")


def test_a_target_that_does_not_fit_in_its_steps_is_named_before_training(tmp_path: Path) -> None:
    settings = small(tmp_path)
    data = settings.data()
    long = Sample(name="long", features=torch.zeros(4, 1629), target=torch.tensor([1, 1, 2]))
    short = Sample(name="short", features=torch.zeros(3, 1629), target=torch.tensor([1, 1, 2]))
    with pytest.raises(
        BadSample, match=r"^sample short: 3 frames leave 3 steps, its target needs 4: leave it out$"
    ):
        fit(settings, replace(data, train=[long, short]), folder=tmp_path)
    assert not (tmp_path / "run.json").exists()


# -- a corpus of one's own -------------------------------------------------------------------------


def test_a_corpus_of_ones_own_is_trained_on_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    for split, names in (("train", "abcd"), ("dev", "ef")):
        (corpus / split).mkdir(parents=True)
        for name in names:
            np.save(corpus / split / f"{name}.npy", features(30, seed=ord(name)))
        corpus_2014(
            corpus,
            {name: "WIND REGEN" if number % 2 else "SONNE" for number, name in enumerate(names)},
            f"{split}.corpus.csv",
        )
    flags = [
        "--hidden_dim",
        "16",
        "--batch_size",
        "2",
        "--epochs",
        "1",
        "--augment",
        "--accelerator",
        "cpu",
    ]
    assert main(["mobilenetv3", *flags, "--features", str(corpus), "--output_dir", str(run)]) == 0
    said = read_record(run)
    assert (said["train_samples"], said["val_samples"], said["vocabulary"]) == (4, 2, 4)
    assert said["command"] == "python -m model.train mobilenetv3 " + " ".join(
        [*flags, "--features", str(corpus), "--output_dir", str(run)]
    )
    assert [sample.name for sample in subject_of_run(run).take(2)] == ["e", "f"]
    assert "ended after 1 epochs" in capsys.readouterr().out


def test_lightning_is_quiet_only_about_what_is_answered() -> None:
    with quiet():
        warnings.warn("Checkpoint directory x exists and is not empty.", UserWarning, stacklevel=1)
        with pytest.warns(UserWarning, match="something else"):
            warnings.warn("something else", UserWarning, stacklevel=1)
