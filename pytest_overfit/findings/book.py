"""The book of findings: every record of this package, explained for people, and read from the
source so that nothing heavy is imported.

pytest --overfit-explain time_collapse      one entry
python -m pytest_overfit.findings           docs/findings.md, with what is tried for each
"""

from __future__ import annotations

import ast
import difflib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
WIDTH = 100
STAGES = {
    "data": "Samples and targets",
    "loss": "The loss",
    "decoder": "The decoder",
    "network": "The network, before any training",
    "training": "A rung that broke",
    "loop": "The user's own training",
    "run": "The log of a training run",
    "tool": "This tool itself",
}
"""Stage -> its title."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is said of one kind of finding. module: where its record is. variable: its name there.

    The rest as in `Record`.
    """

    name: str
    stage: str
    means: str
    detected: str
    mend: str
    module: str
    variable: str


def entries() -> dict[str, Entry]:
    """Name -> entry, in the order of the stages."""
    found = sorted(
        (entry for path in sorted(PACKAGE.rglob("*.py")) for entry in _in_file(path)),
        key=lambda one: [*STAGES].index(one.stage),
    )
    return {entry.name: entry for entry in found}


def _in_file(path: Path) -> Iterator[Entry]:
    """The records that a module holds. Raises ValueError where a text is no plain literal."""
    source = path.read_text(encoding="utf-8")
    if "Record(" not in source:
        return
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=variable)],
                value=ast.Call(func=ast.Name(id="Record"), keywords=keywords),
            ):
                read = {"name", "stage", "means", "detected", "mend"}
                texts = {
                    one.arg: ast.literal_eval(one.value) for one in keywords if one.arg in read
                }
                yield Entry(**texts, module=module, variable=variable)


def nearest(name: str, names: list[str]) -> list[str]:
    """Names like one that is not there, the likeliest first."""
    asked = name.strip().lower().replace("-", "_").replace(" ", "_")
    parts = [
        one
        for one in names
        if asked and (asked in one or set(asked.split("_")) & set(one.split("_")))
    ]
    return list(dict.fromkeys([*difflib.get_close_matches(asked, names, n=3, cutoff=0.6), *parts]))[
        :5
    ]


def explained(entry: Entry) -> str:
    """An entry as text: what it means, how it was found, how to mend it, how to accept it."""
    sections = {
        "How it was found": entry.detected,
        "How to mend it": entry.mend,
        "How to accept it": accepting(entry.name, entry.stage),
    }
    blocks = [
        f"{entry.name}: {STAGES[entry.stage][0].lower()}{STAGES[entry.stage][1:]}",
        textwrap.fill(entry.means, WIDTH),
    ]
    blocks += [
        f"{title}\n{textwrap.fill(text, WIDTH, initial_indent='  ', subsequent_indent='  ')}"
        for title, text in sections.items()
    ]
    return "\n\n".join(blocks)


def accepting(name: str, stage: str) -> str:
    """How a finding is accepted, in a sentence or two."""
    if stage == "run":
        return f'A log is judged as it is. Leave the rule out with -k "not {name}".'
    return (
        f'Subject(..., accept={{"{name}": "why it is meant so"}}): it is then shown with that reason and fails nothing. Once it is no longer '
        "found you are told."
    )


def not_found(name: str) -> str:
    """One line for a name that no record has."""
    names = [*entries()]
    near = nearest(name, names)
    return f"--overfit-explain: there is no finding {name!r}" + (
        f"; did you mean {', '.join(near)}?" if near else f"; there are {', '.join(sorted(names))}"
    )
