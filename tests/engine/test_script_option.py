"""`--overfit-script`: a training script in the place of a subject."""

from __future__ import annotations

import pytest

from pytest_overfit.plugin.options import join_script
from tests.inner_sessions import WITHOUT
from tests.loop.scripts import written
from tests.loop.test_script import MAIN


def test_pytest_climbs_by_a_script(pytester: pytest.Pytester) -> None:
    written(pytester.path)
    result = pytester.runpytest_subprocess(
        *WITHOUT.split(),
        "-m",
        "overfit",
        "--overfit-rungs=1",
        "--overfit-script",
        "train.py",
        "--",
        "--epochs",
        "30",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["train, 5.0 k parameters"])


def test_pytest_says_why_a_script_cannot_be_driven(pytester: pytest.Pytester) -> None:
    written(pytester.path, (MAIN, "\n"))
    result = pytester.runpytest_subprocess(
        *WITHOUT.split(), "-m", "overfit", "--overfit-script=train.py"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*train.py cannot be driven: it builds no torch DataLoader*"])


def test_what_stands_behind_two_dashes_is_the_scripts() -> None:
    joined = join_script(["-m", "overfit", "--overfit-script=train.py", "--", "--name", "a b"])
    assert joined == ["-m", "overfit", "--overfit-script=train.py --name 'a b'"]
    assert join_script(["tests", "--", "more"]) == ["tests", "--", "more"]


def test_a_blank_that_targets_hold_is_a_finding_of_a_script_as_of_any_subject(
    pytester: pytest.Pytester,
) -> None:
    written(pytester.path, ("nn.CTCLoss()", "nn.CTCLoss(blank=3, zero_infinity=True)"))
    result = pytester.runpytest_subprocess(
        *WITHOUT.split(), "-m", "contracts", "--overfit-script=train.py"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["finding    bad_target*", "try *"])
    assert "subject.py" not in result.stdout.str()
