"""A checkup in words: the headline of a failed rule, its body, the whole report, and the report for
machines. The only formatter of health.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.table import Table

from pytest_overfit.finding import Finding, counted
from pytest_overfit.health.checkpoint import CheckpointReading
from pytest_overfit.health.checkup import Checkup
from pytest_overfit.health.curves.metric import metric
from pytest_overfit.health.rules.reading import SPLITS, metric_words
from pytest_overfit.health.rules.trend import finite, lowest, reading_at
from pytest_overfit.health.rules.words import number, place, share
from pytest_overfit.health.run import Run
from pytest_overfit.plugin.failure import module_table
from pytest_overfit.plugin.findings_text import finding_rows
from pytest_overfit.plugin.report_json import strict
from pytest_overfit.plugin.wording import WIDTH, labelled, level_text, rendered

LABEL = 11
"""Width of the label column with the blank behind it."""
METRICS = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "train_wer": "training WER",
    "val_wer": "validation WER",
    "train_emission_ratio": "training emitted / target",
    "val_emission_ratio": "validation emitted / target",
    "train_blank_share": "training blank share",
    "val_blank_share": "validation blank share",
    "train_entropy_ratio": "training entropy / ln V",
    "val_entropy_ratio": "validation entropy / ln V",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
}
Rows = Iterable[tuple[str, str]]


def headline(run: Run, finding: Finding) -> str:
    """ "teacher: validation loss rises since epoch 25 while training loss falls"."""
    return f"{run.name}: {finding.headline}"


def finding_body(run: Run, finding: Finding) -> str:
    """A finding below its headline: since when, why, and what to try."""
    return _lines(finding_rows_of(run, finding))


def text(checkup: Checkup) -> str:
    """The whole report: the run as a table, the verdict, what was found and what was not, what is
    missing, and what to run next.
    """
    blocks = [
        title(checkup.run),
        table(checkup.run),
        _lines([("verdict", "\n".join([checkup.verdict.upper(), *checkup.reasons]))]),
    ]
    blocks += [_lines(finding_rows_of(checkup.run, finding)) for finding in checkup.findings]
    return "\n\n".join([*blocks, _lines(rest(checkup))])


def rest(checkup: Checkup) -> list[tuple[str, str]]:
    """What stands below the findings: labels and what is said."""
    lists = {
        "ruled out": ", ".join(checkup.ruled_out),
        "not judged": "\n".join(f"{name}: {reason}" for name, reason in checkup.not_judged),
        "notes": "\n".join(checkup.notes),
        "log": "\n".join(checkup.run.warnings),
        "tells more": "\n".join(checkup.more_evidence),
        "next": checkup.next_command or "nothing: keep the best checkpoint",
    }
    return [(label, text) for label, text in lists.items() if text]


def finding_rows_of(run: Run, finding: Finding) -> list[tuple[str, str]]:
    """A finding's rows, with when it began."""
    rows = finding_rows(finding)
    return (
        rows[:1]
        + ([("began", place(run, finding.began))] if finding.began is not None else [])
        + rows[1:]
    )


def _lines(rows: Rows) -> str:
    return "\n".join(
        labelled(label, text if label == "next" else _wrapped(text)) for label, text in rows
    )


def _wrapped(text: str) -> str:
    """Lines no wider than the report; what runs over is indented.

    A command is left whole, to be copied.
    """
    lines = (
        textwrap.wrap(line, WIDTH - LABEL, subsequent_indent="  ", break_on_hyphens=False)
        for line in text.splitlines()
    )
    return "\n".join(part for parts in lines for part in parts or [""])


def title(run: Run) -> str:
    """ "team: epochs 1 to 60, read from team.log"."""
    places = [at for curve in run.curves.values() for at in curve.at]
    extent = f"{run.clock}s {min(places):g} to {max(places):g}" if places else "no curve"
    source = ", ".join(map(_near, run.sources[:3])) + (
        f" and {len(run.sources) - 3} more" if len(run.sources) > 3 else ""
    )
    return _wrapped(f"{run.name}: {extent}" + (f", read from {source}" if source else ""))


def _near(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def table(run: Run) -> str:
    """Each known metric: how often it was read, the first value, the best where one way is better,
    the last, and where.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "readings", "first", f"best ({run.clock})", f"last ({run.clock})"):
        table.add_column(column, justify="right" if column else "left")
    judged = {name: metric_words(run, split) for split in SPLITS if (name := run.read_by(split))}
    for name, words in {**METRICS, **judged}.items():
        if name in run.curves:
            table.add_row(words, *_row(run, name))
        if name == "val_loss" and (gap := _gap(run)):
            table.add_row("gap (validation - training)", "", "", "", gap)
    return rendered(table, WIDTH).strip("\n")


def _row(run: Run, name: str) -> tuple[str, ...]:
    curve, read = run.curve(name), finite(run.curve(name))
    if not len(read):
        return str(len(curve)), "not finite", "", "not finite"
    measured = metric(name)
    rate = measured is not None and measured.kind in ("error rate", "score") and measured.share
    value = share if rate or name.endswith("share") else number
    higher = measured is not None and measured.better == "higher"
    best = max(range(len(read)), key=read.values.__getitem__) if higher else lowest(read)
    shown = (
        f"{value(read.values[best])} ({read.at[best]:g})" if measured and measured.better else ""
    )
    return (
        str(len(curve)),
        value(curve.values[0]),
        shown,
        f"{value(curve.values[-1])} ({curve.at[-1]:g})",
    )


def _gap(run: Run) -> str | None:
    train, val = finite(run.curve("train_loss")), finite(run.curve("val_loss"))
    if not len(train) or not len(val):
        return None
    return f"{number(val.values[-1] - reading_at(train, val.at[-1]))} ({val.at[-1]:g})"


def checkpoint_text(read: CheckpointReading) -> str:
    """What the network of a checkpoint does on real samples, and where its signal is lost."""
    shown = read.reading
    rows = [
        (
            "checkpoint",
            (
                f"{read.checkpoint.name}{'' if read.epoch is None else f' of epoch {read.epoch}'}, "
                f"on {counted(read.samples, 'sample')}"
            ),
        ),
        (
            "output",
            f"loss {number(shown.loss)} nats per token, WER "
            f"{share(shown.token_error_rate)}, emitted / target tokens "
            f"{number(shown.emission_ratio)}\nblank share {share(shown.blank_share)} where a "
            "healthy output has about "
            f"{share(read.expected_blank_share)}; entropy / ln V {number(shown.entropy_ratio)} (1 "
            "is uniform)",
        ),
    ]
    rows += [("level", level_text(read.level_match))] if read.level_match else []
    table = f"{'where':<10} " + module_table(
        read.table, {finding.module for finding in read.findings}
    ).replace("\n", "\n" + LABEL * " ")
    found = [_lines(finding_rows(finding)) for finding in read.findings]
    return "\n".join([_lines(rows), *([table] if read.table else []), *found])


def to_json(checkup: Checkup) -> str:
    """The report for machines: strict JSON, numbers that are not finite as null."""
    run = checkup.run
    metrics = {}
    for name in run.curves:
        curve, read = run.curve(name), finite(run.curve(name))
        best = lowest(read) if len(read) else None
        metrics[name] = {
            "readings": len(curve),
            "first": curve.values[0] if len(curve) else None,
            "last": curve.values[-1] if len(curve) else None,
            "last_at": curve.at[-1] if len(curve) else None,
            "lowest": read.values[best] if best is not None else None,
            "lowest_at": read.at[best] if best is not None else None,
        }
    content = {
        "version": 1,
        "run": {
            "name": run.name,
            "sources": [str(path) for path in run.sources],
            "clock": run.clock,
            "metrics": metrics,
        },
        "warnings": run.warnings,
        "checkpoint": str(run.checkpoint) if run.checkpoint else None,
        "verdict": checkup.verdict,
        "reasons": checkup.reasons,
        "findings": [finding.to_json() for finding in checkup.findings],
        "ruled_out": checkup.ruled_out,
        "not_judged": dict(checkup.not_judged),
        "notes": checkup.notes,
        "more_evidence": checkup.more_evidence,
        "next_command": checkup.next_command,
    }
    return json.dumps(strict(content), indent=1, allow_nan=False) + "\n"
