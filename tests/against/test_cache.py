"""Courses of the cache: when one fits, when it is climbed anew, and what is never taken from it."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

import pytest
import torch

from pytest_overfit.against import kept
from pytest_overfit.against.cache import (
    KEPT_DAYS,
    Cache,
    DamagedEntry,
    Entry,
    hash_of_file,
    hashes_of,
    settings_of,
)
from pytest_overfit.against.course import Piece
from pytest_overfit.against.kept import Account, KeptCourse, identity, structure_of
from pytest_overfit.climb.criteria import criteria_for
from pytest_overfit.climb.ladder import Rung
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Sample, Subject
from tests.against.repository import git, make_repository

ENTRY = Entry(pieces=({"step": 5},), memory_bytes=7, late={}, processor="another")
RUNG = Rung(
    subject=Subject(name="a", build=torch.nn.Linear, samples=[], vocabulary="-A"),
    samples=1,
    recipe=Recipe(),
    criteria=criteria_for(1),
)
PARTS = {
    "key": "test_learns.py::test_overfits-a",
    "seed": 0,
    "samples": "s",
    "code": {"net.py": "c"},
    "network": structure_of(torch.nn.Linear(2, 3)),
}


@dataclass
class Climbed:
    """Stands for a course that holds at step 6."""

    asked: list = field(default_factory=list)

    def advance(self, to):
        self.asked.append(to)
        held = to >= 6
        return Piece(step=to, step_seconds=0.5, loss=1 / to, token_error_rate=0.0, held=held)

    def memory_bytes(self):
        return 96

    def close(self):
        pass


@pytest.fixture
def tree(tmp_path):
    make_repository(tmp_path / "team")
    return tmp_path / "team"


def course(cache, tree, *, imported=("network.py",)):
    """A kept course, the course behind it, and where it came from. imported: grows meanwhile."""
    climbed, account = Climbed(), Account()
    return (
        KeptCourse(
            cache,
            "name",
            make=lambda: climbed,
            code=lambda: hashes_of(tree, [tree / name for name in imported]),
            of_file=lambda name: hash_of_file(tree / name),
            account=account,
        ),
        climbed,
        account,
    )


def test_a_course_is_climbed_once_and_its_time_is_not_kept(tmp_path, tree, monkeypatch):
    cache = Cache(tmp_path / "cache")
    first, _, account = course(cache, tree)
    steps = [first.advance(step) for step in (5, 6)]
    assert (account.courses, account.cached) == (1, 0)

    monkeypatch.setattr(kept, "processor", lambda: "another, AVX2, 1 threads")
    again, climbed, account = course(cache, tree)
    pieces = [again.advance(step) for step in (5, 6)]
    assert pieces == [replace(step, step_seconds=None) for step in steps]
    assert again.memory_bytes() == 96
    assert climbed.asked == []
    assert account == Account(courses=1, cached=1, elsewhere=1)


def test_what_was_left_before_its_end_is_not_kept(tmp_path, tree):
    cache = Cache(tmp_path / "cache")
    course(cache, tree)[0].advance(5)
    assert course(cache, tree)[2].cached == 0


def test_a_file_imported_while_it_trained_counts_too(tmp_path, tree):
    cache, imported = Cache(tmp_path / "cache"), ["network.py"]
    (tree / "late.py").write_text("A = 1", encoding="utf-8")
    first, _, _ = course(cache, tree, imported=imported)
    imported.append("late.py")
    first.advance(6)
    assert course(cache, tree)[2].cached == 1
    (tree / "late.py").write_text("A = 2", encoding="utf-8")
    assert course(cache, tree)[2].cached == 0


@pytest.mark.parametrize(
    "other",
    [
        {"code": {"net.py": "d"}},
        {"samples": "t"},
        {"key": "test_learns.py::test_overfits-b"},
        {"seed": 1},
        {"network": structure_of(torch.nn.Linear(2, 4))},
        {"rung": replace(RUNG, recipe=Recipe(lr=0.1))},
        {"rung": replace(RUNG, criteria=criteria_for(10))},
        {"rung": replace(RUNG, size="full")},
    ],
)
def test_whatever_a_course_depends_on_makes_it_another(other):
    before = identity(**{"rung": RUNG, **PARTS})
    assert identity(**{"rung": RUNG, **PARTS}) == before
    assert identity(**{"rung": RUNG, **PARTS, **other}) != before


def test_other_versions_make_it_another(monkeypatch):
    before, packages = identity(RUNG, **PARTS), kept.installed()
    monkeypatch.setattr(kept, "installed", lambda: [*packages, "einops 99"])
    assert identity(RUNG, **PARTS) != before


def test_settings_that_git_knows_of_are_code(tree):
    (tree / "sizes.toml").write_text("width = 8", encoding="utf-8")
    (tree / "logs").mkdir()
    (tree / "logs" / "report.json").write_text("{}", encoding="utf-8")
    assert sorted(path.name for path in settings_of(tree)) == ["pytest.ini", "sizes.toml"]
    before = hashes_of(tree, settings_of(tree))
    (tree / "sizes.toml").write_text("width = 9", encoding="utf-8")
    assert hashes_of(tree, settings_of(tree)) != before
    assert settings_of(tree.parent / "nowhere") == []
    assert git(tree, "status", "--porcelain") == "?? sizes.toml"


@pytest.mark.parametrize("damage", [b"", b"half", b"\xff\xfe", None])
def test_a_damaged_entry_is_climbed_anew_and_mended(tmp_path, tree, damage):
    cache = Cache(tmp_path / "cache")
    course(cache, tree)[0].advance(6)
    (path,) = cache.folder.glob("*.course")
    path.write_bytes(path.read_bytes().replace(b"96", b"97") if damage is None else damage)
    with pytest.raises(DamagedEntry):
        cache.read("name")
    again, _, account = course(cache, tree)
    assert account == Account(courses=1, damaged=1)
    again.advance(6)
    assert course(cache, tree)[2].cached == 1


def test_processes_that_write_the_same_entry_leave_a_whole_one(tmp_path):
    """Each writes a long entry of its own many times; whoever reads meanwhile sees one of them."""
    cache = Cache(tmp_path)
    cache.write("name", ENTRY)
    write = (
        "import sys; from pathlib import Path; from pytest_overfit.against.cache import *\n"
        "memory = int(sys.argv[2]); pieces = tuple({'step': memory} for _ in range(memory))\n"
        "entry = Entry(pieces=pieces, memory_bytes=memory, late={}, processor='')\n"
        "for _ in range(20): Cache(Path(sys.argv[1])).write('name', entry)\n"
        "assert 'torch' not in sys.modules"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", write, str(tmp_path), memory])
        for memory in ("1000", "2000")
    ]
    while any(writer.poll() is None for writer in writers):
        entry = cache.read("name")
        assert entry == ENTRY or len(entry.pieces) == entry.memory_bytes
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(cache.read("name").pieces) in (1000, 2000)
    assert [path.name for path in tmp_path.glob("*.course*")] == ["name.course"]


def test_what_nobody_uses_goes(tmp_path):
    cache = Cache(tmp_path)
    for name in ("used", "unused"):
        cache.write(name, ENTRY)
    past = time.time() - (KEPT_DAYS + 1) * 24 * 3600
    for name in ("used", "unused"):
        os.utime(tmp_path / f"{name}.course", (past, past))
    cache.read("used")
    cache.remove_unused()
    assert cache.read("used") == ENTRY
    assert cache.read("unused") is None


def test_samples_are_told_apart_by_content():
    from pytest_overfit.plugin.serving import content_of

    one = Sample(name="a", features=torch.zeros(4, 2), target=torch.tensor([1]))
    assert content_of([one]) == content_of([replace(one)])
    assert content_of([one]) != content_of([replace(one, features=torch.ones(4, 2))])
    assert content_of([one]) != content_of([replace(one, target=torch.tensor([2]))])
