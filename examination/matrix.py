"""The kill matrix: every fault and what caught it, every sound change and whether it was left
alone, as Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from examination.planted import UNSEEN

Result = dict[str, Any]
COMMAND = "make faults"


def write_matrix(path: Path, rows: Iterable[Result], rivals: str = "") -> None:
    """Write the matrix of all rows known, the summary first."""
    known = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(matrix(known) + rivals, encoding="utf-8")


def matrix(rows: list[Result]) -> str:
    faults = [row for row in rows if row["kind"] == "fault"]
    networks = list(dict.fromkeys(row["network"] for row in faults))
    sound = [row for row in rows if row["kind"] == "sound"]
    parts = [
        "# Kill matrix",
        "",
        (
            "Faults planted in networks that learn, and what the tool said of them. Made by "
            f"`{COMMAND}`."
        ),
        "",
    ]
    parts += [*_summary(faults, networks), *_alarms_line(sound), "", *_words()]
    for network in networks:
        parts += [
            "",
            f"## {network}",
            "",
            *_table([row for row in faults if row["network"] == network]),
        ]
    if sound:
        parts += ["", "## Sound changes and sound subjects", "", *_sound_table(sound)]
    return "\n".join(parts) + "\n"


def _summary(faults: list[Result], networks: list[str]) -> list[str]:
    judged = [row for row in faults if row["name"] not in UNSEEN]
    located = [row for row in judged if row["expected_module"]]
    tried = [row for row in judged if not row["no_trial"]]
    columns: list[tuple[str, list[Result], Callable[[Result], bool]]] = [
        ("detected", judged, lambda row: row["detected"]),
        ("right finding, first", judged, lambda row: row["right_first"]),
        ("right finding, any", judged, lambda row: row["right_any"]),
        ("right module, where it sits in one", located, lambda row: bool(row["right_module"])),
        ("right scale", judged, lambda row: row["right_scale"]),
        (
            "remedy confirmed, where a trial is possible",
            tried,
            lambda row: row["remedy"] is not None,
        ),
    ]
    lines = [
        "| | " + " | ".join((*networks, "all")) + " |",
        "| --- |" + " --- |" * (len(networks) + 1),
    ]
    for title, among, good in columns:
        cells = [
            _share([row for row in among if row["network"] == network], good)
            for network in networks
        ]
        lines.append(f"| {title} | " + " | ".join((*cells, _share(among, good))) + " |")
    return lines


def _share(rows: list[Result], good: Callable[[Result], bool]) -> str:
    count = sum(good(row) for row in rows)
    return f"{count} of {len(rows)}" + (f" ({count / len(rows):.0%})" if rows else "")


def _alarms_line(sound: list[Result]) -> list[str]:
    if not sound:
        return []
    runs, alarmed = sum(row["runs"] for row in sound), sum(bool(row["alarms"]) for row in sound)
    subjects, seeds = len({row["name"] for row in sound}), len({row["seed"] for row in sound})
    alarms = sum(len(row["alarms"]) for row in sound)
    among = (
        f"contracts and climbs of {subjects} sound subjects over {counted(seeds, 'seed')}; "
        f"{alarmed} of {len(sound)} raised any"
    )
    return ["", f"**False alarms: {alarms} in {runs} runs** ({among})."]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _words() -> list[str]:
    return [
        (
            "Where: contract (before training), the rung that broke (R1, R2, R5, R10), control (a "
            "pass that is not honest), or diagnosis: every rung"
        ),
        (
            "up to 10 held, and probes of the fresh network name it. No trial is possible where no "
            "rung broke, or no change can be tried on code that"
        ),
        (
            "is not ours. `data-shuffled` cannot be seen: wrong pairs are memorised as well as "
            "right ones, and only a held-out split could tell; it is"
        ),
        (
            "not counted. Of sound losses, label smoothing and focal CTC are examined by contracts "
            "only: rung 1 asks for a CTC loss they do not go to."
        ),
    ]


def _table(rows: list[Result]) -> list[str]:
    lines = [
        "| fault | where | finding | module | remedy | seconds |",
        "| --- | --- | --- | --- | --- | ---: |",
    ]
    for row in sorted(rows, key=lambda row: row["name"]):
        lines.append(
            f"| {row['name']} | {_where(row)} | {_finding(row)} | {_module(row)} | "
            f"{_remedy(row)} | {row['seconds']:.0f} |"
        )
    return lines


def _where(row: Result) -> str:
    if not row["where"]:
        return "not seen" if row["name"] in UNSEEN else "**missed**"
    return (
        str(row["where"])
        if row["right_scale"]
        else f"**{row['where']}**, expected {row['expected_where']}"
    )


def _finding(row: Result) -> str:
    if row["right_first"]:
        return f"{row['expected']}"
    if row["name"] in UNSEEN:
        return "none"
    found = ", ".join(row["found"]) or "none"
    return f"**{found}**, expected {row['expected']}"


def _module(row: Result) -> str:
    if row["right_module"] is None:
        return ""
    if row["right_module"]:
        return f"`{row['modules'][row['found'].index(row['expected'])]}`"
    return (
        f"**{next((module for module in row['modules'] if module), 'none')}**, expected "
        f"`{row['expected_module']}`"
    )


def _remedy(row: Result) -> str:
    if row["name"] in UNSEEN:
        return ""
    if row["remedy"]:
        return str(row["remedy"])
    return "no trial possible" if row["no_trial"] else "**none held**"


def _sound_table(rows: list[Result]) -> list[str]:
    lines = ["| subject | runs | alarms |", "| --- | ---: | --- |"]
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        alarms = [
            f"seed {row['seed']}: {alarm}"
            for row in own
            for alarm in (*row["alarms"], *(["the tool failed"] if row["error"] else []))
        ]
        lines.append(
            f"| {name} | {sum(row['runs'] for row in own)} | {'; '.join(alarms) or 'none'} |"
        )
    return lines
