"""What tells our source from theirs, in pieces that can be put back one by one."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_overfit.against.checkout import git, worktree

HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A piece of source that differs. file: relative to the tree. line: its first in ours.

    within: the class and function around it. patch: makes theirs ours. whole: of all of the file.
    """

    file: str
    line: int
    within: str
    patch: str
    whole: bool = False

    @property
    def place(self) -> str:
        """ "net.py:12 (Block.forward)"."""
        inside = f" ({self.within})" if self.within else ""
        return f"{self.file}:{self.line}{inside}"


def changes(tree: Path, commit: str, files: Sequence[str]) -> list[list[Change]]:
    """For each of `files` that differs between a commit and the working tree, its pieces."""
    found = []
    for file in files:
        patch = git(
            tree, "diff", "--no-color", "--no-ext-diff", "--no-renames", "-U0", commit, "--", file
        )
        if pieces := _pieces(tree, file, f"{patch}\n"):
            found.append(pieces)
    return found


def _pieces(tree: Path, file: str, patch: str) -> list[Change]:
    begins = [match.start() for match in HUNK.finditer(patch)]
    if not begins:
        return []
    head = patch[: begins[0]]
    text = (tree / file).read_text(encoding="utf-8") if (tree / file).is_file() else ""
    pieces = []
    for begin, end in zip(begins, [*begins[1:], len(patch)], strict=True):
        line = int(HUNK.match(patch[begin:end])[1])  # type: ignore[index]
        within = enclosing(text, max(line, 1))
        own = head + patch[begin:end]
        pieces.append(Change(file=file, line=max(line, 1), within=within, patch=own))
    return pieces


def whole_of(pieces: Sequence[Change]) -> Change:
    """All pieces of one file as one."""
    first = pieces[0]
    head = first.patch[: HUNK.search(first.patch).start()]  # type: ignore[union-attr]
    hunks = [piece.patch[len(head) :] for piece in pieces]
    patch = head + "".join(hunks)
    return Change(file=first.file, line=first.line, within="", patch=patch, whole=True)


def enclosing(text: str, line: int) -> str:
    """Dotted name of the innermost class or function around a line of Python, "" where none is."""
    try:
        node: ast.AST = ast.parse(text)
    except SyntaxError:
        return ""
    names: list[str] = []
    while True:
        inner = [
            child
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and child.lineno <= line <= (child.end_lineno or child.lineno)
        ]
        if not inner:
            return ".".join(names)
        node = inner[0]
        names.append(inner[0].name)


@contextmanager
def copy_of(tree: Path) -> Iterator[Path]:
    """Our working tree once more, uncommitted and new files included, to put things back in."""
    with worktree("HEAD", tree) as copy:
        changed = git(tree, "diff", "--name-only", "--no-renames", "-z", "HEAD")
        new = git(tree, "ls-files", "--others", "--exclude-standard", "-z")
        for name in filter(None, [*changed.split("\0"), *new.split("\0")]):
            with suppress(FileNotFoundError):
                (copy / name).unlink()
            if (tree / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(tree / name, copy / name)
        yield copy


@contextmanager
def put_back(copy: Path, change: Change) -> Iterator[None]:
    """The copy with one change undone. Raises NoOtherSide where it cannot be undone alone."""
    git(copy, "apply", "--reverse", "--unidiff-zero", "-", given=change.patch)
    try:
        yield
    finally:
        git(copy, "apply", "--unidiff-zero", "-", given=change.patch)
