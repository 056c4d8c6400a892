"""Which change is put back when, and what is called guilty."""

import pytest

from pytest_overfit.against.changes import changes, copy_of, enclosing, put_back
from pytest_overfit.against.guilty import Guilty, judge, search
from pytest_overfit.against.pairing import Pair, Way
from pytest_overfit.against.sides import SideFailed
from pytest_overfit.against.verdict import PairTest
from tests.against.repository import FAINT, NETWORK, git, make_repository
from tests.against.test_pairing import Scripted

OTHER = FAINT.replace("width=32", "width=31").replace("Each frame", "Every frame")


@pytest.fixture
def folder(tmp_path):
    make_repository(tmp_path / "team")
    (tmp_path / "team" / "network.py").write_text(OTHER, encoding="utf-8")
    return tmp_path / "team"


SLOW_PAIRS = [
    Pair(
        seed=seed,
        ours=Way(steps=90, held=True, readings=((90, 0.1, 0.0),)),
        base=Way(steps=30, held=True, readings=((30, 0.2, 0.0),)),
        budget=400,
    )
    for seed in (0, 1)
]


@pytest.mark.parametrize(
    ("holds_at", "verdict"), [(30, "as good"), (90, "worse"), (44, None), (10, "better")]
)
def test_a_change_mends_only_what_is_as_good_without_it(holds_at, verdict):
    """Two seeds accused; those after them are climbed on both sides."""
    log = []
    found = judge(
        SLOW_PAIRS,
        PairTest(scale=0.25, most=4),
        400,
        ratio=3.0,
        ours=lambda seed: Scripted("ours", log, holds_at=holds_at),
        base=lambda seed: Scripted(f"base {seed}", log, holds_at=30),
    )
    assert found == verdict
    assert {"base 0", "base 1"}.isdisjoint(log)


def test_a_change_has_a_place_and_can_be_put_back_alone(folder):
    (pieces,) = changes(folder, git(folder, "rev-parse", "HEAD"), ["network.py", "conftest.py"])
    assert [piece.place for piece in pieces] == [
        "network.py:6 (Net)",
        "network.py:8 (Net.__init__)",
        "network.py:14 (Net.forward)",
    ]
    (folder / "new.py").write_text("new", encoding="utf-8")
    with copy_of(folder) as copy:
        assert (copy / "new.py").read_text(encoding="utf-8") == "new"
        with put_back(copy, pieces[1]):
            text = (copy / "network.py").read_text(encoding="utf-8")
            assert text == OTHER.replace("width=31", "width=32")
        assert (copy / "network.py").read_text(encoding="utf-8") == OTHER
    assert (folder / "network.py").read_text(encoding="utf-8") == OTHER


def test_the_piece_that_mends_is_guilty_and_the_search_ends(folder):
    found = changes(folder, "HEAD", ["network.py"])

    def trial(change):
        if change.line == 6:
            raise SideFailed("NameError: name 'x' is not defined")
        return "as good" if change.line == 8 else "worse"

    tried = search(found, trial)
    assert [one.confirmed for one in tried] == [False, True]
    assert tried[0].why == "NameError: name 'x' is not defined"
    assert tried[1].place == "network.py:8 (Net.__init__)"


def test_where_no_piece_mends_alone_the_file_may(folder):
    found = changes(folder, "HEAD", ["network.py"])
    tried = search(found, lambda change: "as good" if change.whole else "worse")
    assert [one.confirmed for one in tried] == [False, False, False, True]
    assert tried[-1].place == "network.py"


def test_nothing_is_guilty_where_nothing_mends(folder):
    tried = search(changes(folder, "HEAD", ["network.py"]), lambda change: None)
    assert len(tried) == 4
    assert not any(one.confirmed for one in tried)
    assert not Guilty(file="a.py", line=1, within="", verdict=None).confirmed


def test_the_innermost_function_around_a_line_is_named():
    assert enclosing(NETWORK, 14) == "Net.forward"
    assert enclosing(NETWORK, 2) == ""
    assert enclosing("no python (", 1) == ""
