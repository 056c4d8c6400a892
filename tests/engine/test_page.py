"""The page: what it shows, that nothing in it comes from elsewhere, and that what users name cannot
become markup.
"""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from pytest_overfit.finding import Finding
from pytest_overfit.plugin.page import APART, HEIGHT, WIDTH, page, picture
from tests.engine.sessions import LEVELS, attempt, climbed

HOSTILE = "<script>alert(1)</script>"


class Elements(HTMLParser):
    """Every element with its attributes, and whether all were closed in order."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def of(self, tag, kind=""):
        return [
            attrs
            for name, attrs in self.found
            if name == tag and kind in [*(attrs.get("class") or "").split(), ""]
        ]


def test_the_page_shows_each_rung_the_guilty_module_and_what_was_tried():
    elements = Elements(page(climbed(), reruns={("toy", 5): "pytest -k toy"}))
    assert elements.open == []
    ladder = [
        attrs["class"]
        for attrs in elements.of("li")
        if attrs.get("class") in ("ok", "broken", "not")
    ]
    assert ladder == ["ok", "broken", "not"]
    assert [attrs["class"] for attrs in elements.of("li", "blamed")] == ["blamed"]
    assert len(elements.of("svg")) == 2
    words = " ".join(elements.words)
    for text in (
        "1 of 1 broken",
        "net.py:3",
        "rung 5 holds after 25 steps",
        "pytest -k toy",
        "not tried: broke at 5",
        "bag of clip 2.3",
    ):
        assert text in words


def test_nothing_on_the_page_comes_from_elsewhere():
    text = page(climbed())
    elements = Elements(text)
    assert not [tag for tag, _ in elements.found if tag in ("script", "link", "img", "iframe")]
    assert not re.search(r"https?://|url\(|@import", text)


def test_what_users_name_cannot_become_markup():
    text = page(
        climbed(HOSTILE),
        notes=[(HOSTILE, Finding(name="padding_leak", headline=HOSTILE, severity="warning"))],
        reruns={(HOSTILE, 5): HOSTILE},
    )
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not Elements(text).of("script")


def test_warnings_and_accepted_findings_are_told_as_such():
    warning = Finding(name="padding_leak", headline="it leaks a little", severity="warning")
    elements = Elements(
        page(
            climbed()[:1], notes=[("toy", warning), ("toy", replace(warning, accepted="by design"))]
        )
    )
    assert len(elements.of("div", "warning")) == 1
    assert len(elements.of("div", "accepted")) == 1
    assert "by design" in elements.words


@pytest.mark.parametrize(
    "losses", [[1.0], [8.0] * 1000, [8.0, float("inf"), 2.0], [0.0, 0.0], [1e-9, 1e9]]
)
def test_a_picture_keeps_to_its_frame_whatever_the_losses(losses):
    drawn = picture(attempt(losses))
    points = [tuple(map(float, pair.split(","))) for pair in drawn.curve.split()]
    assert points
    assert len(points) <= 401
    for x, y in (*points, *drawn.readings):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_names_of_levels_that_lie_close_do_not_cover_each_other():
    places = sorted(line.y for line in picture(attempt([8.0, 2.3])).levels)
    assert len(places) == len(LEVELS)
    assert all(later - earlier >= APART - 0.2 for earlier, later in pairwise(places))
