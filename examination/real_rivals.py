"""What other tools say of the same real logs, each run on the raw file by its own command with its
defaults, judged generously.

runmedic 0.1.1, trainspotter 0.2.6, losslint 0.4.1 and finetune-doctor 0.2.2 (which ftdoctor 0.1.0
is too); installed in a folder of their own, since they pin what they need: `python -m
examination real-logs DIR --rivals BIN`.

A log counts as read where the tool found the losses that the label has, whatever their values; an
illness as named where any finding, at any severity, can be taken to mean it; an onset as right
where any of these findings names a step near it. Of a sound run only findings above the severity
`info` accuse.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 120
NAMES: Mapping[str, tuple[str, ...]] = {
    "overfit": ("overfit", "disagree"),
    "never learn": (
        "stagnat",
        "not_learning",
        "plateau",
        "stall",
        "underfit",
        "flat",
        "progress",
        "never",
    ),
    "diverge": ("diverg", "spike", "nan", "explod", "not_learning", "overfit"),
    "damage": ("diverg", "spike", "explod", "overfit"),
    "rate": ("diverg", "spike", "lr", "rate", "instab", "oscill"),
    "swing": ("oscill", "instab", "spike", "noise"),
    "unstable": ("oscill", "instab", "spike", "diverg"),
    "carr": ("overfit", "gap"),
}
"""Words in the expert's name of an illness -> parts of the names of checks that can be taken to
mean it.
"""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a tool said of a log. losses: which of "train" and "val" it found.

    findings: (check, step or None, severity).
    """

    losses: frozenset[str] = frozenset()
    findings: tuple[tuple[str, float | None, str], ...] = ()


def _splits(names: Sequence[str]) -> frozenset[str]:
    val = any(
        re.search(
            r"(?:val|eval|dev|valid)\w*[/_ ].*loss|loss.*(?:val|eval|valid|dev)", name.lower()
        )
        for name in names
    )
    train = any(
        name.lower() in ("loss", "train_loss", "train/loss", "training_loss", "train loss")
        for name in names
    )
    return frozenset({"train"} if train else ()) | frozenset({"val"} if val else ())


def _of_runmedic(told: Any) -> Said:
    runs = told if isinstance(told, list) else []
    roles = [role for run in runs for role in run["roles"]]
    losses = frozenset(
        name for name, role in (("train", "train_loss"), ("val", "val_loss")) if role in roles
    )
    return Said(
        losses=losses,
        findings=tuple(
            (one["check"], one.get("step"), one["severity"])
            for run in runs
            for one in run["findings"]
        ),
    )


def _of_trainspotter(told: Any) -> Said:
    found = tuple(
        (one["detector"], one.get("step_start"), one["severity"]) for one in told["findings"]
    )
    return Said(losses=_splits(list(told["run"]["metrics"])), findings=found)


def _of_losslint(told: Any) -> Said:
    names = [name for run in told["runs"] for name in run["series"]]
    steps = [
        (one, [value for key, value in one.get("details", {}).items() if "step" in key])
        for one in told["findings"]
    ]
    return Said(
        losses=_splits(names),
        findings=tuple((one["check"], at[0] if at else None, one["severity"]) for one, at in steps),
    )


def _of_finetune_doctor(told: Any) -> Said:
    steps = [
        (one, [value for key, value in one.get("metrics", {}).items() if "step" in key])
        for one in told["findings"]
    ]
    found = tuple(
        (one["check"], at[0] if at else None, one["severity"].lower()) for one, at in steps
    )
    return Said(losses=_splits(["train_loss", *told["run"]["eval_metrics"]]), findings=found)


TOOLS: Mapping[str, tuple[Sequence[str], Callable[[Any], Said]]] = {
    "runmedic": (("runmedic", "diagnose", "{log}", "--json"), _of_runmedic),
    "trainspotter": (("trainspotter", "analyze", "{log}", "--output", "json"), _of_trainspotter),
    "losslint": (("losslint", "check", "--format", "json", "{log}"), _of_losslint),
    "finetune-doctor": (
        ("finetune-doctor", "diagnose", "{log}", "-f", "json"),
        _of_finetune_doctor,
    ),
}
"""Name -> its command, and what reads its answer."""


def ask(tool: str, log: Path, programs: Path) -> Said:
    """What a tool says of a log; nothing where it cannot read it.

    programs: the folder of its command.
    """
    (program, *arguments), read = TOOLS[tool]
    command = [str(programs / program), *(argument.format(log=log) for argument in arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        return read(json.loads(done.stdout))
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return Said()


def counts(
    tool: str, judged: Sequence[tuple[Mapping[str, Any], Path, float]], programs: Path
) -> dict[str, tuple[int, int]]:
    """The columns of the table for one tool.

    judged: of each log its label, its file, and how far an onset may be off.
    """
    totals = {name: [0, 0] for name in ("read", "sick named", "onset right", "sound runs accused")}

    def count(name: str, right: bool) -> None:
        totals[name][0] += right
        totals[name][1] += 1

    for label, log, tolerance in judged:
        said = ask(tool, log, programs)
        wanted = {split for key, split in (("train", "train"), ("valid", "val")) if label.get(key)}
        count("read", bool(said.losses) and wanted <= said.losses)
        illnesses = [illness.lower() for illness in label["illness"]]
        parts = {
            part
            for words, found in NAMES.items()
            for part in found
            if any(words in illness for illness in illnesses)
        }
        named = [
            finding
            for finding in said.findings
            if any(part in finding[0].lower() for part in parts)
        ]
        if not illnesses:
            count(
                "sound runs accused",
                any(
                    severity.lower() not in ("info", "ok", "note")
                    for _, _, severity in said.findings
                ),
            )
            continue
        count("sick named", bool(named))
        if label["onset"]:
            place = float(label["onset"]["value"])
            count(
                "onset right",
                any(step is not None and abs(step - place) <= tolerance for _, step, _ in named),
            )
    return {name: (right, of) for name, (right, of) in totals.items()}
