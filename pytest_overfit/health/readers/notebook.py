"""Jupyter notebooks and pages in HTML: what cells printed is a plain log, and so is each table that a
trainer drew there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

from pytest_overfit.health.curves.curve import Where
from pytest_overfit.health.curves.log_builder import LogBuilder
from pytest_overfit.health.readers.plain_log import PlainLog
from pytest_overfit.health.readers.rows import Progress
from pytest_overfit.health.run import BadRun


def read_notebook(
    path: Path, builder: LogBuilder, progress: Progress, *, most_lines: int | None = None
) -> None:
    """Each line of each output is one, counted through the notebook; code and prose are left out.

    Raises BadRun where it is no notebook. most_lines: how many to read, of one that is only to be
    recognised.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise BadRun(
            f"{path}: not the JSON of a notebook ({error}); save it again, or give the log"
        ) from error
    log = PlainLog(builder)
    for number, line in enumerate(_printed(content), 1):
        log.line(Where(path, number, "printed line"), line)
        if number == most_lines:
            break
    log.finish()
    progress.advance(path.stat().st_size)


def _printed(notebook: object) -> Iterator[str]:
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    for cell in cells if isinstance(cells, list) else ():
        outputs = (
            cell.get("outputs")
            if isinstance(cell, dict) and cell.get("cell_type") == "code"
            else None
        )
        stream = ""  # a stream may be cut in the middle of a line
        for output in outputs if isinstance(outputs, list) else ():
            if not isinstance(output, dict):
                continue
            if output.get("output_type") == "stream":
                stream += _text(output.get("text"))
                continue
            yield from stream.split("\n") if stream else ()
            stream, data = "", output.get("data")
            if isinstance(data, Mapping):
                yield from (
                    _tables(_text(data["text/html"]))
                    if "text/html" in data
                    else _text(data.get("text/plain")).split("\n")
                )
        yield from stream.split("\n") if stream else ()


def _text(value: object) -> str:
    """A text, which notebooks hold whole or as a list of its lines."""
    return (
        "".join(map(str, value))
        if isinstance(value, list)
        else value
        if isinstance(value, str)
        else ""
    )


def _tables(html: str) -> list[str]:
    """The rows of the tables in it, as a plain table has them."""
    page = _Page()
    page.feed(html)
    return [line for line in page.lines() if line.startswith("|")]


def is_page(path: Path, text: str) -> bool:
    """Whether it is a page in HTML, or prose with a table in HTML, as a notebook is exported."""
    return path.suffix in (".html", ".htm") or (path.suffix == ".md" and "<td" in text)


def read_page(path: Path, builder: LogBuilder, progress: Progress) -> None:
    """Each line of its text and each row of its tables is one, counted from its beginning; scripts and
    styles are left out.
    """
    parser = _Page()
    parser.feed(path.read_text(encoding="utf-8", errors="replace"))
    log = PlainLog(builder)
    for number, line in enumerate(parser.lines(), 1):
        log.line(Where(path, number, "printed line"), line)
    log.finish()
    progress.advance(path.stat().st_size)


class _Page(HTMLParser):
    """The lines of a page, in order."""

    def __init__(self) -> None:
        super().__init__()
        self._text: list[str] = []
        self._cells: list[str] | None = None
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("script", "style")
        if tag == "tr":
            self._cells = []
        elif tag in ("td", "th") and self._cells is not None:
            self._cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False
        if tag == "tr" and self._cells is not None:
            row = f"\n| {' | '.join(self._cells)} |\n"
            self._text += [row] if self._cells else []
            self._cells = None

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._cells is None:
            self._text.append(data)
        elif self._cells:
            self._cells[-1] += data.strip()

    def lines(self) -> list[str]:
        """What was shown, line by line."""
        return "".join(self._text).split("\n")
