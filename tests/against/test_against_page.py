"""The comparison on the page: what its picture shows, and that it keeps to its frame."""

import math

import pytest

from pytest_overfit.plugin.against_page import LEAST, MOST, compared
from pytest_overfit.plugin.page import page
from tests.against.test_against_report import NEITHER, OURS, THEIRS
from tests.against.test_against_report import compared as comparison
from tests.engine.sessions import climbed
from tests.engine.test_page import HOSTILE, Elements


def toy(*steps, **changes):
    return comparison(*steps, **{"subject": "toy", **changes})


def test_the_page_shows_each_rung_within_or_beyond_the_tolerance():
    own = [
        toy(THEIRS, samples=5, low=1.5, high=math.inf),
        toy(OURS, samples=2, verdict="as good", decided=False, low=0.9, high=1.6),
        toy(samples=10, verdict=None, note="it has no such test", base=HOSTILE),
    ]
    text = page(climbed(), comparisons=own)
    elements = Elements(text)
    assert elements.open == []
    assert HOSTILE not in text
    assert len(elements.of("ol", "versus")) == 1
    kinds = [attrs["class"] for attrs in elements.of("li") if attrs.get("class") in ("bad", "open")]
    assert kinds == ["open", "bad", "open"]
    words = " ".join(elements.words)
    for part in ("1 of 1 worse", "up to 1.25 times", "ours not learned, theirs 92", "no such test"):
        assert part in words


def test_a_page_without_a_comparison_has_no_picture_of_one():
    assert not Elements(page(climbed())).of("ol", "versus")
    assert compared([]) is None


@pytest.mark.parametrize(
    ("ratio", "low", "high"),
    [(1.0, 1.0, 1.0), (1e-9, 0.0, 1e-3), (1e9, 100.0, math.inf), (math.nan, 0.0, math.inf)],
)
def test_the_picture_keeps_to_its_frame(ratio, low, high):
    (rung,) = compared([toy(NEITHER, ratio=ratio, low=low, high=high)])["rungs"]
    begin, width = rung["span"]
    assert 0 <= begin <= begin + width <= 100.1
    assert rung["at"] is None or 0 <= rung["at"] <= 100
    assert compared([toy(THEIRS, ratio=LEAST)])["rungs"][0]["at"] == 0
    assert compared([toy(THEIRS, ratio=MOST)])["rungs"][0]["at"] == 100
