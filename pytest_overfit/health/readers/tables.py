"""Logs of rows: csv (Lightning's `metrics.csv` among them) and JSON lines, streamed line by line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from pytest_overfit.finding import naming
from pytest_overfit.health.readers.fields import Row, flattened, row
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import LeftOut, Progress, TextLines
from pytest_overfit.health.readers.names import clock, words
from pytest_overfit.health.run import BadRun

DELIMITERS = ",;\t|"


def read_csv(path: Path, gathering: Gathering, progress: Progress) -> None:
    """Rows may be sparse. A header that comes again, as where logs were appended, starts the columns anew. Raises BadRun without a clock."""
    lines, malformed, unplaced = TextLines(path=path, progress=progress), LeftOut(), LeftOut()
    columns: list[str] = []
    delimiter = ","
    number, text, whole = 0, "", True
    for number, text in lines:
        if not text.strip():
            continue
        if not columns:
            delimiter, columns = header(text)
            if not any(map(clock, columns)):
                raise BadRun(
                    f"{path}: a csv with the columns {naming(columns, 10)}, but none that counts epochs or steps; add one named epoch or step"
                )
            continue
        cells = split_cells(text, delimiter)
        if len(cells) == len(columns):
            found = row((name, cell) for name, cell in zip(columns, cells, strict=True) if cell and name)
            whole = True
        elif is_header(cells):
            columns = cells
            continue
        else:
            malformed.add(number, f"{len(cells)} fields where the header has {len(columns)}")
            whole = False
            continue
        if found.placed:
            found.give(gathering)
        elif is_header(cells):
            columns = cells
        else:
            unplaced.add(number)
    _end(gathering, lines, malformed, unplaced, "not a row of this csv", cut=not whole and lines.cut, number=number)


def header(text: str) -> tuple[str, list[str]]:
    """The delimiter and the columns of a csv by its first line: those with a clock among them, then the most."""
    found = [(delimiter, split_cells(text, delimiter)) for delimiter in DELIMITERS]
    return max(found, key=lambda one: (any(map(clock, one[1])), len(one[1])))


def is_header(cells: list[str]) -> bool:
    """Whether cells name columns, one of them a clock."""
    return len(cells) > 1 and any(map(clock, cells)) and not any(cell and words(cell)[:1] and words(cell)[0].isdigit() for cell in cells)


def split_cells(text: str, delimiter: str) -> list[str]:
    try:
        cells = next(csv.reader([text.rstrip("\r")], delimiter=delimiter), []) if '"' in text else text.split(delimiter)
    except csv.Error:
        cells = text.split(delimiter)
    return [cell.strip() for cell in cells]


def read_jsonl(path: Path, gathering: Gathering, progress: Progress) -> None:
    """One object a line; nested ones are flattened."""
    lines, malformed, unplaced = TextLines(path=path, progress=progress), LeftOut(), LeftOut()
    number, whole = 0, True
    for number, text in lines:
        if not text.strip():
            continue
        found = json_row(text)
        whole = found is not None
        if found is None:
            malformed.add(number, shortened(text))
        elif found.placed:
            found.give(gathering)
        elif found.values or found.texts:
            unplaced.add(number)
    _end(gathering, lines, malformed, unplaced, "not a JSON object", cut=not whole and lines.cut, number=number)


def json_row(text: str) -> Row | None:
    """The row of a line that holds one JSON object; None where it holds something else."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return row(flattened(said)) if isinstance(said, dict) else None


def shortened(text: str, most: int = 40) -> str:
    """The start of a line, printable, for a message."""
    text = "".join(character if character.isprintable() else "?" for character in text.strip()[: most + 1])
    return repr(text[:most] + ("..." if len(text) > most else ""))


def _end(gathering: Gathering, lines: TextLines, malformed: LeftOut, unplaced: LeftOut, what: str, *, cut: bool, number: int) -> None:
    if cut:
        malformed.count -= 1
        gathering.complaints.append(f"{lines.path}: the last line, {number}, is cut off: left out")
    gathering.complaints += malformed.said(lines.path, f"left out: {what}")
    gathering.complaints += unplaced.said(lines.path, "left out: neither epoch nor step")
    gathering.complaints += lines.complaints()
