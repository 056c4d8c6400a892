"""The examination by real logs itself: what counts as read, named and accused, on logs and labels
made here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from examination.real_logs import judge, main, totals
from examination.real_rivals import Said, ask, counts

RISING = [3.0, 2.0, 1.0, *(1.0 + 0.1 * n for n in range(1, 18))]


def labelled(folder: Path, name: str, *, label: dict[str, Any]) -> Path:
    """A run whose validation loss is best at epoch 3 and rises, and its label."""
    place = folder / name
    place.mkdir(parents=True)
    rows = "".join(
        f"{epoch},{3 * 0.7**epoch:.4f},{loss:.4f}\n" for epoch, loss in enumerate(RISING, 1)
    )
    (place / "metrics.csv").write_text("epoch,train_loss,val_loss\n" + rows)
    figures = {"count": 20, "first": 3.0, "best": 1.0, "best_at": 3, "last": 2.7}
    usual = {
        "train": None,
        "valid": figures,
        "rate": None,
        "verdict": ["stop"],
        "illness": ["overfits"],
        "onset": None,
        "notes": None,
    }
    (place / "label.json").write_text(json.dumps(usual | label))
    return place


ONSET = {"value": 3, "unit": "epoch", "tolerance": "one epoch"}


def test_a_run_read_and_named_as_its_label_says_is_right(tmp_path: Path) -> None:
    judged = judge(labelled(tmp_path, "a", label={"onset": ONSET}))
    assert (judged.misread, judged.verdict_right, judged.named, judged.onset, judged.accused) == (
        (),
        True,
        True,
        True,
        (),
    )


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"count": 30}, "20 readings, not 30"),
        ({"last": 2.5}, "last 2.7, not 2.5"),
        ({"best_at": 9}, "best not at 9"),
    ],
)
def test_each_figure_that_differs_is_misread(
    tmp_path: Path, figures: dict[str, float], words: str
) -> None:
    valid = {"count": 20, "first": 3.0, "best": 1.0, "best_at": 3, "last": 2.7} | figures
    assert judge(labelled(tmp_path, "a", label={"valid": valid})).misread == (f"valid: {words}",)


def test_a_figure_that_is_no_number_is_told_in_words(tmp_path: Path) -> None:
    figures = {"count": 20, "first": "nan", "best": 1.0, "best_at": 3, "last": "inf"}
    (misread,) = judge(labelled(tmp_path, "a", label={"valid": figures})).misread
    assert misread == "valid: first 3, not nan, last 2.7, not inf"


def test_an_objective_that_grows_towards_zero_is_its_loss_upside_down(tmp_path: Path) -> None:
    figures = {"count": 20, "first": -3.0, "best": -1.0, "best_at": 3, "last": -2.7}
    assert judge(labelled(tmp_path, "a", label={"valid": figures})).misread == ()


def test_a_metric_that_is_not_there_is_misread(tmp_path: Path) -> None:
    rate = {
        "name": "wer",
        "unit": "percent",
        "better": "lower",
        "count": 3,
        "first": 90,
        "best": 60,
        "best_at": 3,
        "last": 60,
    }
    assert judge(labelled(tmp_path, "a", label={"rate": rate})).misread == ("rate (wer): not read",)


def test_a_finding_where_nothing_is_wrong_is_an_accusation(tmp_path: Path) -> None:
    judged = judge(labelled(tmp_path, "a", label={"verdict": ["go on"], "illness": []}))
    assert not judged.verdict_right
    assert {"validation_loss_rises", "stopped"} <= set(judged.accused)


def test_an_onset_elsewhere_is_wrong(tmp_path: Path) -> None:
    assert judge(labelled(tmp_path, "a", label={"onset": ONSET | {"value": 12}})).onset is False


def test_a_log_that_cannot_be_read_is_wrong_in_all(tmp_path: Path) -> None:
    place = labelled(tmp_path, "a", label={"onset": ONSET})
    (place / "metrics.csv").write_text("")
    judged = judge(place)
    assert "no log in it" in judged.misread[0]
    assert (judged.verdict_right, judged.named, judged.onset) == (False, False, False)


def test_the_totals_count_every_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    all_judged = [
        judge(labelled(tmp_path, "sick", label={"onset": ONSET})),
        judge(labelled(tmp_path, "well", label={"verdict": ["go on"], "illness": []})),
    ]
    text = totals(all_judged)
    assert [line.split()[-3:] for line in text.splitlines()] == [
        ["2", "of", "2"],
        ["1", "of", "2"],
        ["1", "of", "1"],
        ["1", "of", "1"],
        ["1", "of", "1"],
        ["1", "of", "1"],
        ["1", "of", "1"],
    ]
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(text + "\n")


ANSWERS = {
    "runmedic": [
        {
            "roles": {"train_loss": ["a"], "val_loss": ["b"]},
            "findings": [{"check": "overfitting", "step": 3.0, "severity": "warning"}],
        }
    ],
    "trainspotter": {
        "run": {"metrics": {"train/loss": {}, "eval/loss": {}}},
        "findings": [{"detector": "spikes", "step_start": 3, "severity": "error"}],
    },
    "losslint": {
        "runs": [{"series": ["loss", "eval_loss"]}],
        "findings": [{"check": "overfit_onset", "severity": "info", "details": {"since_step": 9}}],
    },
    "finetune-doctor": {"run": {"eval_metrics": ["eval_wer"]}, "findings": []},
}


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        # (read, sick named, onset right, sound runs accused) of one sick and one sound run
        ("runmedic", (2, 1, 1, 1)),
        ("trainspotter", (2, 0, 0, 1)),
        ("losslint", (2, 1, 0, 0)),
        ("finetune-doctor", (0, 0, 0, 0)),
    ],
)
def test_what_another_tool_says_is_counted(
    tmp_path: Path, tool: str, expected: tuple[int, ...]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / tool).write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(ANSWERS[tool])}\nEND\n")
    (programs / tool).chmod(0o755)
    sick, well = (
        labelled(tmp_path, "sick", label={"onset": ONSET}),
        labelled(tmp_path, "well", label={"illness": []}),
    )
    judged = [
        (json.loads((place / "label.json").read_text()), place / "metrics.csv", 1.0)
        for place in (sick, well)
    ]
    assert tuple(right for right, _ in counts(tool, judged, programs).values()) == expected


def test_a_tool_that_cannot_read_a_log_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "losslint").write_text("#!/bin/sh\necho 'error: no usable rows'\nexit 2\n")
    (tmp_path / "losslint").chmod(0o755)
    assert ask("losslint", tmp_path / "x.log", tmp_path) == Said()
