"""What people are shown of a network's words: its word error rate, and its worst clip beside the
target. Both are jiwer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

Tokens = Sequence[int]
LINE = 108
"""Columns of a line, beside a label."""


def process(hypotheses: Sequence[Tokens], targets: Sequence[Tokens]) -> jiwer.WordOutput:
    """jiwer's word for word comparison, with a token's id for a word: names may hold spaces.

    No target may be empty.
    """
    reference, hypothesis = (
        [" ".join(map(str, tokens)) for tokens in side] for side in (targets, hypotheses)
    )
    return jiwer.process_words(reference, hypothesis)


def word_edits(hypotheses: Sequence[Tokens], targets: Sequence[Tokens]) -> int:
    """Substitutions, deletions and insertions, summed over clips."""
    compared = process(hypotheses, targets)
    return int(compared.substitutions + compared.deletions + compared.insertions)


@dataclass(frozen=True, kw_only=True)
class Misread:
    """The clip with the highest word error rate, the first of several. wer: of the clip, and of all
    `clips` clips; rates, not percent.

    lines: REF (the target), HYP (the output) and their edits (S, D, I) below each other, in as many
    blocks as the length asks for.
    """

    sample: str
    wer: float
    clips: int
    wer_of_all: float
    lines: tuple[str, ...]


def worst(
    names: Sequence[str],
    hypotheses: Sequence[Tokens],
    targets: Sequence[Tokens],
    vocabulary: Sequence[str],
) -> Misread | None:
    """The clip that is read worst; None where every one is read word for word."""
    rates = [
        process([hypothesis], [target]).wer
        for hypothesis, target in zip(hypotheses, targets, strict=True)
    ]
    at = max(range(len(rates)), key=rates.__getitem__)
    if rates[at] == 0:
        return None
    alone = process([hypotheses[at]], [targets[at]])
    alone.references[0] = [_word(token, vocabulary) for token in targets[at]]
    alone.hypotheses[0] = [_word(token, vocabulary) for token in hypotheses[at]]
    drawn = jiwer.visualize_alignment(
        alone, show_measures=False, skip_correct=False, line_width=LINE
    )
    return Misread(
        sample=names[at],
        wer=rates[at],
        clips=len(names),
        wer_of_all=process(hypotheses, targets).wer,
        lines=tuple(line.rstrip() for line in drawn.splitlines()[1:] if line.strip()),
    )


def _word(token: int, vocabulary: Sequence[str]) -> str:
    """A token's name as one visible word; an own decoder may say what the vocabulary does not
    have.
    """
    name = vocabulary[token] if 0 <= token < len(vocabulary) else f"<{token}>"
    return "".join("␣" if letter.isspace() else letter for letter in name) or "␣"
