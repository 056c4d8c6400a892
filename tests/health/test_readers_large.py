"""However long a log, reading takes bounded memory and tells how far it is."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import pytest

from pytest_overfit.health.curves import series
from pytest_overfit.health.curves.curve import CurveBuilder
from pytest_overfit.health.readers import read_run, rows
from pytest_overfit.health.run import Run

MANY = 20_000
MIB = 1 << 20


def plain(number: int) -> str:
    return f"Epoch {number // 1000}: Train 4.5 | Val 4.6\nTarget: A{number} B\nPred: A{number}\n"


def jsonl(number: int) -> str:
    return f'{{"epoch": {number // 1000}, "step": {number}, "loss": {number}.5}}\n'


def read_watched(path: Path) -> tuple[Run, int, list[float]]:
    """The run, the peak of memory taken while reading it, in bytes, and the shares told."""
    shares: list[float] = []
    tracemalloc.start()
    try:
        run = read_run(path, progress=shares.append)
        return run, tracemalloc.get_traced_memory()[1], shares
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small blocks and curves, so that a log of a second to read is as long to them as one of a
    # million lines is to the real ones.
    monkeypatch.setattr(rows, "BLOCK", 1 << 14)
    monkeypatch.setattr(series, "MOST_POINTS", 500)
    peaks = []
    for count in (MANY // 4, MANY):
        path = tmp_path / f"{count}.jsonl"
        path.write_text("".join(map(jsonl, range(count))))
        run, peak, shares = read_watched(path)
        assert len(run.curves["train_loss"]) <= 500
        assert run.curves["train_loss"].values[-1] == count - 0.5
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert len(shares) > 10
        peaks.append(peak)
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 4 * MIB


def test_of_a_long_curve_its_lowest_its_spikes_and_its_last_stay() -> None:
    values = [3.0 + (step % 7) / 10 for step in range(10_000)]
    values[4_321], values[7_654], values[8_888] = 0.5, 90.0, math.nan
    builder = CurveBuilder(most=100)
    for step, value in enumerate(values):
        builder.add(step, value)
    kept = builder.curve()
    assert len(kept) <= 103
    assert kept.in_order
    told = dict(zip(kept.at, kept.values, strict=True))
    assert told[4_321] == 0.5
    assert told[7_654] == 90.0
    assert math.isnan(told[8_888])
    assert kept.at[-1] == 9_999
    assert told[9_999] == values[9_999]
    assert all(math.isnan(value) or value == values[int(at)] for at, value in told.items())


def test_of_predictions_the_newest_stay(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("".join(map(plain, range(5_000))))
    run = read_run(path)
    assert len(run.predictions) == 200
    assert run.predictions[-1].target == ("A4999", "B")
    assert run.predictions[0].at == 4


def test_a_line_too_long_is_left_out_and_the_next_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("Epoch 1: Train 4.5\n" + "x" * (3 * MIB) + "\nEpoch 2: Train 4.25\n")
    run, peak, _ = read_watched(path)
    assert run.curves["train_loss"].at == (1, 2)
    assert run.warnings == (f"{path}: 1 line left out: longer than 1 MiB (line 2)",)
    assert peak < 12 * MIB


def test_a_progress_bar_without_an_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    bar = "\rEpoch 1: {far:>3}%|####| {far}/100 [00:01<00:02, loss=4.5]" + " " * 200
    path.write_bytes(
        "".join(bar.format(far=far) for far in range(1, 101)).encode() * 100
        + b"\nEpoch 2: Train 4.25\n"
    )
    run = read_run(path)
    assert run.curves["train_loss"].at[-1] == 2


def test_of_unknown_names_only_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    names = [f"layer_{number}" for number in range(300)]
    path.write_text(",".join(["epoch", "val_loss", *names]) + "\n" + ",".join(["1"] * 302) + "\n")
    run = read_run(path)
    assert len(run.curves) == 201
    strange = "layer_0, layer_1, layer_2, layer_3, layer_4 and 195 more"
    assert run.warnings == (
        "100 metrics beyond 200 of unknown name left out (the first by name is layer_200)",
        f"not understood: {strange}; --overfit-metric train_loss=layer_0 says what one is",
    )
