"""`pytest -m health --overfit-run`: one case a rule, a report at the end, and one clear line where
there is nothing to judge.
"""

import json
import re
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import pytest_overfit.health.cases as health_cases
import pytest_overfit.plugin.cases  # noqa: F401
from pytest_overfit.health.rules import RULES
from pytest_overfit.plugin.live import CLEAR
from tests.health.made_runs import decay, noisy
from tests.inner_sessions import WITHOUT

# pytester drops the modules that an inner session imports first, and parts of torch, loaded by the
# first optimiser, cannot be imported twice.
torch.optim.Adam([torch.zeros(1, requires_grad=True)])

INI = f"""
[pytest]
addopts = --strict-markers -p no:cacheprovider {WITHOUT}
filterwarnings =
    error
    # The package is already imported: pytest runs within pytest here.
    ignore:Module already imported so cannot be rewritten. pytest_overfit:pytest.PytestAssertRewriteWarning
"""
TEAM = """
Epoch 1: Train 44.59 | Val 7.19 | Gap -37.40 | Val WER 92.1
Epoch 25: Train 4.19 | Val 4.90 | Gap +0.71 | Val WER 91.2
Epoch 50: Train 2.87 | Val 4.96 | Gap +2.09 | Val WER 90.8
Epoch 60: Train 2.36 | Val 5.29 | Gap +2.93 | Val WER 91.5
Target: MORGEN REGEN UND WIND IM NORDEN AUCH SCHNEE DANN KALT
Pred:
Target: MORGEN REGEN UND WIND IM NORDEN AUCH SCHNEE DANN KALT JETZT
Pred: REGEN
Target: MORGEN REGEN UND WIND IM NORDEN AUCH SCHNEE DANN KALT JETZT WETTER
Pred: WIND WIND
"""
SUBJECT = """
import torch
from torch import nn
from pytest_overfit import Sample, Subject


class Net(nn.Module):
    def __init__(self, feature_dim, vocab_size, width):
        super().__init__()
        self.first, self.head = nn.Conv1d(feature_dim, width, 3, padding=1), nn.Conv1d(width, vocab_size, 3, padding=1)

    def forward(self, features, frames):
        return self.head(self.first(features.transpose(1, 2)).relu()).log_softmax(1).permute(2, 0, 1), frames


def build(vocab_size, feature_dim, seed, width=16):
    return Net(feature_dim, vocab_size, width)


generator = torch.Generator().manual_seed(0)
clips = [Sample(name=f"c{i}", features=torch.randn(20, 6, generator=generator), target=torch.tensor([1 + i % 4, 2, 3])) for i in range(8)]
toy = Subject(name="toy", build=build, samples=clips, vocabulary=tuple("-ABCD"))
wider = Subject(name="wider", build=lambda vocab_size, feature_dim, seed: Net(feature_dim, vocab_size, 32), samples=clips, vocabulary=tuple("-ABCD"))
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """A folder with the team's log, a healthy one, and a test file of its own."""
    pytester.makefile(".ini", pytest=INI)
    pytester.makefile(".log", team=TEAM)
    rng = np.random.default_rng(1)
    rows = zip(
        noisy(rng, decay(rng, 80, 20, 0.3, 4), 0.01),
        noisy(rng, decay(rng, 80, 20, 0.5, 4), 0.01),
        strict=True,
    )
    lines = [
        f"{epoch},{train:.4f},{val:.4f},{val / 20:.4f},0.001"
        for epoch, (train, val) in enumerate(rows)
    ]
    pytester.makefile(".csv", metrics="\n".join(["epoch,train_loss,val_loss,val_wer,lr", *lines]))
    pytester.makepyfile(test_own="def test_own(): pass")
    (pytester.path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(pytester.path / "temporary"))
    pytester.syspathinsert()
    return pytester


def run(project, *arguments, workers=False, code=None):
    result = (
        project.runpytest_subprocess(*arguments)
        if workers
        else project.runpytest_inprocess(*arguments)
    )
    output = result.stdout.str() + "\n" + result.stderr.str()
    assert "INTERNALERROR" not in output
    if code is not None:
        assert result.ret == code, output
    return result


def lines_of(result):
    return (result.stdout.str() + "\n" + result.stderr.str()).splitlines()


def test_each_rule_is_a_case_that_fails_passes_or_says_what_it_needs(project):
    result = run(project, "-m", "health", "--overfit-run=team.log", "-v", "-rs", code=1)
    found = {
        match[1]: match[2]
        for line in lines_of(result)
        if (match := re.match(r"health::test_health\[(\w+)\] (\w+)", line))
    }
    assert list(found) == [rule.name for rule in RULES]
    assert {name for name, outcome in found.items() if outcome == "FAILED"} == {
        "validation_loss_rises",
        "predictions_too_short",
        "validation_wer_stuck",
        "gap_wide",
    }
    sound = {
        "loss_not_finite",
        "training_diverges",
        "learning_undone",
        "validation_stands",
        "validation_error_rises",
        "steps_out_of_order",
    }
    assert {name for name, outcome in found.items() if outcome == "PASSED"} == sound
    result.stdout.fnmatch_lines(["SKIPPED*not judged: needs lr"])


def test_a_failure_is_the_findings_headline_with_its_evidence_below(project):
    result = run(
        project, "-m", "health", "--overfit-run=team.log", "-k", "validation_loss_rises", code=1
    )
    assert [line for line in lines_of(result) if line.startswith("E  ")] == [
        "E       RunSick: team.log: validation loss rises since epoch 25 while training loss falls"
    ]
    result.stdout.fnmatch_lines(
        [
            "*- overfit health -*",
            "finding    validation_loss_rises (confirmed)*",
            "began      epoch 25",
            "why *",
            "try *",
        ]
    )


def test_the_whole_report_is_printed_once_and_written(project):
    result = run(project, "-m", "health", "--overfit-run=team.log", code=1)
    output = result.stdout.str()
    assert output.count("= overfit health =") == output.count("verdict    STOP") == 1
    written = (project.path / "overfitting_health_report.txt").read_text(encoding="utf-8")
    assert written.strip() in output
    content = json.loads(
        (project.path / "overfitting_health_report.json").read_text(encoding="utf-8")
    )
    assert content["verdict"] == "stop"
    assert content["findings"][0]["began"] == 25


def test_the_report_goes_where_it_is_asked_to(project):
    run(project, "-m", "health", "--overfit-run=team.log", "--overfit-report=deep/down", code=1)
    endings = {
        path.suffix for path in (project.path / "deep" / "down").glob("overfitting_health_report.*")
    }
    assert endings == {".txt", ".json", ".html", ".png", ".svg"}
    assert not (project.path / "overfitting_health_report.json").exists()


def test_a_healthy_run_fails_no_case(project):
    result = run(project, "-m", "health", "--overfit-run=metrics.csv", code=0)
    result.stdout.fnmatch_lines(
        ["verdict    HEALTHY", "next       nothing: keep the best checkpoint"]
    )


def test_workers_come_to_the_same_and_the_report_is_printed_once(project):
    """They read no test file either."""
    project.makepyfile(test_broken="raise RuntimeError")
    alone = run(project, "-m", "health", "--overfit-run=team.log", code=1)
    first = (project.path / "overfitting_health_report.txt").read_text(encoding="utf-8")
    together = run(
        project, "-m", "health", "--overfit-run=team.log", "-n", "2", workers=True, code=1
    )
    assert together.parseoutcomes() == alone.parseoutcomes()
    assert together.stdout.str().count("verdict    STOP") == 1
    assert (project.path / "overfitting_health_report.txt").read_text(encoding="utf-8") == first


def test_the_log_is_read_once(project, monkeypatch):
    read = []
    original = health_cases.read_runs
    monkeypatch.setattr(
        health_cases,
        "read_runs",
        lambda paths, **keywords: read.append(paths) or original(paths, **keywords),
    )
    run(project, "-m", "health", "--overfit-run=team.log", code=1)
    assert len(read) == 1


# -- which tests run beside


def test_where_health_alone_is_asked_for_no_test_file_is_read(project):
    project.makepyfile(test_broken="raise RuntimeError")
    result = run(project, "-m", "health", "--overfit-run=metrics.csv", code=0)
    result.stdout.fnmatch_lines(
        ["overfit run: metrics.csv; test files are left out, name them to run them too"]
    )


def test_named_files_and_sessions_without_a_mark_run_too(project):
    project.makepyfile(test_marked="import pytest\n\n@pytest.mark.health\ndef test_marked(): pass")
    alone = run(project, "-m", "health", "--overfit-run=metrics.csv").parseoutcomes()
    named = run(
        project, "-m", "health", "--overfit-run=metrics.csv", "test_marked.py", "test_own.py"
    ).parseoutcomes()
    assert named == alone | {"passed": alone["passed"] + 1, "deselected": 1}
    assert run(project, "--overfit-run=metrics.csv").parseoutcomes() == alone | {
        "passed": alone["passed"] + 2
    }


def test_without_the_option_health_has_no_cases_and_costs_nothing(project):
    result = run(project, "-v", code=0)
    result.assert_outcomes(passed=1)
    assert "overfit run" not in result.stdout.str()
    assert not (project.path / "overfitting_health_report.json").exists()


# -- several runs, and names of the user's own


def several(project):
    for name, end in {"good": 0.5, "better": 0.25}.items():
        (project.path / "runs" / name).mkdir(parents=True)
        rows = "".join(f"{epoch},{3 + 0.5**epoch},{end + 0.5**epoch:.4f}\n" for epoch in range(12))
        (project.path / "runs" / name / "metrics.csv").write_text(
            "epoch,train_loss,val_loss\n" + rows, encoding="utf-8"
        )


@pytest.mark.parametrize(
    "arguments", [["--overfit-run=runs"], ["--overfit-run=runs/good", "--overfit-run=runs/better"]]
)
def test_several_runs_are_compared_and_each_has_its_cases(project, arguments):
    several(project)
    result = run(project, "-m", "health", *arguments, "-v")
    cases = re.findall(r"health::test_health\[(\w+)-(\w+)\]", result.stdout.str())
    assert set(cases) == {(name, rule.name) for name in ("good", "better") for rule in RULES}
    result.stdout.fnmatch_lines(
        ["2 runs, best first", "best *better: loss 0.25 at epoch 11 (metrics.csv:13)"]
    )
    assert (
        json.loads((project.path / "overfitting_health_report.json").read_text(encoding="utf-8"))[
            "best"
        ]
        == "better"
    )
    written = (project.path / "overfitting_health_report.txt").read_text(encoding="utf-8")
    assert written.count("\nverdict    ") == 2
    assert {path.suffix for path in project.path.glob("overfitting_health_report.*")} == {
        ".txt",
        ".json",
        ".html",
        ".png",
        ".svg",
    }


def test_workers_compare_several_runs_too(project):
    several(project)
    alone = run(project, "-m", "health", "--overfit-run=runs").parseoutcomes()
    assert (
        run(project, "-m", "health", "--overfit-run=runs", "-n", "1", workers=True).parseoutcomes()
        == alone
    )


def test_a_column_of_the_users_own_is_named(project):
    rows = "".join(f"{epoch},{3 + 0.5**epoch},{4 + 0.5**epoch}\n" for epoch in range(12))
    (project.path / "own.csv").write_text("epoch,train_loss,quux\n" + rows, encoding="utf-8")
    result = run(project, "-m", "health", "--overfit-run=own.csv")
    result.stdout.fnmatch_lines(["*not understood: quux; --overfit-metric val_loss=quux*"])
    result = run(
        project, "-m", "health", "--overfit-run=own.csv", "--overfit-metric", "val_loss=quux"
    )
    result.stdout.fnmatch_lines(["*validation loss *12 * 5.00 * 4.00 (11)*"])
    assert "not understood" not in result.stdout.str()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "val_loss",
            (
                "'val_loss' is not METRIC=NAME, such as val_loss=my_column; metrics are val_loss, "
                "val_wer, "
            ),
        ),
        ("foo=bar", "'foo=bar' is not METRIC=NAME"),
        (
            "val_cer=quux",
            (
                "metrics.csv: --overfit-metric: no column or tag 'quux'; there are lr, train_loss, "
                "val_loss"
            ),
        ),
    ],
)
def test_a_name_that_means_nothing_is_one_line(project, given, words):
    result = run(
        project,
        "-m",
        "health",
        "--overfit-run=metrics.csv",
        f"--overfit-metric={given}",
        code=pytest.ExitCode.USAGE_ERROR,
    )
    (line,) = [line for line in lines_of(result) if line.startswith("ERROR: ")]
    assert words in line


# -- bad input


@pytest.mark.parametrize("workers", [False, True])
def test_health_without_a_run_says_what_is_missing(project, workers):
    result = run(
        project,
        "-m",
        "health",
        *(["-n", "2"] if workers else []),
        workers=workers,
        code=pytest.ExitCode.USAGE_ERROR,
    )
    assert [line for line in lines_of(result) if line.startswith("ERROR: ")] == [
        (
            "ERROR: -m health needs --overfit-run DIR_OR_FILE: the log of the training run to "
            "judge, or its folder"
        )
    ]


def test_a_projects_own_tests_of_that_mark_are_no_mistake(project):
    project.makepyfile(test_marked="import pytest\n\n@pytest.mark.health\ndef test_marked(): pass")
    run(project, "-m", "health", code=0).assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize(
    ("path", "words", "workers"),
    [
        ("absent.log", "absent.log does not exist", False),
        ("empty.log", "empty.log", False),
        ("folder", "folder", False),
        ("empty.log", "empty.log", True),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line_and_exit_code_4(project, path, words, workers):
    (project.path / "empty.log").write_text("", encoding="utf-8")
    (project.path / "folder").mkdir()
    arguments = ["-m", "health", f"--overfit-run={path}", *(["-n", "1"] if workers else [])]
    result = run(project, *arguments, workers=workers, code=pytest.ExitCode.USAGE_ERROR)
    (line,) = [line for line in lines_of(result) if line.startswith("ERROR: ")]
    assert line.startswith("ERROR: --overfit-run: ")
    assert words in line
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


# -- the checkpoint beside the log


@pytest.fixture
def beside(project):
    """A folder with a log and a checkpoint of the toy network."""
    project.makepyfile(toys=SUBJECT)
    folder = project.path / "trained"
    folder.mkdir()
    (project.path / "metrics.csv").rename(folder / "metrics.csv")
    torch.manual_seed(0)
    first, head = torch.nn.Conv1d(6, 16, 3, padding=1), torch.nn.Conv1d(16, 5, 3, padding=1)
    state = {
        f"{name}.{key}": value
        for name, layer in (("first", first), ("head", head))
        for key, value in layer.state_dict().items()
    }
    torch.save({"state_dict": state, "epoch": 79}, folder / "last.ckpt")
    return project


def checkpoint_case(project, *arguments, code=None):
    return run(
        project,
        "-m",
        "health",
        "--overfit-run=trained",
        "-k",
        "test_checkpoint",
        "-rs",
        *arguments,
        code=code,
    )


def test_a_checkpoint_needs_a_network_to_be_loaded_into(beside):
    result = checkpoint_case(beside, code=0)
    result.stdout.fnmatch_lines(
        ["SKIPPED*not judged: needs --overfit-subject, the network to load last.ckpt into"]
    )


def test_a_checkpoint_is_measured_on_the_subjects_samples(beside):
    result = checkpoint_case(beside, "--overfit-subject=toys:toy")
    assert sum(result.parseoutcomes().get(outcome, 0) for outcome in ("passed", "failed")) == 1
    result.stdout.fnmatch_lines(
        [
            "checkpoint last.ckpt of epoch 79, on 8 samples",
            "output     loss *",
            "           blank share * where a healthy output*",
        ]
    )
    assert "checkpoint last.ckpt" in (beside.path / "overfitting_health_report.txt").read_text(
        encoding="utf-8"
    )


def test_a_checkpoint_that_does_not_fit_is_one_line(beside):
    result = checkpoint_case(beside, "--overfit-subject=toys:wider", code=1)
    assert "Traceback" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*last.ckpt*"])


def test_without_a_checkpoint_there_is_none_to_measure(project):
    result = run(
        project, "-m", "health", "--overfit-run=team.log", "-k", "test_checkpoint", "-rs", code=0
    )
    result.stdout.fnmatch_lines(["SKIPPED*not judged: needs a checkpoint beside the log"])


# -- on a terminal


def test_a_long_log_shows_how_much_is_read_where_somebody_watches(tmp_path, monkeypatch):
    monkeypatch.setattr(health_cases, "TERMINAL", tmp_path / "tty")
    monkeypatch.setattr(health_cases, "watched", lambda config: True)
    with health_cases.progress_line(SimpleNamespace(), tmp_path / "events") as progress:
        for share in (0.0, 0.5, 0.501, 1.0):
            progress(share)
    shown = (tmp_path / "tty").read_bytes().decode()
    assert (
        shown == "".join(f"{CLEAR}reading events: {percent} %" for percent in (0, 50, 100)) + CLEAR
    )


def test_nobody_is_shown_anything_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(health_cases, "watched", lambda config: False)
    with health_cases.progress_line(SimpleNamespace(), tmp_path) as progress:
        assert progress is None
