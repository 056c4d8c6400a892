"""Jupyter notebooks: what their cells printed is a log, and so is each table that a trainer drew
there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import Progress
from pytest_overfit.health.readers.plain import PlainLog
from pytest_overfit.health.run import BadRun, Where


def read_notebook(
    path: Path, gathering: Gathering, progress: Progress, *, most_lines: int | None = None
) -> None:
    """Each line of each output is one, counted through the notebook; code and prose are left out.

    Raises BadRun where it is no notebook. most_lines: how many to read, of one that is only to be
    recognised.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise BadRun(
            f"{path}: not the JSON of a notebook ({error}); save it again, or give the log"
        ) from error
    log = PlainLog(gathering)
    for number, line in enumerate(_printed(said), 1):
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


def _text(said: object) -> str:
    """A text, which notebooks hold whole or as a list of its lines."""
    return (
        "".join(map(str, said)) if isinstance(said, list) else said if isinstance(said, str) else ""
    )


def _tables(html: str) -> list[str]:
    """The rows of the tables in it, as a plain table has them."""
    parser = _Rows()
    parser.feed(html)
    return [f"| {' | '.join(cells)} |" for cells in parser.rows if cells]


class _Rows(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._within = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._within = True

    def handle_endtag(self, tag: str) -> None:
        self._within = self._within and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._within:
            self.rows[-1][-1] += data.strip()
