"""The many names that logs use -> the canonical ones of `health.run`.

A name is read as a set of words: a split (train, val), a level (step, epoch), and what is measured. So `loss/val`, `Validation Loss`,
`eval_loss` and `valLoss` are one. A name with a word that is not understood (`best_val_loss`, `test_loss`, `val_cer`) is not canonical: it
keeps its own name. Units are not in the names: see `Known.percent`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pytest_overfit.health.run import WITHOUT_SPLIT

SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation", "dev"), "val"),
}
LEVELS = {**dict.fromkeys(("step", "batch", "iter", "iteration"), "step"), "epoch": "epoch"}
PERCENT = frozenset({"%", "percent", "pct"})
METRICS = {
    "loss": "loss",
    "loss avg": "loss",
    "loss average": "loss",
    "loss mean": "loss",
    "loss total": "loss",
    "loss ctc": "loss",
    "loss running": "loss",
    "wer": "wer",
    "wer avg": "wer",
    "wer mean": "wer",
    "word error rate": "wer",
    "token error rate": "wer",
    "emission ratio": "emission_ratio",
    "emitted ratio": "emission_ratio",
    "emitted target": "emission_ratio",
    "emitted target ratio": "emission_ratio",
    "emitted target tokens": "emission_ratio",
    "blank share": "blank_share",
    "blank ratio": "blank_share",
    "blank rate": "blank_share",
    "blank fraction": "blank_share",
    "entropy ratio": "entropy_ratio",
    "normalised entropy": "entropy_ratio",
    "normalized entropy": "entropy_ratio",
    "lr": "lr",
    "learning rate": "lr",
    "learningrate": "lr",
    "grad norm": "grad_norm",
    "gradnorm": "grad_norm",
    "gradient norm": "grad_norm",
    "total grad norm": "grad_norm",
    "total gradient norm": "grad_norm",
    "grad norm 2 0 total": "grad_norm",
}
"""What is measured, by its words in any order; the first name of each is the plainest."""
RANKS = {frozenset(words.split()): (metric, rank) for rank, (words, metric) in enumerate(METRICS.items())}
EPOCH_NAMES = ("epoch", "current epoch", "train epoch", "epoch num", "ep")
STEP_NAMES = ("step", "global step", "train global step", "trainer global step", "iter", "iters", "iteration", "update", "updates", "num updates")
CLOCKS: dict[frozenset[str], Literal["epoch", "step"]] = {
    **{frozenset(name.split()): "epoch" for name in EPOCH_NAMES},
    **{frozenset(name.split()): "step" for name in STEP_NAMES},
}
NOT_A_RATE = frozenset({"momentum", "decay", "scale", "factor", "min", "max", "base", "initial"})
"""Words that make a name with `lr` in it something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A name understood. split: "train", "val", or "" where it does not say. level: "step", "epoch" or "". rank: 0 is the plainest name.

    percent: the name says that its values are percent.
    """

    metric: str
    split: str = ""
    level: str = ""
    rank: int = 0
    percent: bool = False


@lru_cache(maxsize=4096)
def words(raw: str) -> tuple[str, ...]:
    """A name in lower-case words: `valLoss`, `val/loss` and `Val Loss` are ("val", "loss")."""
    if raw.isalnum() and not raw.isupper():
        raw = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", raw)
    raw = re.sub(r"dataloader_idx_0\b", " ", raw)
    return tuple(re.findall(r"[a-z]+|\d+|%", raw.lower().replace("lr-", "lr ")))


@lru_cache(maxsize=4096)
def clock(raw: str) -> Literal["epoch", "step"] | None:
    """Whether a name counts epochs or steps."""
    return CLOCKS.get(frozenset(words(raw)))


@lru_cache(maxsize=4096)
def known(raw: str) -> Known | None:
    """What a name means; None where it means nothing canonical."""
    parts = words(raw)
    splits = {SPLITS[part] for part in parts if part in SPLITS}
    levels = {LEVELS[part] for part in parts if part in LEVELS}
    rest = frozenset(part for part in parts if part not in SPLITS and part not in LEVELS and part not in PERCENT)
    if len(splits) > 1 or len(levels) > 1:
        return None
    repeated = len(parts) - len(set(parts))
    if rest in RANKS:
        metric, rank = RANKS[rest]
    elif _is_rate(parts):
        metric, rank = "lr", 50 + sum(int(part) for part in parts if part.isdigit() and len(part) < 4)
    else:
        return None
    return Known(metric=metric, split="".join(splits), level="".join(levels), rank=rank + 100 * repeated, percent=not PERCENT.isdisjoint(parts))


def _is_rate(parts: tuple[str, ...]) -> bool:
    """`lr-AdamW/pg1`, `lr_group_0`, `learning_rate/encoder`: a rate with the name of its optimiser or group."""
    return (parts[:1] == ("lr",) or parts[:2] == ("learning", "rate")) and NOT_A_RATE.isdisjoint(parts)


def canonical(metric: str, split: str) -> str:
    """ "loss", "val" -> "val_loss"; rates and norms have no split."""
    return metric if metric in WITHOUT_SPLIT else f"{split}_{metric}"
