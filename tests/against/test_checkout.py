"""Where the other side's code comes from, and that nothing of it is left."""

import os
import subprocess
import sys

import pytest

from pytest_overfit.against.checkout import (
    PREFIX,
    Checkout,
    NoOtherSide,
    check_asked,
    other_side,
    own_checkout,
    resolve,
)
from tests.against.repository import commit, git, make_repository


@pytest.fixture
def folder(tmp_path):
    make_repository(tmp_path / "team")
    return tmp_path / "team"


def test_a_branch_means_where_this_one_departs_from_it(folder):
    began = git(folder, "rev-parse", "HEAD")
    git(folder, "checkout", "-q", "-b", "mine")
    git(folder, "checkout", "-q", "main")
    (folder / "later.txt").touch()
    ahead = commit(folder, "later")
    git(folder, "tag", "v1")
    git(folder, "checkout", "-q", "mine")
    assert resolve("main", folder) == (
        began,
        f"main, where this branch departs from it, at {began[:10]}",
    )
    assert resolve("v1", folder) == (ahead, f"v1 at {ahead[:10]}")
    assert resolve(ahead[:8], folder) == (ahead, ahead[:8])


def test_a_worktree_has_the_commit_and_what_git_ignores_and_goes_again(folder):
    (folder / "data").mkdir()
    (folder / "data" / "clips.npy").write_text("clips", encoding="utf-8")
    (folder / "network.py").write_text("changed", encoding="utf-8")
    with other_side("main", folder) as other:
        assert "changed" not in (other.tree / "network.py").read_text(encoding="utf-8")
        assert (other.tree / "data" / "clips.npy").read_text(encoding="utf-8") == "clips"
        assert other.counterpart(folder / "a.py", own_checkout(folder)) == other.tree / "a.py"
        gone = other.tree
    assert not gone.exists()
    assert (folder / "data" / "clips.npy").exists()
    assert len(git(folder, "worktree", "list").splitlines()) == 1


def test_what_a_killed_process_left_is_taken_away(folder):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = folder.parent / f"{PREFIX}{dead.pid}-x"
    mine = folder.parent / f"{PREFIX}{os.getpid()}-x"
    for place in (left, mine):
        git(folder, "worktree", "add", "--quiet", "--detach", str(place), "HEAD")
    with other_side("HEAD", folder):
        assert not left.exists()
        assert mine.exists()


def test_a_folder_is_a_checkout_or_holds_packages(folder, tmp_path):
    with other_side(str(folder), tmp_path) as other:
        assert other == Checkout(name=str(folder), tree=folder)
    (tmp_path / "packages" / "team").mkdir(parents=True)
    with other_side("packages", tmp_path) as other:
        assert other.installed
        assert other.counterpart(tmp_path / "a.py", own_checkout(tmp_path)) == tmp_path / "a.py"


def test_what_is_neither_is_said_in_one_line(folder):
    with pytest.raises(
        NoOtherSide, match="'nowhere' is neither a folder nor a commit, tag or branch"
    ):
        check_asked("nowhere", folder)
