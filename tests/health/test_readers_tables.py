"""csv, JSON lines and trainer_state.json: whatever was written is read back, and each row stands in
its epoch.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.readers import read_run
from pytest_overfit.health.run import Run

SPECIMENS = Path(__file__).parent / "specimens"
LOSSES = st.floats(min_value=-1e6, max_value=1e6) | st.sampled_from([math.nan, math.inf, -math.inf])
ROWS = st.lists(st.tuples(st.integers(0, 200), LOSSES, LOSSES), min_size=1, max_size=30).filter(
    # A log that comes back to the place it began at holds a second run, and one that begins far
    # beyond all the others an evaluation before it.
    lambda rows: (
        [epoch for epoch, _, _ in rows].count(rows[0][0]) == 1
        and rows[0][0] <= 20 * max((epoch for epoch, _, _ in rows[1:]), default=200)
    )
)


def run_of(folder: Path, name: str, text: str) -> Run:
    (folder / name).write_text(text, encoding="utf-8")
    return read_run(folder / name)


def points(run: Run, name: str) -> list[tuple[float, float]]:
    return list(zip(run.curves[name].at, run.curves[name].values, strict=True))


def as_csv(rows: list[tuple[int, float, float]]) -> str:
    return "epoch,train_loss,val_loss\n" + "".join(
        f"{epoch},{train!r},\n{epoch},,{val!r}\n" for epoch, train, val in rows
    )


def as_jsonl(rows: list[tuple[int, float, float]]) -> str:
    return "".join(
        json.dumps({"epoch": epoch, "train": {"loss": train}, "val": {"loss": val}}) + "\n"
        for epoch, train, val in rows
    )


def as_trainer_state(rows: list[tuple[int, float, float]]) -> str:
    history = [
        row
        for epoch, train, val in rows
        for row in ({"epoch": epoch, "loss": train}, {"epoch": epoch, "eval_loss": val})
    ]
    return json.dumps({"global_step": 5, "log_history": history, "num_train_epochs": 200}, indent=2)


def as_plain(rows: list[tuple[int, float, float]]) -> str:
    return "".join(
        f"Epoch {epoch}/200: train_loss={train!r} | val_loss={val!r}\n"
        for epoch, train, val in rows
    )


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (as_csv, "metrics.csv"),
        (as_jsonl, "log.jsonl"),
        (as_trainer_state, "trainer_state.json"),
        (as_plain, "train.log"),
    ],
)
@given(rows=ROWS)
def test_a_log_that_was_written_is_read_back(
    write, name: str, rows: list[tuple[int, float, float]]
) -> None:
    # A table in which no row tells both tells NaN where it tells nothing.
    assume(len(rows) < 6 or any(isfinite(train) and isfinite(val) for _, train, val in rows))
    # What a log tells at its end of an earlier epoch is no reading of its last one.
    again = rows[-1][0] in [epoch for epoch, _, _ in rows[:-1]]
    assume(not again or all(row[1:] != rows[-1][1:] for row in rows[:-1]))
    with TemporaryDirectory() as folder:
        run = run_of(Path(folder), name, write(rows))
    epochs = tuple(float(epoch) for epoch, _, _ in rows)
    for split, place in (("train", 1), ("val", 2)):
        curve: Curve = run.curves[f"{split}_loss"]
        assert curve.at == epochs
        assert repr(curve.values) == repr(tuple(row[place] for row in rows))


@given(
    order=st.lists(st.integers(1, 50), min_size=2, max_size=30).filter(
        lambda order: order.count(order[0]) == 1 and order[0] <= 20 * max(order[1:])
    )
)
def test_epochs_out_of_order_are_kept_and_told(order: list[int]) -> None:
    with TemporaryDirectory() as folder:
        run = run_of(Path(folder), "metrics.csv", as_csv([(epoch, 4.5, 4.6) for epoch in order]))
    assert run.curves["val_loss"].at == tuple(order)
    goes_back = any(b < a for a, b in pairwise(order))
    repeats = any(a == b for a, b in pairwise(order))
    assert any("goes back" in warning for warning in run.warnings) == goes_back
    assert any("told more than once" in warning for warning in run.warnings) == (
        repeats and not goes_back
    )


def test_what_a_resumed_run_tells_again_counts_as_it_was_told_last(tmp_path: Path) -> None:
    begun = [(step, 5 - step / 2000, 5.0) for step in range(200, 4800, 200)]
    resumed = [(step, 4.9 - step / 2000, 4.9) for step in range(4200, 6200, 200)]
    run = run_of(
        tmp_path,
        "train.log",
        "".join(
            f"Epoch {1 + (step > 2600)}, Step: {step}, Batch Loss: {loss}\n"
            for step, loss, _ in begun
        )
        + "".join(
            f"Epoch {1 + (step > 5200)}, Step: {step}, Batch Loss: {loss}\n"
            for step, loss, _ in resumed
        ),
    )
    assert run.curve("train_loss").at == tuple(range(200, 6200, 200))
    assert run.curve("train_loss").values[20:] == tuple(loss for _, loss, _ in resumed)
    assert any("resumed 1 time" in warning for warning in run.warnings)


def test_lightning_csv_has_sparse_rows_and_rates_without_an_epoch() -> None:
    run = read_run(SPECIMENS / "lightning_metrics.csv")
    assert run.clock == "epoch"
    assert run.curves["train_loss"].at == run.curves["val_loss"].at == (0, 1, 2)
    assert run.curves["train_loss_step"].at == pytest.approx(
        [0.2, 0.45, 0.7, 0.95, 1.2, 1.45, 1.7, 1.95, 2.2, 2.45, 2.7, 2.95]
    )
    assert run.curves["lr"].in_order
    assert set(run.curves) == {"train_loss", "val_loss", "train_loss_step", "lr", "lr-AdamW/pg2"}
    assert run.warnings == ()


def test_hugging_face_state_has_fractional_epochs_and_no_mean_over_the_run() -> None:
    run = read_run(SPECIMENS / "trainer_state.json")
    assert run.curves["train_loss"].at == (0.5, 1, 1.5, 2, 2.5, 3)
    assert points(run, "val_wer") == [(1, 0.9), (2, 0.8), (3, 0.7)]
    assert (run.facts.epochs, run.warnings) == (3, ())


def test_steps_alone_are_interpolated_where_epochs_are_fractional(tmp_path: Path) -> None:
    rows = [
        {"epoch": 0.5, "step": 50, "loss": 3.5},
        {"step": 75, "lr": 0.1},
        {"epoch": 1.0, "step": 100, "loss": 3.0},
        {"step": 125, "lr": 0.2},
    ]
    run = run_of(tmp_path, "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert run.curves["lr"].at == (0.75, 1.25)


def test_steps_are_placed_by_the_epochs_logged_between_them(tmp_path: Path) -> None:
    rows = [
        {"step": 50, "loss": 3.5},
        {"step": 100, "loss": 3.2},
        {"epoch": 1, "val_loss": 4},
        {"step": 150, "loss": 3},
        {"step": 200, "loss": 2},
    ]
    run = run_of(
        tmp_path,
        "log.jsonl",
        "".join(json.dumps(row) + "\n" for row in [*rows, {"epoch": 2, "val_loss": 3}]),
    )
    assert run.curves["train_loss"].at == (0.5, 1, 1.5, 2)


def test_steps_counted_anew_in_each_epoch_stand_at_their_part_of_it(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        "metrics.csv",
        "epoch,step,loss\n" + "".join(f"{e},{s},4.5\n" for e in (1, 2, 3) for s in range(4)),
    )
    assert run.curves["train_loss"].at == (
        1,
        1.25,
        1.5,
        1.75,
        2,
        2.25,
        2.5,
        2.75,
        3,
        3.25,
        3.5,
        3.75,
    )


def test_a_field_tells_the_split_of_a_row(tmp_path: Path) -> None:
    text = '{"epoch": 1, "split": "train", "loss": 3.5, "ppl": 9}\n{"epoch": 1, "split": "dev", "loss": 4.5, "wer": "91.2%", "ppl": 8}\n'
    run = run_of(tmp_path, "log.jsonl", text)
    assert {name: curve.values for name, curve in run.curves.items()} == {
        "train_loss": (3.5,),
        "val_loss": (4.5,),
        "val_wer": (pytest.approx(0.912),),
        "train_perplexity": (9,),
        "val_perplexity": (8,),
    }


def test_predictions_may_stand_in_the_rows(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        "log.jsonl",
        '{"epoch": 1, "loss": 3.5}\n{"epoch": 1, "split": "val", "ref": "A B", "hyp": ""}\n',
    )
    assert [(one.at, one.split, one.target, one.prediction) for one in run.predictions] == [
        (1, "val", ("A", "B"), ())
    ]


def test_delimiters_and_quotes_are_found(tmp_path: Path) -> None:
    run = run_of(tmp_path, "metrics.tsv", 'epoch\t"val loss, mean"\n1\t"4.5"\n')
    assert points(run, "val_loss") == [(1, 4.5)]


@pytest.mark.parametrize(
    ("values", "percent"),
    [
        ((100, 97, 82.7), True),
        ((60, 20, 5, 1.9, 1.8, 1.7, 1.6), True),
        ((1.0, 0.97, 0.8), False),
        ((1.2, 2.9, 1.1), False),
        ((8.5, 1.2, 1.0, 0.98), False),
    ],
)
def test_percent_is_told_from_shares(
    tmp_path: Path, values: tuple[float, ...], percent: bool
) -> None:
    run = run_of(
        tmp_path,
        "metrics.csv",
        "epoch,val_wer\n" + "".join(f"{n},{value}\n" for n, value in enumerate(values)),
    )
    assert run.curves["val_wer"].values == pytest.approx(
        [value / 100 if percent else value for value in values]
    )
    assert run.warnings == (
        (f"val_wer: taken for percent, since values reach {max(values):g}",) if percent else ()
    )


def test_train_and_validation_error_rates_are_in_one_unit(tmp_path: Path) -> None:
    run = run_of(tmp_path, "metrics.csv", "epoch,train_wer,val_wer\n1,2.5,91\n2,1.2,90\n")
    assert run.curves["train_wer"].values == (0.025, 0.012)


@pytest.mark.parametrize(("cer", "percent"), [("1.2,1.0,0.8", True), ("0.012,0.01,0.008", False)])
def test_characters_are_in_percent_where_as_shares_more_of_them_were_wrong_than_words(
    tmp_path: Path, cer: str, percent: bool
) -> None:
    rows = "".join(
        f"{n},{wer},{value}\n"
        for n, (wer, value) in enumerate(zip((4.4, 3.6, 2.9), cer.split(","), strict=True), 1)
    )
    run = run_of(tmp_path, "metrics.csv", f"epoch,val_wer,val_cer\n{rows}")
    last = float(cer.split(",")[-1])
    assert run.curves["val_wer"].values[-1] == pytest.approx(0.029)
    assert run.curves["val_cer"].values[-1] == pytest.approx(last / 100 if percent else last)


def test_an_error_rate_that_calls_itself_normalised_goes_before_a_count_of_errors(
    tmp_path: Path,
) -> None:
    text = "epoch,wer,wer_norm,cer,cer_norm\n1,5.4,0.9,15.5,0.65\n2,1.1,0.18,1.8,0.07\n"
    run = run_of(tmp_path, "rates.csv", text)
    assert points(run, "val_wer") == [(1, 0.9), (2, 0.18)]
    assert points(run, "val_cer") == [(1, 0.65), (2, 0.07)]


def test_each_rouge_is_a_metric_of_its_own_and_the_first_is_judged_by(tmp_path: Path) -> None:
    text = "epoch,eval_rouge1,eval_rouge2,eval_rougeL\n1,30,9,25\n2,35,12,29\n"
    run = run_of(tmp_path, "metrics.csv", text)
    assert [points(run, name)[-1] for name in ("val_rouge1", "val_rouge2", "val_rougel")] == [
        (2, 35),
        (2, 12),
        (2, 29),
    ]
    assert run.read_by("val") == "val_rouge1"


def test_fresh_networks_beside_a_run_json_may_emit_far_too_much(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    run = run_of(tmp_path, "metrics.csv", "epoch,val_wer\n1,9.5\n2,9.5\n")
    assert run.curves["val_wer"].values == (9.5, 9.5)


def test_an_emission_ratio_tells_that_error_rates_are_shares(tmp_path: Path) -> None:
    run = run_of(
        tmp_path, "metrics.csv", "epoch,val_wer,val_emission_ratio\n1,5.5,5.9\n2,5.0,5.2\n"
    )
    assert run.curves["val_wer"].values == (5.5, 5.0)


def test_of_names_that_mean_the_same_the_plainest_counts(tmp_path: Path) -> None:
    run = run_of(tmp_path, "metrics.csv", "epoch,train_ctc_loss,train_loss,loss\n1,1.5,2.5,3.5\n")
    assert {name: curve.values[0] for name, curve in run.curves.items()} == {
        "train_loss": 2.5,
        "train_ctc_loss": 1.5,
        "loss": 3.5,
    }


def test_a_lone_metric_without_a_split_is_the_validation_one(tmp_path: Path) -> None:
    run = run_of(tmp_path, "metrics.csv", "epoch,wer\n1,0.5\n")
    assert run.warnings == ("wer does not say of which split it is: taken for validation",)
    assert points(run, "val_wer") == [(1, 0.5)]


def test_a_row_without_a_clock_completes_the_one_before(tmp_path: Path) -> None:
    text = "loss,step,eval_loss\n6.2,0,\n,,6.3\n5.1,100,\n,,5.4\n4.9,200,\n,,5.0\n"
    run = run_of(tmp_path, "progress.csv", text)
    assert points(run, "val_loss") == [(0, 6.3), (100, 5.4), (200, 5.0)]


def test_a_row_without_a_clock_that_tells_the_same_again_is_left_out(tmp_path: Path) -> None:
    run = run_of(tmp_path, "progress.csv", "step,loss\n0,6.2\n100,5.1\n,9.9\n200,4.9\n")
    assert points(run, "train_loss") == [(0, 6.2), (100, 5.1), (200, 4.9)]


def test_a_column_named_after_validation_goes_before_one_named_after_evaluation(
    tmp_path: Path,
) -> None:
    rows = (
        f"{n}\t{60 - n / 10}\t{9 - n / 100 if n % 200 == 0 else ''}\n" for n in range(100, 900, 100)
    )
    run = run_of(tmp_path, "cer.tsv", "TrainingIteration\tEvalCER\tValidationCER\n" + "".join(rows))
    assert run.curves["val_cer"].at == (200, 400, 600, 800)


@pytest.mark.parametrize(("again", "curve"), [(4, (7, 6, 5, 4.5, 4.4, 4.3, 4.2)), (1, None)])
def test_epochs_that_a_resumed_run_tells_again_count_as_it_told_them_last(
    tmp_path: Path, again: int, curve: tuple[float, ...] | None
) -> None:
    """And what an abandoned run told beyond them is none of its readings."""
    rows = [{"epoch": n, "train_loss": 8 - n} for n in range(1, 8)]
    rows += [{"epoch": 4 + i, "train_loss": 4.5 - i / 10} for i in range(again)]
    run = run_of(tmp_path, "history.json", json.dumps({"epochs": rows}))
    if curve is not None:
        assert run.curves["train_loss"].values == pytest.approx(curve)
        assert any("resumed 1 time" in warning for warning in run.warnings)
    else:
        assert any("goes back" in warning for warning in run.warnings)


def test_an_evaluation_before_the_run_is_none_of_its_epochs(tmp_path: Path) -> None:
    text = "epoch,val_wer\n6667,0.17\n6667,0.17\n" + "".join(
        f"{n},{1.7 + n / 99}\n" for n in range(9)
    )
    run = run_of(tmp_path, "dev.csv", text)
    assert run.curves["val_wer"].at == tuple(range(9))


def test_columns_of_numbers_are_a_table_whatever_its_file_is_called(tmp_path: Path) -> None:
    rows = ["46.5\t0.25\t9.25\t", "41.75\t0.125\t8.25\t", "43.875\t0.125\t8.625\t"]
    text = "total loss\tscore loss\tctc loss\t\n" + "\n".join(rows)
    run = run_of(tmp_path, "train_log.txt", text)
    assert points(run, "train_loss") == [(1, 46.5), (2, 41.75), (3, 43.875)]
    assert any("score loss" in warning for warning in run.warnings)


def test_what_repeats_some_of_a_metric_is_no_curve_beside_all_of_it(tmp_path: Path) -> None:
    every = [(1, 0.5), (2, 0.75), (3, 0.625), (4, 0.875), (5, 0.75)]
    best = {1: 0.5, 2: 0.75, 4: 0.875}
    rows = "".join(f"{epoch},{value},{best.get(epoch, '')}\n" for epoch, value in every)
    run = run_of(tmp_path, "log.csv", "epoch,mean_val_accuracy,val_accuracy\n" + rows)
    assert points(run, "val_accuracy") == every


def test_a_file_of_two_numbers_a_line_is_of_the_metric_in_its_name(tmp_path: Path) -> None:
    told = [(1, 6.25), (2, 5.5), (3, 5.125), (4, 4.875)]
    text = "".join(f"{epoch},{loss}\n" for epoch, loss in told)
    assert points(run_of(tmp_path, "loss_log.txt", text), "train_loss") == told
