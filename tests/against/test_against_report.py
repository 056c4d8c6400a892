"""What is printed of a comparison."""

from dataclasses import replace

import pytest

from pytest_overfit.against.comparison import Comparison
from pytest_overfit.plugin import against_report


def compared(*steps, verdict="worse", **changes):
    known = {"subject": "tones", "samples": 2, "base": "main", "tolerance": 1.25}
    rest = {"alpha": 0.01, "beta": 0.1, "ratio": 4.0, "low": 2.5, "high": 6.0, "decided": True}
    return Comparison(**{**known, **rest, **changes}, steps=steps, verdict=verdict)


NEITHER, THEIRS, OURS = (
    (0, 400, False, 400, False),
    (1, 400, False, 92, True),
    (2, 60, True, 80, False),
)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((), "not compared with main"),
        ((NEITHER,), "main breaks on it too"),
        ((THEIRS,), "main holds on it after 92 steps"),
        ((NEITHER, THEIRS), "main holds on it with 1 of 2 seeds"),
        ((OURS,), ""),
    ],
)
def test_a_broken_rung_says_what_the_other_side_does_on_it(steps, words):
    assert against_report.on_the_other_side(compared(*steps)) == words


def test_the_table_says_what_its_ratios_are_of():
    title, _, columns, _, row, *_ = against_report.summary([compared(THEIRS)]).splitlines()
    assert title == "tones against main: ours / theirs, with the interval"
    assert columns.split("  ")[-1].strip() == "parameters"
    assert row.split()[:4] == ["2", "WORSE", "4.00", "(2.50"]


def test_the_table_says_how_many_climbs_came_from_the_cache():
    one = compared(THEIRS, courses=4, cached=3, elsewhere=1)
    assert against_report.summary([one]).splitlines()[-1] == (
        " 3 of 4 climbs from the cache, 1 of them from another processor; times are measured anew"
    )
    assert "cache" not in against_report.summary([compared(THEIRS, courses=4)])


def test_rungs_that_it_took_together_are_named():
    one = compared(THEIRS, ratio=1.7, low=1.3, high=2.2, together=(1, 2))
    assert against_report.headline(replace(one, steps=((0, 60, True, 40, True),))) == (
        "tones at 1 and 2 samples, taken together, is worse than main: 1.70 times its steps "
        "(1.30 to 2.20)"
    )
    assert against_report.row(one)[1] == "WORSE with 1"
    assert "at most 1.25 times the steps on each of these rungs" in against_report.body(one)
