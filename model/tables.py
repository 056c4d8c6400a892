"""Tables of studies: for the terminal, and in Markdown."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 200


@dataclass(frozen=True)
class Column:
    """A heading, and what stands under it for a row."""

    heading: str
    cell: Callable[[Any], str]


def text_table(title: str, columns: Sequence[Column], rows: Sequence[Any]) -> str:
    """For the terminal: the first column flush left, the others flush right."""
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column.heading, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip()


def markdown_table(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    """A table in Markdown, one line for each row."""
    lines = [
        [column.heading for column in columns],
        ["---"] * len(columns),
        *([column.cell(row) for column in columns] for row in rows),
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
