"""One line of a plain log -> what it says: an epoch, a step, numbers by name. Pure, without memory of the lines before.

A number belongs to the words right before it: `Val WER: 91.0%`, `loss=4.19`, `lr 3e-4`. After `=` or `:` any name is taken; after a blank only
one that is known, for text is full of numbers. A name that does not say its split takes the one that stands before it in the line, as in
`Validation: loss 4.9, wer 91%`; one of a split alone, as in `Train 4.19 | Val 4.90`, is a loss.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from pytest_overfit.health.readers.names import SPLITS, clock, known, words

ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
NUMBER = r"[-+]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
WORD = r"[A-Za-z_][\w./-]*(?<!\.)"
PAIR = re.compile(
    rf"(?<![\w.-])['\"]?(?P<name>{WORD}(?:[ ]{WORD}){{0,3}}+(?:\s?\(?%\)?)?)['\"]?(?P<sign>\s*[:=]\s*|\s+|\s*(?=[\[#]))"
    rf"(?:[\[(#]\s*)?(?P<value>{NUMBER})(?!\w|[.:-]\d|,\d{{3}}(?!\d))(?:\s*/\s*(?P<total>\d{{1,12}})|(?P<percent>\s?%))?",
    re.IGNORECASE,
)
EPOCH_LAST = re.compile(r"(?<![\w.])(\d{1,12})\s*epoch\b", re.IGNORECASE)
FAR_OF = r"(\d{1,12})\s*/\s*(\d{1,12})"
BATCH = re.compile(rf"\[\s*{FAR_OF}|\|\s*{FAR_OF}\s*\[|(?<![\d/]){FAR_OF}\s+batch|^\s*{FAR_OF}\s")
SPLIT_WORD = re.compile(r"(?<![\w./-])(" + "|".join(sorted(SPLITS, key=len, reverse=True)) + r")(?![\w/-]|\.\w)", re.IGNORECASE)
ASIDE = re.compile(r"\b(?:best|early.?stop\w*|resum\w*|restor\w*|load\w*|sav(?:ed|ing)|checkpoint\w*|patience|improve\w*)\b", re.IGNORECASE)
NOT_OF_NOW = frozenset({"best", "min", "max", "lowest", "highest", "prev", "previous", "target", "test", "final", "improvement", "delta", "std"})
"""Words that make a value another than the one of this epoch."""
UNITS = re.compile(r"\s*(?:samples?|clips?|sentences?|batches|files|videos|hours?|min|sec|s|h)\b", re.IGNORECASE)


@dataclass(kw_only=True, slots=True)
class Said:
    """epoch, step: None where the line does not tell. epochs: how many are planned. batch: (how far, of how many) within the epoch.

    bar: whether that is of a progress bar, which at its end tells the metrics of the whole epoch.
    values: (name, split of the words before it or "", value); a name ends in " %" where its value had that sign.
    """

    epoch: float | None = None
    step: float | None = None
    epochs: int | None = None
    batch: tuple[int, int] | None = None
    bar: bool = False
    values: list[tuple[str, str, float]] = field(default_factory=list)


def said(text: str) -> Said:
    """What a line says; nothing where it tells of an epoch in passing, as in `stopped early, best at epoch 25`."""
    line, unknown = Said(), []
    split, end, clocks = "", 0, []
    for match in PAIR.finditer(text):
        if match.start() > end + 2:
            split = split_in(text[end : match.start()]) or split
        end = match.end()
        parts = match["name"].split()
        counts = clock(" ".join(parts[-2:])) or clock(parts[-1])
        if counts is not None:
            if counts == "epoch" and line.epoch is None and ASIDE.search(text, 0, match.start("value")):
                return Said()
            split = split_in(match["name"]) or split
            if not match["percent"]:
                _count(line, counts, match)
                clocks.append(match.span())
            continue
        name, own_split, spaced = _metric(parts)
        if name == "" and (not own_split or _no_loss(match, text)):
            if match["sign"].strip() and not own_split:
                unknown.append((_signed(" ".join(parts), match), split, float(match["value"])))
            continue
        split = own_split if own_split and spaced else split
        line.values.append((_signed(name or "loss", match), own_split or split, float(match["value"])))
    if line.epoch is None and (last := EPOCH_LAST.search(text)):
        line.epoch = float(last[1])
    if line.values or line.epoch is not None or line.step is not None:
        line.values += unknown
        if line.batch is None:
            line.batch, line.bar = _batch(text, clocks), True
    return line


def split_in(text: str) -> str:
    """The last split that `text` names as a word of its own: "train", "val", or "" where it names none."""
    found = SPLIT_WORD.findall(text)
    return SPLITS[found[-1].lower()] if found else ""


def _signed(name: str, match: re.Match[str]) -> str:
    return f"{name} %" if match["percent"] else name


def _count(line: Said, counts: str, match: re.Match[str]) -> None:
    value, total = float(match["value"]), match["total"]
    if not math.isfinite(value):
        return
    if counts == "epoch" and line.epoch is None:
        line.epoch, line.epochs = value, int(total) if total else None
    elif counts == "step" and total and value.is_integer():
        line.batch = (int(value), int(total))
    elif counts == "step" and line.step is None:
        line.step = value


def _metric(parts: list[str]) -> tuple[str, str, bool]:
    """(name, split, whether its words stand apart) of the longest end of some words that is a metric; ("", split) where only a split is named."""
    if not NOT_OF_NOW.isdisjoint(words(" ".join(parts))):
        return "", "", False
    for first in range(len(parts)):
        name = " ".join(parts[first:])
        meant = known(name)
        if meant is not None:
            return name, meant.split, len(parts) - first > 1
    return "", SPLITS.get(parts[-1].lower(), ""), True


def _no_loss(match: re.Match[str], text: str) -> bool:
    """Whether a number after a bare split is a count or a time rather than a loss: `Train: 5672 samples`."""
    value = match["value"].lower()
    return bool(match["percent"] or match["total"] or value.isdigit() or UNITS.match(text, match.end()))


def _batch(text: str, clocks: list[tuple[int, int]]) -> tuple[int, int] | None:
    for match in BATCH.finditer(text):
        if not any(start < match.end() and match.start() < end for start, end in clocks):
            far, of = (int(group) for group in match.groups() if group)
            return (far, of) if 0 <= far <= of and of else None
    return None
