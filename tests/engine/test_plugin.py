"""The plugin as its users meet it: in a foreign test file, in a conftest, from the command line,
alone and under workers.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import termios
import time

import pytest
import torch
import torch.utils.tensorboard

import pytest_overfit.plugin.cases
import pytest_overfit.plugin.curves  # noqa: F401
from pytest_overfit.climb.attempt import LOOKS
from pytest_overfit.climb.ladder import RUNGS
from tests.inner_sessions import WITHOUT

# pytester drops the modules that an inner session imports first, and parts of torch, loaded by the
# first optimiser, cannot be imported twice.
torch.optim.Adam([torch.zeros(1, requires_grad=True)])

TOY = """
import os
import signal
from pathlib import Path

import torch
from torch import nn

from pytest_overfit import Recipe, Sample, Subject, parametrize_with_rungs

VOCABULARY = tuple("-ABCDEFGH")


def clips(count):
    generator = torch.Generator().manual_seed(7)
    patterns = torch.randn(len(VOCABULARY), 12, generator=generator)
    made = []
    for i in range(count):
        target = torch.randint(1, len(VOCABULARY), (3 + i % 4,), generator=generator)
        still = torch.zeros(2, 12)
        features = torch.cat([still, *(torch.cat([patterns[token].expand(4, -1), still]) for token in target)])
        made.append(Sample(name=f"c{i}", features=features + 0.1 * torch.randn(features.shape, generator=generator), target=target))
    return made


class Convolutions(nn.Module):
    def __init__(self, feature_dim, vocab_size):
        super().__init__()
        self.first = nn.Conv1d(feature_dim, 32, 5, padding=2)
        self.norm = nn.BatchNorm1d(32)
        self.head = nn.Conv1d(32, vocab_size, 5, padding=2)

    def forward(self, features, frames):
        inside = torch.arange(features.shape[1]) < frames[:, None]
        hidden = self.norm(self.first(features.transpose(1, 2))).relu() * inside[:, None]
        return self.head(hidden).log_softmax(1).permute(2, 0, 1), frames


def build(vocab_size, feature_dim, seed):
    return Convolutions(feature_dim, vocab_size)


def toy(name="toy", **changes):
    return Subject(**{"name": name, "build": build, "samples": clips(12), "vocabulary": VOCABULARY, **changes})


def with_sample(index, **changes):
    samples = clips(12)
    fields = {"name": samples[index].name, "features": samples[index].features, "target": samples[index].target}
    samples[index] = Sample(**{**fields, **changes})
    return samples


def breaks(name="breaks"):
    '''Holds up to two samples; the third cannot be trained on.'''
    return toy(name, samples=with_sample(2, target=torch.tensor([1, 0])))


def some_seeds(vocab_size, feature_dim, seed):
    '''Cannot learn with an odd seed.'''
    network = Convolutions(feature_dim, vocab_size)
    if seed % 2:
        for weight in network.requires_grad_(False).parameters():  # as if loaded
            weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
        network.head.bias.requires_grad_(True)
    return network


def interrupted(network, features, frames):
    if network.training and len(features) == 2:
        raise KeyboardInterrupt
    return network(features, frames)


def killed_once(network, features, frames):
    if network.training and len(features) == 5 and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return network(features, frames)


toys = toy()
broken = breaks()
"""
INI = f"""
[pytest]
addopts = --strict-markers -p no:cacheprovider {WITHOUT}
filterwarnings =
    error
    # The package is already imported: pytest runs within pytest here.
    ignore:Module already imported so cannot be rewritten. pytest_overfit:pytest.PytestAssertRewriteWarning
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """A foreign project with a toy network.

    Its subprocesses find this package where it is installed.
    """
    pytester.makefile(".ini", pytest=INI)
    pytester.makepyfile(toy=TOY)
    pytester.syspathinsert()
    (pytester.path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(pytester.path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(pytester.path / "temporary"))
    return pytester


def ladder(project, subjects="[toys]", rungs="(1, 2, 5)"):
    project.makepyfile(
        test_ladder=f"""
        from toy import *

        @parametrize_with_rungs({subjects}, rungs={rungs})
        def test_overfits(overfit_rung):
            overfit_rung.climb()
        """
    )


def run(project, *arguments, workers=False, code=None):
    arguments = ("--overfit-trials=off", *arguments)
    result = (
        project.runpytest_subprocess(*arguments)
        if workers
        else project.runpytest_inprocess(*arguments)
    )
    said = result.stdout.str() + "\n" + result.stderr.str()
    assert "INTERNALERROR" not in said
    if code is not None:
        assert result.ret == code, said
    return result


def report(project):
    """status of each rung of each subject, from the report for machines"""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (project.path / "overfitting_test_report.json").read_text(encoding="utf-8")
    outcomes = json.loads(text, parse_constant=refuse)["outcomes"]
    return {(outcome["subject"], outcome["samples"]): outcome for outcome in outcomes}


def verdicts(project):
    return {key: outcome["status"] for key, outcome in report(project).items()}


def leftovers(project):
    """What the session left beside its reports."""
    hidden = [path.name for path in project.path.iterdir() if path.name.startswith(".overfitting")]
    return hidden + [
        path.name
        for path in (project.path / "temporary").iterdir()
        if path.name.startswith("pytest-overfit-")
    ]


# -- three ways in


def test_a_decorated_test_becomes_one_case_a_rung_and_subject(project):
    ladder(project, "[toy('one'), toy('two')]", "(1, 2)")
    result = run(project, "-v", code=0)
    for case in ("one-1 sample", "one-2 samples", "two-1 sample", "two-2 samples"):
        result.stdout.fnmatch_lines([f"test_ladder.py::test_overfits[[]{case}[]] PASSED*"])
    result.assert_outcomes(passed=4)


def test_a_decorated_test_without_rungs_has_the_default_ones(project):
    ladder(project, rungs="None")
    result = run(project, "--collect-only", "-q", code=0)
    assert [int(number) for number in re.findall(r"toy-(\d+) sample", result.stdout.str())] == list(
        RUNGS
    )


def test_cases_carry_the_marker_overfit(project):
    ladder(project)
    project.makepyfile(test_other="def test_other(): pass")
    run(project, "-m", "not overfit", code=0).assert_outcomes(passed=1, deselected=3)


def test_the_subjects_of_a_conftest_are_climbed_by_a_plain_test(project):
    project.makeconftest(
        "from toy import *\n\ndef pytest_overfit_subjects(config):\n    return [toys, "
        "toy('second')]"
    )
    project.makepyfile(test_all="def test_overfits(overfit_rung):\n    overfit_rung.climb()")
    result = run(project, "--overfit-rungs=1", code=0)
    result.assert_outcomes(passed=2)
    assert verdicts(project) == {("toy", 1): "ok", ("second", 1): "ok"}


def test_without_any_test_file_a_subject_is_climbed_by_its_import_path(project):
    result = run(
        project,
        "--overfit-subject=toy:toy",
        "-m",
        "overfit",
        "--overfit-rungs=1,2",
        "-v",
        "-k",
        "overfits",
        code=0,
    )
    result.stdout.fnmatch_lines(
        ["*test_overfits[[]toy-1 sample[]] PASSED*", "*test_overfits[[]toy-2 samples[]] PASSED*"]
    )
    assert verdicts(project) == {("toy", 1): "ok", ("toy", 2): "ok"}


def test_a_failure_without_any_test_file_can_be_rerun_by_the_line_it_prints(project):
    first = run(
        project,
        "--overfit-subject=toy:broken",
        "-m",
        "overfit",
        "--overfit-rungs=1,5",
        "-k",
        "overfits",
        code=1,
    )
    (line,) = re.findall(r"^rerun +pytest (.*)$", first.stdout.str(), flags=re.M)
    assert line == (
        "-m overfit --overfit-subject=toy:broken --overfit-rungs=5 --overfit-trials=off "
        "--overfit-seed=0"
    )
    again = run(project, *line.split(), "-k", "overfits", code=1).parseoutcomes()
    assert again["failed"] == 1
    assert "passed" not in again


def accepting_what_is_not_there(project, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    project.makeconftest(
        "from toy import *\n\ndef pytest_overfit_subjects(config):\n    return "
        "[toy(accept={'padding_leak': 'by design', 'no_such': 'never'})]"
    )
    project.makepyfile(
        test_all="def test_contracts(overfit_contracts):\n    overfit_contracts.check()"
    )


@pytest.mark.parametrize("workers", [False, True], ids=["alone", "workers"])
def test_what_a_subject_passes_with_is_told_at_the_end(project, monkeypatch, workers):
    accepting_what_is_not_there(project, monkeypatch)
    told = (
        "warning: toy: stale_acceptance: the subject accepts what is no longer found: "
        "padding_leak, no_such"
    )
    distributed = ["-n", "1"] if workers else []
    result = run(project, "--overfit-rungs=2", *distributed, workers=workers, code=0)
    result.stdout.fnmatch_lines(
        [
            "contracts: toy: * hold, 1 warning; not examined: same loss on the GPU (*)",
            told,
            f"::warning title=overfit toy::{told}",
        ]
    )


def test_what_a_subject_passes_with_fails_where_strictness_is_asked_for(project, monkeypatch):
    accepting_what_is_not_there(project, monkeypatch)
    strict = run(project, "--overfit-rungs=2", "--overfit-strict", code=1)
    strict.stdout.fnmatch_lines(
        ["*ContractViolated: toy breaks before training: stale_acceptance: *"]
    )


def test_the_line_that_reruns_has_the_options_of_the_projects_own_conftest(project):
    project.makeconftest(
        "def pytest_addoption(parser):\n    parser.addoption('--overfit-features')\n    "
        "parser.addoption('--overfit-fast', action='store_true')"
    )
    ladder(project, "[broken]", "(5,)")
    result = run(project, "--overfit-features=my data", "--overfit-report=here", code=1)
    result.stdout.fnmatch_lines(
        ["rerun * --overfit-trials=off '--overfit-features=my data' --overfit-seed=0"]
    )


def test_the_line_that_reruns_a_strict_session_is_strict(project):
    result = run(
        project,
        "--overfit-subject=toy:broken",
        "-m",
        "overfit",
        "--overfit-rungs=5",
        "-k",
        "overfits",
        "--overfit-strict",
        code=1,
    )
    result.stdout.fnmatch_lines(["rerun * --overfit-trials=off --overfit-strict --overfit-seed=0"])


def test_a_subject_by_name_leaves_the_others_out(project):
    ladder(project, "[toy('one'), toy('two')]")
    run(project, "--overfit-subject=two", "--overfit-rungs=1", code=0).assert_outcomes(
        passed=1, deselected=1
    )
    assert list(verdicts(project)) == [("two", 1)]


def test_an_imported_subject_that_the_conftest_has_too_is_climbed_once(project):
    project.makeconftest(
        "from toy import *\n\ndef pytest_overfit_subjects(config):\n    return [toys]"
    )
    project.makepyfile(test_all="def test_overfits(overfit_rung):\n    overfit_rung.climb()")
    run(project, "--overfit-subject=toy:toys", "--overfit-rungs=1", code=0).assert_outcomes(
        passed=1
    )


def test_two_subjects_of_one_name_are_turned_away(project):
    ladder(project, "[toy(), breaks('toy')]")
    result = run(project)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*two subjects are called 'toy'*"])


# -- which rungs, with what


def test_the_rungs_of_the_command_line_win(project):
    ladder(project, rungs="(1, 2, 5)")
    run(project, "--overfit-rungs=2", code=0).assert_outcomes(passed=1)
    assert list(verdicts(project)) == [("toy", 2)]


def test_rungs_above_the_corpus_fail_nothing(project):
    ladder(project, "[toy(samples=clips(2))]", "(1, 2, 5, 10)")
    result = run(project, "-rs", code=0)
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "* 5   not climbed: 2 clips*",
            "* 10   not climbed: 2 clips*",
            "*SKIPPED*not climbed: the corpus has 2 clips*",
        ]
    )
    assert [outcome["available"] for outcome in report(project).values()] == [None, None, 2, 2]


def test_a_corpus_of_one_holds_its_contracts_and_is_diagnosed(project):
    project.makepyfile(toy=TOY + "alone = toy(samples=clips(1))\n")
    result = run(project, "--overfit-subject=toy:alone", "--overfit-rungs=1,2", code=0)
    result.assert_outcomes(passed=3, skipped=1)


def test_a_session_that_climbs_nothing_is_no_pass(project):
    ladder(project, "[toy(samples=clips(2)), toy('other')]", "(5,)")
    result = run(project, code=pytest.ExitCode.USAGE_ERROR)
    result.stderr.fnmatch_lines(
        ["ERROR: toy: nothing was climbed: the lowest rung is 5, and the corpus has 2 clips"]
    )


def test_one_rung_can_be_selected_by_its_name(project):
    ladder(project)
    run(project, "-k", "5 and samples", code=0).assert_outcomes(passed=1, deselected=2)
    assert list(verdicts(project)) == [("toy", 5)]


def test_the_breaking_rung_fails_and_higher_ones_are_not_tried(project):
    ladder(project, "[toys, broken]", "(1, 2, 5, 10)")
    result = run(project, "-rs", code=1)
    result.assert_outcomes(passed=6, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*SKIPPED*not tried: broke at 5*"])
    result.stdout.fnmatch_lines(["rungs      1 ok (*step*)  2 ok (*step*)  5 BROKEN  10 not tried"])
    came_to = verdicts(project)
    assert [came_to["toy", samples] for samples in (1, 2, 5, 10)] == ["ok"] * 4
    assert [came_to["breaks", samples] for samples in (1, 2, 5, 10)] == [
        "ok",
        "ok",
        "broken",
        "not tried",
    ]


def test_workers_come_to_the_same_verdicts_after_the_same_steps(project):
    ladder(project, "[toys, broken]", "(1, 5, 10)")
    run(project, code=1)
    alone = report(project)
    for dist in ("load", "loadgroup"):
        result = run(project, "-n", "2", "--dist", dist, workers=True, code=1)
        result.assert_outcomes(passed=4, failed=1, skipped=1)
        together = report(project)
        assert {key: outcome["status"] for key, outcome in together.items()} == {
            key: outcome["status"] for key, outcome in alone.items()
        }
        for key, outcome in alone.items():
            assert [attempt["loss"] for attempt in together[key]["attempts"]] == [
                attempt["loss"] for attempt in outcome["attempts"]
            ]
        assert leftovers(project) == []


def test_several_seeds_are_climbed_and_how_many_held_is_said(project):
    ladder(project, "[toy(), toy('some', build=some_seeds)]", "(2,)")
    result = run(
        project,
        "--overfit-seed=1",
        "--overfit-beta=0.01",
        "--overfit-set=budget=60",
        "--overfit-set=fallbacks=[]",
        code=1,
    )
    result.stdout.fnmatch_lines(
        [
            "* 2 * ok (2 of 2 seeds)*",
            (
                "* seeds at 2: 2 of 2 held; a network that climbs with 1 of 20 seeds is called ok "
                "in 0.25 % of cases"
            ),
            "* 2 * BROKEN (1 of 3 seeds)*",
            (
                "* seeds at 2: 1 of 3 held; a network that climbs with 19 of 20 seeds is called "
                "broken in * % of cases"
            ),
        ]
    )


def test_another_seed_is_another_run(project):
    ladder(project, rungs="(2,)")
    run(project, code=0)
    first = report(project)["toy", 2]["attempts"][0]
    run(project, "--overfit-seed=5", code=0)
    other = report(project)["toy", 2]["attempts"][0]
    assert (first["seed"], other["seed"]) == (0, 5)
    assert first["loss"] != other["loss"]


def test_a_configuration_is_tested_from_a_file_and_from_the_command_line(project):
    ladder(project, rungs="(1, 2)")
    (project.path / "fast.toml").write_text(
        'lr = 0.01\nschedule = "cosine"\n[rungs.2]\nlr = 0.02\n', encoding="utf-8"
    )
    run(
        project,
        "--overfit-recipe=fast.toml",
        "--overfit-set=warmup=3",
        "--overfit-set=fallbacks=[]",
        code=0,
    )
    recipes = {
        samples: outcome["attempts"][0]["recipe"]
        for (_, samples), outcome in report(project).items()
    }
    assert [(recipes[n]["lr"], recipes[n]["schedule"], recipes[n]["warmup"]) for n in (1, 2)] == [
        (0.01, "cosine", 3),
        (0.02, "cosine", 3),
    ]


def test_the_written_down_recipes_are_climbed_by_name(project):
    ladder(project, rungs="(1,)")
    run(project, "--overfit-recipe=notes", "--overfit-set=budget=20")
    recipe = report(project)["toy", 1]["attempts"][0]["recipe"]
    assert (recipe["optimizer"], recipe["lr"], recipe["momentum"]) == ("sgd", 1.0, 0.9)


def test_a_tighter_bound_is_what_must_hold(project):
    ladder(project, rungs="(2,)")
    run(
        project, "--overfit-rungs=2", "--overfit-bound=wer=0.01", "--overfit-bound=loss=0.1", code=0
    )
    held = {
        verdict["name"]: verdict for verdict in report(project)["toy", 2]["attempts"][0]["criteria"]
    }
    assert held["WER"]["bound"] == 0.01
    assert held["loss"]["value"] < held["loss"]["bound"] == 0.1


# -- bad input

USAGE = [
    (["--overfit-rungs=20,10"], "rungs must ascend: 20 comes before 10"),
    (
        ["--overfit-rungs=ten"],
        "rungs must be numbers with commas between them, like 1,2,5: got 'ten'",
    ),
    (["--overfit-subject=lstm"], "no subject is called 'lstm'; there are breaks, toy"),
    (
        ["--overfit-subject=absent:toy"],
        "cannot import absent: ModuleNotFoundError: No module named 'absent'",
    ),
    (["--overfit-subject=toy:lstm"], "module toy has no attribute 'lstm'"),
    (
        ["--overfit-subject=toy:VOCABULARY"],
        "subject toy:VOCABULARY is a tuple, expected a pytest_overfit.Subject",
    ),
    (["--overfit-device=cuda:7"], "device cuda:7 was asked for, but torch"),
    (["--overfit-device=gpu"], "'gpu' is no device: use auto, cpu or cuda:N"),
    (
        ["--overfit-bound=wer=0.9"],
        "is looser than that of every rung: bounds can only be tightened",
    ),
    (["--overfit-bound=speed=1"], "no criterion is called 'speed'"),
    (["--overfit-set=rate=1"], "recipes have no field 'rate'"),
    (["--overfit-set=lr"], "'lr' must read field=value, for example lr=0.01"),
    (["--overfit-set=lr=none"], "lr must be a positive number, got None"),
    (
        ["--overfit-recipe=absent.toml"],
        "recipe 'absent.toml' is neither a file nor one of default, notes",
    ),
    (["--overfit-seeds=0"], "--overfit-seeds must be at least 1, got 0"),
    (["--overfit-alpha=0.5"], "--overfit-alpha must lie between 0 and 0.5, got 0.5"),
    (["--overfit-beta=0"], "--overfit-beta must lie between 0 and 0.5, got 0"),
    (["--overfit-report=toy.py"], "--overfit-report: toy.py is a file, expected a folder"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), USAGE, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_a_wish_that_cannot_be_met_is_one_line_and_exit_code_4(project, arguments, words):
    ladder(project, "[toys, broken]")
    result = run(project, *arguments, code=pytest.ExitCode.USAGE_ERROR)
    said = result.stdout.str() + "\n" + result.stderr.str()
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if words in line]
    assert line.startswith("ERROR: ")
    assert leftovers(project) == []


@pytest.mark.parametrize(
    "arguments", [["--overfit-subject=lstm"], ["--overfit-subject=toy:lstm"]], ids=str
)
def test_workers_turn_it_away_just_the_same(project, arguments):
    ladder(project, "[toys, broken]")
    result = run(project, *arguments, "-n", "2", workers=True, code=pytest.ExitCode.USAGE_ERROR)
    said = result.stdout.str() + "\n" + result.stderr.str()
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("ERROR: ")]) == 1
    assert leftovers(project) == []


BAD_SAMPLES = {
    "samples=with_sample(1, target=torch.tensor([1, 0]))": "sample c1: its target holds the blank "
    "(0) at position 1",
    "samples=with_sample(1, target=torch.tensor([9]))": "sample c1: label 9 is outside the "
    "vocabulary of 9",
    "samples=with_sample(1, target=torch.tensor([], dtype=torch.int64))": "sample c1: its target "
    "is empty",
    "samples=with_sample(1, features=torch.full((9, 12), float('nan')))": "sample c1: features "
    "are not finite, first at frame 0, column 0",
    "samples=with_sample(1, features=torch.ones(9, 3))": "sample c1 has features 3 wide, c0 has 12",
    "layout='BTV'": "subject toy: forward gave",
    "forward=lambda network, x, frames: network(x, frames)[0]": "subject toy: forward must return "
    "output and steps, got torch.float32",
    "build=lambda vocab, dim: None": (
        "subject toy: build takes vocab and dim, and is called with vocab_size, feature_dim and "
        "seed"
    ),
}


@pytest.mark.parametrize(("changes", "words"), BAD_SAMPLES.items())
def test_a_subject_that_cannot_be_trained_is_one_failed_case_with_one_line(project, changes, words):
    ladder(project, f"[toy({changes})]", "(2, 5)")
    result = run(project, code=1)
    result.assert_outcomes(failed=1, skipped=1)
    lines = [line for line in result.stdout.str().splitlines() if line.startswith("E  ")]
    assert len(lines) == 1
    assert lines[0].startswith(
        "E       LadderBroken: toy breaks at 2 samples: it could not be trained: " + words
    )
    assert "pytest_overfit/" not in result.stdout.str().split("short test summary")[0]


def test_an_error_in_the_network_is_shown_where_it_was_raised(project):
    project.makepyfile(
        faulty="def forward(network, features, frames):\n    return features @ features, frames"
    )
    ladder(project, "[toy(forward=__import__('faulty').forward)]", "(2,)")
    result = run(project, code=1)
    result.stdout.fnmatch_lines(
        ["*LadderBroken: toy breaks at 2 samples: it could not be trained: RuntimeError: *"]
    )
    result.stdout.fnmatch_lines(
        [
            "error      RuntimeError: *",
            '*faulty.py", line 2, in forward',
            "*return features @ features, frames",
        ]
    )


def test_rungs_that_do_not_ascend_in_a_test_file_are_said_to_be_so(project):
    ladder(project, rungs="(5, 2)")
    result = run(project)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["E*rungs must ascend: 5 comes before 2"])


# -- what it leaves behind


def normalised(text, project):
    """The text without what differs between machines and versions of torch: paths, and the numbers
    of a climb.
    """
    text = text.replace(str(project.path), "PROJECT")
    text = re.sub(
        r"(?m)^ +\d+   (?:ok|BROKEN|not tried).*$", lambda row: re.sub(" {2,}", "  ", row[0]), text
    )
    text = re.sub(
        r"(ok|BROKEN)  \d+  [\d.]+  \S+  (\S+)  \S+", r"\1  STEPS  SECONDS  LOSS  \2  RATE", text
    )
    return re.sub(
        r"(as they are|inputs swapped|own length|noise|clips alone|frames shuffled) [\d.]+",
        r"\1 RATE",
        text,
    )


def test_the_summary_is_a_table_a_subject_and_names_its_files(project, snapshot):
    ladder(project, "[toys, broken]", "(1, 2, 5, 10)")
    result = run(project, code=1)
    text = result.stdout.str()
    text = text[text.index("= overfit =") :]
    text = "\n".join(
        line.rstrip()
        for line in text[text.index("\n") + 1 : text.index("= short test")].splitlines()[:-1]
    )
    assert normalised(text, project) == snapshot
    assert normalised(
        (project.path / "overfitting_test_report.txt").read_text(encoding="utf-8"), project
    ) == snapshot(name="file")


def test_reports_and_curves_go_where_they_are_asked_to(project):
    ladder(project, rungs="(1,)")
    run(project, "--overfit-report=deep/down", code=0)
    assert (project.path / "deep" / "down" / "overfitting_test_report.json").is_file()
    assert (project.path / "deep" / "down" / "overfitting_test_report.txt").is_file()
    assert list(
        (project.path / "deep" / "down" / "logs" / "overfitting_tests" / "toy" / "1 samples").rglob(
            "events.out.tfevents.*"
        )
    )
    assert not (project.path / "overfitting_test_report.json").exists()


def test_a_session_without_rungs_leaves_nothing(project):
    project.makepyfile("def test_other(): pass")
    result = run(project, code=0)
    assert "overfit" not in result.stdout.str().split("plugins:")[1].split("\n", 1)[1]
    assert not (project.path / "overfitting_test_report.json").exists()
    assert leftovers(project) == []


def test_github_is_told_of_the_break_at_the_networks_line_and_given_the_table(project, monkeypatch):
    ladder(
        project,
        (
            "[toys, toy('raw', forward=lambda network, x, frames: (network(x, frames)[0] + 3, "
            "frames))]"
        ),
        "(1,)",
    )
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    result = run(project, "--overfit-set=fallbacks=[]", "--overfit-set=budget=60")
    line = 1 + TOY.strip().splitlines().index("class Convolutions(nn.Module):")
    (told,) = [text for text in result.stdout.str().splitlines() if text.startswith("::error ")]
    assert told.startswith(
        f"::error file=toy.py,line={line},title=overfit raw::raw breaks at 1 sample: "
    )
    summary = (project.path / "summary.md").read_text(encoding="utf-8")
    (steps,) = re.findall(r"\| raw \| 1 \| BROKEN \| (\d+) \|", summary)
    looks = [
        round(share * 60) for share in LOOKS
    ]  # where contracts tell what keeps it from holding
    assert int(steps) in looks
    assert "- **raw breaks at 1 sample: " in summary


def test_elsewhere_no_annotation_is_printed(project):
    ladder(project, "[broken]", "(5,)")
    assert "::error" not in run(project, code=1).stdout.str()


def own_terminal():
    """In a new process: make its standard input the terminal that /dev/tty means."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def on_a_terminal(project, *arguments, **environment):
    """What a person sees who runs pytest on a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=project.path,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env=os.environ | environment,
        preexec_fn=own_terminal,
    )
    os.close(slave)
    seen = b""
    with contextlib.suppress(
        OSError
    ):  # Linux says that all of a terminal's writers are gone by an error
        while part := os.read(master, 65536):
            seen += part
    os.close(master)
    assert process.wait(60) == 0, seen.decode()
    return seen.decode()


SLOW = (
    "[toy(forward=lambda network, x, frames: __import__('time').sleep(0.05) or network(x, frames))]"
)


def test_a_terminal_shows_where_the_climb_stands(project):
    ladder(project, SLOW, "(1,)")
    project.makeconftest(
        "import pytest_overfit.plugin.live\n\npytest_overfit.plugin.live.INTERVAL_SECONDS = 0.01"
    )  # a step alone takes longer
    seen = on_a_terminal(project)
    assert re.search(r"\x1b\[2Ktoy 1 samples?, step \d+/400, lr 0\.005, loss \S+, WER ", seen)


# -- what it costs those who do not use it


def test_an_installed_but_unused_plugin_imports_no_torch(project):
    project.makepyfile("def test_other(): pass")
    project.makeconftest(
        """
        import sys

        def pytest_unconfigure(config):
            heavy = [name for name in ("torch", "numpy", "rich", "jiwer", "rapidfuzz", "filelock", "tensorboard") if name in sys.modules]
            print(f"imported: {heavy}")
        """
    )
    result = project.runpytest_subprocess("--collect-only", "-p", "no:syrupy", "-p", "no:xdist")
    result.stdout.fnmatch_lines(["imported: []"])


# -- when it is stopped


def test_an_interrupted_climb_leaves_whole_reports_and_no_temporary_folder(project):
    ladder(project, "[toy(forward=interrupted)]", "(1, 2, 5)")
    result = project.runpytest_inprocess(no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert verdicts(project) == {("toy", 1): "ok"}
    assert leftovers(project) == []


def test_a_worker_that_is_killed_costs_its_case_and_no_other(project):
    ladder(project, "[toy(forward=killed_once)]", "(1, 2, 5, 10)")
    result = run(project, "-n", "1", "-v", workers=True, code=1)
    result.stdout.fnmatch_lines(["*worker 'gw*' crashed while running*"])
    known = verdicts(project)
    assert set(known.values()) == {"ok"}
    assert len(known) == 3
    assert leftovers(project) == []


def test_a_session_that_is_terminated_leaves_no_half_written_report(project):
    ladder(project, SLOW, "(1, 2)")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores interrupts, and hands that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        folder = project.path / "temporary"
        while not any(path.name.startswith("progress") for path in folder.rglob("*")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        process.communicate()
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert not (project.path / "overfitting_test_report.json").exists() or set(
        verdicts(project).values()
    ) <= {"ok"}
    assert leftovers(project) == []
