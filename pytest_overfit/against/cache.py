"""Courses kept between sessions, so that one machine climbs the other side once.

A file a course: written beside and renamed, so that a reader sees all of it or none; with a
checksum, so that a damaged one is climbed anew. What it is named by decides whether it fits: the
code, the network, the samples, the recipe, the seed, and all that is installed (`Course.identity`).
Only a course that came to its end is kept, and of its steps never the time: that of another moment
was taken under another load.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_overfit.against.checkout import NoOtherSide, git
from pytest_overfit.atomic_files import write_whole

KEPT_DAYS = 30
"""After which an entry goes that nobody has used."""
SETTINGS = (".toml", ".json", ".yaml", ".yml", ".ini", ".cfg")
LARGEST_SETTINGS = 1 << 20
"""Bytes: a larger file is data."""


class DamagedEntry(ValueError):
    """An entry that is not what was written."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A course from its first reading to its end.

    pieces: as `Piece.to_json`. memory_bytes: of a step. late: files that were imported only while
    it trained, each with its hash. processor: that climbed it.
    """

    pieces: tuple[dict[str, Any], ...]
    memory_bytes: int
    late: Mapping[str, str]
    processor: str


@dataclass(frozen=True)
class Cache:
    """The folder of the entries, which several processes may use at once."""

    folder: Path

    def read(self, identity: str) -> Entry | None:
        """The entry of a course; None where there is none. Raises DamagedEntry."""
        path = self._path(identity)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise DamagedEntry(str(path)) from error
        checksum, _, body = text.partition("\n")
        if checksum != hash_of(body):
            raise DamagedEntry(str(path))
        path.touch()
        row = json.loads(body)
        return Entry(**{**row, "pieces": tuple(row["pieces"])})

    def write(self, identity: str, entry: Entry) -> None:
        """Keep an entry, in place of one that was there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        body, path = json.dumps(asdict(entry)), self._path(identity)
        with FileLock(self.folder / ".lock"):
            write_whole(path, f"{hash_of(body)}\n{body}")

    def remove_unused(self) -> None:
        """Take away what nobody has used for KEPT_DAYS."""
        oldest = time.time() - KEPT_DAYS * 24 * 3600
        for path in self.folder.glob("*.course*"):  # what a killed process left among them
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    def _path(self, identity: str) -> Path:
        return self.folder / f"{identity}.course"


def hash_of(value: object) -> str:
    """Of text, or of anything that JSON can say."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def settings_of(tree: Path) -> list[Path]:
    """Files of a checkout that its code may read its sizes from; none where git does not know it."""
    asked = [f"*{suffix}" for suffix in SETTINGS]
    listed = ("--cached", "--others", "--exclude-standard")
    try:
        names = git(tree, "ls-files", "-z", *listed, "--", *asked).split("\0")
    except NoOtherSide:
        return []
    paths = [tree / name for name in names if name]
    return [path for path in paths if path.is_file() and path.stat().st_size <= LARGEST_SETTINGS]


def hashes_of(tree: Path, files: Iterable[Path]) -> dict[str, str]:
    """The hash of each file; a name is relative to `tree` where it lies in it."""
    return {
        str(path.relative_to(tree) if path.is_relative_to(tree) else path): hash_of_file(path)
        for path in files
    }


def hash_of_file(path: Path) -> str:
    """Of its content; "" where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
