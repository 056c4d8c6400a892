"""The page: what it shows, that nothing in it comes from elsewhere, and that what users name cannot become markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from pytest_overfit.explain.diagnosis import Diagnosis, Row
from pytest_overfit.explain.trials import Trial
from pytest_overfit.finding import Finding
from pytest_overfit.ladder import Attempt, Outcome
from pytest_overfit.levels import Level, LevelMatch
from pytest_overfit.page import APART, HEIGHT, WIDTH, page, picture
from pytest_overfit.recipe import Recipe
from pytest_overfit.train import Reading, Trace

HOSTILE = "<script>alert(1)</script>"
LEVELS = tuple(Level(name=name, loss=loss) for name, loss in (("uniform", 8.0), ("blank", 2.5), ("unigram", 2.4), ("bag of clip", 2.3)))


def reading(step, loss):
    shares = {"exact_share": 0.0, "nearest_target_share": 0.5, "emission_ratio": 0.8, "blank_share": 0.9, "entropy_ratio": 0.2}
    return Reading(step=step, loss=loss, token_error_rate=0.7, normalisation_error=0.0, **shares)


def attempt(losses, *, held=False):
    trace = Trace(losses=list(losses), readings=[reading(len(losses), losses[-1])])
    standing = LevelMatch(level=LEVELS[3], measured=losses[-1], descending=False, ladder=LEVELS)
    return Attempt(seed=0, recipe=Recipe(), steps=len(losses), seconds=1.0, held=held, verdicts=(), trace=trace, standing=standing)


def told(name="toy"):
    finding = Finding(name="time_collapse", headline=f"conv of {name} leaves 11 steps", module="conv", status="confirmed")
    table = (
        Row(module="stem", where=None, steps=40, between_sample_share=0.8, gradient=1.0),
        Row(module="conv", where="net.py:3", steps=11, between_sample_share=0.7, gradient=0.5),
    )
    trial = Trial(finding="time_collapse", remedy="a smaller stride there", held=True, steps=25, seconds=1.0)
    explained = Diagnosis(findings=(finding,), table=table, trials=(trial,))
    rungs = {"subject": name, "parameters": 1234}
    return [
        (Outcome(**rungs, samples=1, status="ok", attempts=(attempt([8.0, 1.0, 0.01], held=True),)), None),
        (Outcome(**rungs, samples=5, status="broken", attempts=(attempt([8.0, 4.0, 2.31]),)), explained),
        (Outcome(subject=name, samples=10, status="not tried", broke_at=5), None),
    ]  # fmt: skip


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
        return [attrs for name, attrs in self.found if name == tag and kind in [*(attrs.get("class") or "").split(), ""]]


def test_the_page_shows_each_rung_the_guilty_module_and_what_was_tried():
    elements = Elements(page(told(), reruns={("toy", 5): "pytest -k toy"}))
    assert elements.open == []
    ladder = [attrs["class"] for attrs in elements.of("li") if attrs.get("class") in ("ok", "broken", "not")]
    assert ladder == ["ok", "broken", "not"]
    assert [attrs["class"] for attrs in elements.of("li", "blamed")] == ["blamed"]
    assert len(elements.of("svg")) == 2
    words = " ".join(elements.words)
    for text in ("1 of 1 broken", "net.py:3", "rung 5 holds after 25 steps", "pytest -k toy", "not tried: broke at 5", "bag of clip 2.3"):
        assert text in words


def test_nothing_on_the_page_comes_from_elsewhere():
    text = page(told())
    elements = Elements(text)
    assert not [tag for tag, _ in elements.found if tag in ("script", "link", "img", "iframe")]
    assert not re.search(r"https?://|url\(|@import", text)


def test_what_users_name_cannot_become_markup():
    text = page(told(HOSTILE), notes=[(HOSTILE, Finding(name="padding_leak", headline=HOSTILE, severity="warning"))], reruns={(HOSTILE, 5): HOSTILE})
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not Elements(text).of("script")


def test_warnings_and_accepted_findings_are_told_as_such():
    warning = Finding(name="padding_leak", headline="it leaks a little", severity="warning")
    elements = Elements(page(told()[:1], notes=[("toy", warning), ("toy", replace(warning, accepted="by design"))]))
    assert len(elements.of("div", "warning")) == 1
    assert len(elements.of("div", "accepted")) == 1
    assert "by design" in elements.words


@pytest.mark.parametrize("losses", [[1.0], [8.0] * 1000, [8.0, float("inf"), 2.0], [0.0, 0.0], [1e-9, 1e9]])
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
