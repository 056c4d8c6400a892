"""The rivals' table as Markdown: faults x tools, with what each says of sound changes."""

from __future__ import annotations

from typing import Any

from examination.planted import UNSEEN

Result = dict[str, Any]
HEALTHY = "as it is"
OURS = "pytest-overfit"


def markdown(rows: list[Result], own: list[Result]) -> str:
    """rows: of rivals. own: of this tool's examination, of which the BiGRU's are shown.

    "" where there are no rows.
    """
    rivals = list(dict.fromkeys(row["network"] for row in rows))
    if not rivals:
        return ""
    titles = {rival: f"{rival} {_versions(rows, rival)}" for rival in rivals}
    by_rival = {titles[rival]: [row for row in rows if row["network"] == rival] for rival in rivals}
    ours = {row["name"]: row for row in own if row["kind"] == "fault" and row["network"] == "bigru"}
    sound_names = {row["name"] for row in rows if row["kind"] == "sound"}
    our_sound = [
        row
        for row in own
        if row["kind"] == "sound"
        and row["name"].removeprefix("bigru, ") in sound_names
        and row["seed"] == 0
    ]
    parts = ["", "## Rivals on the same faults (bigru)", "", *_words(), ""]
    parts += [
        "| tool | faults detected | of them by warnings only | sound changes that raise an alarm |",
        "| --- | --- | --- | --- |",
    ]
    parts += [_count(title, known) for title, known in by_rival.items()]
    parts += [_own_count(ours, our_sound)]
    parts += [
        "",
        "| fault | " + " | ".join((*by_rival, OURS)) + " |",
        "| --- |" + " --- |" * (len(by_rival) + 1),
    ]
    names = sorted(dict.fromkeys(row["name"] for row in rows if row["kind"] == "fault"))
    for name in names:
        cells = [_cell(_of(known, "fault", name), _usual(known)) for known in by_rival.values()]
        parts.append(f"| {name} | " + " | ".join((*cells, _own(ours.get(name)))) + " |")
    return "\n".join((*parts, *_alarms(by_rival))) + "\n"


def _words() -> list[str]:
    return [
        (
            "Each tool is called as its documentation recommends, on five clips, with the loss, "
            "the optimiser and the recipe that the fault is planted"
        ),
        (
            "in, and with every check that applies to a sequence model; none knows CTC, its "
            "decoder or its metric. Bounds are the tools' own."
        ),
        (
            "A complaint with ? is a warning; with ! something else than the check's own assertion "
            "raised, or ended the process. What a tool says of the"
        ),
        (
            "healthy network too counts as nothing. A fault is detected if a tool says anything "
            "else of it, whether or not that names the cause."
        ),
        f"`{UNSEEN[0]}` can be seen by no tool within a rung and is not counted.",
    ]


def _versions(rows: list[Result], rival: str) -> str:
    return ", ".join(dict.fromkeys(row["version"] for row in rows if row["network"] == rival))


def _of(rows: list[Result], kind: str, name: str) -> Result | None:
    return next((row for row in rows if row["kind"] == kind and row["name"] == name), None)


def _usual(rows: list[Result]) -> set[str]:
    """What is said of the healthy network too."""
    healthy = _of(rows, "sound", HEALTHY)
    return {*healthy["complaints"], *healthy["unfinished"]} if healthy else set()


def _said(row: Result, usual: set[str]) -> list[str]:
    return [name for name in row["complaints"] if name not in usual]


def _cell(row: Result | None, usual: set[str]) -> str:
    if row is None:
        return "not tried"
    said = _said(row, usual)
    raised = [name for name in said if name.endswith("!")]
    if len(raised) > 2:
        said = [*(name for name in said if name not in raised), f"{len(raised)} checks!"]
    return ", ".join((*said, *(f"({one}: out of time)" for one in row["unfinished"]))) or "-"


def _count(title: str, rows: list[Result]) -> str:
    usual = _usual(rows)
    faults = [
        _said(row, usual) for row in rows if row["kind"] == "fault" and row["name"] not in UNSEEN
    ]
    sound = [_said(row, usual) for row in rows if row["kind"] == "sound" and row["name"] != HEALTHY]
    warned = sum(bool(said) and all(name.endswith("?") for name in said) for said in faults)
    failing = sum(any(not name.endswith("?") for name in said) for said in sound)
    alarms = sum(bool(said) for said in sound)
    warning = f", {alarms - failing} of them by warnings only" if alarms > failing else ""
    return (
        f"| {title} | {sum(map(bool, faults))} of {len(faults)} | {warned} | {alarms} of "
        f"{len(sound)}{warning} |"
    )


def _own_count(ours: dict[str, Result], sound: list[Result]) -> str:
    judged = [row for row in ours.values() if row["name"] not in UNSEEN]
    others = [row for row in sound if row["name"] != f"bigru, {HEALTHY}"]
    alarms = sum(bool(row["alarms"]) for row in others)
    return (
        f"| {OURS} | {sum(row['detected'] for row in judged)} of {len(judged)} | 0 | {alarms} of "
        f"{len(others)} |"
    )


def _own(row: Result | None) -> str:
    if row is None:
        return "not tried"
    return (
        f"{row['found'][0] if row['found'] else 'broken'} ({row['where']})"
        if row["detected"]
        else "-"
    )


def _alarms(by_rival: dict[str, list[Result]]) -> list[str]:
    """The sound changes that a rival complains of, and what it says of the healthy network."""
    lines = ["", "What they say of sound changes:", ""]
    for title, rows in by_rival.items():
        usual = _usual(rows)
        said = {
            row["name"]: _cell(row, usual)
            for row in rows
            if row["kind"] == "sound" and row["name"] != HEALTHY
        }
        alarms = (
            "; ".join(f"{name}: {cell}" for name, cell in said.items() if cell != "-") or "nothing"
        )
        left_out = (
            f" Left out, as the healthy network raises them: {', '.join(sorted(usual))}."
            if usual
            else ""
        )
        lines.append(f"- {title}: {alarms}.{left_out}")
    return lines
