"""Lines of a text file in bounded memory, however long the file or a line of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 1 << 20
LONGEST = 1 << 20
"""Bytes of a line beyond which it is left out."""


@dataclass(kw_only=True)
class LeftOut:
    """Lines that could not be used: how many, and the first by number, with what was wrong with
    it.
    """

    count: int = 0
    first: int = 0
    why: str = ""

    def add(self, number: int, why: str = "") -> None:
        """Count one more, and keep where the first stands and why."""
        if not self.count:
            self.first, self.why = number, why
        self.count += 1

    def said(self, path: Path, what: str) -> tuple[str, ...]:
        """One warning, or none. what: such as "left out: not JSON"."""
        if not self.count:
            return ()
        first = f"line {self.first}" + (f": {self.why}" if self.why else "")
        return (
            (
                f"{path}: {self.count} line{'s' * (self.count > 1)} {what} "
                f"({'the first is ' * (self.count > 1)}{first})"
            ),
        )


@dataclass(kw_only=True)
class Progress:
    """Share of all bytes read so far, told to `heard`. bytes_total: of every file to be read."""

    bytes_total: int
    on_progress: Callable[[float], None] | None = None
    _read: int = field(default=0, init=False)

    def advance(self, count: int) -> None:
        """So many bytes more are read."""
        self._read += count
        if self.on_progress is not None:
            self.on_progress(min(self._read / max(self.bytes_total, 1), 1.0))


@dataclass(kw_only=True)
class TextLines:
    """The lines of a file, each with its number, without their ends. Bytes that are not UTF-8 are
    replaced and counted.

    cut: whether the last line lacks its end. Where a progress bar wrote a line of many carriage
    returns, each of its pieces is a line.
    """

    path: Path
    progress: Progress
    not_utf8: LeftOut = field(default_factory=LeftOut, init=False)
    too_long: LeftOut = field(default_factory=LeftOut, init=False)
    cut: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        number, pending, skipping = 1, b"", False
        with self.path.open("rb") as file:
            while block := file.read(BLOCK):
                self.progress.advance(len(block))
                *ready, pending = (pending + block).split(b"\n")
                for raw in ready:
                    if not skipping:
                        yield number, self._text(number, raw)
                    number, skipping = number + 1, False
                if len(pending) > LONGEST and not skipping:
                    *pieces, pending = pending.split(b"\r")
                    yield from ((number, self._text(number, piece)) for piece in pieces)
                if len(pending) > LONGEST and not skipping:
                    self.too_long.add(number)
                    skipping = True
                pending = b"" if skipping else pending
        self.cut = bool(pending)
        if pending:
            yield number, self._text(number, pending)

    def _text(self, number: int, raw: bytes) -> str:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            self.not_utf8.add(number)
            text = raw.decode("utf-8", errors="replace")
        return text.removeprefix("\ufeff") if number == 1 else text

    def warnings(self) -> tuple[str, ...]:
        """What could not be read as it stands."""
        return (
            *self.not_utf8.said(self.path, "not UTF-8: what could not be read there was replaced"),
            *self.too_long.said(self.path, f"left out: longer than {LONGEST >> 20} MiB"),
        )
