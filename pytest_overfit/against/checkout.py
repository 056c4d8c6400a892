"""The other side's code: a commit in a temporary git worktree, another checkout, or a folder of
installed packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PREFIX = "pytest-overfit-against-"
CHECKOUT = (
    ".git",
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "pytest.ini",
    "tox.ini",
    "conftest.py",
)
"""What tells a checkout from a folder of installed packages."""
NOT_CODE = (
    "__pycache__",
    ".venv",
    "venv",
    ".git",
    ".tox",
    ".nox",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    "build",
    "dist",
)

OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""What git sets for its hooks, and what would lead it into another repository than the folder's."""


class NoOtherSide(ValueError):
    """What --overfit-against names cannot be compared with; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """Where a side's code lies. name: as people read it. tree: the folder that holds all of it.

    installed: packages alone, no tests. commit: that was checked out.
    """

    name: str
    tree: Path
    installed: bool = False
    commit: str | None = None

    def counterpart(self, path: Path, ours: Checkout) -> Path:
        """Where a path of ours lies here; itself where it lies outside of ours or this side has
        packages alone.
        """
        if self.installed or not path.is_relative_to(ours.tree):
            return path
        return self.tree / path.relative_to(ours.tree)


def own_checkout(folder: Path) -> Checkout:
    """The git working tree around a folder, as it stands; the folder itself where there is none."""
    try:
        top = Path(git(folder, "rev-parse", "--show-toplevel"))
    except NoOtherSide:
        top = folder
    return Checkout(name="the working tree", tree=top.resolve())


def resolve(asked: str, folder: Path) -> tuple[str, str]:
    """A commit to compare with, and its name: of a branch, where `folder`'s commit departs from it;
    of anything else, itself.

    Raises NoOtherSide.
    """
    commit = git(
        folder,
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        f"{asked}^{{commit}}",
        hint=_unknown(asked, folder),
    )
    full = git(folder, "rev-parse", "--symbolic-full-name", "--end-of-options", asked).splitlines()
    if full and full[-1].startswith(("refs/heads/", "refs/remotes/")):
        hint = (
            f"--overfit-against: {asked} and HEAD have no commit in common here: fetch the whole "
            "history (actions/checkout: fetch-depth: 0)"
        )
        departed = git(folder, "merge-base", "HEAD", commit, hint=hint)
        name = asked if departed == commit else f"{asked}, where this branch departs from it,"
        return departed, f"{name} at {departed[:10]}"
    return commit, asked if commit.startswith(asked) else f"{asked} at {commit[:10]}"


@contextmanager
def other_side(asked: str, folder: Path) -> Iterator[Checkout]:
    """The checkout that --overfit-against names, for as long as it is needed.

    A commit, tag or branch before a folder of that name. Raises NoOtherSide.
    """
    try:
        commit, name = resolve(asked, folder)
    except NoOtherSide:
        path = (folder / Path(asked).expanduser()).resolve()
        if not path.is_dir():
            raise
        installed = not any((path / one).exists() for one in CHECKOUT)
        tree = path if installed else own_checkout(path).tree
        yield Checkout(name=asked, tree=tree, installed=installed)
        return
    with worktree(commit, folder) as tree:
        yield Checkout(name=name, tree=tree, commit=commit)


def check_asked(asked: str, folder: Path) -> None:
    """Raises NoOtherSide where `other_side` would."""
    if not (folder / Path(asked).expanduser()).is_dir():
        resolve(asked, folder)


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """A commit checked out in a temporary worktree; what git ignores, such as data, is linked to
    where it lies in ours.
    """
    ours = own_checkout(folder).tree
    remove_abandoned(ours)
    tree = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
    try:
        git(ours, "worktree", "add", "--quiet", "--detach", str(tree), commit)
        linked = link_ignored(ours, tree)
        try:
            yield tree
        finally:
            for link in linked:
                link.unlink(missing_ok=True)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        git(ours, "worktree", "prune")


def link_ignored(ours: Path, tree: Path) -> list[Path]:
    """Links in `tree` to what git ignores in `ours` and is no code: samples are often too large for
    a commit. Returns the links.
    """
    listed = git(
        ours, "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z"
    )
    links = []
    for name in filter(None, listed.split("\0")):
        place = tree / name.rstrip("/")
        if (
            set(Path(name).parts) & set(NOT_CODE)
            or place.suffix in (".py", ".pyc")
            or place.name.endswith(".egg-info")
        ):
            continue
        if place.parent.is_dir() and not place.exists():
            place.symlink_to((ours / name.rstrip("/")).resolve())
            links.append(place)
    return links


def remove_abandoned(ours: Path) -> None:
    """Take away the worktrees of processes that were killed."""
    for line in git(ours, "worktree", "list", "--porcelain").splitlines():
        place = Path(line.removeprefix("worktree "))
        if (
            line.startswith("worktree ")
            and place.name.startswith(PREFIX)
            and not _is_running(place.name.removeprefix(PREFIX).split("-")[0])
        ):
            shutil.rmtree(place, ignore_errors=True)
    git(ours, "worktree", "prune")


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def _unknown(asked: str, folder: Path) -> str:
    return (
        f"--overfit-against: {asked!r} is neither a folder nor a commit, tag or branch of the "
        f"repository at {folder}: "
        f"fetch it (git fetch origin; actions/checkout: fetch-depth: 0)"
    )


def git(folder: Path, *arguments: str, hint: str | None = None, given: str | None = None) -> str:
    """What git says. given: what it reads. Raises NoOtherSide with `hint`, or with git's own words."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            input=given,
        )
    except FileNotFoundError as error:
        raise NoOtherSide(
            "--overfit-against needs git to check out the other side: it is not installed"
        ) from error
    if done.returncode:
        raise NoOtherSide(
            hint or f"--overfit-against: git {arguments[0]}: {done.stderr.strip() or 'failed'}"
        )
    return done.stdout.strip("\n")
