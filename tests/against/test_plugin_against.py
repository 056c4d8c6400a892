"""--overfit-against as its users meet it: a change that learns worse fails, one that does not
passes, and nothing is left of the other side.
"""

import json
import sys

import pytest
import torch

import pytest_overfit.plugin.cases
import pytest_overfit.plugin.curves  # noqa: F401
from tests.against.repository import FAINT, NETWORK, SLOW, git, make_repository

# pytester drops the modules that an inner session imports first, and parts of torch, loaded by the
# first optimiser, cannot be imported twice.
torch.optim.Adam([torch.zeros(1, requires_grad=True)])


@pytest.fixture
def team(pytester, monkeypatch):
    """A repository in the working directory of the inner session."""
    monkeypatch.setattr(sys, "path", [str(pytester.path), *sys.path])
    make_repository(pytester.path)
    return pytester


def report_of(team):
    text = (team.path / "overfitting_test_report.json").read_text(encoding="utf-8")
    return json.loads(text)["comparisons"]


def test_a_change_that_learns_worse_fails(team, monkeypatch):
    (team.path / "network.py").write_text(FAINT, encoding="utf-8")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(team.path / "overfitting_step.md"))
    result = team.runpytest("-m", "overfit", "--overfit-against", "main")
    (comparison,) = report_of(team)
    assert (comparison["verdict"], comparison["fails"]) == ("worse", True)
    assert comparison["steps"]["low"] > 1.25
    (guilty,) = comparison["guilty"]
    assert (guilty["file"], guilty["within"], guilty["confirmed"]) == (
        "network.py",
        "Net.forward",
        True,
    )
    result.stdout.fnmatch_lines(
        [
            "*LearnsWorse: tones at 2 samples is worse than main at *",
            "*seed 0: not held after * steps, theirs * steps",
            "*2*WORSE*at least *",
            "::error file=network.py,line=14,title=overfit tones::tones at 2 samples is worse than *",
        ]
    )
    assert "| tones | 2 | WORSE |" in (team.path / "overfitting_step.md").read_text("utf-8")
    assert len(git(team.path, "worktree", "list").splitlines()) == 1


def test_a_new_name_is_the_same_training_and_is_climbed_once(team):
    renamed = NETWORK.replace("hidden", "first")
    (team.path / "network.py").write_text(renamed, encoding="utf-8")
    for cached in (0, 2):
        result = team.runpytest("-m", "overfit", "--overfit-against=HEAD")
        assert result.ret == pytest.ExitCode.OK
        (comparison,) = report_of(team)
        assert (comparison["verdict"], comparison["steps"]["same"]) == ("as good", True)
        assert comparison["parameters"]["ours"] == comparison["parameters"]["theirs"]
        assert comparison["climbs"]["cached"] == cached
        assert comparison["step_time"] is not None
    result.stdout.fnmatch_lines(["*2 of 2 climbs from the cache; times are measured anew"])


def test_a_change_that_makes_each_step_slower_fails_and_is_found(team):
    (team.path / "network.py").write_text(SLOW, encoding="utf-8")
    result = team.runpytest("-m", "overfit", "--overfit-against=main")
    (comparison,) = report_of(team)
    assert (comparison["steps"]["same"], comparison["slower"]) == (True, True)
    assert comparison["step_time"]["low"] > 1.25
    (guilty,) = comparison["guilty"]
    assert (guilty["line"], guilty["within"], guilty["confirmed"]) == (15, "Net.forward", True)
    result.stdout.fnmatch_lines(
        [
            "*LearnsWorse: tones at 2 samples is worse than main at *; since network.py:15 *",
            "*SLOWER*",
        ]
    )


def test_what_cannot_be_compared_with_is_said_before_anything_is_climbed(team):
    result = team.runpytest("--overfit-against=v9")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--overfit-against: 'v9' is neither a folder nor a commit*"])
