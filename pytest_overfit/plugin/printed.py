"""What the user's own training printed: its last lines in a failure, all of it in a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LAST_LINES = 10
FOLDER = Path("logs", "overfitting_output")
STREAMS = ("Captured stdout call", "Captured stderr call", "Captured log call")


def keep_the_end(report: pytest.TestReport, folder: Path) -> None:
    """Cut what a test captured to its last lines, and write the rest below `folder`."""
    for place, (title, text) in enumerate(report.sections):
        lines = text.splitlines()
        if title not in STREAMS or len(lines) <= LAST_LINES:
            continue
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{report.nodeid}-{title.split()[1]}")
        path = folder / FOLDER / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        first = f"(the last {LAST_LINES} of {len(lines)} lines; all of them: {path})"
        report.sections[place] = (title, "\n".join([first, *lines[-LAST_LINES:]]) + "\n")
