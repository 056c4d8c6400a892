"""The kill matrix: faults and what caught them, as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_matrix(path: Path, rows: list[dict[str, Any]]) -> None:
    pass
