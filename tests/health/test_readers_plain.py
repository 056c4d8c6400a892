"""Plain logs of many shapes: each line says what a person would read in it, and predictions find
their epoch.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pytest_overfit.health.readers import read_run
from pytest_overfit.health.readers.plain_line import parsed
from pytest_overfit.health.run import Run

SPECIMENS = Path(__file__).parent / "specimens"


def run_of(tmp_path: Path, text: str) -> Run:
    path = tmp_path / "train.log"
    path.write_text(text, encoding="utf-8", newline="")
    return read_run(path)


def points(run: Run, name: str) -> list[tuple[float, float]]:
    return list(zip(run.curves[name].at, run.curves[name].values, strict=True))


@pytest.mark.parametrize(
    ("line", "epoch", "values"),
    [
        (
            "Epoch 25: Train 4.19 | Val 4.90 | Gap +0.71",
            25,
            [("loss", "train", 4.19), ("loss", "val", 4.90)],
        ),
        (
            "Epoch 25/60 - loss: 4.19 - val_loss: 4.90 - val_wer: 91.2%",
            25,
            [("loss", "", 4.19), ("val_loss", "val", 4.9), ("val_wer %", "val", 91.2)],
        ),
        ("[epoch 3] train_loss=0.4 lr=1e-3", 3, [("train_loss", "train", 0.4), ("lr", "", 0.001)]),
        (
            "2024-01-01 12:00:00,123 INFO t: Epoch: 3, Train Loss: 4.2, LR: 3.0e-04",
            3,
            [("Train Loss", "train", 4.2), ("LR", "train", 3e-4)],
        ),
        (
            "Validation epoch 7: loss 4.9, wer 91%",
            7,
            [("loss", "val", 4.9), ("wer %", "val", 91.0)],
        ),
        ("| epoch 003 | valid on 'valid' subset | loss 4.9 | 12.3s", 3, [("loss", "val", 4.9)]),
        (
            "3epoch results: [train] loss=12.3, [valid] loss=8.1",
            3,
            [("loss", "train", 12.3), ("loss", "val", 8.1)],
        ),
        (
            "{'eval_loss': 2.3, 'eval_wer': 0.9, 'epoch': 1.5}",
            1.5,
            [("eval_loss", "val", 2.3), ("eval_wer", "val", 0.9)],
        ),
        ("Epoch 26: val_loss 4.95 (best 4.90 at epoch 25)", 26, [("val_loss", "val", 4.95)]),
        ("Epoch 3: val_loss did not improve from 4.90", 3, []),
        ("Best val loss: 4.90 at epoch 25", None, []),
        ("Early stopping at epoch 41", None, []),
        ("Train: 5672 samples | Val: 540 clips", None, []),
        ("torch: 2.13.0 at 12:30:05, 14.4 GB", None, []),
        ("wer: 91.0", None, [("wer", "", 91.0)]),
        ("Time taken for this epoch: 45.9", None, []),
        ("Accuracy (Levenshtein): 088.15%", None, [("Accuracy %", "", 88.15)]),
    ],
)
def test_a_line_says_what_a_person_reads(
    line: str, epoch: float | None, values: list[tuple[str, str, float]]
) -> None:
    found = parsed(line)
    assert (found.epoch, found.values) == (epoch, values)


def test_numbers_that_are_none_are_read() -> None:
    values = [
        value
        for _, _, value in parsed("Epoch 3 - training loss = nan, validation loss = -inf").values
    ]
    assert math.isnan(values[0])
    assert values[1] == -math.inf


@pytest.mark.parametrize(
    ("line", "batch", "bar"),
    [
        ("Epoch [3/60], Step [100/500], Loss: 2.31", (100, 500), False),
        ("Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.3", (640, 60000), True),
        ("| epoch   3 |   200/ 2983 batches | lr 20.00 | loss  7.79", (200, 2983), True),
        ("Epoch 3:  45%|####      | 45/100 [00:10<00:12, loss=3.4]", (45, 100), True),
        ("100/100 [====] - 3s 30ms/step - loss: 4.2", (100, 100), True),
        ("Epoch  1, 12900/37527; acc:   4.48; xent:  10.47; 9861 s", (12900, 37527), True),
        ("Training Epoch=1 -  12/10929 (0.11%)[~~~] - ETA: 9s - loss: 10.8", (12, 10929), True),
    ],
)
def test_a_line_within_an_epoch_tells_how_far(line: str, batch: tuple[int, int], bar: bool) -> None:
    assert (parsed(line).batch, parsed(line).bar) == (batch, bar)


def test_the_log_of_the_team() -> None:
    run = read_run(SPECIMENS / "team.log")
    assert points(run, "train_loss") == [(1, 44.59), (25, 4.19), (50, 2.87), (60, 2.36)]
    assert points(run, "val_loss") == [(1, 7.19), (25, 4.90), (50, 4.96), (60, 5.29)]
    assert run.curves["train_wer"].values == pytest.approx((0.998, 0.853, 0.839, 0.827))
    assert run.curves["val_wer"].values == pytest.approx((1, 0.908, 0.915, 0.921))
    assert [(one.at, len(one.target), len(one.prediction)) for one in run.predictions] == [
        (25, 10, 1),
        (60, 3, 0),
    ]
    facts = run.facts
    assert (facts.parameters, facts.train_samples, facts.val_samples, facts.vocabulary) == (
        14_404_568,
        5672,
        540,
        1232,
    )
    assert run.warnings == ("56 epochs missing from the log: 2-24, 26-49, 51-59",)
    assert set(run.curves) == {"train_loss", "val_loss", "train_wer", "val_wer"}


@pytest.mark.parametrize("name", ["keras.log", "bars.log"])
def test_progress_bars_count_as_a_terminal_shows_them(name: str) -> None:
    run = read_run(SPECIMENS / name)
    assert (
        len(run.curves["train_loss"])
        == len(run.curves["val_loss"])
        == len(run.curves["val_wer"])
        == 3
    )
    assert run.curves["train_loss"].in_order
    assert run.warnings == ()


def test_a_bar_that_is_drawn_anew_with_validation_counts_once(tmp_path: Path) -> None:
    """Keras ends the bar of an epoch, lets callbacks print, and ends it again with validation."""
    log = tmp_path / "keras.log"
    log.write_text(
        "".join(
            f"Epoch {i}/3\n80/80 [====] - 9s 7ms/step - loss: {6 / i:.2f}\nShown: a few words\n"
            f"80/80 [====] - 12s 9ms/step - loss: {5 / i:.4f} - val_loss: {8 / i:.4f}\n"
            for i in (1, 2, 3)
        )
    )
    run = read_run(log)
    assert points(run, "train_loss") == [(1, 5), (2, 2.5), (3, 1.6667)]
    assert points(run, "val_loss") == [(1, 8), (2, 4), (3, 2.6667)]


def test_iterations_that_start_anew_under_each_epoch_are_one_run(tmp_path: Path) -> None:
    """What an epoch took is no epoch, and what the best model gives at the end no reading."""
    log = tmp_path / "loop.log"
    log.write_text(
        "".join(
            f"Epoch {i} / 0\nIteration: 000 Loss: {9 / i:.2f} Accuracy (Levenshtein): 01.00%\n"
            f"Iteration: 040 Loss: {8 / i:.2f} Accuracy (Levenshtein): 02.00%\n\n"
            f"Evaluating on Validation Set\nLoss: {12 / i:.2f} Accuracy (Levenshtein): {20 * i}.00%\n"
            f"Time taken for this epoch: {45.5 - i}\n\n"
            for i in (1, 2, 3, 4)
        )
        + "Reporting evaluations on best model\nLoss: 2.90 Accuracy (Levenshtein): 81.00%\n"
    )
    run = read_run(log)
    assert points(run, "val_loss") == [(1, 12), (2, 6), (3, 4), (4, 3)]
    assert run.curves["val_accuracy"].values == pytest.approx((0.2, 0.4, 0.6, 0.8))
    assert len(run.curves["train_loss"]) == 8


def test_two_bars_of_an_epoch_that_tell_the_same_are_two_readings(tmp_path: Path) -> None:
    log = tmp_path / "loops.log"
    log.write_text(
        "".join(
            f"Epoch {i}/3\n80/80 [====] loss: {6 / i:.2f}\nValidation:\n"
            f"20/20 [====] loss: {8 / i:.2f}\n"
            for i in (1, 2, 3)
        )
    )
    run = read_run(log)
    assert run.curves["train_loss"].values == (6, 3, 2)
    assert run.curves["val_loss"].values == (8, 4, 2.67)


def test_a_table_with_emphasis_and_remarks_names_its_metrics_in_brackets(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "| Schritt (Step) | Verlust (Eval Loss) | Fehler (Eval WER %) |\n| :--- | :--- | :--- |\n"
        "| **100 (am besten)** | **0.25** | **18.5%** |\n| 200 | 0.40 | 29.0% |\n| 300 | 0.41 | 31.0% |\n"
    )
    run = read_run(page)
    assert points(run, "val_loss") == [(100, 0.25), (200, 0.40), (300, 0.41)]
    assert run.curves["val_wer"].values == pytest.approx((0.185, 0.29, 0.31))


def test_the_validations_of_two_losses_are_no_training(tmp_path: Path) -> None:
    """JoeyNMT for sign language: recognition and translation in one line."""
    log = tmp_path / "validations.txt"
    log.write_text(
        "".join(
            f"Steps: {i}00\tRecognition Loss: {9 / i:.3f}\tTranslation Loss: {90 / i:.3f}\t"
            f"PPL: {20 / i:.3f}\tWER {90 / i:.2f}\t(DEL: 9.00,\tINS: 0.00,\tSUB: 1.00)\n"
            for i in (1, 2, 3)
        )
    )
    run = read_run(log)
    assert "train_loss" not in run.curves
    assert points(run, "val_loss") == [(100, 9), (200, 4.5), (300, 3)]


def test_a_metric_without_a_split_beside_the_validation_one_is_the_training_one() -> None:
    run = read_run(SPECIMENS / "keras.log")
    assert run.curves["train_wer"].values == (0.9, 0.45, 0.3)
    assert run.curves["val_wer"].values == (0.95, 0.475, 0.3167)


def test_predictions_before_their_epoch_belong_to_it() -> None:
    run = read_run(SPECIMENS / "samples_first.log")
    assert [(one.at, one.split, one.prediction) for one in run.predictions] == [
        (1, "train", ()),
        (2, "train", ("A", "B", "C")),
        (1, "val", ()),
        (2, "val", ("D",)),
    ]


def test_predictions_on_both_sides_belong_to_the_epoch_before(tmp_path: Path) -> None:
    run = run_of(tmp_path, "Target: A\nPred: B\nEpoch 1: Train 4.5 | Val 4.6\nTarget: A\nPred: A\n")
    assert [one.at for one in run.predictions] == [None, 1]


@pytest.mark.parametrize("empty", ["", '""', "<empty>", "(empty)", "[]", "''"])
def test_an_empty_prediction_has_no_words(tmp_path: Path, empty: str) -> None:
    run = run_of(tmp_path, f"Epoch 1: Train 4.5\nGround truth: ['A', 'B C']\nPrediction: {empty}\n")
    assert [(one.target, one.prediction) for one in run.predictions] == [(("A", "B", "C"), ())]


def test_target_and_prediction_may_share_a_line(tmp_path: Path) -> None:
    run = run_of(tmp_path, "Epoch 1: Train 4.5\n[val 3] Target: A B | Pred: A\n")
    assert [(one.split, one.target, one.prediction) for one in run.predictions] == [
        ("val", ("A", "B"), ("A",))
    ]


def test_steps_within_an_epoch_stand_at_their_part_of_it(tmp_path: Path) -> None:
    lines = [
        f"Epoch [{epoch}/2], Step [{step}/4], Loss: {epoch}.{step}"
        for epoch in (1, 2)
        for step in (1, 2, 3, 4)
    ]
    run = run_of(
        tmp_path,
        "\n".join(
            [*lines[:4], "Epoch 1: Train 9.5 | Val 8.5", *lines[4:], "Epoch 2: Train 7.5 | Val 6.5"]
        )
        + "\n",
    )
    assert points(run, "train_loss") == [(1, 9.5), (2, 7.5)]
    assert run.curves["train_loss_step"].at == (1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75)
    assert run.facts.epochs == 2


def test_a_log_of_steps_counts_steps(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        "step 100: train loss 3.5, val loss 3.6\nstep 200: train loss 3.4, val loss 3.55\n",
    )
    assert run.clock == "step"
    assert points(run, "val_loss") == [(100, 3.6), (200, 3.55)]


def test_steps_that_are_epochs_are_taken_for_them(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        "".join(f"step {n}: train loss {4 - n / 10:.1f}, val loss 4.5\n" for n in range(3)),
    )
    assert run.clock == "epoch"
    assert run.warnings == (
        "the log counts one by one and validates at each count: its steps are taken for epochs",
    )


def test_metrics_before_the_first_epoch_are_counted(tmp_path: Path) -> None:
    run = run_of(tmp_path, "val_loss: 7.5\nEpoch 1: Train 4.5 | Val 4.6\n")
    assert run.warnings == (
        f"{tmp_path}/train.log: 1 line left out: metrics before the first epoch or step (line 1)",
    )


@pytest.mark.parametrize(
    "line",
    [
        "Trainable params: 3.4 M",
        "3.4 M    Trainable params",
        "parameters=3,400,000",
        "model with 3_400_000 parameters",
    ],
)
def test_parameters_are_read(tmp_path: Path, line: str) -> None:
    assert (
        run_of(tmp_path, f"{line}\nNon-trainable params: 0\nEpoch 1: Train 4.5\n").facts.parameters
        == 3_400_000
    )


def test_a_step_that_is_told_again_with_one_metric_more_is_told_once(tmp_path: Path) -> None:
    told = [f"step:{step} loss={3 - step / 1000}" for step in (10, 20, 30, 40)]
    run = run_of(tmp_path, "\n".join([*told, f"{told[-1]} train_accuracy=0.2", "step:50 loss=2.9"]))
    assert [at for at, _ in points(run, "train_loss")] == [10, 20, 30, 40, 50]
    assert run.warnings == ()


def test_batches_that_name_their_epoch_alone_are_spread_over_it_in_each_of_two_runs(
    tmp_path: Path,
) -> None:
    def epoch(number: int) -> str:
        batches = (f"INFO: count: {50 * n}, loss: {9 - number - n / 20}" for n in range(20))
        return "\n".join([f"INFO: train epoch: {number}", *batches, ""])

    run = run_of(tmp_path, "".join(map(epoch, [0, 1, 0, 1, 2])))
    places = run.curves["train_loss"].at
    assert len(places) == 60
    assert list(places) == sorted(set(places))
    assert run.warnings[0].startswith("the log starts anew 1 time; number 2 is read")


def test_an_error_rate_that_is_named_and_not_computed_is_none(tmp_path: Path) -> None:
    rows = "\n".join(
        f"epoch {n}: val loss {5 / n} val wer 0.0 val cer {0.9 / n}" for n in (1, 2, 3)
    )
    run = run_of(tmp_path, rows)
    assert run.read_by("val") == "val_cer"
    flawless = "\n".join(f"epoch {n}: val loss {5 / n} val wer 0.0 val cer 0.0" for n in (1, 2, 3))
    assert run_of(tmp_path, flawless).read_by("val") == "val_wer"


def test_zeros_between_the_epochs_at_which_a_score_is_computed_are_none(tmp_path: Path) -> None:
    scored = {4: 16.3, 8: 18.7, 12: 19.4}
    text = "\n".join(
        f"epoch {n}: val loss {5 / n:.3f} val bleu {scored.get(n, 0.0)}" for n in range(1, 13)
    )
    assert points(run_of(tmp_path, text), "val_bleu") == [*scored.items()]
    rising = "\n".join(f"epoch {n}: val bleu {max(n - 5, 0)}" for n in range(1, 13))
    assert len(run_of(tmp_path, rising).curves["val_bleu"]) == 12


def test_a_line_of_losses_that_run_into_each_other_is_passed_over(tmp_path: Path) -> None:
    """It ends: an expression that tries every way to part them would not."""
    text = "\n".join(f"epoch {n}: loss {9 / n:.3f}\nloss: {'a=1e5' * 400}" for n in (1, 2, 3))
    assert points(run_of(tmp_path, text), "train_loss") == [(1, 9), (2, 4.5), (3, 3)]


def test_an_exponent_before_the_word_epoch_counts_none(tmp_path: Path) -> None:
    text = "\n".join(
        f"Epoch {n}/499 : 0h {n}m\ntrain Loss: {9 / n:.3f} Epoch Acc: 0.00E+00 Epoch Prob: 1.5E-12"
        for n in (1, 2, 3)
    )
    assert points(run_of(tmp_path, text), "train_loss") == [(1, 9), (2, 4.5), (3, 3)]


def test_a_step_at_which_both_splits_are_evaluated_is_one_of_training(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        "\n".join(
            f"Eval step {n} | train loss {3 - n / 50000} | val loss 3.1" for n in (0, 5000, 9000)
        ),
    )
    assert run.clock == "step"
    assert [at for at, _ in points(run, "val_loss")] == [0, 5000, 9000]


def test_the_numbers_below_names_that_were_cut_short_are_theirs(tmp_path: Path) -> None:
    """As kraken's bars are, in a terminal of 80 columns."""

    def bar(epoch: int, accuracy: float) -> str:
        drawn = f"stage {epoch}/∞ ━━━━━━ 90/90 0:13:20 •   13.14it/s "
        names = (("val_accura… early_stopp…", f"{accuracy:.3f}       1/5 0.92637"),)
        names += (("val_word_a…", f"{accuracy - 0.2:.3f}"),)
        return (
            drawn
            + "".join(
                f"{name}\n{'':{len(drawn)}}{value}\n{'':{len(drawn)}}" for name, value in names
            )
            + "\n"
        )

    text = "".join(bar(*told) for told in ((6, 0.926), (7, 0.853), (8, 0.44)))
    run = run_of(tmp_path, text)
    assert points(run, "val_accuracy") == [(6, 0.926), (7, 0.853), (8, 0.44)]
    assert run.curves["val_word_accuracy"].values == pytest.approx((0.726, 0.653, 0.24))


def test_an_epochs_mean_goes_before_the_latest_of_its_batches(tmp_path: Path) -> None:
    lines = (
        f"Epoch: {n} | Latest training loss: {4 - n / 2} | Average training loss: {6 - n}\n"
        for n in (1, 2, 3)
    )
    assert points(run_of(tmp_path, "".join(lines)), "train_loss") == [(1, 5), (2, 4), (3, 3)]


@pytest.mark.parametrize(("last", "readings"), [(5.31, 5), (5.42, 6)])
def test_what_is_told_at_the_end_restates_an_earlier_epoch_in_all_that_it_tells(
    tmp_path: Path, last: float, readings: int
) -> None:
    told = [(2.6, 0.3, 13.5), (2.2, 0.4, 9.0), (1.69, 0.49, 5.31), (1.7, 0.48, 5.5)]
    told += [(1.67, 0.5, 5.3), (1.69, 0.49, last)]
    lines = (
        f"epoch {min(n, 5)} val loss: {loss} val acc: {accuracy} val ppl: {perplexity}\n"
        for n, (loss, accuracy, perplexity) in enumerate(told, 1)
    )
    assert len(run_of(tmp_path, "".join(lines)).curves["val_loss"]) == readings


def test_batches_that_are_counted_in_each_epoch_stand_within_it(tmp_path: Path) -> None:
    lines = (f"Epoch : 1 Minibatch : {n} Loss : {11 - n / 100}\n" for n in (50, 100, 150))
    assert run_of(tmp_path, "".join(lines)).curves["train_loss"].values == (10.5, 10, 9.5)


def test_rates_of_single_clips_behind_the_last_epoch_are_of_no_curve(tmp_path: Path) -> None:
    epochs = "".join(
        f"Epoch {n} complete. Loss {9 / n:.3f}\nValidation Set: Loss {8 / n:.3f}, CER {80 / n:.2f}\n"
        for n in range(1, 7)
    )
    clips = "".join(
        f"CER: {n}.0\nHYP: tuned the tning\nREF tuned the tuning\n" for n in range(3, 30)
    )
    told = run_of(tmp_path, epochs + clips)
    assert points(told, "val_cer") == points(run_of(tmp_path, epochs), "val_cer")
    assert told.curves["val_cer"].values[-1] == pytest.approx(80 / 6 / 100, rel=1e-3)


def test_a_tree_of_metrics_is_read_by_its_branches(tmp_path: Path) -> None:
    tree = "".join(
        f"Metrics (Epoch {n}):\n├── TRAIN:\n│   ├── ce_loss_char: 1.5\n│   ├── ce_loss_token: {9 - n}.5\n"
        f"└── VAL:\n    ├── ce_loss_char: 1.6\n    └── ce_loss_token: {9 - n}.7\n"
        for n in range(4)
    )
    run = run_of(tmp_path, tree)
    assert points(run, "train_loss") == [(n, 9.5 - n) for n in range(4)]
    assert points(run, "val_loss") == [(n, pytest.approx(9.7 - n)) for n in range(4)]


def test_a_validation_behind_the_end_of_lightnings_fit_is_no_reading(tmp_path: Path) -> None:
    epochs = "".join(
        f"[epoch {n}] val loss={9 / n:.3f}\n[epoch {n}] train loss={8 / n:.3f}\n"
        for n in range(1, 5)
    )
    over = "`Trainer.fit` stopped: `max_epochs=4` reached.\n[epoch 5] val loss=2.000\n"
    assert run_of(tmp_path, epochs + over).curves["val_loss"].at == (1, 2, 3, 4)
    more = "[epoch 5] train loss=1.500\n[epoch 5] val loss=1.700\n"
    assert run_of(tmp_path, epochs + over + more).curves["val_loss"].values[-1] == 1.7


def test_a_bar_that_has_hardly_begun_shows_what_was_before(tmp_path: Path) -> None:
    def bar(epoch: int, far: int, shown: str) -> str:
        return f"Epoch {epoch}: {25 * far}%|##| {far}/4 [00:01<00:02, 2.1it/s, {shown}]\r\n"

    text, shown = "", "loss=9.0"
    for epoch, loss, wer in ((0, 6.5, 1.25), (1, 4.5, 0.75), (2, 3.5, 0.5)):
        text += bar(epoch, 0, shown)
        kept = shown.partition(", ")[2]
        for far in range(1, 5):
            shown = f"loss={loss - far / 10}, {kept}"
            text += bar(epoch, far, shown)
        shown = f"loss={loss - 0.4}, val_wer={wer}"
        text += bar(epoch, 4, shown) + bar(epoch, 0, shown)
    run = run_of(tmp_path, text)
    assert points(run, "val_wer") == [(0, 1.25), (1, 0.75), (2, 0.5)]
    assert points(run, "train_loss") == [(0, 6.1), (1, 4.1), (2, 3.1)]


@pytest.mark.parametrize(
    "line",
    [
        "The loss of epoch{epoch}is:tf.Tensor({loss}, shape=(), dtype=float32)",
        "The loss of epoch {epoch} is: {loss}",
        "loss of epoch {epoch}: tensor({loss}, device='cuda:0')",
        "epoch {epoch} {{'loss': {loss}, 'per_class': {{0: 0.5, 1: 0.25}}}}",
    ],
)
def test_values_are_read_as_libraries_print_them(tmp_path: Path, line: str) -> None:
    told = [(0, 8.0), (1, 7.5), (2, 6.25)]
    text = "\n".join(line.format(epoch=epoch, loss=loss) for epoch, loss in told)
    assert points(run_of(tmp_path, text), "train_loss") == told


def test_an_object_of_no_sense_is_no_row(tmp_path: Path) -> None:
    text = "shapes {[1]: 2, 'x': 3.0}\nepoch 1 loss: 4.5\nepoch 2 loss: 4.25\n"
    assert points(run_of(tmp_path, text), "train_loss") == [(1, 4.5), (2, 4.25)]


def test_of_runs_too_short_to_choose_from_the_last_is_read(tmp_path: Path) -> None:
    lines = [
        f"[200/300] Train loss: {loss}, Valid loss: 0.5\n" for loss in (3.5, 3.75, 4.5, 2.5, 5.75)
    ]
    assert points(run_of(tmp_path, "".join(lines)), "train_loss") == [(200, 5.75)]


def test_the_step_between_a_metric_and_its_value_is_its_clock(tmp_path: Path) -> None:
    told = ((0, 18.5, 13.25), (1000, 0.75, 0.875), (2000, 0.5, 0.75))
    text = "".join(
        f"Train loss {step} {train} Grad Norm 6.65 2.10s/it\nValidation loss {step}:  {val}\n"
        for step, train, val in told
    )
    run = run_of(tmp_path, text)
    assert points(run, "train_loss") == [(step, train) for step, train, _ in told]
    assert points(run, "val_loss") == [(step, val) for step, _, val in told]


def test_the_mean_of_an_epoch_goes_before_the_last_batch_of_its_bar(tmp_path: Path) -> None:
    told = [(1, 3.75, 4.875), (2, 2.75, 3.25), (3, 2.5, 2.625)]
    text = "".join(
        f"Training Epoch {epoch}: 100%|████| 50/50 [02:39<00:00,  1.62s/it, loss={last}]\n"
        f"Epoch {epoch} - Avg Loss: {mean}\n"
        for epoch, last, mean in told
    )
    run = run_of(tmp_path, text)
    assert points(run, "train_loss") == [(epoch, mean) for epoch, _, mean in told]


@pytest.mark.parametrize("second", [[0.25, 0.5, 0.75], [0.75, 0.5, 0.25]], ids=["rises", "falls"])
def test_what_stands_behind_a_loss_and_a_stroke_is_what_is_read(
    tmp_path: Path, second: list[float]
) -> None:
    told = list(zip((1, 2, 3), (1.75, 1.5, 1.125), second, strict=True))
    text = "".join(
        f"2026-03-14 11:37:56,200  INFO  Epoch   {epoch}/60  tr={loss - 0.5}/{read}  vl={loss}/{read}"
        "  lr=9.99e-05  [140.1s]\n" + f"    Best saved (val_acc={read})\n" * (epoch == 1)
        for epoch, loss, read in told
    )
    run = run_of(tmp_path, text + "Early stop @ epoch 3\n")
    assert points(run, "train_loss") == [(epoch, loss - 0.5) for epoch, loss, _ in told]
    assert points(run, "val_loss") == [(epoch, loss) for epoch, loss, _ in told]
    name = "val_accuracy" if second[-1] > second[0] else "val_wer"
    assert points(run, name) == [(epoch, read) for epoch, _, read in told]
    assert run.finished


def test_a_log_of_chinese_windows_is_read_as_it_was_written(tmp_path: Path) -> None:
    told = [(0, 10.125), (1, 9.5), (2, 8.25)]
    text = "".join(
        f"当前Batch:10/20 | 当前epoch:{epoch}/50 | 当前损失值:{loss} | 当前准确率:0.00%\n"
        for epoch, loss in told
    ).replace(":", "\uff1a")
    (tmp_path / "train_log.txt").write_bytes(text.encode("gb18030"))
    run = read_run(tmp_path / "train_log.txt")
    assert run.curve("train_loss").values == tuple(loss for _, loss in told)
    assert any("GB 18030" in warning for warning in run.warnings)


def test_letters_of_other_encodings_make_no_chinese(tmp_path: Path) -> None:
    text = "Epoch 1 - précision élevée - loss: 4.5\nEpoch 2 - précision - loss: 4.25\n"
    (tmp_path / "train.log").write_bytes(text.encode("latin-1"))
    run = read_run(tmp_path / "train.log")
    assert run.curve("train_loss").values == (4.5, 4.25)
    assert not any("GB 18030" in warning for warning in run.warnings)


def test_a_loss_at_an_epoch_and_an_iteration_is_told_from_one_of_another_name(
    tmp_path: Path,
) -> None:
    told = [(0, 0, 8.5, -1.75), (0, 500, 0.25, 0.9375), (1, 0, 0.3125, 0.90625)]
    text = "".join(
        f"Loss at epoch {epoch} and iteration {step} is {loss}\n"
        f"NCE Loss at epoch {epoch} and iteration {step} is {other}\n"
        for epoch, step, loss, other in told
    )
    run = run_of(tmp_path, text)
    assert run.curve("train_loss").values == tuple(loss for *_, loss, _ in told)


def test_a_validation_on_a_part_of_its_clips_is_one(tmp_path: Path) -> None:
    text = "".join(
        f"[08:0{step}:18] [INFO] [Step    {step}00/159210] Train {9.75 - step / 8} | "
        f"Val~20% {9.5 - step / 8}\n"
        for step in (1, 2, 3)
    )
    assert points(run_of(tmp_path, text), "val_loss") == [(100, 9.375), (200, 9.25), (300, 9.125)]


def test_of_an_output_and_one_within_the_network_the_last_told_is_judged(tmp_path: Path) -> None:
    text = "".join(
        f"Epoch: {epoch} dev done. Conv wer: {90 - epoch}.5  ins:1.4, del:7.6\n"
        f"Epoch: {epoch} dev done. LSTM wer: {60 - epoch}.5  ins:1.0, del:6.6\n"
        for epoch in (1, 2, 3)
    )
    assert points(run_of(tmp_path, text), "val_wer") == [(1, 0.595), (2, 0.585), (3, 0.575)]
