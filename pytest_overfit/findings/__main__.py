"""`python -m pytest_overfit.findings [FILE]`: the findings as a page, docs/findings.md by
default.
"""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import groupby
from pathlib import Path

from pytest_overfit.findings.book import STAGES, entries
from pytest_overfit.findings.record import Record

PAGE = Path("docs/findings.md")
HEAD = """# Findings

Every name that pytest-overfit can report: what it means, how it is found, how to mend it, and what is tried on a broken rung. On the command line:
`pytest --overfit-explain NAME`. This page is written from the records by `python -m pytest_overfit.findings`.

A finding that is meant to be so is accepted with a reason, `Subject(..., accept={"time_collapse": "one step stands for a word"})`: it is shown
as accepted and fails nothing. A finding that is accepted and no longer found is reported. A rule of a run's log is left out with `-k "not NAME"`.
"""


def records() -> dict[str, Record]:
    """Every record of this package, wherever it stands, in the order of the book."""
    return {
        name: getattr(import_module(entry.module), entry.variable)
        for name, entry in entries().items()
    }


def page() -> str:
    """The page, in markdown."""
    parts = [HEAD]
    for stage, group in groupby(records().values(), key=lambda record: record.stage):
        parts += [f"\n## {STAGES[stage]}\n", *("\n" + _section(record) for record in group)]
    return "".join(parts)


def _section(record: Record) -> str:
    tried = "; ".join(remedy.name for remedy in record.remedies) or f"nothing: {record.no_remedy}"
    lines = [
        f"### `{record.name}`",
        record.means,
        f"*Found.* {record.detected}",
        f"*Mend.* {record.mend}",
        f"*Tried.* {tried}.",
    ]
    lines += (
        [f"*Left out beside* {', '.join(f'`{cause}`' for cause in record.follows)}."]
        if record.follows
        else []
    )
    lines += ["*Told only* where nothing else explains the break."] if record.last_resort else []
    lines += (
        ["A broken rung needs another reason: this keeps no network from memorising."]
        if record.harmless and record.stage != "tool"
        else []
    )
    lines += [
        f"*Proved by* {', '.join(record.planted)}."
        if record.planted
        else f"*Not planted*: {record.not_planted}."
    ]
    return "\n\n".join(lines) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    target.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{target}: {len(records())} findings\n")
