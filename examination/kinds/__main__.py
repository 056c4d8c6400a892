"""`python -m examination.kinds`: kinds of faults from public reports, each planted in networks of
ours and in foreign ones.

A results file holds a line a fault, so that an examination that was cut off goes on. Without
`--held-out` the third that was held out is left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from examination.kinds.catalogue import KINDS
from examination.kinds.places import PLACES


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    names = options.names.split(",") if options.names else list(KINDS)
    known = read(options.results)
    for place in options.places.split(","):
        for name in names:
            wanted = options.held_out or not KINDS[name].held_out
            if wanted and (options.fresh or (place, name) not in known):
                options.results.parent.mkdir(parents=True, exist_ok=True)
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(do(place, name)) + "\n")
    print("\n".join(told(list(read(options.results).values()))))
    return 0


def do(place: str, name: str) -> dict[str, Any]:
    """The row of one kind at one place; what the tool itself raises is one too."""
    import torch

    from examination.hosts import raw
    from examination.trial_of_faults import Row, examined
    from pytest_overfit.findings.examine import check

    torch.set_num_threads(1)
    kind, where = KINDS[name], PLACES[place]
    try:
        healthy = where.make()
        known = {(found.name, found.module) for found in check(healthy, raw(healthy))}
        row = examined(place, kind.make(where), healthy, known=known)
    except Exception:  # a crash of the tool is the worst of its answers, and others are wanted
        row = Row(kind="fault", network=place, name=name, error=traceback.format_exc())
    return {**row.to_json(), "held_out": kind.held_out, "also": kind.also}


def read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The newest row of each fault."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(row["network"], row["name"]): row for row in map(json.loads, lines)}


def right(row: dict[str, Any]) -> bool:
    """Whether what is said first is right."""
    return bool(row["found"]) and row["found"][0] in (row["expected"], *row["also"])


def untruths(row: dict[str, Any]) -> list[str]:
    """What was confirmed by a trial and is not what was planted."""
    held = [trial for trial in row["trials"] if ": held (" in trial]
    return [t for t in held if t.split(" / ")[0] not in (row["expected"], *row["also"])]


def told(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Each fault of which not all that is right was said, and the counts."""
    lines = []
    for row in rows:
        if not (row["detected"] and right(row) and row["right_module"] is not False):
            said = list(zip(row["found"], row["modules"], strict=True))
            expected = f"expected {row['expected']} at {row['expected_module']}"
            lines.append(f"{row['network']}, {row['name']}: {row['where']} {said}, {expected}")
        lines += [f"{row['network']}, {row['name']}: untrue: {text}" for text in untruths(row)]
        if row["error"]:
            last = row["error"].strip().splitlines()[-1]
            lines.append(f"{row['network']}, {row['name']}: raised {last}")
    for title, among in (
        ("seen", [row for row in rows if not row["held_out"]]),
        ("held out", [row for row in rows if row["held_out"]]),
    ):
        located = [row for row in among if row["expected_module"]]
        tried = [row for row in among if not row["no_trial"] and not row["error"]]
        figures = {
            "detected": (sum(row["detected"] for row in among), len(among)),
            "named right first": (sum(map(right, among)), len(among)),
            "right module": (sum(bool(row["right_module"]) for row in located), len(located)),
            "remedy confirmed": (sum(row["remedy"] is not None for row in tried), len(tried)),
        }
        counts = ", ".join(f"{name} {good} of {all_}" for name, (good, all_) in figures.items())
        lines.append(f"{title}: {counts}, untruths {sum(len(untruths(row)) for row in among)}")
    return lines


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examination.kinds", description=__doc__)
    parser.add_argument("--places", default=",".join(PLACES), help="some of %(default)s")
    parser.add_argument("--names", help="of some kinds")
    parser.add_argument("--held-out", action="store_true", help="the held-out third as well")
    parser.add_argument("--fresh", action="store_true", help="do again what the results file holds")
    parser.add_argument("--results", type=Path, default=Path("logs/kinds.jsonl"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
