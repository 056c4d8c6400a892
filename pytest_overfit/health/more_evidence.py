"""What a log does not tell, and what it would: the evidence to gather next time, most telling
first.
"""

from __future__ import annotations

from pytest_overfit.health.rules.reading import SPLITS
from pytest_overfit.health.rules.trend import FEW, finite, lowest
from pytest_overfit.health.rules.words import place
from pytest_overfit.health.run import Run

TELLS = (
    (("train_loss",), "training loss: without it nothing shows whether anything is learnt"),
    (("val_loss",), "validation loss: whether what is learnt carries over"),
    (("train_wer",), "training WER: whether even the clips trained on are read"),
    (("val_wer",), "validation WER: a loss can rise while reading still improves"),
    (
        ("val_emission_ratio", "train_emission_ratio"),
        (
            "emitted / target tokens (val_emission_ratio, train_emission_ratio): since when "
            "outputs are short, and whether on training clips too"
        ),
    ),
    (
        ("val_blank_share",),
        (
            "blank share (val_blank_share), to hold against 1 - tokens/steps: whether blanks crowd "
            "out the tokens"
        ),
    ),
    (
        ("val_entropy_ratio",),
        (
            "entropy / ln V (val_entropy_ratio): a uniform output (1) and a blank one (near 0) are "
            "different illnesses"
        ),
    ),
    (
        ("lr",),
        "learning rate (lr): whether it was zero, restarted or too high where the loss turned",
    ),
    (("grad_norm",), "gradient norm (grad_norm): whether it vanishes or explodes"),
)
"""Metrics of which one would do, and what it would tell."""


def more_evidence(run: Run) -> tuple[str, ...]:
    """What is missing from a run's log or from beside it, and what each would tell."""
    read = {f"{split}_wer" for split in SPLITS if run.read_by(split)}  # by WER or by another rate
    partial = [
        words
        for names, words in TELLS
        if not any(name in read or len(finite(run.curve(name))) for name in names)
    ]
    return (*_sparse(run), *partial, *_beside(run))


def _sparse(run: Run) -> list[str]:
    curve = finite(run.curve("val_loss"))
    if not 2 < len(curve) < FEW:
        return []
    best = lowest(curve)
    first, last = (curve.at[index] for index in (max(best - 1, 0), min(best + 1, len(curve) - 1)))
    return [
        f"validation loss at every {run.clock}: {len(curve)} readings from "
        f"{place(run, curve.at[0])} to {curve.at[-1]:g} say only that its best "
        f"lies between {first:g} and {last:g}"
    ]


def _beside(run: Run) -> list[str]:
    hints = []
    if not run.facts.levels:
        hints.append(
            "loss levels (run.json): which plateau each loss stands on: uniform, blank, "
            "unigram, bag of clip, aligned"
        )
    if not run.facts.parameters or not run.facts.train_samples:
        hints.append(
            "parameters and training samples (run.json): how much the network can simply memorise"
        )
    if run.checkpoint is None:
        hints.append(
            "a checkpoint beside the log: blanks, entropy, emitted tokens and probes measured "
            "on real samples"
        )
    return hints
