"""The same twelve epochs in every form that logs come in: other languages, notebooks, OCR trainers,
tables of several runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_overfit.health.readers import read_run, read_runs
from pytest_overfit.health.readers.plain_line import in_english
from pytest_overfit.health.run import BadRun

TRAIN = [round(4.1 * 0.8**epoch + 0.211, 4) for epoch in range(12)]
VAL = [round(3.9 * 0.85**epoch + 0.5137, 4) for epoch in range(12)]
CER = [round(0.91 * 0.86**epoch + 0.0413, 4) for epoch in range(12)]


def lines(each: Callable[[int], str]) -> str:
    return "".join(f"{each(epoch)}\n" for epoch in range(12))


def comma(value: float) -> str:
    return f"{value:.4f}".replace(".", ",")


TONGUES = {
    "chinese": lines(
        lambda i: f"第{i + 1}轮 训练损失: {TRAIN[i]}  验证损失: {VAL[i]}  学习率: 0.001"
    ),
    "japanese": lines(lambda i: f"エポック {i + 1}/12 学習損失: {TRAIN[i]} 検証損失: {VAL[i]}"),
    "japanese, a total of losses": lines(
        lambda i: (
            f"エポック {i + 1}/12 学習損失: Conv=9.5, 合計={TRAIN[i]}\n"
            f"エポック {i + 1}/12 検証損失: Conv=8.5, 合計={VAL[i]}"
        )
    ),
    "english, a total of losses": lines(
        lambda i: (
            f"Epoch {i + 1}/12 train losses: ctc=9.5, att=1.5, total={TRAIN[i]}\n"
            f"Epoch {i + 1}/12 val losses: ctc=8.5, att=2.5, total={VAL[i]}"
        )
    ),
    "korean": lines(lambda i: f"에폭 {i + 1}/12 학습 손실 {TRAIN[i]} 검증 손실: {VAL[i]}"),
    "russian": lines(
        lambda i: f"Эпоха {i + 1}/12: потери на обучении {TRAIN[i]}, потери на валидации {VAL[i]}"
    ),
    "spanish": lines(
        lambda i: (
            f"Época {i + 1}/12 - Pérdida de entrenamiento: {TRAIN[i]} - Pérdida validación: "
            f"{VAL[i]}"
        )
    ),
    "portuguese": lines(
        lambda i: f"Época {i + 1} perda de treino: {TRAIN[i]} perda de validação: {VAL[i]}"
    ),
    "german": lines(
        lambda i: (
            f"Epoche {i + 1}: Trainingsverlust = {comma(TRAIN[i])}; Validierungsverlust = "
            f"{comma(VAL[i])}"
        )
    ),
}


@pytest.mark.parametrize("tongue", TONGUES)
def test_a_log_in_another_language_is_read(tongue: str, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(TONGUES[tongue], encoding="utf-8")
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx(VAL)


@pytest.mark.parametrize(
    "line",
    [
        "Epoch 1, loss: 1,234",
        "taux perteurbant, latest steps 12",
        "loss: 3.1, wer: 0,5",
        "shape = 1,64,200",
    ],
)
def test_what_is_in_english_already_stays_as_it_is(line: str) -> None:
    assert in_english(line) == line


def notebook(*outputs: dict[str, object]) -> str:
    cells = [
        {"cell_type": "markdown", "source": ["epoch 3 loss 0.1"]},
        {"cell_type": "code", "source": ["loss = 7"], "outputs": list(outputs)},
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_what_a_notebook_printed_is_a_log(tmp_path: Path) -> None:
    printed = [
        f"Epoch {i + 1}/12 | train loss {TRAIN[i]} | val loss {VAL[i]} | val CER {CER[i]}\n"
        for i in range(12)
    ]
    (tmp_path / "train.ipynb").write_text(
        notebook({"output_type": "stream", "name": "stdout", "text": printed})
    )
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_cer").values == pytest.approx(CER)
    assert run.cite("val_loss", 2.0) == "train.ipynb, printed line 2"


def test_the_table_that_a_trainer_drew_in_a_notebook_is_a_log(tmp_path: Path) -> None:
    rows = "".join(
        f"<tr><td>{500 * (i + 1)}</td><td>{TRAIN[i]}</td><td>{VAL[i]}</td><td>{CER[i]}</td></tr>"
        for i in range(12)
    )
    html = (
        "<table><thead><tr><th>Step</th><th>Training Loss</th><th>Validation "
        f"Loss</th><th>Cer</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    (tmp_path / "train.ipynb").write_text(
        notebook(
            {"output_type": "display_data", "data": {"text/html": [html], "text/plain": ["<HTML>"]}}
        )
    )
    run = read_run(tmp_path)
    assert run.clock == "step"
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert run.curve("val_cer").values == pytest.approx(CER)


def test_prose_is_read_only_where_there_is_no_log(tmp_path: Path) -> None:
    table = "| Epoch | Train | Valid | CER |\n|---|---|---|---|\n" + lines(
        lambda i: f"| {i + 1} | {TRAIN[i]} | {VAL[i]} | {100 * CER[i]:.2f} % |"
    )
    (tmp_path / "README.md").write_text(table)
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_cer").values == pytest.approx(CER)
    (tmp_path / "log.csv").write_text(
        "epoch,train_loss,val_loss\n" + lines(lambda i: f"{i},{TRAIN[i] + 1},{VAL[i] + 1}")
    )
    assert read_run(tmp_path).curve("train_loss").values == pytest.approx(
        [value + 1 for value in TRAIN]
    )


OCR = {
    "kraken": lambda i: (
        f"stage {i + 1}/∞  [####]  6686/6686          Accuracy report ({i + 1}) "
        f"{1 - CER[i]:.4f} 22914 10293"
    ),
    "kraken 5": lambda i: (
        f"stage {i}/∞ ━━━━ 616/616 0:00:20 • 0:00:00 31.22it/s val_accuracy: {1 - CER[i]:.4f} "
        "early_stopping: 0/10 0.9"
    ),
    "vietocr": lambda i: (
        f"iter: {200 * (i + 1):06d} - valid loss: 0.7 - acc full seq: 0.1 - acc per char: "
        f"{1 - CER[i]:.4f}"
    ),
}


@pytest.mark.parametrize("trainer", OCR)
def test_the_accuracy_of_characters_is_read(trainer: str, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(lines(OCR[trainer]), encoding="utf-8")
    of_characters = trainer == "vietocr"  # which tells whole lines beside them
    run = read_run(tmp_path)
    assert run.curve(
        "val_char_accuracy" if of_characters else "val_accuracy"
    ).values == pytest.approx([1 - cer for cer in CER])
    assert not of_characters or set(run.curve("val_accuracy").values) == {0.1}


@pytest.mark.parametrize("named_first", [True, False])
def test_a_mean_that_is_printed_goes_before_the_last_batch_that_a_bar_shows(
    tmp_path: Path, named_first: bool
) -> None:
    def epoch(i: int) -> str:
        bar = "".join(
            f"\r{p}%|##| {p}/100 [00:01<00:00, loss={TRAIN[i] + 0.3:.3f}]" for p in (50, 100)
        )
        told = f"loss {TRAIN[i]:.4f}"
        return f"Epoch {i}\n{bar}\n{told}\n" if named_first else f"{bar}\nEpoch {i}: {told}\n"

    (tmp_path / "train.log").write_text("".join(map(epoch, range(len(TRAIN)))))
    values = read_run(tmp_path).curve("train_loss").values
    assert values == pytest.approx(TRAIN, abs=1e-4)


def test_runs_that_a_table_names_are_runs_of_their_own(tmp_path: Path) -> None:
    rows = [
        f"{name},{i + 1},{TRAIN[i] + shift:.4f},{VAL[i]},{CER[i]}"
        for shift, name in enumerate(("small", "large"))
        for i in range(12)
    ]
    (tmp_path / "log.csv").write_text(
        "\n".join(["Model_Name,Epoch,Train_Loss,Val_Loss,Val_CER", *rows])
    )
    small, large = read_runs([tmp_path])
    assert (small.name, large.name) == ("small", "large")
    assert small.curve("train_loss").values == pytest.approx(TRAIN)
    last = read_run(tmp_path)
    assert last.curve("train_loss").values == pytest.approx([value + 1 for value in TRAIN])
    assert any("tells 2 runs apart by name, small, large" in warning for warning in last.warnings)


def test_a_model_named_anew_in_every_row_is_one_run(tmp_path: Path) -> None:
    rows = [f"model_{i}.pt,{i + 1},{TRAIN[i]},{VAL[i]}" for i in range(12)]
    (tmp_path / "log.csv").write_text("\n".join(["model,epoch,train_loss,val_loss", *rows]))
    assert read_run(tmp_path).curve("train_loss").values == pytest.approx(TRAIN)


def test_rows_of_more_columns_than_their_header_are_read_as_far_as_it_names_them(
    tmp_path: Path,
) -> None:
    rows = [f"{i + 1},{TRAIN[i]},{VAL[i]}" + (",0.001" if i > 5 else "") for i in range(12)]
    (tmp_path / "log.csv").write_text("\n".join(["epoch,train_loss,val_loss", *rows]))
    run = read_run(tmp_path)
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert any("with more cells than the header names" in warning for warning in run.warnings)


def test_a_delimiter_within_a_text_moves_no_number(tmp_path: Path) -> None:
    rows = [f"{i + 1},{'a, b' if i == 3 else 'ab'},{TRAIN[i]},{VAL[i]}" for i in range(12)]
    (tmp_path / "log.csv").write_text("\n".join(["epoch,text,train_loss,val_loss", *rows]))
    assert read_run(tmp_path).curve("val_loss").values == pytest.approx(
        [value for i, value in enumerate(VAL) if i != 3]
    )


def test_the_total_of_an_epoch_displaces_no_losses_of_batches(tmp_path: Path) -> None:
    text = lines(
        lambda i: (
            f"Epoch {i + 1} Step: {100 * (i + 1)} Batch Loss: {TRAIN[i]}, Lr: 0.0002\nEpoch "
            f"{i + 1}: total training loss {90 * TRAIN[i]:.2f}"
        )
    )
    extra = "".join(
        f"Epoch {epoch}: total training loss {90 * TRAIN[-1]:.2f}\n" for epoch in range(13, 30)
    )
    (tmp_path / "train.log").write_text(text + extra)
    assert read_run(tmp_path).curve("train_loss").values == pytest.approx(TRAIN)


def test_wenet_names_the_epoch_before_the_batch(tmp_path: Path) -> None:
    def epoch(i: int) -> str:
        batches = [
            (
                f"DEBUG TRAIN Batch {i}/{100 * batch} loss {TRAIN[i] + batch:.4f} loss_ctc 16.6 lr "
                "0.0003 rank 0"
            )
            for batch in range(3)
        ]
        return "\n".join(
            [
                *batches,
                f"DEBUG CV Batch {i}/0 loss 28.5 loss_ctc 38.7 history loss 27.9 rank 0",
                f"INFO Epoch {i} CV info cv_loss {VAL[i]}",
            ]
        )

    (tmp_path / "train.log").write_text(lines(epoch))
    run = read_run(tmp_path)
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert run.curve("train_loss").values == pytest.approx(
        [TRAIN[i] + batch for i in range(12) for batch in range(3)]
    )


def test_the_number_of_a_data_set_before_a_metric_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(
        lines(
            lambda i: f"Epoch(val) [{i + 1}][10]\t0_word_acc: {1 - CER[i]:.4f}, 0_char_recall: 0.9"
        )
    )
    assert read_run(tmp_path).curve("val_accuracy").values == pytest.approx(
        [1 - cer for cer in CER]
    )


def bar(epoch: int) -> str:
    """A progress bar that goes back over what it wrote, as Keras draws it into a file."""
    drawn = "".join(f"{25 * n}/100 [==>...] - ETA: 1s - loss: 9.9{BACK}" for n in (1, 2, 3))
    metrics = f"loss: {TRAIN[epoch]} - val_loss: {VAL[epoch]} - val_cer: {CER[epoch]}"
    return f"Epoch {epoch + 1}/12\n{BACK}{drawn}100/100 [====] - 10s 100ms/step - {metrics}"


BACK = "\b" * 60
SPELLED: dict[str, Callable[[int], str]] = {
    "arrays of torch": lambda i: (
        f"Epoch: {i + 1} train loss: tensor({TRAIN[i]}, device='cuda:0', grad_fn=<DivBackward0>) "
        f"val loss: tensor({VAL[i]}) val cer: {CER[i]}"
    ),
    "arrays of numpy": lambda i: (
        f"{{'epoch': {i + 1}, 'train_loss': np.float64({TRAIN[i]}), "
        f"'val_loss': np.float32({VAL[i]}), 'val_cer': np.float64({CER[i]})}}"
    ),
    "backspaces": bar,
    "Marian": lambda i: (
        f"[2020-01-01 10:00:00] Ep. {i + 1} : Up. {100 * i + 100} : Sen. 9,123 : "
        f"Cost {TRAIN[i]} * 3,112 : Time 10.02s : L.r. 3.0000e-04\n"
        f"[2020-01-01 10:00:01] [valid] Ep. {i + 1} : Up. {100 * i + 100} : "
        f"cross-entropy : {VAL[i]} : new best\n"
        f"[2020-01-01 10:00:01] [valid] Ep. {i + 1} : Up. {100 * i + 100} : cer : {CER[i]}"
    ),
    "PyLaia": lambda i: (
        f"[INFO laia] TR - E{i}: 100%|███| 392/392 [01:20<00:00,  4.87it/s, cer=99.0%, "
        f"running_loss={TRAIN[i]}, gpu_stats={{'gpu': 1}}]\n"
        f"[INFO laia] VA - E{i}: 100%|███| 100/100 [00:20<00:00,  4.87it/s, "
        f"cer={100 * CER[i]:.2f}%, running_loss={VAL[i]}]"
    ),
    "Catalyst": lambda i: (
        f"train ({i + 1}/12) lr: 0.001 | loss: {TRAIN[i]} | cer: 0.9\n"
        f"valid ({i + 1}/12) loss: {VAL[i]} | cer: {CER[i]}"
    ),
    "older Catalyst": lambda i: (
        f"{i + 1}/12 * Epoch {i + 1} (train): loss={TRAIN[i]} | cer=0.9\n"
        f"{i + 1}/12 * Epoch {i + 1} (valid): loss={VAL[i]} | cer={CER[i]}"
    ),
    "what a step's heading tells of": lambda i: (
        f"[Epoch: {i + 1:03d} Step: {100 * i + 100:08d}] Batch Loss: {TRAIN[i]} => Tokens: 2000\n"
        f"Validation result at epoch {i + 1}, step {100 * i + 100}: duration: 16.0000s\n"
        f"\tRecognition Loss: {VAL[i]}\tPPL: 9.1\n\tCER {CER[i]}\t(DEL: 33.1,\tINS: 2.0)"
    ),
    "four processes": lambda i: (
        "\n".join(
            f"({rank}/4) Epoch {i + 1}, validation: loss={VAL[i]}, cer={CER[i]}"
            for rank in range(4)
        )
        + f"\n(0/4) Epoch {i + 1}, train loss={TRAIN[i]}"
    ),
    "a metric that is no number": lambda i: (
        f"{i + 1}epoch results: [train] loss_ctc=nan, loss={TRAIN[i]}, time=3 hours, [valid] "
        f"cer_ctc=nan, cer_transducer={CER[i]}, loss={VAL[i]}, total_count=5677\n"
        f"{i + 2}/20epoch started. Estimated time to finish: 33 minutes"
    ),
    "passes told batch by batch": lambda i: (
        f"Epoch {i + 1}\nTrain loss: {TRAIN[i]}\nVALIDATION\n"
        f"Batch 1 | Loss {VAL[i] + 0.1:.4f}\nBatch 2 | Loss {VAL[i] - 0.1:.4f}\nval CER: {CER[i]}"
    ),
    "after a number": lambda i: (
        f"Train loss at epoch {i + 1}: {TRAIN[i]}\nval loss after epoch {i + 1}: {VAL[i]}\n"
        f"Validation CER at epoch {i + 1}/12 = {CER[i]}"
    ),
}


@pytest.mark.parametrize("trainer", SPELLED)
def test_a_trainers_own_spelling_is_read(trainer: str, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(lines(SPELLED[trainer]), encoding="utf-8")
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert run.curve("val_cer").values == pytest.approx(CER, abs=1e-4)


def test_evaluations_that_count_epochs_among_steps_are_placed_by_them(tmp_path: Path) -> None:
    def rows(i: int) -> str:
        steps = (400 * i + 100 * n for n in (1, 2, 3, 4))
        trained = [{"loss": TRAIN[i], "epoch": i + 1, "iter": step, "step": step} for step in steps]
        rows = [*trained, {"recog/word_acc": 1 - CER[i], "step": i + 1}]
        return "\n".join(map(json.dumps, rows))

    (tmp_path / "scalars.json").write_text(lines(rows))
    run = read_run(tmp_path)
    assert run.curve("val_accuracy").values == pytest.approx([1 - cer for cer in CER])
    assert run.curve("val_accuracy").at == pytest.approx(range(1, 13))
    assert len(run.curve("train_loss")) == 48


def test_nan_in_rows_that_tell_another_metric_is_not_logged(tmp_path: Path) -> None:
    rows = lines(lambda i: f"{2 * i}\t{TRAIN[i]}\tnan\n{2 * i + 1}\tnan\t{VAL[i]}")
    (tmp_path / "log.tsv").write_text("Step\tTrain loss\tValid loss\t\n" + rows)
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx(VAL)


def test_a_table_behind_what_a_logger_writes_is_read(tmp_path: Path) -> None:
    rows = lines(lambda i: f"2024-08-19 13:28:48 INFO model : {i}\t{TRAIN[i]}\t{VAL[i]}\t")
    head = "2024-08-19 13:28:48 INFO model : Step\tTrain loss\tValid loss\t\n"
    (tmp_path / "train.log").write_text(head + rows)
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx(VAL)


def test_what_a_model_card_says_first_is_no_curve(tmp_path: Path) -> None:
    head = "It achieves these results on the evaluation set:\n- Loss: 0.7\n- Wer: 0.2\n"
    head += (
        "- num_epochs: 12\n\n| Training Loss | Epoch | Validation Loss | Wer |\n|---|---|---|---|\n"
    )
    rows = lines(lambda i: f"| {TRAIN[i]} | {i + 1}.0 | {VAL[i]} | {CER[i]} |")
    (tmp_path / "README.md").write_text(head + rows)
    run = read_run(tmp_path)
    assert run.curve("val_wer").values == pytest.approx(CER)
    assert run.finished == ("all of 12 epochs are told",)


def test_lists_in_the_plural_are_read(tmp_path: Path) -> None:
    lists = {
        "epochs": list(range(1, 13)),
        "train_losses": TRAIN,
        "val_losses": VAL,
        "val_cers": CER,
    }
    (tmp_path / "history.json").write_text(json.dumps(lists))
    run = read_run(tmp_path)
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert run.curve("val_cer").at == pytest.approx(range(1, 13))


def test_a_line_told_twice_is_read_once(tmp_path: Path) -> None:
    rows = [json.dumps({"epoch": i, "num_updates": 9 * i, "valid_loss": VAL[i]}) for i in range(12)]
    (tmp_path / "log.jsonl").write_text("\n".join([*rows[:9], rows[8], *rows[9:]]))
    assert read_run(tmp_path).curves["val_loss"].values == pytest.approx(VAL)


def test_an_error_beside_a_loss_is_an_error_rate(tmp_path: Path) -> None:
    text = lines(
        lambda i: f"epoch: {i}, train loss: {TRAIN[i]}, valid loss: {VAL[i]}, valid error: {CER[i]}"
    )
    (tmp_path / "train.log").write_text(text)
    assert read_run(tmp_path).curve("val_error").values == pytest.approx(CER)
    (tmp_path / "train.log").write_text(text.replace("valid loss", "valid something"))
    assert "val_error" not in read_run(tmp_path).curves


HEAD = "".join(f"<th>{name}</th>" for name in ("Step", "Training Loss", "Validation Loss", "Cer"))
ROWS = lines(
    lambda i: (
        f"<tr>\n <td>{100 * i}</td>\n <td>{TRAIN[i]}</td><td>{VAL[i]}</td><td>{CER[i]}</td></tr>"
    )
)
TABLE = f"<table border='1'><thead><tr>{HEAD}</tr></thead><tbody>{ROWS}</tbody></table>"


@pytest.mark.parametrize("name", ["train.html", "README.md"])
def test_a_notebook_that_was_exported_is_read(name: str, tmp_path: Path) -> None:
    script = "<script>epoch = 3, loss = 0.1</script><style>epoch: 7 loss: 9.0</style>"
    (tmp_path / name).write_text(f"# Training\n\n<div>{script}[12/12]</div>\n{TABLE}<p>done</p>")
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert run.curve("val_cer").values == pytest.approx(CER)


def test_a_file_for_each_epoch_is_read_in_their_order(tmp_path: Path) -> None:
    for i in range(12):
        metrics = {
            "epoch": i,
            "training_loss": TRAIN[i],
            "validation_loss": VAL[i],
            "best_epoch": 3,
        }
        (tmp_path / f"metrics_epoch_{i}.json").write_text(json.dumps(metrics, indent=2))
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.cite("val_loss", 10.0) == "metrics_epoch_10.json:1"


def test_a_file_for_each_epoch_may_be_plain_yaml(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"{i}.yaml").write_text(f"cv_loss: {VAL[i]}\nloss_dict:\n  acc: 9\nlr: 0.001\n")
    (tmp_path / "train.yaml").write_text("epoch: 12\nloss: ctc\nlr: 0.001\n")
    run = read_run(tmp_path)
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert run.curve("val_loss").at == tuple(range(12))


def test_what_tensorboard_exports_as_json_is_read(tmp_path: Path) -> None:
    for tag, values in (("train_loss", TRAIN), ("val_loss", VAL)):
        rows = [[1.6e9 + i, 10 * i, value] for i, value in enumerate(values)]
        (tmp_path / f"run-a-tag-{tag}.json").write_text(json.dumps(rows))
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").at == tuple(range(0, 120, 10))


def test_returnn_calls_its_loss_a_score(tmp_path: Path) -> None:
    told = {"dev_error": CER, "dev_score": VAL, "train_score": TRAIN}
    (tmp_path / "train.info.txt").write_text(
        "".join(
            f"epoch {i:>3} {name}: {value}\n"
            for name, values in told.items()
            for i, value in enumerate(values, 1)
        )
    )
    run = read_run(tmp_path)
    for name, values in (("train_loss", TRAIN), ("val_loss", VAL), ("val_error", CER)):
        assert run.curve(name).values == pytest.approx(values)


def test_how_many_steps_are_planned_is_no_place(tmp_path: Path) -> None:
    rows = (f"{400 * (i + 1)},4800,{TRAIN[i]},{VAL[i]}" for i in range(12))
    (tmp_path / "log.csv").write_text("\n".join(["step,total_step,train_loss,valid_loss", *rows]))
    run = read_run(tmp_path)
    assert run.curve("val_loss").at == tuple(400 * (i + 1) for i in range(12))


def test_an_error_rate_after_its_epoch_and_with_its_letters_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(
        lines(
            lambda i: (
                f"Epoch {i + 1}/12 loss: {TRAIN[i]}\n"
                f"Character Error Rate (CER) after epoch {i + 1}: {CER[i]}"
            )
        )
    )
    assert read_run(tmp_path).curve("val_cer").values == pytest.approx(CER)


def test_what_keras_evaluates_after_its_training_is_no_reading(tmp_path: Path) -> None:
    bar = "80/80 [==============================] - 52s 439ms/step"
    (tmp_path / "train.log").write_text(
        lines(lambda i: f"Epoch {i + 1}/12\n{bar} - loss: {TRAIN[i]} - val_loss: {VAL[i]}")
        + f"{bar} - loss: 7.5191\n"
    )
    assert read_run(tmp_path).curve("train_loss").values == pytest.approx(TRAIN)


def test_a_mean_of_normalised_error_rates_is_an_error_rate(tmp_path: Path) -> None:
    rows = (f"{i},{TRAIN[i]},{5 * CER[i]},{CER[i]}" for i in range(12))
    (tmp_path / "log.csv").write_text("\n".join(["epoch,loss,Mean CER,Mean CER (Norm)", *rows]))
    assert read_run(tmp_path).curve("val_cer").values == pytest.approx(CER)


def test_a_validation_loss_of_its_own_name_is_taken_where_there_is_no_plain_one(
    tmp_path: Path,
) -> None:
    rows = [(i, 5 * 0.8**i, 6 * 0.85**i, 7 * 0.85**i, 1) for i in range(12)]
    header = "epoch,train_loss,eval_g0_loss,eval_g1_loss,best_val_loss"
    for extra, first in (("", 6.0), (",val_loss", 3.0)):
        lines = [",".join(map(str, (*row, 3.0)[: 6 if extra else 5])) for row in rows]
        (tmp_path / "log.csv").write_text("\n".join([header + extra, *lines]))
        run = read_run(tmp_path)
        assert run.curve("val_loss").values[0] == first
        assert any("eval_g0_loss: taken" in one for one in run.warnings) == (not extra)


def test_fit_called_anew_for_each_epoch_is_one_run(tmp_path: Path) -> None:
    bar = "80/80 [==============================] - 52s 439ms/step"
    (tmp_path / "train.log").write_text(
        lines(lambda i: f"Epoch 1/1\n{bar} - loss: {TRAIN[i]} - val_loss: {VAL[i]}\nCER: {CER[i]}")
    )
    run = read_run(tmp_path)
    for name, values in (("train_loss", TRAIN), ("val_loss", VAL), ("val_cer", CER)):
        assert run.curve(name).values == pytest.approx(values)
        assert run.curve(name).at == tuple(range(1, 13))
    assert run.facts.epochs is None


def test_a_step_past_its_plan_is_a_step(tmp_path: Path) -> None:
    (tmp_path / "log_train.txt").write_text(
        lines(lambda i: f"[{300000 + 4 * i}/4] Train loss: {TRAIN[i]}, Valid loss: {VAL[i]}")
    )
    run = read_run(tmp_path)
    assert run.curve("val_loss").at == tuple(300000 + 4 * i for i in range(12))
    assert run.curve("val_loss").values == pytest.approx(VAL)


def test_a_csv_whose_lines_end_in_carriage_returns_is_read(tmp_path: Path) -> None:
    rows = (f"{i + 1},{TRAIN[i]},{VAL[i]}" for i in range(12))
    text = "\r\r".join(["epoch,train_loss,val_loss", *rows])
    (tmp_path / "log.csv").write_bytes(text.encode())
    run = read_run(tmp_path)
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert run.cite("val_loss", 3.0) == "log.csv:4"


def test_the_curves_that_python_prints_are_a_log(tmp_path: Path) -> None:
    history = {"loss": TRAIN, "val_loss": VAL, "cer": [f"np.float64({value})" for value in CER]}
    (tmp_path / "history.txt").write_text(str(history).replace("'np", "np").replace(")'", ")"))
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert run.curve("val_cer").values == pytest.approx(CER)


@pytest.mark.parametrize(
    "value", ["[open('there', 'w').write('x') for _ in '12']", "-'x'", "{[]: 1}"]
)
def test_what_python_would_have_to_run_is_no_log(value: str, tmp_path: Path) -> None:
    (tmp_path / "history.txt").write_text(f"{{'loss': {value}}}")
    with pytest.raises(BadRun):
        read_run(tmp_path / "history.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["history.txt"]


def test_returnn_keeps_rates_and_losses_of_each_epoch(tmp_path: Path) -> None:
    def epoch(i: int) -> str:
        told = {
            "dev_error_ctc": CER[i],
            "dev_score_ctc": VAL[i],
            "dev_score_output/output_prob": 2 * VAL[i],
            "devtrain_score_ctc": 9.0,
            ":meta:device": "cpu",
            "train_score_ctc": TRAIN[i],
            "train_loss_grad_norm:p2": 7.0,
        }
        return f"{i + 1}: EpochData(learningRate={0.001 / (i + 1)!r}, error={told}),\n"

    (tmp_path / "newbob.data").write_text("{\n" + "".join(map(epoch, range(12))) + "}\n")
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx([2 * value for value in VAL])
    assert run.curve("val_error").values == pytest.approx(CER)
    assert run.curve("lr").values == pytest.approx([0.001 / (i + 1) for i in range(12)])


def test_darknet_prints_numbers_before_their_names(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(
        lines(
            lambda i: (
                f" {10 * i + 1}: {TRAIN[i]}, {VAL[i]} avg loss, 0.001000 rate, 1.30 seconds, {64 * i} "
                "images, 1.25 hours left"
            )
        )
    )
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("lr").values == pytest.approx([0.001] * 12)


@pytest.mark.parametrize(
    "prefix",
    ["[rank{}] ", "[rank{}]: ", "12:01:33 [default{}]: ", "rank {} | ", "[node:{}/2] INFO: "],
)
def test_of_several_processes_the_first_is_read(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(
        lines(
            lambda i: "\n".join(
                f"{prefix.format(rank)}Epoch {i + 1} train loss {TRAIN[i] + rank} val loss {VAL[i] + rank}"
                for rank in (1, 0)
            )
        )
    )
    run = read_run(tmp_path)
    assert run.curve("train_loss").values[1:] == pytest.approx(TRAIN[1:])
    assert run.curve("val_loss").values[1:] == pytest.approx(VAL[1:])
    assert any("of other processes left out" in warning for warning in run.warnings)


@pytest.mark.parametrize(
    "line",
    [
        "Epoch {} step {} loss {}",
        "epoch {} batch {} of 20 loss {}",
        "Epoch {} step {} of 20: loss {}",
    ],
)
def test_clocks_that_only_blanks_part_are_clocks(line: str, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(
        "".join(
            f"{line.format(i + 1, step, TRAIN[i])}\n" for i in range(12) for step in (5, 10, 15, 20)
        )
    )
    curve = read_run(tmp_path).curve("train_loss")
    assert curve.values == pytest.approx([value for value in TRAIN for _ in range(4)])
    assert list(curve.at) == sorted(set(curve.at))
    assert curve.at[-1] - curve.at[0] == pytest.approx(12, abs=0.5)


def test_tesseract_counts_iterations_after_those_that_it_learnt_from(tmp_path: Path) -> None:
    (tmp_path / "TRAIN.LOG").write_text(
        lines(
            lambda i: (
                f"At iteration {14 * i + 14}/{100 * (i + 1)}/{100 * (i + 1)}, Mean rms=0.21%, delta=0.1%, "
                f"char train={100 * CER[i]:.4f}%, word train=92.1%, skip ratio=0%,  wrote checkpoint."
            )
        )
    )
    curve = read_run(tmp_path).curve("train_cer")
    assert curve.values == pytest.approx(CER)
    assert list(curve.at) == [100 * (i + 1) for i in range(12)]


def test_batches_of_another_number_are_another_start_and_no_epoch(tmp_path: Path) -> None:
    def told(planned: int) -> str:
        return "".join(
            f"[{50 * (i + 1)}/{planned}] Train loss: {TRAIN[i]}, Valid loss: {VAL[i]}\n"
            for i in range(planned // 50)
        )

    (tmp_path / "log_train.txt").write_text(told(600) + told(400))
    run = read_run(tmp_path)
    assert run.clock == "step"
    assert run.curve("val_loss").values == pytest.approx(VAL[:8])
    assert run.curve("val_loss").at[-1] == 400


def test_a_start_is_seen_where_not_every_reading_is_kept(tmp_path: Path) -> None:
    def told(epochs: int) -> str:
        return "".join(f"Epoch: {i + 1} cost= {5 + 1 / (i + 1):.5f}\n" for i in range(epochs))

    (tmp_path / "train.log").write_text(told(2501) + told(20_000))
    run = read_run(tmp_path)
    assert list(run.curve("train_loss").at) == sorted(run.curve("train_loss").at)
    assert any("starts anew 1 time" in warning for warning in run.warnings)


def test_an_error_rate_beside_the_loss_of_validation_is_its(tmp_path: Path) -> None:
    rows = lines(lambda i: f"{i},{TRAIN[i]},{VAL[i]},{CER[i]}")
    (tmp_path / "history.csv").write_text(f"epoch,train loss,dev loss,error rate\n{rows}")
    assert read_run(tmp_path).curve("val_error").values == pytest.approx(CER)


def test_how_far_a_bar_of_validation_has_come_is_no_accuracy(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(
        lines(
            lambda i: (
                f"Epoch {i}: 94% 120/127 [02:02<00:07, 1.0s/it, loss={TRAIN[i]}]\nValidation DataLoader 0:   "
                f"0% 0/7 [00:00<?, ?it/s]\nEpoch {i}, global step {120 * i + 120}: 'val/CER' reached "
                f"{100 * CER[i]:.4f} (best {100 * CER[i]:.4f})"
            )
        )
        + "val/CER  14.4\nval/WER  92.1\n"
    )
    run = read_run(tmp_path)
    assert run.curve("val_cer").values[:11] == pytest.approx(CER[:11])
    assert "val_accuracy" not in run.curves
    assert run.read_by("val") == "val_cer"


def keras(i: int, loss: float, val: float | None = None) -> str:
    bar = f"938/938 ━━━━━━━━━━━━━━━━━━━━ 6s 6ms/step - loss: {loss}"
    return f"Epoch {i + 1}/12\n{bar}{'' if val is None else f' - val_loss: {val}'}\n"


def test_what_keras_evaluates_before_training_is_no_epoch(tmp_path: Path) -> None:
    before = "1500/1500 ━━━━━━━━━━━━━━━━━━━━ 7s 4ms/step - loss: 9.4271\n"
    for again in ("", "{'loss': 9.427135467529297}\n"):  # as a notebook shows what it returned
        text = before + again + "".join(keras(i, TRAIN[i], VAL[i]) for i in range(12))
        (tmp_path / "train.log").write_text(text, encoding="utf-8")
        run = read_run(tmp_path)
        assert run.curve("train_loss").values == pytest.approx(TRAIN)
        assert run.curve("val_loss").at == pytest.approx(range(1, 13))


def test_a_bar_of_keras_may_tell_the_same_twice(tmp_path: Path) -> None:
    val = [VAL[i // 2] for i in range(12)]
    (tmp_path / "train.log").write_text(
        "".join(keras(i, TRAIN[i], val[i]) for i in range(12)), encoding="utf-8"
    )
    assert read_run(tmp_path).curve("val_loss").values == pytest.approx(val)


def test_a_history_that_is_printed_after_its_epochs_tells_them_again(tmp_path: Path) -> None:
    text = "".join(keras(i, TRAIN[i], VAL[i]) for i in range(12))
    (tmp_path / "train.log").write_text(
        f"{text}{{'loss': [13.7], 'val_loss': [11.7]}}\n", encoding="utf-8"
    )
    assert read_run(tmp_path).curve("val_loss").values == pytest.approx(VAL)
    (tmp_path / "train.log").write_text(f"fitted\n{ ({'loss': TRAIN, 'val_loss': VAL}) }\n")
    assert read_run(tmp_path).curve("val_loss").values == pytest.approx(VAL)


def test_lists_of_rows_for_each_split_are_one_run(tmp_path: Path) -> None:
    metrics = {
        "train_metrics": [{"loss_mean": value, "loss_std": 0.2} for value in TRAIN],
        "dev_metrics": [{"loss_mean": value, "frame_accuracy": 0.1} for value in VAL],
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx(VAL)


def test_a_log_of_an_odd_ending_is_read_where_there_is_no_other(tmp_path: Path) -> None:
    text = lines(lambda i: f"epoch {i + 1:02d} tr_loss={TRAIN[i]} tr_err=0.3 dev_err={CER[i]}")
    (tmp_path / "res.res").write_text(text)
    (tmp_path / "train.py").write_text(text.replace("dev", "valid"))
    run = read_run(tmp_path)
    assert [path.name for path in run.sources] == ["res.res"]
    assert run.curve("val_error").values == pytest.approx(CER)


def test_rows_of_a_tabbed_table_may_end_early(tmp_path: Path) -> None:
    rows = lines(lambda i: f"\t{100 * (i + 1)}\t{100 * CER[i]}") + lines(
        lambda i: f"\t{100 * (i + 1)}\t\t{100 * CER[i] + 1}"
    )
    (tmp_path / "cer.tsv").write_text("Name\tIteration\tTrainCER\tEvalCER\n" + rows)
    run = read_run(tmp_path)
    assert run.curve("train_cer").values == pytest.approx(CER)
    assert run.curve("val_cer").values == pytest.approx([cer + 0.01 for cer in CER])


def test_a_training_error_rate_alone_is_read(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(
        lines(lambda i: f"Epoch:{i + 1} train error rate:{CER[i]}\nEpoch:{i + 1} train time:99.5 s")
    )
    assert read_run(tmp_path).curve("train_error").values == pytest.approx(CER)


def test_a_table_of_one_metric_in_a_notebook_is_read(tmp_path: Path) -> None:
    table = "".join(f"<tr><td>{25 * i}</td><td>{TRAIN[i]}</td></tr>" for i in range(12))
    page = f"<table><tr><th>Step</th><th>Training Loss</th></tr>{table}</table>"
    output = {"output_type": "display_data", "data": {"text/html": page}}
    cells = [{"cell_type": "code", "outputs": [output]}]
    (tmp_path / "train.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    assert read_run(tmp_path).curve("train_loss").values == pytest.approx(TRAIN)


def test_readings_named_by_their_files_are_one_run(tmp_path: Path) -> None:
    (tmp_path / "train_loss.txt").write_text(lines(lambda i: f"{i + 1}_{TRAIN[i]}"))
    (tmp_path / "val_loss.txt").write_text(lines(lambda i: f"{VAL[i]}"))
    (tmp_path / "vocabulary.txt").write_text(lines(lambda i: f"{i}"))
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").at == run.curve("train_loss").at == pytest.approx(range(1, 13))


def test_lists_named_by_their_files_are_one_run_and_tests_its_validation(tmp_path: Path) -> None:
    for name, values in (
        ("train_loss", TRAIN),
        ("test_loss", VAL),
        ("bleu", [10 * x for x in VAL]),
    ):
        (tmp_path / f"{name}.txt").write_text(str(list(map(float, values))))
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert len(run.curve("val_bleu")) == 12
    assert run.warnings[0] == "nothing tells of validation: test_loss taken for it"


def test_batches_in_a_file_of_their_own_are_spread_over_the_epochs_of_another(
    tmp_path: Path,
) -> None:
    batches = [1.0 + 1 / n for n in range(1, 601)]
    (tmp_path / "train_loss.txt").write_text("\n".join(map(str, batches)))
    (tmp_path / "validation.txt").write_text(lines(lambda i: f"{VAL[i]}"))
    run = read_run(tmp_path)
    assert run.curve("val_loss").at == pytest.approx(range(1, 13))
    assert len(run.curve("train_loss")) == 600
    assert run.curve("train_loss").at[-1] == pytest.approx(12)


def test_bare_numbers_under_an_epoch_are_its_batches(tmp_path: Path) -> None:
    numbers = "".join(f"Epoch {epoch}\n{9 - epoch}\n{8.5 - epoch}\n" for epoch in range(3))
    (tmp_path / "train_log.txt").write_text(f"{numbers}Done!\n")
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx((9, 8.5, 8, 7.5, 7, 6.5))
    assert run.curve("train_loss").at == pytest.approx((0, 0.5, 1, 1.5, 2, 2.5))


def test_after_an_evaluation_training_goes_on_being_told(tmp_path: Path) -> None:
    told = lines(
        lambda i: (
            f"INFO: Step = {100 * i} ; Learning rate = 0.001 ; Loss = {TRAIN[i]}\n"
            f"INFO: Evaluation result for step {100 * i}: loss = {VAL[i]} ; perplexity = 9.0"
        )
    )
    (tmp_path / "train.log").write_text(f"Training:\n{told}")
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx(VAL)


def test_a_sentence_that_is_shown_tells_no_metric(tmp_path: Path) -> None:
    shown = (
        "trainer - \tSource:     the si@@ ze of the lo@@ wer 4@@ 8 st@@ ates , by 4@@ 0 per cent"
    )
    (tmp_path / "err.log").write_text(
        lines(
            lambda i: (
                f"Epoch {i + 1}: loss {TRAIN[i]} wer 4@@ 8\n{shown}\nEpoch {i + 1}: val_loss {VAL[i]}"
            )
        )
    )
    run = read_run(tmp_path)
    assert run.curve("val_loss").values == pytest.approx(VAL)
    assert not run.curve("val_wer")
    assert not run.curve("train_wer")


def test_batches_told_again_after_a_run_ended_are_of_another_run(tmp_path: Path) -> None:
    def run_of(values: list[float]) -> str:
        told = lines(
            lambda i: f"[{1000 * i + 1}/11001] Train loss: {values[i]}, Valid loss: {VAL[i]}"
        )
        return f"{told}\nTraining finished.\n"

    (tmp_path / "log.txt").write_text(run_of([2 * x for x in TRAIN]) + run_of(TRAIN))
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.clock == "step"


def test_levenshtein_is_a_distance_of_which_less_is_better(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(
        lines(
            lambda i: (
                f"epoch {i + 1}: Train Levenshtein {CER[i] / 2} | Validation Levenshtein {CER[i]}"
            )
        )
    )
    run = read_run(tmp_path)
    assert run.curve("val_edit_distance").values == pytest.approx(CER)
    assert run.read_by("val") == "val_edit_distance"


def test_what_is_told_of_the_whole_goes_before_what_is_told_of_its_parts(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(
        lines(
            lambda i: "\n".join(
                [
                    f"step {1000 * i} val batch 0: PER (avg): {CER[i]}",
                    *(f"t15.2023.08.{day} val PER: {CER[i] * day / 5}" for day in range(1, 10)),
                ]
            )
        )
    )
    assert read_run(tmp_path).curve("val_per").values == pytest.approx(CER)


def test_what_is_told_again_of_the_best_epoch_is_no_reading(tmp_path: Path) -> None:
    epochs = lines(
        lambda i: f"epoch {i + 1}/12:\n    train loss: {TRAIN[i]}\n    validation loss: {VAL[i]}"
    )
    best = f"best model -> model.pt\n    train loss: {TRAIN[8]}\n    validation loss: {VAL[8]}\n"
    (tmp_path / "train.log").write_text(epochs + best)
    run = read_run(tmp_path)
    assert run.curve("train_loss").values == pytest.approx(TRAIN)
    assert run.curve("val_loss").values == pytest.approx(VAL)


def test_f1_is_a_score(tmp_path: Path) -> None:
    rows = lines(lambda i: f"{i + 1},{TRAIN[i]},{1 - CER[i]}")
    (tmp_path / "history.csv").write_text("Epoch,Train_Loss,Val_F1\n" + rows)
    run = read_run(tmp_path)
    assert run.read_by("val") == "val_f1"
