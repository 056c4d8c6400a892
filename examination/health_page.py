"""The page of the proof: runs really trained, what was said of each, what others said, and what the
cure did, as Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examination.health_cure import Cured, cure_section
from examination.health_judged import FOLDER, FORMS, Judged
from examination.health_rivals import FITTING
from examination.health_runs import CHANGED, FIRST, UNSEEN, HealthRun
from model.tables import Column, markdown_table

COMMAND = "python -m examination.health_matrix"
SHARES = (0.25, 0.5)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a rival says of a run. said: check -> severity at the end.

    after: the checks that it raised after each epoch.
    """

    said: Mapping[str, str]
    after: tuple[frozenset[str], ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run, what was said of it, and what each rival said (rival -> Compared)."""

    judged: Judged
    rivals: Mapping[str, Compared]


def page(rows: Sequence[Row], cured: Sequence[Cured]) -> str:
    """The whole page. rows: in the order of the lists; cured: runs of the cure."""
    healthy, sick = (
        [row for row in rows if row.judged.run.healthy],
        [row for row in rows if not row.judged.run.healthy],
    )
    parts = [
        "# Health matrix",
        "",
        (
            "Runs really trained on composed sentences, and what the health report said of them. "
            f"Made by `{COMMAND}`."
        ),
        "",
    ]
    parts += [
        *_summary(healthy, sick),
        "",
        FIRST,
        "",
        *_words(),
        "",
        "## Sick runs",
        "",
        markdown_table(_sick_columns(), sick),
    ]
    parts += ["## Healthy runs", "", markdown_table(_healthy_columns(), healthy)]
    parts += [
        "## What others say of the same logs",
        "",
        *_rivals_words(),
        "",
        *_compared(sick, healthy),
        "",
        markdown_table(_rival_columns(), [*sick, *healthy]),
    ]
    parts += [
        *cure_section(cured),
        "",
        "## How they were trained",
        "",
        markdown_table(_command_columns(), [row.judged.run for row in rows]),
    ]
    if CHANGED:
        parts += [
            (
                "Runs that were changed because they did not become what they were meant to be "
                "(the expectation stayed):"
            ),
            "",
        ]
        parts += [f"- {change}" for change in CHANGED]
    return "\n".join(parts).rstrip() + "\n"


def _summary(healthy: Sequence[Row], sick: Sequence[Row]) -> list[str]:
    judged = [row.judged for row in (*sick, *healthy)]
    lines = ["| | |", "| --- | --- |"]
    lines.append(
        "| sick runs diagnosed rightly | "
        f"{_of([row.judged for row in sick if row.judged.right], sick)} |"
    )
    unseen = [row for row in sick if row.judged.run in UNSEEN]
    lines.append(
        "| of these, runs by which no rule was mended | "
        f"{_of([row for row in unseen if row.judged.right], unseen)} |"
    )
    lines.append(
        "| healthy runs without any finding at the end | "
        f"{_of([row for row in healthy if row.judged.right], healthy)} |"
    )
    lines.append(
        "| healthy runs without any finding after any epoch | "
        f"{_of([row for row in healthy if not row.judged.alarmed], healthy)} |"
    )
    epochs, alarmed = (
        sum(len(row.judged.after) for row in healthy),
        sum(len(row.judged.alarmed) for row in healthy),
    )
    lines.append(f"| false alarms, run-epochs | {alarmed} of {epochs} |")
    same = [each for each in judged if len({said.verdict for said in each.forms.values()}) == 1]
    lines.append(f"| one verdict from all three forms of the log | {_of(same, judged)} |")
    return lines


def _of(some: Sequence[object], among: Sequence[object]) -> str:
    return f"{len(some)} of {len(among)}"


def _words() -> list[str]:
    return [
        (
            "A sick run is right when an expected finding is there, no other than those that go "
            "with it, and the verdict is *stop*; a healthy one when"
        ),
        (
            "nothing is found. Expectations were written down before anything was judged. *Began*: "
            "the epoch read off the curves (best validation,"
        ),
        (
            "lowest training loss, first loss that is no number, or 0 for what was sick from the "
            "start). *Flagged*: the first epoch after which an"
        ),
        (
            "expected finding was there and stayed. *Stop*: the first epoch after which the "
            "verdict was *stop*; behind it, epochs after the beginning."
        ),
        (
            "Rules that ask for a stand-still wait for 20 to 30 epochs of one, so little that is "
            "sick from the start is stopped earlier."
        ),
        (
            "Bold is wrong. Each run is judged after every one of its epochs, from its folder; at "
            "the end also from `metrics.csv` alone and from the"
        ),
        "TensorBoard events alone, where the loss levels of `run.json` are missing.",
    ]


def _sick_columns() -> list[Column]:
    return [
        Column("run", lambda row: row.judged.run.name),
        Column("is", lambda row: row.judged.run.kind),
        Column("found (dated)", lambda row: _found(row.judged)),
        Column("verdict", lambda row: row.judged.said.verdict),
        Column("began", lambda row: _epoch(row.judged.onset)),
        Column("flagged", lambda row: _epoch(row.judged.flagged)),
        Column("stop", lambda row: _stopped(row.judged)),
        Column("at 25 %, 50 %", lambda row: _midway(row.judged)),
        Column("epochs", lambda row: str(len(row.judged.after))),
        Column("other forms", lambda row: _forms(row.judged)),
        Column("right", lambda row: _right(row.judged)),
    ]


def _healthy_columns() -> list[Column]:
    return [
        Column("run", lambda row: row.judged.run.name),
        Column("is", lambda row: row.judged.run.kind),
        Column("all blank until", lambda row: _epoch(blank_until(row.judged))),
        Column(
            "val loss, WER at the end",
            lambda row: f"{_last(row.judged, 'val_loss'):.2f}, {_last(row.judged, 'val_wer'):.0%}",
        ),
        Column("found (dated)", lambda row: _found(row.judged)),
        Column("verdict", lambda row: row.judged.said.verdict),
        Column("at 25 %, 50 %", lambda row: _midway(row.judged)),
        Column("epochs with an alarm", lambda row: _alarms(row.judged)),
        Column("epochs", lambda row: str(len(row.judged.after))),
        Column("other forms", lambda row: _forms(row.judged)),
        Column("right", lambda row: _right(row.judged)),
    ]


def blank_until(judged: Judged, emitted: float = 0.1) -> float | None:
    """The last epoch of the first stretch in which validation emitted next to nothing."""
    curve = judged.curves.get("val_emission_ratio")
    points = list(zip(curve.at, curve.values, strict=True)) if curve else []
    blank = [at for at, value in points if value < emitted]
    ends = next((at for at, value in points if blank and at > blank[0] and value >= emitted), None)
    return max((at for at in blank if ends is None or at < ends), default=None)


def _found(judged: Judged) -> str:
    names = [
        f"{name} ({_epoch(began)})" + ("" if name in judged.said.confirmed else "?")
        for name, began in judged.said.found.items()
    ]
    return ", ".join(names) or "nothing"


def _epoch(at: float | None) -> str:
    return "-" if at is None else f"{at:.0f}"


def _stopped(judged: Judged) -> str:
    if judged.stopped is None:
        return "-"
    back = "" if judged.said.verdict == "stop" else ", **taken back**"
    return (
        f"{judged.stopped}"
        + ("" if judged.onset is None else f" (+{judged.stopped - judged.onset:.0f})")
        + back
    )


def _midway(judged: Judged) -> str:
    return ", ".join(judged.at_share(share).verdict for share in SHARES)


def _alarms(judged: Judged) -> str:
    if not judged.alarmed:
        return "none"
    names = dict.fromkeys(name for epoch in judged.alarmed for name in judged.after[epoch].found)
    return f"**{len(judged.alarmed)}: {', '.join(names)}** (from {judged.alarmed[0]})"


def _forms(judged: Judged) -> str:
    others = {form: judged.forms[form].verdict for form in FORMS if form != FOLDER}
    strange = [
        f"**{form}: {verdict}**"
        for form, verdict in others.items()
        if verdict != judged.said.verdict
    ]
    return ", ".join(strange) or "same"


def _right(judged: Judged) -> str:
    return "yes" if judged.right else f"**no: {judged.wrong}**"


def _last(judged: Judged, name: str) -> float:
    return judged.curves[name].values[-1]


def _command_columns() -> list[Column]:
    def expected(run: HealthRun) -> str:
        also = f"; may have {', '.join(run.also)}" if run.also else ""
        return (" or ".join(run.expected) or "nothing") + also

    return [
        Column("run", lambda run: run.name),
        Column(
            "`python -m model.train`",
            lambda run: (
                f"`{run.command}`"
                + (f", killed after epoch {run.killed_at}" if run.killed_at else "")
            ),
        ),
        Column("expected", expected),
        Column("what it shows", lambda run: run.shows),
    ]


def _rivals_words() -> list[str]:
    return [
        (
            "losslint 0.4.1 (`losslint check`, JSON lines of step, loss, eval_loss, learning_rate, "
            "grad_norm, an epoch a line) and ftdoctor 0.1.0"
        ),
        (
            "(`trainer_state.json` with a training and an evaluation row an epoch), both with "
            "their defaults and through their own readers. They ask for"
        ),
        (
            "losses only and know nothing of CTC: error rates, emitted tokens and levels are not "
            "theirs to judge. To be fair to them: of a sick run any"
        ),
        (
            "check that can be taken to fit counts, at any severity (in brackets); of a healthy "
            "run all checks count but those of ftdoctor that say"
        ),
        (
            "themselves that nothing is wrong. losslint's overfit_onset and stagnation are remarks "
            "(info) by its own words, and exit with 0."
        ),
    ]


def _compared(sick: Sequence[Row], healthy: Sequence[Row]) -> list[str]:
    """A table of who names what, and who alarms whom."""
    epochs = sum(len(row.judged.after) for row in healthy)
    named, accused = (
        sum(row.judged.right for row in sick),
        sum(bool(row.judged.said.found) for row in healthy),
    )
    lines = [
        (
            "| | sick runs named | healthy runs accused at the end | run-epochs of healthy runs "
            "accused |"
        ),
        "| --- | --- | --- | --- |",
    ]
    lines.append(
        _counts(
            "this health report",
            (named, accused, sum(len(row.judged.alarmed) for row in healthy)),
            (len(sick), len(healthy), epochs),
        )
    )
    for name in FITTING:
        said = [row for row in (*sick, *healthy) if name in row.rivals]
        if len(said) < len(sick) + len(healthy):
            continue
        named, accused = (
            sum(names_it(row, name) for row in sick),
            sum(bool(row.rivals[name].said) for row in healthy),
        )
        alarms = sum(sum(map(bool, row.rivals[name].after)) for row in healthy)
        lines.append(_counts(name, (named, accused, alarms), (len(sick), len(healthy), epochs)))
    return lines


def _counts(name: str, counts: tuple[int, ...], among: tuple[int, ...]) -> str:
    return (
        f"| {name} | "
        + " | ".join(f"{count} of {all_}" for count, all_ in zip(counts, among, strict=True))
        + " |"
    )


def _rival_columns() -> list[Column]:
    def column(name: str) -> Column:
        return Column(name, lambda row: rival_cell(row, name))

    return [
        Column("run", lambda row: row.judged.run.name),
        Column("is", lambda row: row.judged.run.kind),
        *map(column, FITTING),
    ]


def rival_cell(row: Row, name: str) -> str:
    """What a rival said, bold where it is a miss or a false alarm."""
    compared = row.rivals.get(name)
    if compared is None:
        return "not installed"
    said = (
        ", ".join(f"{check} ({severity})" for check, severity in compared.said.items()) or "nothing"
    )
    if row.judged.run.healthy:
        alarmed = sum(map(bool, compared.after))
        return f"**{said}**; {alarmed} epochs" if compared.said else f"nothing; {alarmed} epochs"
    return said if names_it(row, name) else f"**{said}**"


def names_it(row: Row, name: str) -> bool:
    """Whether a rival says something of a sick run that fits."""
    return bool(set(row.rivals[name].said) & {*FITTING[name].get(row.judged.run.kind, ())})
