"""What cannot be read is refused, or left out and told, in one clear line each."""

from __future__ import annotations

import gzip
import pickle
import random
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_overfit.health.readers import read_run
from pytest_overfit.health.readers.folder import LOOKED_FOR
from pytest_overfit.health.readers.formats import JSON_WITHOUT_ROWS
from pytest_overfit.health.run import BadRun, Run

JSONL = '{"epoch": 1, "train_loss": 4.5, "val_loss": 4.6}\n{"epoch": 2, "train_loss": 4.25, "val_loss": 4.5}\n'


def refused(path: Path) -> str:
    with pytest.raises(BadRun) as raised:
        read_run(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def read(path: Path, content: bytes | str) -> Run:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_run(path)


def test_no_such_path(tmp_path: Path) -> None:
    assert (
        refused(tmp_path / "x.log")
        == f"{tmp_path}/x.log: no such file or folder; give a log or the folder that it is in"
    )


def test_a_folder_without_a_log(tmp_path: Path) -> None:
    looked_for = f"looked for {LOOKED_FOR}. Give the log itself"
    assert refused(tmp_path) == f"{tmp_path}: no log in it; {looked_for}"
    (tmp_path / "metrics.csv").write_text("")
    why = f"{tmp_path}/metrics.csv: empty; give the log of a run that has logged an epoch"
    assert refused(tmp_path) == f"{tmp_path}: no log in it ({why}); {looked_for}"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.log", b"", "empty; give the log of a run that has logged an epoch"),
        ("train.log", b" \n\n", "empty; give the log of a run that has logged an epoch"),
        (
            "history.pkl",
            pickle.dumps({"loss": [1.0]}),
            (
                "a pickle, which is not opened here since that runs what is in it; give the log of "
                "the run"
            ),
        ),
        ("train.log.gz", gzip.compress(JSONL.encode(), mtime=0), "compressed; unpack it first"),
        (
            "train.log",
            "\ufeffEpoch 1: Train 4.5".encode("utf-16-le"),
            "text in UTF-16; save it as UTF-8",
        ),
        (
            "metrics.csv",
            random.Random(0).randbytes(2_000),
            "binary, and no TensorBoard event file; give a log",
        ),
        ("metrics.csv", b"\xfc" * 50, "binary, and no TensorBoard event file; give a log"),
        ("config.json", b'{\n "epochs": 5\n}', JSON_WITHOUT_ROWS),
        (
            "metrics.csv",
            b"frames,length\n1,2\n",
            "a csv with the columns frames, length: none counts epochs or steps, and none is a "
            "known metric; name one epoch or step, and say what "
            "the others are with --overfit-metric val_loss=COLUMN",
        ),
        (
            "log.jsonl",
            b'{"train_loss": 3}\n',
            "no metric with an epoch or a step in this JSON lines",
        ),
        (
            "train.log",
            b"loss was 3\nEpoch 3 begins\n",
            "no metric with an epoch or a step in this plain log; give a log with both",
        ),
        (
            "metrics.csv",
            b"epoch,val_loss\n",
            "no metric with an epoch or a step in this csv; give a log with both",
        ),
        ("log.jsonl", b'{"epoch": 1, "train_', "the last line, 1, is cut off: left out"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "bytes",
)
def test_what_is_no_log_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert message.startswith(f"{tmp_path}/{name}: ")
    assert words in message


def test_an_archive_is_no_log(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "last.ckpt", "w") as archive:
        archive.writestr("data.pkl", "x")
    message = (
        f"{tmp_path}/last.ckpt: a checkpoint or archive, which holds no curves; give the log of "
        "the run, or the folder that has both"
    )
    assert refused(tmp_path / "last.ckpt") == message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.jsonl", JSONL + '{"epoch": 3, "train_lo'),
        ("metrics.csv", "epoch,train_loss,val_loss\n1,4.5,4.6\n2,4.25,4.5\n3,4"),
    ],
)
def test_a_last_line_cut_off_is_told(tmp_path: Path, name: str, content: str) -> None:
    run = read(tmp_path / name, content)
    assert run.curves["val_loss"].values == (4.6, 4.5)
    line = content.count("\n") + 1
    assert run.warnings == (f"{tmp_path}/{name}: the last line, {line}, is cut off: left out",)


def test_a_state_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    whole = (Path(__file__).parent / "specimens" / "trainer_state.json").read_text()
    run = read(tmp_path / "trainer_state.json", whole[: whole.index('"eval_wer": 0.8')])
    assert run.curves["val_wer"].values == (0.9,)
    assert run.warnings == (
        f"{tmp_path}/trainer_state.json: the JSON is cut off or damaged: read up to there",
    )


@given(cut=st.integers(1, len(JSONL)))
def test_a_log_cut_anywhere_is_read_or_refused(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "log.jsonl"
    path.write_text(JSONL[:cut])
    whole_lines = JSONL[:cut].count("}")
    if whole_lines:
        assert read_run(path).curves["val_loss"].values == (4.6, 4.5)[:whole_lines]
    else:
        assert refused(path)


@example(content=b'epoch,val_loss\n1,"4.5\r"x\n')
@example(
    content=b"9" * 400
    + b" parameters\nEpoch 1/"
    + b"9" * 5000
    + b": Train 4.5\nEpoch inf: Train 4.5\n"
)
@example(content=b'{"log_history": [{"epoch": ' + b"9" * 5000 + b', "loss": 3}]}')
@example(content=b"[" * 100_000)
@given(content=st.binary(min_size=0, max_size=300) | st.text(max_size=300).map(str.encode))
def test_rubbish_is_refused_or_read_but_never_breaks_the_reader(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rubbish") / "train.log"
    path.write_bytes(content)
    outcome = ""
    try:
        outcome = "a run" * bool(read_run(path).curves)
    except BadRun as error:
        outcome = str(error)
    assert outcome.startswith(("a run", str(path)))


def test_two_formats_in_one_file_are_told(tmp_path: Path) -> None:
    text = "starting\n" + JSONL + "Epoch 3: Train 4.1 | Val 4.2\n"
    run = read(tmp_path / "train.log", text)
    assert run.curves["val_loss"].values == (4.6, 4.5)
    assert run.warnings == (
        (
            f"{tmp_path}/train.log: 2 lines left out: not a JSON object (the first is line 1: "
            "'starting')"
        ),
    )


def test_rows_of_another_table_are_told(tmp_path: Path) -> None:
    run = read(
        tmp_path / "metrics.csv", "epoch,val_loss\n1,4.5\n2,4.25,extra\n\nEpoch 3 done\n4,4.0\n"
    )
    assert run.curves["val_loss"].at == (1, 4)
    what = (
        "2 lines left out: not a row of this csv (the first is line 3: 3 fields where the header "
        "has 2)"
    )
    assert run.warnings[0] == f"{tmp_path}/metrics.csv: {what}"


def test_a_header_that_comes_again_starts_its_columns_anew(tmp_path: Path) -> None:
    run = read(
        tmp_path / "metrics.csv",
        "epoch,val_loss\n1,4.5\nepoch,lr,val_loss\n2,0.1,4.25\nval_loss,lr,epoch\n4.0,0.1,3\n",
    )
    assert run.curves["val_loss"].at == (1, 2, 3)
    assert run.curves["val_loss"].values == (4.5, 4.25, 4.0)
    assert run.warnings == ()


def test_what_is_not_utf8_is_replaced_and_told(tmp_path: Path) -> None:
    run = read(
        tmp_path / "train.log",
        "Epoch 1: Train 4.5 | Val 4.6\nTarget: GRÜN\nPred: GRÜN\n".encode("latin-1"),
    )
    assert run.curves["val_loss"].values == (4.6,)
    assert run.warnings == (
        (
            f"{tmp_path}/train.log: 2 lines not UTF-8: what could not be read there was replaced "
            "(the first is line 2)"
        ),
    )


def test_epochs_missing_and_repeated_are_told(tmp_path: Path) -> None:
    run = read(
        tmp_path / "train.log",
        "".join(f"Epoch {epoch}: val_loss 4.5\n" for epoch in (1, 2, 2, 5, 6, 9)),
    )
    assert run.warnings == (
        "val_loss: 1 epoch told more than once; the last value counts",
        "4 epochs missing from the log: 3-4, 7-8",
    )


def test_a_log_of_every_fifth_epoch_misses_none(tmp_path: Path) -> None:
    run = read(
        tmp_path / "train.log",
        "".join(f"Epoch {epoch}: val_loss 4.5\n" for epoch in (5, 10, 15, 20, 30)),
    )
    assert run.warnings == ("1 epoch missing from the log: 25",)


def test_rows_without_a_clock_are_counted(tmp_path: Path) -> None:
    run = read(tmp_path / "log.jsonl", '{"config": {"lr": 0.1}}\n' + JSONL)
    assert run.warnings == (
        f"{tmp_path}/log.jsonl: 1 line left out: neither epoch nor step (line 1)",
    )
