"""The page of runs: curves stay inside their picture, findings are numbered where they began, and
what a log says is escaped.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from pytest_overfit import check_up, read_run
from pytest_overfit.health.page import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, charts, page

TEAM = Path(__file__).parent / "specimens" / "team.log"


def test_curves_lie_inside_their_picture_and_marks_where_findings_began() -> None:
    checkup = check_up(read_run(TEAM))
    loss, rate = charts(checkup.run, checkup.findings)
    assert [split for split, _ in loss.lines] == ["train", "val"]
    for chart in (loss, rate):
        for _, points in chart.lines:
            for x, y in (map(float, point.split(",")) for point in points.split()):
                assert LEFT <= x <= WIDTH - RIGHT
                assert TOP <= y <= HEIGHT - BOTTOM
    began = sorted({finding.began for finding in checkup.findings if finding.began is not None})
    assert [x for x, _ in sorted(loss.marks)] == sorted({x for x, _ in loss.marks})
    assert len(loss.marks) == len(began)
    assert {int(one) for _, names in loss.marks for one in names.split(", ")} == {1, 2, 3}


def test_the_page_says_what_the_text_says_and_needs_no_network() -> None:
    checkup = check_up(read_run(TEAM))
    made = page([checkup])
    for finding in checkup.findings:
        assert finding.headline in made
    assert checkup.verdict.upper() in made
    assert not re.search(r"https?://|<script|src=", made)


def test_what_a_log_says_is_escaped() -> None:
    checkup = check_up(read_run(TEAM))
    named = replace(checkup, run=replace(checkup.run, name="<script>alert(1)</script>"))
    assert "<script" not in page([named], compared="<b>")
    assert "&lt;b&gt;" in page([named], compared="<b>")
