"""`docs/loop_matrix.md`: what was said of each planted fault of a loop and of each sound change, and
`docs/loop_rivals.md`: what other tools say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from examination.loops.planting import KINDS

Result = dict[str, Any]
COMMAND = "python -m examination.loops"
TITLES = {"generator": "generator", "lightning": "Lightning", "huggingface": "Hugging Face"}
RIVALS = {
    "torch-preflight": "torch-preflight",
    "torch-audit": "torch-audit",
    "torchtest2": "torchtest2",
    "lightning": "Lightning's overfit_batches",
}
SOUND_TEXT = "as_it_is"


def detected(row: Result) -> bool:
    return row["broke_at"] is not None or bool(row["said"])


def named(row: Result) -> bool:
    """Whether the first finding names a part that is guilty."""
    return bool(row["said"]) and row["said"][0]["part"] in row["expected"]


def alarmed(row: Result) -> bool:
    """Whether a sound change would fail a test."""
    return (
        row["broke_at"] is not None
        or row["error"] is not None
        or any(not one["warning"] for one in row["said"])
    )


def warned(row: Result) -> bool:
    return not alarmed(row) and bool(row["said"])


def rivals_page(rows: Sequence[Result], rivals: Sequence[Result]) -> str:
    """What other tools say of the changes that they were given, as Markdown."""
    given = {(row["kind"], row["name"]) for row in rivals}
    rows = [row for row in rows if (row["kind"], row["name"]) in given]
    title = "# Other tools on the same loops"
    return "\n".join([title, "", *_rivals_words(), "", *rivals_table(rows, rivals)]) + "\n"


def page(rows: Sequence[Result], left: int = 0) -> str:
    """The whole page, as Markdown. left: changes that were not examined, and are not in it."""
    lines = ["# Loops with planted faults", "", *_words(), ""]
    if left:
        lines += [f"**{left} more changes were not examined yet.**", ""]
    lines += [*summary(rows), ""]
    for kind in KINDS:
        of_kind = [row for row in rows if row["kind"] == kind]
        faults, sound = (
            [row for row in of_kind if row["expected"]],
            [row for row in of_kind if not row["expected"]],
        )
        lines += [f"## {TITLES[kind]}: faults", "", *_faults_table(faults), ""]
        lines += [f"## {TITLES[kind]}: sound changes", "", *_sound_table(sound), ""]
    return "\n".join(lines).rstrip() + "\n"


def _words() -> list[str]:
    return [
        (
            "Small changes to three sound texts, as three teams would write them, and what is "
            f"said of each. Made by `{COMMAND} --held-out`."
        ),
        (
            "Detected: a finding of the loop's contracts, or a rung that breaks. Part named: the "
            "first finding names the part that was"
        ),
        (
            "changed. False alarms: sound changes that would fail a test; a warning fails none and "
            "is counted apart."
        ),
        "",
        (
            "Held out: about a third of the faults, which were set aside while findings were "
            "written; most are of kinds that the others are of too, and"
        ),
        (
            "those of the generator were seen. Unseen, fresh and reported kinds: planted in this "
            "order, each when no finding was written for it; the last are"
        ),
        (
            "from public reports (`examination/loops/reported_changes.py`). Their first look is "
            "the one honest figure for what nobody thought of, and is kept as"
        ),
        (
            "it was; it cannot be made again, since findings were written afterwards for what it "
            "missed. Those aside were not mended for, except `plateau_of_the_wrong_way`: 9 of "
            "11 of them were found before, and named."
        ),
        (
            "Unseen sound changes (`examination/loops/unseen_sound.py`) were written down before the "
            "tool saw any of them. The alarm that is left is of features"
        ),
        (
            "that `collate` computes and that the samples do not hold: [own loop](own_loop.md) says "
            "how they are told of it."
        ),
        "[Other tools](loop_rivals.md) on the same changes.",
    ]


FIRST_LOOK: dict[str, dict[str, tuple[str, ...]]] = {
    "unseen kinds": {
        "detected": ("9 of 10", "8 of 8", "7 of 8", "24 of 26"),
        "part named": ("3 of 10", "4 of 8", "4 of 8", "11 of 26"),
    },
    "fresh kinds": {
        "detected": ("", "", "", "23 of 23"),
        "part named": ("", "", "", "15 of 23"),
    },
    "reported kinds": {
        "detected": ("9 of 12", "9 of 12", "9 of 10", "27 of 34"),
        "part named": ("7 of 12", "7 of 12", "8 of 10", "22 of 34"),
    },
    "unseen sound changes": {
        "false alarms": ("2 of 33", "1 of 9", "0 of 6", "3 of 48"),
        "warnings": ("2 of 33", "0 of 9", "0 of 6", "2 of 48"),
    },
}
"""What was counted when kinds were looked at for the first time, by kind of training and of all."""


def summary(rows: Sequence[Result]) -> list[str]:
    lines = [
        f"| | {' | '.join(TITLES[kind] for kind in KINDS)} | all |",
        "| --- |" + " --- |" * (len(KINDS) + 1),
    ]
    for title, among, good in _figures():
        of_all = [row for row in rows if among(row)]
        cells = [_share([row for row in of_all if row["kind"] == kind], good) for kind in KINDS]
        lines.append(f"| {title} | {' | '.join(cells)} | {_share(of_all, good)} |")
    for lot, figures in FIRST_LOOK.items():
        for what, counts in figures.items():
            lines.append(f"| first look at {lot}: {what} | {' | '.join(counts)} |")
    return lines


LOTS = {
    "seen": "faults seen",
    "held out": "faults held out",
    "unseen kind": "unseen kinds, mended since",
    "fresh kind": "fresh kinds, mended since",
    "reported kind": "reported kinds, mended since",
    "reported, aside": "reported kinds, aside",
}


def _figures() -> list[tuple[str, Callable[[Result], bool], Callable[[Result], bool]]]:
    def faults_of(lot: str) -> Callable[[Result], bool]:
        return lambda row: bool(row["expected"]) and row["lot"] == lot

    def is_fault(row: Result) -> bool:
        return bool(row["expected"])

    def was_sound(row: Result) -> bool:
        return not row["expected"] and row["lot"] != "unseen kind"

    def unseen_sound(row: Result) -> bool:
        return not row["expected"] and row["lot"] == "unseen kind"

    among = [(title, faults_of(lot)) for lot, title in LOTS.items()]
    goods = (("detected", detected), ("part named", named))
    return [
        *(
            (f"{title}: {what}", faults, good)
            for title, faults in (*among, ("all faults", is_fault))
            for what, good in goods
        ),
        ("sound changes: false alarms", was_sound, alarmed),
        ("sound changes: warnings", was_sound, warned),
        ("unseen sound changes, mended since: false alarms", unseen_sound, alarmed),
        ("unseen sound changes, mended since: warnings", unseen_sound, warned),
    ]


def _share(rows: Sequence[Result], good: Callable[[Result], bool]) -> str:
    count = sum(good(row) for row in rows)
    return f"{count} of {len(rows)}"


def _rivals_words() -> list[str]:
    return [
        (
            "torch-preflight reads the text. torch-audit watches forty steps through its "
            "autopatch. torchtest2's `check_model` is given the"
        ),
        (
            "network, the loss, the optimiser as the loop made it and the first batch, and has no "
            "place for a schedule, a step or a mode. Lightning's"
        ),
        (
            "`overfit_batches=4` trains 60 epochs of four batches; a loss above a tenth of its "
            "first counts as said. A fault counts as detected where"
        ),
        (
            "a tool says something that it does not say of the sound text. Made by `python -m "
            "examination.loops.rivals`, then"
        ),
        (f"`{COMMAND} --held-out`, on the changes that the tools were given."),
    ]


def rivals_table(rows: Sequence[Result], rivals: Sequence[Result]) -> list[str]:
    faults = {(row["kind"], row["name"]) for row in rows if row["expected"]}
    sound = {(row["kind"], row["name"]) for row in rows if not row["expected"]}
    lines = [
        "| | faults detected: "
        + " | ".join(TITLES[kind] for kind in KINDS)
        + " | all | sound changes accused |"
    ]
    lines += ["| --- |" + " --- |" * (len(KINDS) + 2)]
    ours = [row for row in rows if row["expected"]]
    cells = [_share([row for row in ours if row["kind"] == kind], detected) for kind in KINDS]
    lines.append(
        f"| **pytest-overfit** | {' | '.join(cells)} | {_share(ours, detected)} | "
        f"{_share([r for r in rows if not r['expected']], alarmed)} |"
    )
    for rival, title in RIVALS.items():
        said = {
            (row["kind"], row["name"]): set(row["said"]) for row in rivals if row["rival"] == rival
        }
        if not said:
            continue
        version = next(row["version"] for row in rivals if row["rival"] == rival)
        more = {job for job, words in said.items() if words - said.get((job[0], SOUND_TEXT), set())}
        counts = [[job for job in said if job in faults and job[0] == kind] for kind in KINDS]
        cells = [
            f"{len(more.intersection(jobs))} of {len(jobs)}" if jobs else "-" for jobs in counts
        ]
        judged, left = [job for job in said if job in faults], [job for job in said if job in sound]
        totals = [f"{len(more.intersection(among))} of {len(among)}" for among in (judged, left)]
        lines.append(f"| {title} {version} | {' | '.join((*cells, *totals))} |")
    return lines


def _faults_table(rows: Iterable[Result]) -> list[str]:
    lines = [
        "| fault | part | | said first | part named | rung |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        first = row["said"][0] if row["said"] else None
        said = (
            f"`{first['name']}`" + (" (warning)" if first["warning"] else "")
            if first
            else "raised"
            if row["error"]
            else "-"
        )
        part = (first["part"] or "-") if first else "-"
        mark = part if named(row) else f"**{part}**"
        broke = f"R{row['broke_at']}" if row["broke_at"] else ""
        lines.append(
            f"| {row['name']} | {row['expected'][0]} | {_lot(row)} | {said} | {mark} | {broke} |"
        )
    return lines


def _sound_table(rows: Iterable[Result]) -> list[str]:
    lines = ["| change | | said |", "| --- | --- | --- |"]
    for row in rows:
        said = ", ".join(
            f"`{one['name']}`" + (" (warning)" if one["warning"] else "") for one in row["said"]
        )
        broke = f"R{row['broke_at']} breaks" if row["broke_at"] else ""
        said = ", ".join(filter(None, (said, broke, "raised" if row["error"] else "")))
        lines.append(f"| {row['name']} | {_lot(row)} | {said or 'nothing'} |")
    return lines


def _lot(row: Result) -> str:
    return "" if row["lot"] == "seen" else str(row["lot"])
