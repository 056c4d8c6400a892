"""Logs as the tools of speech, handwriting and sign recognition write them: what each says is read
with its place, and nothing else is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pytest_overfit.health.curves.metric import metric
from pytest_overfit.health.readers import read_run
from pytest_overfit.health.run import BadRun, Run

Points = list[tuple[float, float]]

FORMATS = Path(__file__).parent / "specimens" / "formats"
PLAIN: dict[str, dict[str, Points]] = {
    "fairseq": {
        "train_loss": [(1, 700.5), (2, 300.5)],
        "val_loss": [(1, 650.2), (2, 250.2)],
        "val_wer": [(1, 1.0), (2, 0.605)],
        "val_ler": [(1, 0.801), (2, 0.301)],
    },
    "fairseq_hydra_train_log": {
        "train_loss": [(1, 700.1), (2, 300.4)],
        "val_loss": [(1, 650.2), (2, 260.9)],
        "val_wer": [(1, 1.0), (2, 0.825)],
    },
    "hugging_face_console": {
        "train_loss": [(1, 9.1), (2, 3.0)],
        "val_wer": [(1, 0.95), (2, 0.62)],
        "lr": [(1, 0.0003), (2, 0.0002)],
    },
    "espnet": {
        "train_loss": [(1, 400.3), (2, 200.3)],
        "val_loss": [(1, 379.9), (2, 179.9)],
        "val_wer": [(1, 1.0), (2, 0.9)],
        "val_cer": [(1, 1.01), (2, 0.5)],
    },
    "wenet": {"train_loss": [(0, 92.6), (1, 42.6)], "val_loss": [(0, 61.4), (1, 30.2)]},
    "wav2letter": {
        "train_loss": [(6, 34.2), (7, 24.2)],
        "train_wer": [(6, 0.981), (7, 0.71)],
        "val_loss": [(6, 19.7), (7, 15.7)],
        "val_wer": [(6, 0.97), (7, 0.615)],
    },
    "speechbrain": {
        "train_loss": [(31, 9.1), (32, 9.0), (33, 8.8)],
        "val_loss": [(31, 8.0), (32, 7.9), (33, 7.8)],
        "val_wer": [(31, 0.029), (32, 0.027), (33, 0.024)],
    },
    "paddlespeech": {"val_loss": [(0, 80.2), (1, 44.4)]},
    "paddleocr": {
        "train_loss": [(1, 6.6), (2, 3.6)],
        "train_accuracy": [(1, 0.18), (2, 0.58)],
        "val_accuracy": [(1, 0.21), (2, 0.51)],
    },
    "kraken": {"val_accuracy": [(0, 0.801), (1, 0.825)]},
    "calamari": {"train_loss": [(100, 120.5), (200, 60.25), (300, 30.5)]},
    "crnn_pytorch": {
        "train_loss": [
            (1.33, 22.8),
            (1.6633333333333333, 18.4),
            (1.9966666666666666, 15.1),
            (2.33, 12.2),
        ]
    },
    "deep_text_recognition_benchmark": {
        "train_loss": [(1, 2.5), (500, 0.5), (1000, 0.25)],
        "val_loss": [(1, 2.25), (500, 1.25), (1000, 1.5)],
        "val_accuracy": [(1, 0), (500, 0.415), (1000, 0.455)],
    },
    "corrnet": {"train_loss": [(0, 10.8712), (1, 5.8712)], "val_wer": [(0, 0.892), (1, 0.692)]},
    "deepspeech_pytorch": {
        "train_loss": [(1, 270.1), (2, 110.1)],
        "val_wer": [(1, 0.951), (2, 0.751)],
        "val_cer": [(1, 0.601), (2, 0.401)],
    },
    "icefall": {"train_loss": [(1, 3.2), (2, 1.2)], "val_loss": [(1, 1.9), (2, 0.95)]},
    "nemo": {"val_wer": [(0, 0.85), (1, 0.55)]},
    "tensorflow": {
        "train_loss": [(1, 726.3), (2, 526.3)],
        "val_loss": [(1, 167.6), (2, 137.6)],
        "val_ler": [(1, 1.0), (2, 0.9)],
    },
    "opennmt": {
        "train_loss": [(50, 3.29), (100, 2.01), (150, 1.5)],
        "val_perplexity": [(100, 5.5)],
        "val_accuracy": [(100, 0.445)],
    },
    "joeynmt_validations": {
        "val_loss": [(1000, 41.2), (2000, 33.5)],
        "val_bleu": [(1000, 0.04), (2000, 1.1)],
        "lr": [(1000, 0.0003), (2000, 0.0003)],
    },
    "joeynmt": {
        "train_loss": [(1, 4.26), (2, 3.1)],
        "val_loss": [(1, 4.02), (2, 3.05)],
        "val_accuracy": [(1, 0.09), (2, 0.19)],
    },
    "line_an_epoch": {
        "train_loss": [(1, 79.8), (2, 55.6), (3, 44.7)],
        "val_wer": [(1, 1.815), (2, 0.998), (3, 1.021)],
        "lr": [(1, 0.0001), (2, 0.0001), (3, 0.0001)],
    },
    "table_of_a_model_card": {
        "train_loss": [(4.89, 0.0221)],
        "val_loss": [(2.44, 0.3075), (4.89, 0.3558)],
        "val_wer": [(2.44, 0.346313), (4.89, 0.331329)],
    },
    "table_of_fastai": {
        "train_loss": [(0, 5.123), (1, 3.2)],
        "val_loss": [(0, 4.9), (1, 3.1)],
        "val_cer": [(0, 0.98), (1, 0.7)],
    },
}
"""By tool: curves in its specimen. Other metrics may be in it too."""


def read(folder: Path, name: str, text: str) -> Run:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return read_run(path)


def points(run: Run, name: str) -> Points:
    return list(zip(run.curves[name].at, run.curves[name].values, strict=True))


@pytest.mark.parametrize("tool", PLAIN)
def test_a_plain_log_is_read(tool: str) -> None:
    run = read_run(FORMATS / f"{tool}.log")
    for name, curve in PLAIN[tool].items():
        places, values = zip(*curve, strict=True)
        assert run.curves[name].values == pytest.approx(values), name
        assert run.curves[name].at == pytest.approx(places, abs=0.02), name


@pytest.mark.parametrize("tool", PLAIN)
def test_every_reading_names_its_line(tool: str) -> None:
    path = FORMATS / f"{tool}.log"
    run, lines = read_run(path), path.read_text(encoding="utf-8").split("\n")
    for name in PLAIN[tool]:
        assert len(run.curves[name].where) == len(run.curves[name])
        for point in run.curves[name].points:
            assert point.where is not None
            assert (
                str(point.where) == f"{path.name}:{point.where.number}" == run.cite(name, point.at)
            )
            assert any(character.isdigit() for character in lines[point.where.number - 1])


def test_lists_of_one_object_are_curves(tmp_path: Path) -> None:
    run = read(
        tmp_path,
        "history.json",
        json.dumps(
            {"loss": [3.1, 2.0, 1.2], "val_loss": [2.9, 2.1, 1.6], "val_wer": [1.0, 0.8, None]}
        ),
    )
    assert points(run, "train_loss") == [(1, 3.1), (2, 2.0), (3, 1.2)]
    assert points(run, "val_loss") == [(1, 2.9), (2, 2.1), (3, 1.6)]
    assert str(run.where("val_loss", 2)) == "history.json, entry 2"


def test_lists_may_stand_below_others_and_count_their_epochs(tmp_path: Path) -> None:
    run = read(
        tmp_path,
        "history.json",
        json.dumps(
            {
                "model": "x",
                "history": {
                    "epoch": [0, 5, 10],
                    "train": {"loss": [3, 2, 1]},
                    "val": {"loss": [4, 3, 3]},
                },
            },
            indent=1,
        ),
    )
    assert points(run, "train_loss") == [(0, 3), (5, 2), (10, 1)]
    assert points(run, "val_loss") == [(0, 4), (5, 3), (10, 3)]


def test_a_longer_list_of_training_is_spread_between_epochs(tmp_path: Path) -> None:
    run = read(
        tmp_path,
        "history.json",
        json.dumps({"train_loss": [6, 5, 4, 3, 2, 1], "val_loss": [5.5, 3.5, 2.5]}),
    )
    assert points(run, "val_loss") == [(1, 5.5), (2, 3.5), (3, 2.5)]
    assert points(run, "train_loss") == [(0.5, 6), (1, 5), (1.5, 4), (2, 3), (2.5, 2), (3, 1)]


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "valid"), ("training", "dev")])
def test_lists_of_splits_alone_are_losses_where_training_falls(
    names: tuple[str, str], tmp_path: Path
) -> None:
    train, val = names
    run = read(tmp_path, "history.json", json.dumps({train: [3, 2, 1], val: [3.5, 3, 2.5]}))
    assert points(run, "train_loss") == [(1, 3), (2, 2), (3, 1)]
    assert points(run, "val_loss") == [(1, 3.5), (2, 3), (3, 2.5)]


def test_lists_of_splits_alone_that_rise_may_be_anything(tmp_path: Path) -> None:
    with pytest.raises(BadRun, match=re.escape("history.json")):
        read(tmp_path, "history.json", json.dumps({"train": [0.1, 0.2, 0.9], "val": [0, 0.1, 0.2]}))


def test_a_list_that_tells_of_validation_goes_before_a_longer_one_of_batches(
    tmp_path: Path,
) -> None:
    batches = [{"global_step": 10 * i, "epoch": 1 + i // 4, "train_loss": 9 - i} for i in range(8)]
    epochs = [{"epoch": i, "avg_train_loss": 4 - i, "avg_val_loss": 5 - i} for i in (1, 2)]
    run = read(tmp_path, "metrics.json", json.dumps({"batches": batches, "epochs": epochs}))
    assert points(run, "train_loss") == [(1, 3), (2, 2)]
    assert points(run, "val_loss") == [(1, 4), (2, 3)]


@pytest.mark.parametrize(
    "content",
    [
        {"1": {"train_loss": 3.0, "val_loss": 2.9}, "2": {"train_loss": 2.0, "val_loss": 2.1}},
        {
            "config": {"lr": 1},
            "history": [
                {"epoch": 1, "train_loss": 3.0, "val_loss": 2.9},
                {"epoch": 2, "train_loss": 2.0, "val_loss": 2.1},
            ],
            "best": 2,
        },
    ],
)
def test_rows_within_an_object_are_read(tmp_path: Path, content: object) -> None:
    run = read(tmp_path, "log.json", json.dumps(content, indent=2))
    assert points(run, "train_loss") == [(1, 3.0), (2, 2.0)]
    assert points(run, "val_loss") == [(1, 2.9), (2, 2.1)]


@pytest.mark.parametrize(
    ("text", "clock", "expected"),
    [
        (
            "Epoch,ctc_loss,val_ctc_loss\nEpoch 0,300.1,260.2\nEpoch 1,200.3,155.7\n",
            "epoch",
            [(0, 260.2), (1, 155.7)],
        ),
        (
            "train_loss,val_loss\n3.5,3.25\n2.5,2.25\n1.5,1.25\n",
            "epoch",
            [(1, 3.25), (2, 2.25), (3, 1.25)],
        ),
        (
            "step,metric,value\n100,train_loss,3.2\n100,val_loss,3.1\n200,val_loss,2.4\n",
            "step",
            [(100, 3.1), (200, 2.4)],
        ),
        (
            '"Step","a run - val/loss","a run - val/loss__MIN","a run - val/loss__MAX"\n"100","3.2","3.1","3.3"\n"200","2.2","2.2","2.2"\n',
            "step",
            [(100, 3.2), (200, 2.2)],
        ),
        (
            "%Iter\tduration\ttrain_objective\tvalid_objective\tdifference\n5\t9.0\t-0.8\t-0.9\t0.1\n9\t9.0\t-0.6\t-0.7\t0.1\n",
            "step",
            [(5, 0.9), (9, 0.7)],
        ),
        (
            "# epoch, train_loss, val_loss\n1, 3.5, 3.25\n2, 2.5, 2.25\n",
            "epoch",
            [(1, 3.25), (2, 2.25)],
        ),
        (
            "epoch,slt/train_loss,slt/val_loss\n1,3.5,3.25\n2,2.5,2.25\n",
            "epoch",
            [(1, 3.25), (2, 2.25)],
        ),
    ],
)
def test_tables_of_many_kinds(tmp_path: Path, text: str, clock: str, expected: Points) -> None:
    run = read(tmp_path, "metrics.csv", text)
    assert (run.clock, points(run, "val_loss")) == (clock, expected)


def test_mlflow_keeps_a_file_a_metric(tmp_path: Path) -> None:
    folder = tmp_path / "mlruns" / "0" / "1234abcd"
    for name, text in {
        "metrics/train_loss": "1700000000000 3.5 100\n1700000001000 2.5 200\n",
        "metrics/val/loss": "1700000000500 3.25 100\n1700000001500 2.25 200\nrubbish\n",
        "params/epochs": "10",
        "meta.yaml": "artifact_uri: x\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    run = read_run(tmp_path / "mlruns")
    assert points(run, "train_loss") == [(100, 3.5), (200, 2.5)]
    assert points(run, "val_loss") == [(100, 3.25), (200, 2.25)]
    assert run.warnings == (
        f"{folder}/metrics/val/loss: 1 line left out: no time, value and step (line 3: 'rubbish')",
    )


def test_kaldi_keeps_a_log_an_iteration(tmp_path: Path) -> None:
    line = (
        "LOG (nnet3-chain-compute-prob[5.2]:PrintTotalStats():nnet-chain-diagnostics.cc:193) "
        "Overall log-probability for 'output{}' is {} per frame\n"
    )
    for iteration, split, value in [
        (9, "train", -0.5),
        (9, "valid", -0.75),
        (10, "train", -0.25),
        (10, "valid", -0.5),
        (100, "train", -0.125),
    ]:
        text = line.format("-xent", -9.5) + line.format("", value)
        (tmp_path / f"compute_prob_{split}.{iteration}.log").write_text(text)
    run = read_run(tmp_path)
    assert points(run, "train_loss") == [(9, 0.5), (10, 0.25), (100, 0.125)]
    assert points(run, "val_loss") == [(9, 0.75), (10, 0.5)]
    assert str(run.where("val_loss", 10)) == "compute_prob_valid.10.log:2"


def test_tensorboard_exports_a_file_a_tag(tmp_path: Path) -> None:
    for tag, values in {"train_loss": (3.5, 2.5), "val_loss": (3.25, 2.25)}.items():
        rows = "".join(
            f"170000000{n}.5,{100 * (n + 1)},{value}\n" for n, value in enumerate(values)
        )
        (tmp_path / f"run-x-tag-{tag}.csv").write_text("Wall time,Step,Value\n" + rows)
    run = read_run(tmp_path)
    assert points(run, "train_loss") == [(100, 3.5), (200, 2.5)]
    assert points(run, "val_loss") == [(100, 3.25), (200, 2.25)]


def test_every_canonical_curve_tells_what_it_measures(tmp_path: Path) -> None:
    run = read(
        tmp_path,
        "log.jsonl",
        '{"epoch": 1, "val_cer": 40, "val_bleu": 3.5, "val_acc": 61, "val_loss": 4.5, "lr": 0.1, "gap": 3}\n',
    )
    metrics = {name: metric(name) for name in run.curves}
    assert {name: (one.kind, one.better) for name, one in metrics.items() if one} == {
        "val_cer": ("error rate", "lower"),
        "val_bleu": ("score", "higher"),
        "val_accuracy": ("score", "higher"),
        "val_loss": ("loss", "lower"),
        "lr": ("recipe", None),
    }
    assert (
        run.curves["val_cer"].values,
        run.curves["val_accuracy"].values,
        run.curves["val_bleu"].values,
    ) == ((0.4,), (0.61,), (3.5,))
    assert run.not_understood == ("gap",)
    assert run.read_by("val") == "val_cer"


def varint(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def message(*fields: tuple[int, bytes]) -> bytes:
    """A protobuf message of fields that hold bytes."""
    return b"".join(varint(number << 3 | 2) + varint(len(data)) + data for number, data in fields)


def offline_history(rows: list[dict[str, object]]) -> bytes:
    """A file as Weights & Biases writes it; a record that does not fit into its block of 32 KiB
    goes on in the next.
    """
    written = b":W&B\xee\xdd\x00"
    for row in rows:
        items = [
            (
                1,
                message(
                    *((2, part.encode()) for part in name.split("/")),
                    (16, json.dumps(value).encode()),
                ),
            )
            for name, value in row.items()
        ]
        record, first = b"\x08\x01" + message((2, message(*items))), True
        while record or first:
            room = 32768 - len(written) % 32768
            if room < 7:
                written += bytes(room)
                continue
            part, record = record[: room - 7], record[room - 7 :]
            kind = (1 if not record else 2) if first else (3 if record else 4)
            written += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
            first = False
    return written


def test_the_history_of_weights_and_biases_is_read(tmp_path: Path) -> None:
    rows = [
        {
            "_step": 3 * n,
            "epoch": n,
            "train/loss": 5.0 - n,
            "val/loss": 5.5 - n,
            "note": "x" * 20_000,
        }
        for n in range(4)
    ]
    path = tmp_path / "offline-run-1" / "run-1.wandb"
    path.parent.mkdir()
    path.write_bytes(offline_history(rows))
    (path.parent / "files").mkdir()
    (path.parent / "files" / "wandb-summary.json").write_text('{"_step": 9, "train/loss": 2.0}')
    run = read_run(tmp_path)
    assert points(run, "val_loss") == [(0, 5.5), (1, 4.5), (2, 3.5), (3, 2.5)]
    assert str(run.where("train_loss", 2)) == "run-1.wandb, record 3"
    path.write_bytes(offline_history(rows)[:50_000])
    run = read_run(path)
    assert points(run, "train_loss") == [(0, 5.0), (1, 4.0)]
    assert run.warnings[0] == f"{path}: cut off or damaged: read up to there"
