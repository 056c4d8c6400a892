"""Several runs beside each other: the best comes first, and each keeps its own name, verdict and
onset.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_overfit.health import comparison
from pytest_overfit.health.checkup import Checkup, check_up
from pytest_overfit.health.comparison_picture import draw, save_comparison
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.readers import read_runs
from pytest_overfit.health.run import BadRun, Run


def checked(name: str, clock: str = "epoch", **values: list[float]) -> Checkup:
    curves = {
        metric: Curve(at=tuple(range(1, len(one) + 1)), values=tuple(one))
        for metric, one in values.items()
    }
    return check_up(Run(name=name, clock=clock, curves=curves))  # type: ignore[arg-type]


FALLING = [5.0, 4.0, 3.0, 2.5, 2.0]


@pytest.mark.parametrize(
    ("runs", "measure", "order"),
    [
        (
            [checked("a", val_loss=FALLING), checked("b", val_loss=[4.0, 1.5, 3.0])],
            "val_loss",
            ["b", "a"],
        ),
        # An error rate says more than a loss, whatever the loss.
        (
            [
                checked("a", val_loss=[1.0, 0.5], val_wer=[0.9, 0.8]),
                checked("b", val_loss=[9.0, 8.0], val_wer=[0.5, 0.6]),
            ],
            "val_wer",
            ["b", "a"],
        ),
        (
            [checked("a", val_bleu=[10.0, 12.0]), checked("b", val_bleu=[11.0, 9.0])],
            "val_bleu",
            ["a", "b"],
        ),
        # What only one tells ranks nothing where all tell something else.
        (
            [checked("a", val_cer=[0.5], val_wer=[0.4]), checked("b", val_cer=[0.3])],
            "val_cer",
            ["b", "a"],
        ),
        (
            [checked("a", train_loss=FALLING), checked("b", val_loss=FALLING)],
            "val_loss",
            ["b", "a"],
        ),
        (
            [checked("a", val_wer=[float("nan")]), checked("b", val_wer=[0.7, float("nan")])],
            "val_wer",
            ["b", "a"],
        ),
        ([checked("a", train_loss=FALLING), checked("b", train_loss=FALLING)], None, ["a", "b"]),
    ],
)
def test_runs_are_ranked_by_what_all_of_them_tell(
    runs: list[Checkup], measure: str | None, order: list[str]
) -> None:
    assert comparison.measure_of([one.run for one in runs]) == measure
    assert [one.run.name for one in comparison.ranked(runs)] == order


def test_the_table_tells_the_best_and_its_place_in_the_log(tmp_path: Path) -> None:
    for name, wers in {"small": ("90", "70"), "large": ("80", "60.5")}.items():
        (tmp_path / name).mkdir()
        rows = "".join(f"{epoch},{5 - epoch}.25,{wer}\n" for epoch, wer in enumerate(wers, 1))
        (tmp_path / name / "metrics.csv").write_text("epoch,val_loss,val_wer\n" + rows)
    checkups = [check_up(run) for run in read_runs([tmp_path])]
    text = comparison.text(checkups)
    assert text.startswith("2 runs, best first")
    assert text.index("large") < text.index("small")
    assert text.endswith("best       large: WER 60.5 % at epoch 2 (metrics.csv:3)")
    content = json.loads(comparison.to_json(checkups))
    assert (
        content["best"],
        content["ranked_by"],
        [run["run"]["name"] for run in content["runs"]],
    ) == (
        "large",
        "val_wer",
        ["large", "small"],
    )


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("a/log", "b/log"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.csv").write_text("epoch,val_loss\n1,3.0\n2,2.0\n")
    assert [
        run.name
        for run in read_runs(
            [tmp_path / "a" / "log" / "metrics.csv", tmp_path / "b" / "log" / "metrics.csv"]
        )
    ] == [
        "a/log/metrics.csv",
        "b/log/metrics.csv",
    ]


def test_logs_of_one_folder_that_contradict_each_other_are_runs_of_their_own(
    tmp_path: Path,
) -> None:
    for name, loss in {"first.log": 3.0, "second.log": 2.0}.items():
        (tmp_path / name).write_text(f"Epoch 1: val loss {loss}\nEpoch 2: val loss {loss - 0.5}\n")
    assert sorted(run.name for run in read_runs([tmp_path])) == ["first.log", "second.log"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("epoch,val_loss\n1,3.0\n")
    with pytest.raises(BadRun, match=r"no\.csv: no such file or folder"):
        read_runs([tmp_path / "a.csv", tmp_path / "no.csv"])


def test_one_picture_names_every_run(tmp_path: Path) -> None:
    runs = [
        checked(f"run {n}", val_loss=[value + n for value in FALLING], train_loss=FALLING)
        for n in range(9)
    ]
    figure = draw(runs)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["validation loss", "training loss"]
    written = [text.get_text() for text in figure.texts]
    assert written[0] == "9 runs, best first: run 0"
    assert [line.split(":")[0] for line in written[1:]] == [f"run {n}" for n in range(9)]
    assert [path.suffix for path in save_comparison(runs, tmp_path / "deep", name="x")] == [
        ".png",
        ".svg",
    ]


def test_runs_on_different_clocks_share_an_axis_of_shares() -> None:
    figure = draw(
        [checked("a", val_loss=FALLING), checked("b", clock="step", val_loss=[3.0, 2.0, 1.0])]
    )
    assert figure.axes[-1].get_xlabel() == "share of the run"
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 1]
    assert {(min(line.get_xdata()), max(line.get_xdata())) for line in lines} == {(0.0, 1.0)}
