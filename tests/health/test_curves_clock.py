"""One axis whatever a log counts: two clocks, epochs that mislead, none at all, a run after
another; and what is no reading at all.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_overfit.health.readers import read_run
from pytest_overfit.health.readers.plain_line import parsed
from pytest_overfit.health.run import Run

Points = list[tuple[float, float]]


def read(folder: Path, name: str, text: str) -> Run:
    (folder / name).write_text(text, encoding="utf-8")
    return read_run(folder / name)


def jsonl(folder: Path, *rows: dict[str, object]) -> Run:
    return read(folder, "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def points(run: Run, name: str) -> Points:
    return list(zip(run.curves[name].at, run.curves[name].values, strict=True))


def trained(first: int, last: int, every: int = 100) -> list[dict[str, object]]:
    return [{"step": step, "train/loss": 5 - step / 1000} for step in range(first, last + 1, every)]


# -- two clocks


def test_validation_that_counts_epochs_stands_at_the_training_steps_before_it(
    tmp_path: Path,
) -> None:
    validated = [{"step": epoch, "val/loss": 4.0 - epoch, "val/wer": 0.9} for epoch in range(3)]
    rows = [
        *trained(100, 500),
        validated[0],
        *trained(600, 1000),
        validated[1],
        *trained(1100, 1500),
        validated[2],
    ]
    run = jsonl(tmp_path, *rows)
    assert run.clock == "epoch"
    assert points(run, "val_loss") == [(0, 4.0), (1, 3.0), (2, 2.0)]
    assert run.curves["val_loss"].steps == (500, 1000, 1500)
    assert len(run.curves["train_loss"]) == 15
    assert [math.floor(at) for at in run.curves["train_loss"].at] == [0] * 5 + [1] * 5 + [2] * 5


def test_two_clocks_told_one_after_the_other_share_the_steps_evenly(tmp_path: Path) -> None:
    run = jsonl(
        tmp_path, *trained(100, 900), *({"step": epoch, "val/loss": 4.0} for epoch in (1, 2, 3))
    )
    assert run.curves["val_loss"].steps == (300, 600, 900)
    assert [math.floor(at) for at in run.curves["train_loss"].at][::3] == [1, 2, 3]


def test_steps_of_one_clock_are_left_alone(tmp_path: Path) -> None:
    rows = [
        *trained(1, 10, 1),
        {"step": 10, "val/loss": 4.0},
        *trained(11, 20, 1),
        {"step": 20, "val/loss": 3.0},
        *trained(21, 30, 1),
    ]
    run = jsonl(tmp_path, *rows, {"step": 30, "val/loss": 2.0})
    assert (run.clock, run.curves["val_loss"].at, run.warnings) == ("step", (10, 20, 30), ())


# -- epochs that mislead


def state(rows: list[dict[str, object]], **around: object) -> str:
    return json.dumps({**around, "log_history": rows})


@pytest.mark.parametrize(
    "epochs",
    [[0.01, 0.01, 0.02, 0.02, 0.03], [0.5, 1.0, 0.2, 0.4, 0.6]],
    ids=["rounded", "started anew"],
)
def test_steps_are_trusted_where_epochs_mislead(tmp_path: Path, epochs: list[float]) -> None:
    rows: list[dict[str, object]] = [
        {"epoch": epoch, "step": 100 * n, "loss": 5.0 - n} for n, epoch in enumerate(epochs, 1)
    ]
    run = read(
        tmp_path,
        "trainer_state.json",
        state([*rows, {"epoch": epochs[-1], "step": 500, "eval_loss": 1.0}]),
    )
    assert run.clock == "step"
    assert points(run, "train_loss") == [(100, 4.0), (200, 3.0), (300, 2.0), (400, 1.0), (500, 0.0)]
    assert points(run, "val_loss") == [(500, 1.0)]
    assert run.curves["train_loss"].epochs == tuple(epochs)
    assert run.warnings == (
        "epochs are rounded or start anew while steps go on: readings are placed by step",
    )


def test_rounded_epochs_without_steps_lose_no_reading(tmp_path: Path) -> None:
    run = jsonl(
        tmp_path, *({"epoch": epoch, "loss": 5.0} for epoch in (0.01, 0.01, 0.02, 0.02, 0.03))
    )
    assert run.curve("train_loss").at == pytest.approx((0.01, 0.015, 0.02, 0.025, 0.03))


def test_epochs_told_with_each_batch_lose_no_reading(tmp_path: Path) -> None:
    run = read(
        tmp_path,
        "train.log",
        "".join(
            f"Epoch {epoch}: loss {5 - epoch - part}\n"
            for epoch in (1, 2)
            for part in (0, 0.25, 0.5, 0.75)
        ),
    )
    assert run.curve("train_loss").at == (1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75)


# -- epochs named at their end, or never


def test_batches_before_the_first_epoch_belong_to_the_epoch_named_after_them(
    tmp_path: Path,
) -> None:
    lines = [
        line
        for epoch in (1, 2)
        for line in (
            f"loss: {5 - epoch} [1/2]",
            f"loss: {4.5 - epoch} [2/2]",
            f"Epoch: {epoch} val loss: {6 - epoch}",
        )
    ]
    run = read(tmp_path, "train.log", "\n".join([*lines, "loss: 2.5 [1/2]", ""]))
    assert points(run, "val_loss") == [(1, 5), (2, 4)]
    placed = [
        (at, value)
        for name in ("train_loss", "train_loss_step")
        if name in run.curves
        for at, value in points(run, name)
    ]
    assert {
        math.floor(at): [value for place, value in placed if math.floor(place) == math.floor(at)]
        for at, _ in placed
    }.keys() == {1, 2, 3}


def test_bars_without_an_epoch_are_an_epoch_each_time_they_come_to_their_end(
    tmp_path: Path,
) -> None:
    run = read(
        tmp_path,
        "train.log",
        "".join(f"100/100 [====] - 3s - loss: {5 - n}.0 - val_loss: {6 - n}.0\n" for n in range(3)),
    )
    assert (run.clock, points(run, "val_loss")) == ("epoch", [(1, 6), (2, 5), (3, 4)])


def test_batches_without_any_epoch_are_steps(tmp_path: Path) -> None:
    run = read(
        tmp_path,
        "train.log",
        "".join(f"[{n}/1000] Train loss: {5 - n / 500}, Valid loss: 4.0\n" for n in (1, 500, 1000)),
    )
    assert (run.clock, run.curves["train_loss"].at, run.planned_steps) == (
        "step",
        (1, 500, 1000),
        1000,
    )
    assert run.finished == ("all of 1000 steps are told",)


# -- a run after another


def epochs(first: float, *losses: float) -> str:
    return "".join(
        f"Epoch {first + n:g}: train loss {loss} val loss {loss + 0.5}\n"
        for n, loss in enumerate(losses)
    )


def test_of_two_runs_in_one_file_the_newer_is_read(tmp_path: Path) -> None:
    run = read(tmp_path, "train.log", epochs(1, 5.0, 4.0, 3.0, 2.0) + epochs(1, 5.25, 3.75, 2.5))
    assert points(run, "train_loss") == [(1, 5.25), (2, 3.75), (3, 2.5)]
    assert run.warnings == ("the log starts anew 1 time; number 2 is read, from train.log:5 on",)


def test_a_run_hardly_begun_gives_way_to_the_one_before(tmp_path: Path) -> None:
    run = read(tmp_path, "train.log", epochs(1, 5.0, 4.0, 3.0, 2.0) + epochs(1, 5.25))
    assert run.curves["val_loss"].values == (5.5, 4.5, 3.5, 2.5)


def test_a_run_that_goes_on_where_it_was_is_one_run(tmp_path: Path) -> None:
    run = read(tmp_path, "train.log", epochs(0, 9.0, 5.0, 3.0, 2.0) + epochs(0, 2.1, 1.5, 1.25))
    assert points(run, "train_loss") == [
        (0, 9.0),
        (1, 5.0),
        (2, 3.0),
        (3, 2.0),
        (4, 2.1),
        (5, 1.5),
        (6, 1.25),
    ]


# -- what is no reading


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (
            "2024-01-02 | INFO | pkg.trainer:do_train:312 - Epoch 0 val_loss 80.2",
            [("val_loss", "val", 80.2)],
        ),
        ("[h] 2020-09-17 18:14:26,464 (trainer:243) INFO: Epoch 1, loss=4.5", [("loss", "", 4.5)]),
        ("train.py:712: Epoch 1, loss=4.5", [("loss", "", 4.5)]),
        ("INFO:root:Epoch 3, loss: 3.5", [("loss", "", 3.5)]),
        ("Epoch 1, evaluation: 0.0000[sec], loss: 4.02, took: 37 s, 14.4 GB", [("loss", "", 4.02)]),
        ("Model initialized with 236.22 million parameters at epoch 3.", []),
        (
            "epoch 3: test loss: 4.5, accuracy: 0.31",
            [("test loss", "", 4.5), ("test accuracy", "", 0.31)],
        ),
        ("Epoch 3: improving ppl: 6.1 --> 5.4", []),
        ("Epoch 3 val_loss: 4.5 (best val_loss: 4.2)", [("val_loss", "val", 4.5)]),
        (
            "Epoch 3: max_steps: 5000, warmup steps: 100, loss: 4.5",
            [("loss", "", 4.5), ("warmup steps", "", 100.0)],
        ),
        ('Epoch 3: "loss": "4.5", "wer": "12.5%"', [("loss", "", 4.5), ("wer %", "", 12.5)]),
        ("Epoch 3: dev  35.20%", [("dev %", "val", 35.2)]),
        (
            "Epoch 3, Training: Total Loss: 2.18, CTC Loss: 2.17, ErrorCls Loss: 0.94",
            [
                ("Total Loss", "train", 2.18),
                ("CTC Loss", "train", 2.17),
                ("ErrorCls Loss", "train", 0.94),
            ],
        ),
    ],
)
def test_a_number_is_a_reading_only_where_a_person_reads_one(
    line: str, values: list[tuple[str, str, float]]
) -> None:
    assert parsed(line).values == values
    assert parsed(line).step is None


@pytest.mark.parametrize(
    ("line", "step", "values"),
    [
        (
            "At iteration 300/310/320, BCER train=30.5%, delta=5%",
            300,
            [("BCER train %", "train", 30.5)],
        ),
        (
            "INFO:tensorflow:Saving dict for global step 101: CER = 0.9, loss = 21.5",
            101,
            [("CER", "val", 0.9), ("loss", "val", 21.5)],
        ),
        ("INFO:tensorflow:loss = 20.5, step = 101 (12.3 sec)", 101, [("loss", "", 20.5)]),
        ("Steps: 1000\tLoss: 41.2\tPPL: 18.1", 1000, [("Loss", "val", 41.2), ("PPL", "val", 18.1)]),
    ],
)
def test_a_line_of_steps_says_what_a_person_reads(
    line: str, step: float, values: list[tuple[str, str, float]]
) -> None:
    assert parsed(line).step == step
    assert set(values) <= set(parsed(line).values)
    assert parsed(line).batch is None


@pytest.mark.parametrize(
    "text",
    [
        ",train_loss,val_loss\n0,3.5,3.25\n1,2.5,2.25\n",
        "Epoch;Train Loss;Val Loss\n0;3,5;3,25\n1;2,5;2,25\n",
    ],
    ids=["numbers of rows", "decimal commas"],
)
def test_tables_of_other_hands(tmp_path: Path, text: str) -> None:
    assert points(read(tmp_path, "metrics.csv", text), "val_loss") == [(0, 3.25), (1, 2.25)]


def test_the_total_of_several_losses_is_the_loss(tmp_path: Path) -> None:
    line = (
        "Epoch {0}, Training: CTC Loss: {1}.25, Total Loss: {1}.5\nValidation: CTC Loss: {1}.75, "
        "Total Loss: {1}.875\n"
    )
    run = read(tmp_path, "train.log", "".join(line.format(epoch, 5 - epoch) for epoch in (1, 2, 3)))
    assert (run.curves["train_loss"].values, run.curves["val_loss"].values) == (
        (4.5, 3.5, 2.5),
        (4.875, 3.875, 2.875),
    )


def test_a_summary_displaces_no_curve(tmp_path: Path) -> None:
    text = (
        "".join(f"Epoch {n}, batch loss: {5 - n}.0\n" for n in (1, 2, 3))
        + "Training finished\ntrain loss: 3.25\nval loss: 3.5\n"
    )
    run = read(tmp_path, "train.log", text)
    assert points(run, "train_loss") == [(1, 4), (2, 3), (3, 2)]
    assert "val_loss" not in run.curves
    assert run.finished == ("Training finished (train.log:4)",)


def test_tests_are_no_validation_but_where_there_is_no_other(tmp_path: Path) -> None:
    both = "".join(f"Epoch {n}: val loss {5 - n}.0, test loss {6 - n}.0\n" for n in (1, 2, 3))
    assert points(read(tmp_path, "train.log", both), "val_loss") == [(1, 4), (2, 3), (3, 2)]
    alone = "".join(f"Epoch {n}: train loss {5 - n}.0, test loss {6 - n}.0\n" for n in (1, 2, 3))
    run = read(tmp_path, "train.log", alone)
    assert points(run, "val_loss") == [(1, 5), (2, 4), (3, 3)]
    assert run.warnings == ("nothing tells of validation: test loss taken for it",)


def test_a_progress_bar_that_shows_an_old_validation_again_tells_nothing_new(
    tmp_path: Path,
) -> None:
    bar = (
        "Epoch {0}: 100%|####| 388/388 [02:07<00:00, 3.01it/s, train_loss_step={1}, val_wer={2}, "
        "train_loss_epoch={1}]\n"
    )
    run = read(
        tmp_path,
        "train.log",
        "".join(
            bar.format(epoch, loss, wer)
            for epoch, loss, wer in [(0, 3.0, 0.9), (1, 2.0, 0.9), (2, 1.0, 0.5)]
        ),
    )
    assert points(run, "val_wer") == [(0, 0.9), (2, 0.5)]
    assert points(run, "train_loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]


# -- units


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ({"val_wer": [2.9, 2.7, 2.4]}, {"val_wer": [0.029, 0.027, 0.024]}),
        (
            {"val_wer": [60, 20, 5, 1.4, 1.2, 0.9, 0.8]},
            {"val_wer": [0.6, 0.2, 0.05, 0.014, 0.012, 0.009, 0.008]},
        ),
        ({"val_wer": [8.5, 1.2, 1.0, 0.98]}, {"val_wer": [8.5, 1.2, 1.0, 0.98]}),
        # Where one error rate is surely percent, so are the others.
        (
            {"val_wer": [60, 30, 20], "val_cer": [2.0, 0.9, 0.4]},
            {"val_wer": [0.6, 0.3, 0.2], "val_cer": [0.02, 0.009, 0.004]},
        ),
        ({"val_accuracy": [45.0, 60.5]}, {"val_accuracy": [0.45, 0.605]}),
        ({"val_bleu": [0.04, 2.2]}, {"val_bleu": [0.04, 2.2]}),
        (
            {"val_perplexity": [8.0, 4.0]},
            {"val_perplexity": [8.0, 4.0], "val_loss": [math.log(8), math.log(4)]},
        ),
    ],
)
def test_units_are_judged_by_the_whole_curve(
    tmp_path: Path, curves: dict[str, list[float]], expected: dict[str, list[float]]
) -> None:
    rows = [dict(zip(curves, values, strict=True)) for values in zip(*curves.values(), strict=True)]
    run = jsonl(tmp_path, *({"epoch": epoch, **row} for epoch, row in enumerate(rows)))
    for name, values in expected.items():
        assert run.curves[name].values == pytest.approx(values), name


# -- the end


def test_a_state_tells_that_its_run_is_finished(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"epoch": n, "step": 10 * n, "loss": 5.0 - n, "learning_rate": rate}
        for n, rate in ((1, 1e-4), (2, 5e-5), (3, 1e-9))
    ]
    run = read(tmp_path, "trainer_state.json", state(rows, global_step=30, max_steps=30))
    assert run.finished == (
        "max_steps 30 reached (trainer_state.json)",
        "learning rate at its floor, 1e-09 (trainer_state.json, row 3)",
    )
    assert run.planned_steps == 30
    assert (
        read(tmp_path, "trainer_state.json", state(rows[:2], global_step=20, max_steps=30)).finished
        == ()
    )


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        (
            epochs(1, 3.0, 2.0) + "Early stopping at epoch 2\n",
            ("Early stopping at epoch 2 (train.log:3)",),
        ),
        (
            epochs(1, 3.0, 2.0) + "Epoch 00002: early stopping THR.\n",
            ("Epoch 00002: early stopping THR. (train.log:3)",),
        ),
        (epochs(1, 3.0, 2.0) + "Training finished.\n" + epochs(3, 1.5), ()),
        (
            "Epoch 1/3: loss 3.0\nEpoch 2/3: loss 2.0\nEpoch 3/3: loss 1.0\n",
            ("all of 3 epochs are told",),
        ),
        (
            "Epoch 0/3: loss 3.0\nEpoch 1/3: loss 2.0\nEpoch 2/3: loss 1.0\n",
            ("all of 3 epochs are told",),
        ),
        ("Epoch 1/3: loss 3.0\nEpoch 2/3: loss 2.0\n", ()),
        ("EarlyStopping counter: 1 out of 5\n" + epochs(1, 3.0), ()),
    ],
)
def test_a_log_tells_whether_its_run_is_finished(
    tmp_path: Path, text: str, finished: tuple[str, ...]
) -> None:
    assert read(tmp_path, "train.log", text).finished == finished


# -- whatever was written is read back

PREFIXES = (
    "",
    "2024-01-02 03:04:05,678 INFO trainer: ",
    "[2024/01/02 03:04:05] ppocr INFO: ",
    "2024-01-02 03:04:05 | INFO | pkg.trainer:do_train:312 - ",
    "[host] 2020-09-17 18:14:26,464 (trainer:243) INFO: ",
    "\x1b[32m[INFO]\x1b[0m ",
    "INFO:root:",
)
SIGNS = ("=", ": ", ":", " ")
BETWEEN = (", ", " | ", " - ", "  ", "; ")
LOSSES = st.floats(min_value=0.001, max_value=900).map(lambda value: round(value, 4))


@given(
    rows=st.lists(st.tuples(LOSSES, LOSSES, LOSSES), min_size=2, max_size=8),
    prefix=st.sampled_from(PREFIXES),
    sign=st.sampled_from(SIGNS),
    between=st.sampled_from(BETWEEN),
    order=st.permutations(["train_loss", "valid_loss", "lr"]),
    steps=st.booleans(),
)
def test_a_plain_log_that_was_written_is_read_back(
    rows: list[tuple[float, float, float]],
    prefix: str,
    sign: str,
    between: str,
    order: list[str],
    steps: bool,
) -> None:
    clock, every = ("step", 100) if steps else ("Epoch", 1)
    lines = []
    for n, values in enumerate(rows, 1):
        by_name = dict(zip(("train_loss", "valid_loss", "lr"), values, strict=True))
        lines.append(
            f"{prefix}{clock} {n * every}{between}"
            + between.join(f"{name}{sign}{by_name[name]}" for name in order)
        )
    with TemporaryDirectory() as folder:
        run = read(Path(folder), "train.log", "\n".join(lines) + "\n")
    assert run.clock == ("step" if steps else "epoch")
    for place, name in enumerate(("train_loss", "val_loss", "lr")):
        assert points(run, name) == [(n * every, row[place]) for n, row in enumerate(rows, 1)]
        assert [str(where) for where in run.curves[name].where] == [
            f"train.log:{n}" for n in range(1, len(rows) + 1)
        ]
    assert set(run.curves) == {"train_loss", "val_loss", "lr"}
