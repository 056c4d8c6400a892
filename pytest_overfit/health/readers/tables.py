"""Logs of rows: csv (Lightning's `metrics.csv` among them) and JSON lines, streamed line by
line.
"""

from __future__ import annotations

import ast
import csv
import json
import re
from collections import deque
from pathlib import Path

from pytest_overfit.finding import naming
from pytest_overfit.health.readers.fields import Row, as_number, flattened, row
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import LeftOut, Progress, TextLines
from pytest_overfit.health.readers.names import SPLITS, clock, known, words
from pytest_overfit.health.readers.tongues import unwrapped
from pytest_overfit.health.run import BadRun, Where

DELIMITERS = ",;\t|"
MOST_LOOSE = 20_000
"""Rows without a clock that are kept, for a log that has no others."""
LEAST = 3
"""Rows without a clock of which a log consists."""
NAMES_A_RUN = frozenset(
    [
        "run",
        "model",
        "config",
        "configuration",
        "experiment",
        "exp",
        "trial",
        "fold",
        "seed",
        "version",
        "variant",
        "id",
        "name",
    ]
)
"""Words of a column that names runs: `Model_Name`, `run_id`, `fold`."""
MOST_RUNS = 200
UNNAMED = ("", "unnamed: 0", "index")
"""Names of the first column where a table was written with the numbers of its rows."""
COMMA = re.compile(r"[-+]?\d+,\d+%?")
"""A number with a decimal comma."""
OF_SEVERAL = ("__MIN", "__MAX")
"""Ends of columns that Weights & Biases exports beside each metric."""


def read_csv(path: Path, gathering: Gathering, progress: Progress) -> None:
    """Rows may be sparse. A header that comes again, as where logs were appended, starts the
    columns anew.

    Of a csv that counts nothing each row is one count. Raises BadRun where it has no known metric
    either.
    """
    lines, malformed, unplaced, longer = (
        TextLines(path=path, progress=progress),
        LeftOut(),
        LeftOut(),
        LeftOut(),
    )
    columns: list[str] = []
    naming_run = _columns_of_runs(path)
    delimiter, counts = ",", True
    number, text, whole = 0, "", True
    for number, text in lines:
        if not text.strip():
            continue
        if not columns:
            delimiter, columns = header(text)
            columns = _told(losses_of_splits(columns), 0)
            if columns[0].lower() in UNNAMED and not any(map(clock, columns)):
                columns[0] = "epoch"
            counts = any(map(clock, columns))
            if not counts and not any(map(known, columns)):
                raise BadRun(
                    f"{path}: a csv with the columns {naming(columns, 10)}: none counts epochs or "
                    "steps, and none is a known metric; name one epoch "
                    "or step, and say what the others are with --overfit-metric val_loss=COLUMN"
                )
            continue
        cells = split_cells(unwrapped(text), delimiter)
        if delimiter == ";":
            cells = [cell.replace(",", ".") if COMMA.fullmatch(cell) else cell for cell in cells]
        cells = _told(cells, len(columns))
        if len(cells) == len(columns):
            found = row(
                (name, cell)
                for name, cell in zip(columns, cells, strict=True)
                if cell and name and not name.endswith(OF_SEVERAL)
            )
            whole = True
        elif is_header(cells):
            columns = cells
            continue
        elif _columns_added(columns, cells):
            found, whole = (
                row(
                    (name, cell)
                    for name, cell in zip(columns, cells, strict=False)
                    if cell and name
                ),
                True,
            )
            longer.add(number)
        else:
            malformed.add(number, f"{len(cells)} fields where the header has {len(columns)}")
            whole = False
            continue
        if found.placed or (found.values and not counts):
            run = " ".join(cells[column] for column in naming_run if column < len(cells))
            found.give(gathering.of_run(run) if run else gathering, Where(path, number))
        elif is_header(cells):
            columns = cells
        else:
            unplaced.add(number)
    gathering.warnings += longer.said(
        path, "with more cells than the header names: read as far as it does"
    )
    _end(
        gathering,
        lines,
        malformed,
        unplaced,
        "not a row of this csv",
        cut=not whole and lines.cut,
        number=number,
    )


def _told(cells: list[str], least: int) -> list[str]:
    """Cells without empty ones at the end, as far as there are more than `least`."""
    while len(cells) > max(least, 1) and not cells[-1]:
        cells = cells[:-1]
    return cells


def _columns_added(columns: list[str], cells: list[str]) -> bool:
    """Whether a row goes on behind the columns of the header, as where a trainer was taught to log
    more: its clock, its metrics and what it has more are numbers, so that no stray delimiter has
    moved them.
    """
    of_numbers = [
        cell for name, cell in zip(columns, cells, strict=False) if clock(name) or known(name)
    ] + cells[len(columns) :]
    return (
        len(cells) > len(columns)
        and any(map(clock, columns))
        and all(not cell or as_number(cell)[0] is not None for cell in of_numbers)
    )


def _columns_of_runs(path: Path) -> tuple[int, ...]:
    """The columns of a csv that name one of several runs in it: their cells stay the same for as
    many rows as a run has, and the clock starts anew with each.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        delimiter, columns = header(file.readline())
        naming_run = tuple(
            i
            for i, column in enumerate(columns)
            if NAMES_A_RUN.issuperset(words(column)) and not clock(column)
        )
        place = next((i for i, column in enumerate(columns) if clock(column)), None)
        if not naming_run or place is None:
            return ()
        rows: dict[tuple[str, ...], list[float]] = {}
        for text in file:
            cells = split_cells(text, delimiter)
            at = as_number(cells[place])[0] if len(cells) >= len(columns) else None
            if at is not None:
                rows.setdefault(tuple(cells[i] for i in naming_run), []).append(at)
            if len(rows) > MOST_RUNS:
                return ()
    firsts = [places[0] for places in rows.values()]
    several = (
        len(rows) > 1 and max(firsts) - min(firsts) <= 1 and min(map(len, rows.values())) >= LEAST
    )
    return naming_run if several else ()


def header(text: str) -> tuple[str, list[str]]:
    """The delimiter and the columns of a csv by its first line: those with a clock among them, then
    the most.
    """
    text = text.lstrip("%# ")
    found = [(delimiter, split_cells(text, delimiter)) for delimiter in DELIMITERS]
    return max(
        found,
        key=lambda one: (
            any(map(clock, one[1])),
            any(map(known, one[1])) and len(one[1]) > 1,
            len(one[1]),
        ),
    )


def losses_of_splits(columns: list[str]) -> list[str]:
    """Columns, where those of a split alone are its loss if training and validation have one
    each.
    """
    alone = {SPLITS[column.lower()] for column in columns if column.lower() in SPLITS}
    return [
        f"{column} loss" if len(alone) > 1 and column.lower() in SPLITS else column
        for column in columns
    ]


def is_header(cells: list[str]) -> bool:
    """Whether cells name columns, one of them a clock."""
    return (
        len(cells) > 1
        and any(map(clock, cells))
        and not any(cell and words(cell)[:1] and words(cell)[0].isdigit() for cell in cells)
    )


def split_cells(text: str, delimiter: str) -> list[str]:
    """The cells of one line, quoted ones unquoted."""
    try:
        cells = (
            next(csv.reader([text.rstrip("\r")], delimiter=delimiter), [])
            if '"' in text
            else text.split(delimiter)
        )
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
        unplaced = LeftOut(
            count=unplaced.count + len(loose),
            first=min(n for n in (unplaced.first, loose[0][0]) if n),
        )
    _end(
        gathering,
        lines,
        malformed,
        unplaced,
        "not a JSON object",
        cut=not whole and lines.cut,
        number=number,
    )


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
        said = ast.literal_eval(
            NOT_A_NUMBER.sub(lambda match: f"'{match[0]}'", text)
            if "nan" in text or "inf" in text
            else text
        )
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return (
        row(flattened(said))
        if isinstance(said, dict) and all(isinstance(name, str) for name in said)
        else None
    )


def shortened(text: str, most: int = 40) -> str:
    """The start of a line, printable, for a message."""
    text = "".join(
        character if character.isprintable() else "?" for character in text.strip()[: most + 1]
    )
    return repr(text[:most] + ("..." if len(text) > most else ""))


def _end(
    gathering: Gathering,
    lines: TextLines,
    malformed: LeftOut,
    unplaced: LeftOut,
    what: str,
    *,
    cut: bool,
    number: int,
) -> None:
    if cut:
        malformed.count -= 1
        gathering.warnings.append(f"{lines.path}: the last line, {number}, is cut off: left out")
    gathering.warnings += malformed.said(lines.path, f"left out: {what}")
    gathering.warnings += unplaced.said(lines.path, "left out: neither epoch nor step")
    gathering.warnings += lines.warnings()
