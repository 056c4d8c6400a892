"""Logs of rows: csv (Lightning's `metrics.csv` among them) and JSON lines, streamed line by line."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections import deque
from pathlib import Path

from pytest_overfit.finding import naming
from pytest_overfit.health.readers.fields import Row, flattened, row
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import LeftOut, Progress, TextLines
from pytest_overfit.health.readers.names import clock, known, words
from pytest_overfit.health.run import BadRun, Where

DELIMITERS = ",;\t|"
MOST_LOOSE = 20_000
"""Rows without a clock that are kept, for a log that has no others."""
LEAST = 3
"""Rows without a clock of which a log consists."""
UNNAMED = ("", "unnamed: 0", "index")
"""Names of the first column where a table was written with the numbers of its rows."""
COMMA = re.compile(r"[-+]?\d+,\d+%?")
"""A number with a decimal comma."""
OF_SEVERAL = ("__MIN", "__MAX")
"""Ends of columns that Weights & Biases exports beside each metric."""


def read_csv(path: Path, gathering: Gathering, progress: Progress) -> None:
    """Rows may be sparse. A header that comes again, as where logs were appended, starts the columns anew.

    Of a csv that counts nothing each row is one count. Raises BadRun where it has no known metric either.
    """
    lines, malformed, unplaced = TextLines(path=path, progress=progress), LeftOut(), LeftOut()
    columns: list[str] = []
    delimiter, counts = ",", True
    number, text, whole = 0, "", True
    for number, text in lines:
        if not text.strip():
            continue
        if not columns:
            delimiter, columns = header(text)
            if columns[0].lower() in UNNAMED and not any(map(clock, columns)):
                columns[0] = "epoch"
            counts = any(map(clock, columns))
            if not counts and not any(map(known, columns)):
                raise BadRun(
                    f"{path}: a csv with the columns {naming(columns, 10)}: none counts epochs or steps, and none is a known metric; name one epoch "
                    "or step, and say what the others are with --overfit-metric val_loss=COLUMN"
                )
            continue
        cells = split_cells(text, delimiter)
        if delimiter == ";":
            cells = [cell.replace(",", ".") if COMMA.fullmatch(cell) else cell for cell in cells]
        if len(cells) == len(columns):
            found = row((name, cell) for name, cell in zip(columns, cells, strict=True) if cell and name and not name.endswith(OF_SEVERAL))
            whole = True
        elif is_header(cells):
            columns = cells
            continue
        else:
            malformed.add(number, f"{len(cells)} fields where the header has {len(columns)}")
            whole = False
            continue
        if found.placed or (found.values and not counts):
            found.give(gathering, Where(path, number))
        elif is_header(cells):
            columns = cells
        else:
            unplaced.add(number)
    _end(gathering, lines, malformed, unplaced, "not a row of this csv", cut=not whole and lines.cut, number=number)


def header(text: str) -> tuple[str, list[str]]:
    """The delimiter and the columns of a csv by its first line: those with a clock among them, then the most."""
    text = text.lstrip("%# ")
    found = [(delimiter, split_cells(text, delimiter)) for delimiter in DELIMITERS]
    return max(found, key=lambda one: (any(map(clock, one[1])), any(map(known, one[1])) and len(one[1]) > 1, len(one[1])))


def is_header(cells: list[str]) -> bool:
    """Whether cells name columns, one of them a clock."""
    return len(cells) > 1 and any(map(clock, cells)) and not any(cell and words(cell)[:1] and words(cell)[0].isdigit() for cell in cells)


def split_cells(text: str, delimiter: str) -> list[str]:
    """The cells of one line, quoted ones unquoted."""
    try:
        cells = next(csv.reader([text.rstrip("\r")], delimiter=delimiter), []) if '"' in text else text.split(delimiter)
    except csv.Error:
        cells = text.split(delimiter)
    return [cell.strip() for cell in cells]


def read_jsonl(path: Path, gathering: Gathering, progress: Progress) -> None:
    """One object a line; nested ones are flattened."""
    lines, malformed, unplaced = TextLines(path=path, progress=progress), LeftOut(), LeftOut()
    loose: deque[tuple[int, Row]] = deque(maxlen=MOST_LOOSE)
    number, whole = 0, True
    for number, text in lines:
        if not text.strip():
            continue
        found = json_row(text)
        whole = found is not None
        if found is None:
            malformed.add(number, shortened(text))
        elif found.placed:
            found.give(gathering, Where(path, number))
        elif any(known(name) for name, _ in found.values):
            loose.append((number, found))
        elif found.values or found.texts:
            unplaced.add(number)
    if gathering.empty and len(loose) >= LEAST:
        for number, found in loose:
            found.give(gathering, Where(path, number))
    elif loose:
        unplaced = LeftOut(count=unplaced.count + len(loose), first=min(n for n in (unplaced.first, loose[0][0]) if n))
    _end(gathering, lines, malformed, unplaced, "not a JSON object", cut=not whole and lines.cut, number=number)


def json_row(text: str) -> Row | None:
    """The row of a line that holds one JSON object; None where it holds something else."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return row(flattened(said)) if isinstance(said, dict) else None


NOT_A_NUMBER = re.compile(r"\b(?:nan|inf)\b")


def object_row(text: str) -> Row | None:
    """The row of an object as JSON or as Python prints it; None where it is neither."""
    found = json_row(text)
    if found is not None:
        return found
    try:
        said = ast.literal_eval(NOT_A_NUMBER.sub(lambda match: f"'{match[0]}'", text) if "nan" in text or "inf" in text else text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return row(flattened(said)) if isinstance(said, dict) and all(isinstance(name, str) for name in said) else None


def shortened(text: str, most: int = 40) -> str:
    """The start of a line, printable, for a message."""
    text = "".join(character if character.isprintable() else "?" for character in text.strip()[: most + 1])
    return repr(text[:most] + ("..." if len(text) > most else ""))


def _end(gathering: Gathering, lines: TextLines, malformed: LeftOut, unplaced: LeftOut, what: str, *, cut: bool, number: int) -> None:
    if cut:
        malformed.count -= 1
        gathering.warnings.append(f"{lines.path}: the last line, {number}, is cut off: left out")
    gathering.warnings += malformed.said(lines.path, f"left out: {what}")
    gathering.warnings += unplaced.said(lines.path, "left out: neither epoch nor step")
    gathering.warnings += lines.warnings()
