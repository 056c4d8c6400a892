"""Killed at any moment, a run goes on to the curve of one that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from model.atomic_files import METRICS, PREDICTIONS, append_lines, cut_back, read_rows, write_whole
from model.train import BAD_INPUT, main
from tests.model.training import SMALL, rows

ROOT = Path(__file__).parents[2]
FLAGS = [
    *SMALL,
    "--epochs",
    "5",
    "--dropout",
    "0.4",
    "--augment",
    "--schedule",
    "restarts",
    "--accumulation_steps",
    "2",
]


def killed_while_training(folder: Path, epochs: int) -> int:
    """Start the run, or go on with it, and SIGKILL it in the epoch after `epochs` rows.

    Returns the rows it left.
    """
    command = [sys.executable, "-m", "model.train", *FLAGS, "--output_dir", str(folder), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 120
        while len(read_rows(folder / METRICS)) < epochs:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "the run wrote no rows in two minutes"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return len(read_rows(folder / METRICS))


@pytest.mark.exact_weights
def test_killed_while_it_trains_a_run_ends_on_the_curve_of_one_that_was_not(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*FLAGS, "--output_dir", str(whole)]) == 0
    assert 2 <= killed_while_training(cut, 2) < 5
    with (cut / METRICS).open("a") as file:
        file.write("4,0.1,0.00")  # half a line, as a kill may leave it
    append_lines(
        cut / PREDICTIONS, [{"epoch": 4, "split": "val", "target": ["x"], "prediction": []}]
    )
    assert main([*FLAGS, "--output_dir", str(cut), "--resume"]) == 0
    assert rows(cut) == rows(whole)  # on a CPU, one thread: every digit
    assert (cut / PREDICTIONS).read_text() == (whole / PREDICTIONS).read_text()
    last, same = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (whole, cut))
    assert all(
        torch.equal(last["state_dict"][name], same["state_dict"][name])
        for name in last["state_dict"]
    )
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, cut)]
    assert results[0] == results[1]


def test_resuming_a_run_that_has_ended_changes_nothing_and_more_epochs_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*SMALL, "--output_dir", str(tmp_path / "run"), "--resume"]
    assert main([*flags, "--epochs", "1"]) == 0
    ended = capsys.readouterr().out.splitlines()[-1]
    before = (tmp_path / "run" / METRICS).read_bytes()
    assert main([*flags, "--epochs", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [ended]
    assert (tmp_path / "run" / METRICS).read_bytes() == before
    assert main([*flags, "--epochs", "2"]) == 0
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["0", "1"]


def test_a_damaged_checkpoint_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*SMALL, "--output_dir", str(tmp_path), "--epochs", "1"]
    assert main(flags) == 0
    (tmp_path / "result.json").unlink()
    (tmp_path / "last.ckpt").write_bytes(b"not a checkpoint")
    assert main([*flags, "--resume"]) == BAD_INPUT
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'last.ckpt'}: not a checkpoint of a run (")
    assert line.endswith("); delete it to begin anew")


# -- files -----------------------------------------------------------------------------------------


def test_logs_are_cut_back_to_the_finished_epochs(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text("epoch,val_loss\r\n0,2.5\r\n1,2.25\r\n2,2.0\r\n3,1.")
    append_lines(
        tmp_path / PREDICTIONS,
        [
            {"epoch": epoch, "split": "val", "target": ["ä"], "prediction": []}
            for epoch in (0, 1, 2)
        ],
    )
    with (tmp_path / PREDICTIONS).open("a") as file:
        file.write('{"epoch": 3, "sp')
    cut_back(tmp_path, 1)
    assert (tmp_path / METRICS).read_bytes() == b"epoch,val_loss\r\n0,2.5\r\n1,2.25\r\n"
    assert [
        json.loads(line)["epoch"] for line in (tmp_path / PREDICTIONS).read_text().splitlines()
    ] == [0, 1]
    assert "ä" in (tmp_path / PREDICTIONS).read_text()


def test_cutting_back_beyond_the_first_epoch_leaves_nothing_and_no_file_stays_none(
    tmp_path: Path,
) -> None:
    cut_back(tmp_path, -1)
    assert not list(tmp_path.iterdir())
    (tmp_path / METRICS).write_text("epoch,val_loss\r\n0,2.5\r\n")
    cut_back(tmp_path, -1)
    assert read_rows(tmp_path / METRICS) == []


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep" / "file", "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "deep" / "file", "after \ud800")
    assert (tmp_path / "deep" / "file").read_text() == "before"
