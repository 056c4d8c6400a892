"""Facts of a run that are told in text, mostly before its first epoch: `12.3M parameters`, `Train
samples: 5,000`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

COUNT = r"(?P<{0}>\d[\d,_]{{0,20}}(?:\.\d+)?)\s*(?P<{0}_unit>[KMB]\b|thousand|million|billion)?"
BEFORE, AFTER = COUNT.format("before"), COUNT.format("after")
CLIPS = r"(?:samples|clips|sentences)\b"
PARAMETERS = rf"{BEFORE}\s+(?:\w+\s+)?param(?:eter)?s\b|(?<!non-trainable )\bparam(?:eter)?s(?:\s*\(\w+\))?\s*[:=]\s*{AFTER}"
EPOCHS = rf"\b(?:num|max|total|n)_(?:train_)?epochs['\"]?\s*[:=]\s*{AFTER}"
VOCABULARY = rf"\bvocab(?:ulary)?(?:[ _]size)?\s*[:=]\s*{AFTER}"


def _samples(split: str) -> str:
    named = rf"{BEFORE}\s+(?:{split})\s+{CLIPS}"
    return rf"{named}|\b(?:{split})(?:[ _](?:set|size))?\s*[:=]\s*{AFTER}\s+{CLIPS}|\b(?:{split})[ _]{CLIPS}\s*[:=]\s*{COUNT.format('last')}"


FACTS = {
    "parameters": re.compile(PARAMETERS, re.IGNORECASE),
    "train_samples": re.compile(_samples("train(?:ing)?"), re.IGNORECASE),
    "val_samples": re.compile(_samples("val(?:id(?:ation)?)?|dev"), re.IGNORECASE),
    "vocabulary": re.compile(VOCABULARY, re.IGNORECASE),
    "epochs": re.compile(EPOCHS, re.IGNORECASE),
}
"""Facts told in text, mostly before the first epoch; the first of each counts."""
TIMES = {"": 1, "K": 1_000, "T": 1_000, "M": 1_000_000, "B": 1_000_000_000}
"""By the first letter of the word or sign behind a number."""


def facts_in(text: str) -> Iterator[tuple[str, int]]:
    """(name, number) of each fact that a line tells: "12.3M parameters" -> ("parameters", 12300000)."""
    for name, pattern in FACTS.items():
        if match := pattern.search(text):
            number, unit = next(
                (match[place], match[f"{place}_unit"])
                for place in pattern.groupindex
                if match[place] and "_" not in place
            )
            plain = float(number.replace(",", "").replace("_", ""))
            yield name, round(plain * TIMES[(unit or "").upper()[:1]])
