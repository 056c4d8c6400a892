"""The next command to run: the run's own with one change that answers its gravest finding, or the
ladder, where it cannot even memorise.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from pytest_overfit.finding import Finding
from pytest_overfit.health.rules import RULES
from pytest_overfit.health.rules.reading import KNOWS, error_rate
from pytest_overfit.health.run import Run

RATE = ("learning_rate", "learning-rate", "lr")
DROPOUT = ("dropout",)
DECAY = ("weight_decay", "weight-decay", "wd")
EPOCHS = ("epochs", "max_epochs")
FOLDER = ("output_dir", "output-dir", "save_dir")
RESUME = "--resume"
UNNAMED = "package.module:subject"

Change = tuple[tuple[str, ...], Callable[[float], float]]
"""Names that an option may have, and its new value by its old one."""
LESS_OVERFITTING: tuple[Change, ...] = (
    (DROPOUT, lambda rate: min(rate + 0.2, 0.7)),
    (DECAY, lambda decay: 10 * decay or 1e-3),
)


def next_command(run: Run, findings: Sequence[Finding], verdict: str) -> str | None:
    """What to run next; None where a run is healthy and done.

    A comment behind # says what it answers.
    """
    log = (
        "pytest -m health "
        f"--overfit-run={shlex.quote(str(run.sources[0] if run.sources else run.name))}"
    )
    if verdict == "healthy":
        return None
    if verdict == "cannot tell":
        return f"{log}  # once an error rate of validation is logged beside the loss"
    if verdict == "go on":
        return resume_command(run) or (None if run.finished else f"{log}  # when more is logged")
    answers = {rule.name: rule for rule in RULES}
    slower = answers[findings[0].name].slower
    if slower is not None:
        return fresh_command(run, ((RATE, lambda rate: rate * slower),)) or ladder(run)
    if memorises(run) and any(answers[finding.name].overfits for finding in findings):
        return fresh_command(run, LESS_OVERFITTING) or ladder(run)
    return ladder(run)


def memorises(run: Run) -> bool:
    """Whether the network reads the clips that it is trained on, as far as the log tells; unknown
    counts as yes.
    """
    rate = error_rate(run, "train")
    return not len(rate) or rate.values[-1] <= KNOWS


def ladder(run: Run) -> str:
    """Can it memorise at all?"""
    return (
        f"pytest -m overfit --overfit-subject {run.facts.subject or UNNAMED}  # can it memorise a "
        "few clips at all?"
    )


def resume_command(run: Run) -> str | None:
    """The run's own command, resumed; with twice the epochs where those it was given are over.

    None where the command is not known.
    """
    words = _words(run.facts.command)
    if words is None:
        return None
    last = max((at for curve in run.curves.values() for at in curve.at), default=0.0)
    if run.facts.epochs is not None and run.clock == "epoch" and last >= run.facts.epochs - 1:
        _changed(words, EPOCHS, lambda epochs: 2 * epochs)
    return shlex.join([*words, RESUME])


def fresh_command(run: Run, changes: Sequence[Change]) -> str | None:
    """The run's own command with options changed, from the start and into a folder of its own; None
    where it has none of the options.

    A keyword that the network was built with is an option too, where the command leaves it out.
    """
    words = _words(run.facts.command)
    if words is None:
        return None
    for names, _ in changes:
        built = next(
            (name for name in names if isinstance(run.facts.network.get(name), int | float)), None
        )
        if built is not None and _find(words, names) is None:
            words += [f"--{built}", str(run.facts.network[built])]
    done = [_changed(words, names, change) for names, change in changes]
    if not any(done):
        return None
    place = _find(words, FOLDER)
    if place is not None:
        _put(words, place, _value(words, place).rstrip("/") + "-next")
    return shlex.join(words)


def _words(command: str | None) -> list[str] | None:
    try:
        return [word for word in shlex.split(command) if word != RESUME] if command else None
    except ValueError:
        return None


def _changed(words: list[str], names: tuple[str, ...], change: Callable[[float], float]) -> bool:
    """Change an option in place, where there is one and it is a number."""
    place = _find(words, names)
    try:
        if place is not None:
            _put(words, place, f"{change(float(_value(words, place))):.4g}")
    except ValueError:
        return False
    return place is not None


def _find(words: Sequence[str], names: tuple[str, ...]) -> int | None:
    """Where an option stands: --name VALUE or --group.name=VALUE; the last one counts."""
    pattern = re.compile(rf"--?(?:[\w-]+\.)*(?:{'|'.join(names)})(=.*)?", re.S)
    found = [
        i
        for i, word in enumerate(words)
        if (match := pattern.fullmatch(word)) and (match[1] or i + 1 < len(words))
    ]
    return found[-1] if found else None


def _value(words: Sequence[str], place: int) -> str:
    return words[place].split("=", 1)[1] if "=" in words[place] else words[place + 1]


def _put(words: list[str], place: int, value: str) -> None:
    if "=" in words[place]:
        words[place] = f"{words[place].split('=', 1)[0]}={value}"
    else:
        words[place + 1] = value
