"""The examination of comparisons: what it plants is there to be planted, and what it counts as found."""

import pytest

from examination.against.blame import MANY, PLANTS, TEAM, edit, named, repository
from pytest_overfit.against.guilty import Guilty

SKIP = PLANTS["lost skip"]
LINE = (TEAM / "blocks.py").read_text("utf-8").splitlines().index("        return x + mixed") + 1


@pytest.mark.parametrize("plant", PLANTS)
def test_every_plant_changes_one_line_beside_the_sound_changes(plant):
    with repository() as tree:
        edit(tree, MANY)
        before = (tree / PLANTS[plant][0]).read_text("utf-8").splitlines()
        edit(tree, (PLANTS[plant],))
        after = (tree / PLANTS[plant][0]).read_text("utf-8").splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize(
    ("file", "line", "whole", "said"),
    [
        ("blocks.py", LINE, False, "line"),
        ("blocks.py", 1, True, "file"),
        ("blocks.py", 1, False, "falsely"),
        ("network.py", LINE, False, "falsely"),
    ],
)
def test_what_counts_as_found(file, line, whole, said):
    one = Guilty(file=file, line=line, within="", whole=whole, verdict="as good")
    assert named(SKIP, "worse", [one]) == said


def test_what_is_not_confirmed_is_not_found():
    one = Guilty(file="blocks.py", line=LINE, within="", verdict=None)
    assert named(SKIP, "worse", [one]) == "nothing"
    assert named(SKIP, "as good", []) == "not worse"
