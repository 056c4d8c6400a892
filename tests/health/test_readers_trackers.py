"""TensorBoard event files: scalars of either kind, resumed runs, cut-off and damaged records."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from pytest_overfit.health.readers import read_run, trackers
from pytest_overfit.health.run import BadRun, Run
from tests.health.event_files import Scalars, write_events


def points(run: Run, name: str) -> list[tuple[float, float]]:
    return list(zip(run.curves[name].at, run.curves[name].values, strict=True))


LIGHTNING: Scalars = [
    (4, {"train_loss_step": 4.5, "epoch": 0}),
    (9, {"train_loss_step": 4.0, "epoch": 0}),
    (9, {"train_loss_epoch": 4.25, "val_loss": 5.0, "epoch": 0}),
    (14, {"train_loss_step": 3.5, "epoch": 1}),
    (19, {"train_loss_step": 3.0, "epoch": 1}),
    (19, {"train_loss_epoch": 3.25, "val_loss": 4.5, "epoch": 1}),
]


@pytest.mark.parametrize("tensors", [False, True])
def test_scalars_are_read_on_the_clock_of_epochs(tmp_path: Path, tensors: bool) -> None:
    run = read_run(write_events(tmp_path, LIGHTNING, tensors=tensors))
    assert run.clock == "epoch"
    assert points(run, "train_loss") == [(0, 4.25), (1, 3.25)]
    assert points(run, "val_loss") == [(0, 5.0), (1, 4.5)]
    assert points(run, "train_loss_step") == [(0.4, 4.5), (0.9, 4.0), (1.4, 3.5), (1.9, 3.0)]
    assert run.warnings == ()


def test_without_an_epoch_steps_count(tmp_path: Path) -> None:
    run = read_run(write_events(tmp_path, [(10, {"Loss/train": 4.5}), (20, {"Loss/train": 4.0})]))
    assert (run.clock, points(run, "train_loss")) == ("step", [(10, 4.5), (20, 4.0)])


def test_several_files_of_a_folder_are_one_run_resumed(tmp_path: Path) -> None:
    write_events(tmp_path, LIGHTNING, suffix=".a")
    write_events(
        tmp_path,
        [(step + 10, {**values, "epoch": values["epoch"] + 1}) for step, values in LIGHTNING],
        suffix=".b",
    )
    run = read_run(tmp_path)
    assert points(run, "val_loss") == [(0, 5.0), (1, 4.5), (1, 5.0), (2, 4.5)]
    assert run.curve("val_loss").values == (5.0, 5.0, 4.5)
    assert run.warnings == (
        (
            "train_loss_step: goes back to an earlier epoch 1 time; of a repeated epoch the last "
            "value counts"
        ),
    )


def test_a_resumed_session_replaces_what_was_told_from_its_start_on(tmp_path: Path) -> None:
    first = write_events(tmp_path, LIGHTNING, suffix=".a", starts=0)
    first.rename(tmp_path / "events.out.tfevents.1000000000.host.7.9")
    again = [
        (step, {name: value - 0.5 if "loss" in name else value for name, value in values.items()})
        for step, values in LIGHTNING[3:]
    ]
    second = write_events(tmp_path, again, suffix=".b", starts=14)
    second.rename(tmp_path / "events.out.tfevents.1000000000.host.7.10")
    run = read_run(tmp_path)
    assert points(run, "val_loss") == [(0, 5.0), (1, 4.0)]
    assert points(run, "train_loss_step") == [(0.4, 4.5), (0.9, 4.0), (1.4, 3.0), (1.9, 2.5)]
    assert run.warnings == ()


def test_events_without_the_version_of_their_format_are_read(tmp_path: Path) -> None:
    path = write_events(tmp_path, LIGHTNING)
    whole = path.read_bytes()
    length = 8 + 4 + int.from_bytes(whole[:8], "little") + 4
    assert b"brain.Event:" in whole[:length]
    told = points(read_run(tmp_path), "val_loss")
    path.write_bytes(whole[length:])
    assert points(read_run(tmp_path), "val_loss") == told


def test_texts_pictures_and_tensors_of_many_numbers_are_passed_over(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    values = [
        Summary.Value(tag="text", tensor=make_tensor_proto("hello")),
        Summary.Value(tag="many", tensor=make_tensor_proto([1.0, 2.0])),
        Summary.Value(tag="none", tensor=make_tensor_proto([], dtype=None)),
        Summary.Value(
            tag="picture",
            image=Summary.Image(height=1, width=1, encoded_image_string=b"x" * 100_000),
        ),
        Summary.Value(tag="val_loss", simple_value=4.5),
    ]
    writer.add_event(Event(step=1, wall_time=1e9, summary=Summary(value=values)))
    writer.close()
    assert set(read_run(tmp_path).curves) == {"val_loss"}


def test_a_record_too_large_for_scalars_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_events(
        tmp_path, [(1, {"val_loss": 4.5}), (2, {"x" * 5_000: 1.0}), (3, {"val_loss": 4.0})]
    )
    monkeypatch.setattr(trackers, "LARGEST_RECORD", 1_000)
    run = read_run(path)
    assert points(run, "val_loss") == [(1, 4.5), (3, 4.0)]
    assert run.warnings == (f"{path}: 1 record of more than 0 MiB passed over",)


@pytest.mark.parametrize("missing", [1, 4, 10, 25])
def test_a_record_cut_off_at_the_end_is_a_complaint(tmp_path: Path, missing: int) -> None:
    path = write_events(tmp_path, [(10, {"val_loss": 4.5}), (20, {"val_loss": 4.0})])
    path.write_bytes(path.read_bytes()[:-missing])
    run = read_run(path)
    assert points(run, "val_loss") == [(10, 4.5)]
    assert [
        warning.partition("the record at byte ")[2].split(" ", 1)[1] for warning in run.warnings
    ] == ["is cut off: left out"]


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\xff" * 100])
def test_zeros_or_rubbish_at_the_end_are_a_complaint(tmp_path: Path, tail: bytes) -> None:
    path = write_events(tmp_path, [(10, {"val_loss": 4.5})])
    path.write_bytes(path.read_bytes() + tail)
    run = read_run(path)
    assert points(run, "val_loss") == [(10, 4.5)]
    assert [warning.endswith("is damaged: the rest is left out") for warning in run.warnings] == [
        True
    ]


def test_a_record_that_is_no_event_is_a_complaint(tmp_path: Path) -> None:
    path = write_events(tmp_path, [(10, {"val_loss": 4.5})])
    path.write_bytes(
        path.read_bytes()
        + struct.pack("<QI", 4, trackers._checksum(4))
        + b"\xff\xff\xff\xff"
        + b"\0" * 4
    )
    run = read_run(path)
    assert [warning.endswith("is no event: the rest is left out") for warning in run.warnings] == [
        True
    ]


def test_folders_named_after_splits_are_parts_of_a_run(tmp_path: Path) -> None:
    write_events(tmp_path / "train", [(step, {"epoch_loss": 4.5 - step}) for step in range(3)])
    write_events(tmp_path / "validation", [(step, {"epoch_loss": 5.5 - step}) for step in range(3)])
    run = read_run(tmp_path)
    assert points(run, "val_loss") == [(0, 5.5), (1, 4.5), (2, 3.5)]
    assert points(run, "train_loss") == [(0, 4.5), (1, 3.5), (2, 2.5)]


def test_add_scalars_of_a_summary_writer(tmp_path: Path) -> None:
    write_events(tmp_path, [(10, {"lr": 0.5})])
    write_events(tmp_path / "Loss_train", [(10, {"Loss": 4.5})])
    write_events(tmp_path / "Loss_val", [(10, {"Loss": 5.5})])
    run = read_run(tmp_path)
    assert {name: curve.values for name, curve in run.curves.items()} == {
        "lr": (0.5,),
        "train_loss": (4.5,),
        "val_loss": (5.5,),
    }


def test_without_tensorboard_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_events(tmp_path, [(10, {"val_loss": 4.5})])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(BadRun) as raised:
        read_run(path)
    assert (
        str(raised.value)
        == f"{path}: to read TensorBoard event files, pip install pytest-overfit[curves]"
    )
