"""The proof's own machinery, and a short form of it: two runs really trained, judged after each of
their epochs, and written down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from examination import health_matrix
from examination.health_cure import Cured, cure_section, measured
from examination.health_judged import FOLDER, FORMS, Judged, Said, judge, onset_of, until
from examination.health_page import Compared, Row, blank_until, names_it, page, rival_cell
from examination.health_rivals import FITTING, ftdoctor_says, losslint_says, rows_of
from examination.health_runs import CURE, CURE_RUNS, RUNS, SICK, HealthRun
from examination.health_training import train_missing, trained
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.run import BadRun, Run

TINY = "mobilenetv3 --hidden_dim 16 --sentences 8 --val_sentences 4 --batch_size 4"
FROZEN = HealthRun(
    name="frozen",
    kind="learning rate zero",
    command=f"{TINY} --learning_rate 0 --epochs 5",
    expected=("learning_rate_zero",),
    also=("validation_wer_stuck",),
    verdicts=("stop",),
    onset="start",
)
BEGUN = HealthRun(
    name="begun",
    kind="early stopped",
    command=f"{TINY} --learning_rate 0.003 --epochs 4",
    verdicts=("go on",),
)
CLEAN = Said(verdict="healthy", found={}, confirmed=())
ILL = Said(
    verdict="stop", found={"validation_loss_rises": 1.0}, confirmed=("validation_loss_rises",)
)
SOUND = HealthRun(name="sound", kind="healthy", command=TINY)
SICKLY = HealthRun(
    name="sickly",
    kind="overfitting",
    command=TINY,
    expected=("validation_loss_rises",),
    verdicts=("stop",),
    onset="best validation",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, trained."""
    place: Path = tmp_path_factory.mktemp("runs")
    assert train_missing((FROZEN, BEGUN), place) == []
    return place


def curve(*values: float) -> Curve:
    return Curve(at=tuple(map(float, range(len(values)))), values=values)


def made(
    run: HealthRun,
    *after: Said,
    onset: float | None = None,
    curves: Mapping[str, Curve] | None = None,
) -> Judged:
    known = {
        "val_loss": curve(3, 2, 1),
        "val_wer": curve(1, 1, 0.5),
        "val_emission_ratio": curve(5, 0, 1),
        **(curves or {}),
    }
    return Judged(
        run=run,
        forms=dict.fromkeys(FORMS, after[-1]),
        after=after,
        onset=onset,
        ended="epochs",
        curves=known,
    )


def row(judged: Judged, losslint: Mapping[str, str], ftdoctor: Mapping[str, str]) -> Row:
    by_tool = {"losslint": losslint, "ftdoctor": ftdoctor}
    return Row(
        judged=judged,
        rivals={
            name: Compared(said=each, after=(frozenset(), frozenset(each)))
            for name, each in by_tool.items()
        },
    )


# -- really trained --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest_overfit.health.lightning.HealthWarning")
def test_a_run_whose_rate_is_zero_is_diagnosed_from_every_form_of_its_log(root: Path) -> None:
    judged = judge(FROZEN, root / "frozen")
    assert (judged.wrong, judged.onset, judged.said.found["learning_rate_zero"]) == ("", 0.0, 0.0)
    assert {form: checkup.verdict for form, checkup in judged.forms.items()} == dict.fromkeys(
        FORMS, "stop"
    )
    assert judged.flagged == judged.stopped is not None


@pytest.mark.filterwarnings("ignore::pytest_overfit.health.lightning.HealthWarning")
def test_a_run_hardly_begun_raises_no_alarm_after_any_epoch(root: Path) -> None:
    judged = judge(BEGUN, root / "begun")
    assert (judged.right, judged.alarmed, len(judged.after)) == (True, (), 4)


def test_what_is_trained_is_not_trained_again_and_keeps_no_checkpoint(root: Path) -> None:
    metrics = root / "begun" / "metrics.csv"
    before = metrics.stat().st_mtime_ns
    assert train_missing((BEGUN,), root) == []
    assert metrics.stat().st_mtime_ns == before
    assert trained(root / "begun")
    assert not list(root.glob("*/*.ckpt"))


def test_the_command_writes_the_page_of_what_is_trained(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health_matrix, "RUNS", (FROZEN, BEGUN))
    assert (
        health_matrix.main(["--judge", "--root", str(root), "--page", str(tmp_path / "page.md")])
        == 0
    )
    written = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| sick runs diagnosed rightly | 1 of 1 |" in written
    assert "| false alarms, run-epochs | 0 of 4 |" in written
    assert "2 runs judged, 0 wrongly: none" in capsys.readouterr().out


def test_a_name_that_no_run_has_is_refused() -> None:
    with pytest.raises(SystemExit, match="no run is called 'overfit-9'"):
        health_matrix.main(["--judge", "--only", "overfit-9"])


def test_a_folder_without_events_is_told_in_one_line(root: Path, tmp_path: Path) -> None:
    for name in ("metrics.csv", "run.json", "result.json"):
        (tmp_path / name).write_bytes((root / "begun" / name).read_bytes())
    with pytest.raises(BadRun, match="no tensorboard"):
        judge(BEGUN, tmp_path)


# -- what counts as right --------------------------------------------------------------------------


def test_the_lists_have_enough_runs_of_every_kind_and_names_of_their_own() -> None:
    names = [run.name for run in (*RUNS, *CURE_RUNS)]
    assert len(set(names)) == len(names)
    assert len(RUNS) >= 24
    kinds = {run.kind for run in RUNS}
    assert {
        "healthy",
        "overfitting",
        "blank-collapsed",
        "diverged",
        "too much dropout",
        "label noise",
    } <= kinds
    assert {"learning rate too high", "learning rate zero", "early stopped"} <= kinds
    assert {run.kind for run in SICK} <= FITTING["losslint"].keys() & FITTING["ftdoctor"].keys()


@pytest.mark.parametrize(
    ("run", "said", "wrong"),
    [
        (SOUND, CLEAN, ""),
        (SOUND, ILL, "finds validation_loss_rises; says stop"),
        (SICKLY, ILL, ""),
        (SICKLY, CLEAN, "misses validation_loss_rises; says healthy"),
        (
            replace(SICKLY, expected=("gap_wide",), also=("validation_loss_rises",)),
            ILL,
            "misses gap_wide",
        ),
    ],
)
def test_a_diagnosis_is_wrong_by_what_it_misses_by_what_it_adds_and_by_its_verdict(
    run: HealthRun, said: Said, wrong: str
) -> None:
    assert made(run, said).wrong == wrong


def test_a_flag_that_was_taken_back_does_not_count_as_the_first() -> None:
    judged = made(SICKLY, CLEAN, ILL, CLEAN, ILL, ILL, onset=0.0)
    assert (judged.flagged, judged.stopped) == (3, 1)
    assert made(SICKLY, ILL, CLEAN).flagged is None


def test_a_healthy_run_is_alarmed_by_every_epoch_with_a_finding() -> None:
    assert made(SOUND, CLEAN, ILL, CLEAN).alarmed == (1,)
    assert made(SICKLY, CLEAN, ILL, CLEAN).alarmed == ()


def test_a_run_is_cut_where_it_stood() -> None:
    read = Run(
        name="r", curves={"train_loss": curve(3, 2, 1), "late": Curve(at=(2.0,), values=(1.0,))}
    )
    assert {name: cut.values for name, cut in until(read, 1.0).curves.items()} == {
        "train_loss": (3, 2)
    }


@pytest.mark.parametrize(
    ("onset", "epoch"),
    [("start", 0.0), ("best validation", 1.0), ("lowest training loss", 2.0), ("not finite", 3.0)],
)
def test_where_an_illness_began_is_read_off_the_curves(onset: str, epoch: float) -> None:
    read = Run(
        name="r",
        curves={
            "train_loss": curve(5, 4, 3, float("nan")),
            "val_loss": curve(5, 2, 4, float("nan")),
        },
    )
    assert onset_of(replace(SICKLY, onset=onset), read) == epoch  # type: ignore[arg-type]


# -- the page --------------------------------------------------------------------------------------


def test_the_page_says_in_bold_what_is_wrong() -> None:
    missed, alarmed = made(SICKLY, CLEAN, CLEAN, onset=1.0), made(SOUND, ILL, CLEAN, CLEAN)
    differing = replace(alarmed, forms={**alarmed.forms, FORMS[1]: ILL})
    text = page([row(missed, {}, {}), row(differing, {}, {})], [])
    assert "**no: misses validation_loss_rises; says healthy**" in text
    assert "**1: validation_loss_rises** (from 0)" in text
    assert f"**{FORMS[1]}: stop**" in text
    assert "| healthy runs without any finding after any epoch | 0 of 1 |" in text
    assert "| one verdict from all three forms of the log | 1 of 2 |" in text


def test_a_stop_is_told_with_its_delay() -> None:
    assert "| 1 | 2 | 2 (+1) |" in page(
        [row(made(SICKLY, CLEAN, CLEAN, ILL, onset=1.0), {}, {})], []
    )


def test_a_stop_that_was_taken_back_is_told() -> None:
    assert "2 (+1), **taken back**" in page(
        [row(made(SICKLY, CLEAN, CLEAN, ILL, CLEAN, onset=1.0), {}, {})], []
    )


def test_the_blank_phase_ends_where_tokens_are_emitted() -> None:
    assert (
        blank_until(made(SOUND, CLEAN, curves={"val_emission_ratio": curve(5, 0.02, 0, 0.5, 0.05)}))
        == 2.0
    )
    assert blank_until(made(SOUND, CLEAN, curves={"val_emission_ratio": curve(5, 2, 1)})) is None


def test_a_rival_that_names_an_illness_is_right_and_one_that_alarms_a_healthy_run_is_bold() -> None:
    found = row(
        made(SICKLY, ILL, onset=1.0), {"overfit_onset": "info"}, {"not_learning": "warning"}
    )
    assert (names_it(found, "losslint"), names_it(found, "ftdoctor")) == (True, False)
    assert rival_cell(found, "losslint") == "overfit_onset (info)"
    assert rival_cell(found, "ftdoctor") == "**not_learning (warning)**"
    alarmed = row(made(SOUND, CLEAN), {"loss_spike": "warning"}, {})
    assert rival_cell(alarmed, "losslint") == "**loss_spike (warning)**; 1 epochs"
    assert rival_cell(alarmed, "ftdoctor") == "nothing; 0 epochs"


# -- the rivals ------------------------------------------------------------------------------------


def logged(train: list[float], val: list[float]) -> list[dict[str, float]]:
    shared = {"lr": 1e-3, "grad_norm": 1.0, "val_wer": 0.5}
    return [
        {"epoch": i, "step": 10 * i + 9, "train_loss": a, "val_loss": b, **shared}
        for i, (a, b) in enumerate(zip(train, val, strict=True))
    ]


def test_the_rivals_read_what_they_are_given(tmp_path: Path) -> None:
    pytest.importorskip("losslint")
    pytest.importorskip("ftdoctor")
    falling = [4 * 0.9**i for i in range(30)]
    turning = [4 * 0.9**i for i in range(10)] + [1.5 + 0.1 * i for i in range(20)]
    assert (
        losslint_says(logged(falling, falling), tmp_path)
        == ftdoctor_says(logged(falling, falling), tmp_path)
        == {}
    )
    assert losslint_says(logged(falling, turning), tmp_path) == {"overfit_onset": "info"}
    assert ftdoctor_says(logged(falling, turning), tmp_path) == {"overfitting": "critical"}
    broken = [*falling[:-1], float("nan")]
    assert losslint_says(logged(broken, falling), tmp_path) == {"nan_inf": "error"}
    assert ftdoctor_says(logged(broken, falling), tmp_path) == {"loss_degenerate": "critical"}


def test_a_rival_that_is_not_installed_is_said_to_be_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_matrix, "find_spec", lambda name: None)
    assert health_matrix.compared(root / "begun") == {}
    assert rival_cell(Row(judged=made(SOUND, CLEAN), rivals={}), "losslint") == "not installed"


def test_a_trained_run_is_given_to_the_rivals_after_each_epoch(root: Path) -> None:
    pytest.importorskip("losslint")
    pytest.importorskip("ftdoctor")
    by_tool = health_matrix.compared(root / "begun")
    assert {name: len(each.after) for name, each in by_tool.items()} == dict.fromkeys(FITTING, 4)
    assert len(rows_of(root / "begun" / "metrics.csv")) == 4


# -- the cure --------------------------------------------------------------------------------------


def cured(recipe: tuple[float, float], seed: int, val: list[float]) -> Cured:
    falling = [2.0, 1.0, 0.5]
    rows = [
        {**each, "train_eval_loss": each["train_loss"], "train_wer": 0.1}
        for each in logged(falling, val)
    ]
    return Cured(
        dropout=recipe[0],
        weight_decay=recipe[1],
        seed=seed,
        measured=measured(rows),
        judged=made(SOUND, CLEAN),
    )


def test_a_run_of_the_cure_is_measured_at_its_best_and_at_its_end() -> None:
    numbers = cured(CURE[0], 0, [3.0, 2.0, 3.0]).measured
    assert (numbers["best_epoch"], numbers["best_val_loss"], numbers["rise"], numbers["gap"]) == (
        1,
        2.0,
        0.5,
        2.5,
    )


def test_what_the_cure_did_is_printed_either_way() -> None:
    before = [cured(CURE[0], seed, [3.0, 2.0, 3.0]) for seed in (0, 1)]
    better = [cured(CURE[-1], seed, [3.0, 1.5, 1.5]) for seed in (0, 1)]
    mixed = [better[0], cured(CURE[-1], 1, [3.0, 2.5, 4.0])]
    assert "- best val loss: better (2 of 2 seeds lower); 1.50 is left" in cure_section(
        [*before, *better]
    )
    assert "- best val loss: undecided (1 of 2 seeds lower); 2.00 is left" in cure_section(
        [*before, *mixed]
    )
    assert "- last val WER: undecided (0 of 2 seeds lower); 50% is left" in cure_section(
        [*before, *better]
    )
    assert "- best val loss: worse (0 of 1 seeds lower); 2.50 is left" in cure_section(
        [before[1], mixed[1]]
    )
    assert "- on the training clips themselves, WER: 10% before, 10% with the cure" in cure_section(
        [*before, *better]
    )
    assert cure_section([])[-1] == "Not measured yet."


def test_the_folder_says_how_a_run_ended(root: Path) -> None:
    assert (
        judge(BEGUN, root / "begun").ended
        == json.loads((root / "begun" / "result.json").read_text())["ended"]
        == "epochs"
    )
    assert FOLDER in judge(BEGUN, root / "begun").forms
