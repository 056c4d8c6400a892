"""A folder: which of its files are logs, which of them are one run, and what stands beside them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pytest_overfit.health.readers import read_run
from pytest_overfit.health.run import BadRun, Facts
from pytest_overfit.levels import Level
from tests.health.event_files import write_events

SPECIMENS = Path(__file__).parent / "specimens"
PLAIN = "Epoch 1: Train 4.5 | Val 4.6\nEpoch 2: Train 4.4 | Val 4.5\n"
CSV = "epoch,train_loss,val_loss,lr\n1,4.5,4.6,0.1\n2,4.4,4.5,0.1\n"


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(BadRun) as raised:
        read_run(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_log_is_found_among_other_files(tmp_path: Path) -> None:
    written(tmp_path / "README.txt", "Trained with 2 steps. See epoch 3.\n")
    written(tmp_path / "config.json", '{\n "epoch": 5,\n "loss": "ctc"\n}')
    written(tmp_path / "manifest.jsonl", '{"clip": "a", "frames": 20}\n')
    written(tmp_path / "corpus.csv", "id|folder|signer|annotation\na|a|s|WIND\n")
    written(tmp_path / "hparams.yaml", "lr: 0.1\nepoch: 3\nloss: 3\n")
    written(tmp_path / "weights.pt", PLAIN)
    log = written(tmp_path / "version_0" / "out.txt", PLAIN)
    run = read_run(tmp_path)
    assert (run.sources, run.name, run.warnings) == ((log,), tmp_path.name, ())


@pytest.mark.parametrize("name", ["job.out", "job.err", "job.stdout", "job.stderr"])
def test_what_a_job_printed_is_a_log(tmp_path: Path, name: str) -> None:
    log = written(tmp_path / name, PLAIN)
    assert read_run(tmp_path).sources == (log,)


def test_of_two_formats_the_richer_is_read_and_named(tmp_path: Path) -> None:
    log, table = (
        written(tmp_path / "train.log", PLAIN),
        written(tmp_path / "csv" / "version_0" / "metrics.csv", CSV),
    )
    log.rename(tmp_path / "csv" / "version_0" / "train.log")
    run = read_run(tmp_path)
    assert run.sources == (table,)
    assert run.warnings == (
        (
            f"{tmp_path}: two formats of one run; read from the csv, which tells no less than "
            "train.log"
        ),
    )


def test_predictions_may_come_from_the_other_format(tmp_path: Path) -> None:
    written(tmp_path / "train.log", PLAIN + "Target: A B\nPred: A\n")
    written(tmp_path / "metrics.csv", CSV)
    run = read_run(tmp_path)
    assert "lr" in run.curves
    assert [(one.at, one.prediction) for one in run.predictions] == [(2, ("A",))]
    assert run.warnings[-1] == "predictions are from the plain log"


def test_csv_and_events_in_folders_of_their_own_are_one_run(tmp_path: Path) -> None:
    table = written(tmp_path / "csv" / "version_0" / "metrics.csv", CSV)
    write_events(
        tmp_path / "tb" / "version_0", [(1, {"train_loss": 4.5}), (2, {"train_loss": 4.4})]
    )
    assert read_run(tmp_path).sources == (table,)


def test_a_format_that_cannot_be_read_does_not_hide_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_overfit.health.readers import trackers

    written(tmp_path / "metrics.csv", CSV)
    path = write_events(tmp_path, [(1, {"train_loss": 4.5})])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    run = read_run(tmp_path)
    assert len(run.curves["val_loss"]) == 2
    assert (
        f"{path}: to read TensorBoard event files, pip install pytest-overfit[curves]"
        in run.warnings
    )


def test_two_runs_are_named(tmp_path: Path) -> None:
    for name in ("version_0", "version_1", "version_2"):
        written(tmp_path / "lightning_logs" / name / "metrics.csv", CSV)
    expected = (
        "holds 3 runs, lightning_logs/version_0, lightning_logs/version_1 and 1 more; give one of "
        "them"
    )
    assert refused(tmp_path) == f"{tmp_path}: {expected}"
    assert len(read_run(tmp_path / "lightning_logs" / "version_1").curves["val_loss"]) == 2


def test_two_logs_of_one_format_that_differ_are_two_runs(tmp_path: Path) -> None:
    written(tmp_path / "a.log", PLAIN)
    written(tmp_path / "b.log", PLAIN.replace("4.", "3."))
    assert refused(tmp_path) == f"{tmp_path}: holds 2 runs, a.log and b.log; give one of them"


def test_two_logs_of_one_format_that_agree_are_one_run(tmp_path: Path) -> None:
    written(tmp_path / "console.log", PLAIN)
    log = written(tmp_path / "train.log", PLAIN + "Epoch 3: Train 4.3 | Val 4.4\n")
    run = read_run(tmp_path)
    assert run.sources == (log,)
    assert run.warnings == (
        (
            f"{tmp_path}: 2 logs of one run; read from the train.log, which tells no less than "
            "console.log"
        ),
    )


def test_logs_of_different_metrics_are_one_run(tmp_path: Path) -> None:
    written(tmp_path / "train.log", "Epoch 1: train loss 4.5\nEpoch 2: train loss 4.4\n")
    written(tmp_path / "valid.log", "Epoch 1: val loss 4.6\nEpoch 2: val loss 4.5\n")
    run = read_run(tmp_path)
    assert {name: curve.values for name, curve in run.curves.items()} == {
        "train_loss": (4.5, 4.4),
        "val_loss": (4.6, 4.5),
    }
    assert {str(curve.where[0]) for curve in run.curves.values()} == {"train.log:1", "valid.log:1"}


def test_a_log_at_the_top_goes_before_those_below(tmp_path: Path) -> None:
    top = written(tmp_path / "metrics.csv", CSV)
    written(tmp_path / "old" / "metrics.csv", CSV)
    run = read_run(tmp_path)
    assert run.sources == (top,)
    assert run.warnings == (
        f"{tmp_path}: 1 log of other runs in folders below left out: old/metrics.csv",
    )


def test_of_hugging_face_states_the_last_is_read(tmp_path: Path) -> None:
    for number in (5, 60, 9):
        (tmp_path / f"checkpoint-{number}").mkdir()
        shutil.copy(SPECIMENS / "trainer_state.json", tmp_path / f"checkpoint-{number}")
        (tmp_path / f"checkpoint-{number}" / "model.safetensors").write_bytes(b"x")
        (tmp_path / f"checkpoint-{number}" / "optimizer.pt").write_bytes(b"x")
    os.utime(tmp_path / "checkpoint-60" / "model.safetensors", (3e9, 3e9))
    run = read_run(tmp_path)
    assert run.sources == (tmp_path / "checkpoint-60" / "trainer_state.json",)
    assert run.checkpoint == tmp_path / "checkpoint-60" / "model.safetensors"


def test_the_newest_checkpoint_is_found(tmp_path: Path) -> None:
    log = written(tmp_path / "train.log", PLAIN)
    assert read_run(log).checkpoint is None
    for age, name in enumerate(["checkpoints/last.ckpt", "best.pt", "checkpoints/first.pth"]):
        written(tmp_path / name, "x")
        os.utime(tmp_path / name, (2e9 - age, 2e9 - age))
    written(tmp_path / "half.ckpt", "")
    assert read_run(log).checkpoint == tmp_path / "checkpoints" / "last.ckpt"


def test_facts_beside_the_log_are_read(tmp_path: Path) -> None:
    facts = {
        "version": 1,
        "subject": "teacher",
        "parameters": 14_404_568,
        "train_samples": 5672,
        "vocabulary": 1232,
        "levels": {
            "train": [{"name": "aligned", "loss": 0}, {"name": "uniform", "loss": 44.5}],
            "val": [],
        },
        "command": "python -m model.train i3d_teacher",
        "network": {"dropout": 0.5},
        "epochs": None,
        "settings": {"unknown": True},
    }
    written(tmp_path / "run.json", json.dumps(facts))
    log = written(
        tmp_path / "tb" / "train.log", "7 parameters, dev: 540 clips\nEpoch 1/9: Train 4.5\n"
    )
    run = read_run(tmp_path)
    assert run.facts == Facts(
        subject="teacher",
        parameters=14_404_568,
        train_samples=5672,
        val_samples=540,
        vocabulary=1232,
        levels={
            "train": (Level(name="uniform", loss=44.5), Level(name="aligned", loss=0.0)),
            "val": (),
        },
        command="python -m model.train i3d_teacher",
        network={"dropout": 0.5},
        epochs=9,
    )
    assert run.sources == (log, tmp_path / "run.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"parameters": "many"}',
            'field parameters must be a whole number, 0 or more, got "many"',
        ),
        ('{"parameters": true}', "field parameters must be a whole number, 0 or more, got true"),
        ('{"epochs": -1}', "field epochs must be a whole number, 0 or more, got -1"),
        ('{"subject": 3}', "field subject must be text, got 3"),
        ('{"network": []}', "field network must be an object, got []"),
        (
            '{"levels": {"train": {"uniform": 3}}}',
            'field levels.train must be a list of objects with name and loss, got {"uniform": 3}',
        ),
        (
            '{"levels": {"val": [{"loss": 3}]}}',
            'field levels.val[0] must be an object with a name, got {"loss": 3}',
        ),
        (
            '{"levels": {"val": [{"name": "a", "loss": NaN}]}}',
            "field levels.val[0].loss must be a finite number, got NaN",
        ),
        ('{"version": 2}', "field version is 2, this reader knows 1"),
        ("[]", "must hold one JSON object, with fields such as subject and parameters"),
        (
            '{"subject": ',
            (
                "cut off or not JSON (Expecting value: line 1 column 13 (char 12)); mend it or "
                "remove it"
            ),
        ),
    ],
)
def test_a_run_json_of_wrong_types_is_refused_by_field(
    tmp_path: Path, text: str, words: str
) -> None:
    written(tmp_path / "train.log", PLAIN)
    written(tmp_path / "run.json", text)
    assert refused(tmp_path) == f"{tmp_path}/run.json: {words}"


def test_predictions_beside_the_log_are_read_and_the_newest_kept(tmp_path: Path) -> None:
    rows = [
        {"epoch": epoch, "split": split, "target": ["A", "B C"], "prediction": []}
        for epoch in range(250)
        for split in ("train", "val")
    ]
    written(
        tmp_path / "predictions.jsonl",
        "".join(json.dumps(row) + "\n" for row in rows) + "not JSON\n" + '{"epoch": 3}\n',
    )
    written(tmp_path / "metrics.csv", CSV)
    run = read_run(tmp_path)
    assert [sum(one.split == split for one in run.predictions) for split in ("train", "val")] == [
        200,
        200,
    ]
    assert (run.predictions[0].at, run.predictions[0].target, run.predictions[0].prediction) == (
        50,
        ("A", "B C"),
        (),
    )
    path = tmp_path / "predictions.jsonl"
    assert run.warnings == (
        (
            f"{path}: 2 lines left out: no object with a target and a prediction (the first is "
            "line 501: 'not JSON')"
        ),
    )
    assert run.sources == (tmp_path / "metrics.csv", path)


def test_training_by_epochs_and_validation_by_steps_are_put_on_one_clock(tmp_path: Path) -> None:
    rows = [{"step": n, "epoch": n // 40, "loss": 9 - n / 50} for n in range(0, 200, 10)]
    read = [
        {"step": n, "valid_loss": 9 - n / 60, "valid_bleu_beam1": n / 9} for n in (50, 100, 150)
    ]
    for name, of in (("train_metrics", rows), ("eval_metrics", read)):
        written(tmp_path / f"{name}.jsonl", "\n".join(map(json.dumps, of)))
    run = read_run(tmp_path)
    assert run.clock == "step"
    assert (len(run.curves["train_loss"]), len(run.curves["val_loss"])) == (20, 3)
    assert run.curves["train_loss"].at[:3] == (0, 10, 20)
    assert run.read_by("val") == "val_bleu"


def test_a_folder_whose_only_log_tells_names_that_nobody_knows_is_told_with_them(
    tmp_path: Path,
) -> None:
    text = "".join(f"[iter {5 * n}] d_adv_thing: {4 - n}.5  temp: 1.0\n" for n in range(1, 4))
    (tmp_path / "loss_log.txt").write_text(text)
    with pytest.raises(BadRun, match=r"loss_log\.txt tells d_adv_thing") as raised:
        read_run(tmp_path)
    assert "--overfit-metric train_loss=d_adv_thing" in str(raised.value)


def test_the_name_of_an_only_file_tells_of_validation_and_never_of_training(tmp_path: Path) -> None:
    table = "epoch,loss\n1,4.5\n2,4.4\n3,4.3\n"
    assert "val_loss" in read_run(written(tmp_path / "a" / "valid-0.1.csv", table)).curves
    assert "train_loss" in read_run(written(tmp_path / "b" / "log.csv", table)).curves
    cer = table.replace("loss", "cer")
    assert "val_cer" in read_run(written(tmp_path / "c" / "train.csv", cer)).curves


def test_files_of_bare_numbers_may_have_a_run_in_their_names(tmp_path: Path) -> None:
    for name, first in (("bn_sgd_loss_history", 4.0), ("bn_sgd_val_loss_history", 5.0)):
        written(tmp_path / f"{name}.txt", "".join(f"{first / n:.6e}\n" for n in range(1, 9)))
    written(tmp_path / "bn_sgd_best_loss_history.txt", "11.0\n12.0\n13.0\n14.0\n")
    run = read_run(tmp_path)
    assert (run.curves["train_loss"].values[0], run.curves["val_loss"].values[0]) == (4.0, 5.0)
    assert 11.0 not in run.curves["train_loss"].values


def test_folders_named_after_splits_are_of_one_run(tmp_path: Path) -> None:
    for folder, value in (("train", 2.5), ("val", 3.5)):
        (tmp_path / folder).mkdir()
        lines = [f"Step {step}/500, Total Loss: {value - step / 1000}\n" for step in (100, 200)]
        (tmp_path / folder / "log.txt").write_text("".join(lines))
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx((2.4, 2.3))
    assert run.curve("val_loss").values == pytest.approx((3.4, 3.3))


def test_a_list_that_goes_on_over_lines_is_read_whole(tmp_path: Path) -> None:
    for text in (
        "[3.5, 2.5,\n2.25, 2.0,\n1.5, 1.25]\n",
        "[\n3.5,\n2.5,\n2.25,\n2.0,\n1.5,\n1.25\n]",
    ):
        (tmp_path / "train_loss.txt").write_text(text)
        assert read_run(tmp_path).curve("train_loss").values == (3.5, 2.5, 2.25, 2.0, 1.5, 1.25)


def test_numbers_in_brackets_are_readings_of_the_metric_that_a_file_is_named_after(
    tmp_path: Path,
) -> None:
    for name, values in (("train_loss", (3.5, 2.5, 2.25)), ("dev_acc", (0.25, 0.375, 0.5))):
        (tmp_path / f"{name}.txt").write_text("".join(f"[{value}]\n" for value in values * 3))
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == (3.5, 2.5, 2.25) * 3
    assert run.curve("val_accuracy").values == (0.25, 0.375, 0.5) * 3
