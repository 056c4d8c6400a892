"""The many names that logs use -> the canonical ones of `curves.metric`.

A name is read as a set of words: a split (train, val), a level (step, epoch), what is measured, and
words that change nothing of that, such as `avg`. So `loss/val`, `Validation Loss`, `eval_loss` and
`valLoss` are one. A prefix that stands apart is passed over, as in `slt/train_loss` and `my run -
val_loss`. A name with any other word (`best_val_loss`, `test_loss`, `val_loss_std`) is not
canonical: it keeps its own name. Units are not in the names: see `MetricName.percent`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from pytest_overfit.health.curves.metric import MEASURED, WITHOUT_SPLIT

SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(
        (
            "val",
            "valid",
            "validation",
            "validate",
            "eval",
            "evaluation",
            "dev",
            "cv",
            "va",
            "vl",
            "crossval",
        ),
        "val",
    ),
}
BESIDE_LOSS = "beside_loss"
"""Name of a share that stands behind a loss and has none: `vl=1.80/0.48`."""
VAGUE = frozenset({"eval", "evaluation"})
"""Words for validation that may be of training beside a plainer one: Tesseract's `EvalCER` is."""
LEVELS = {
    **dict.fromkeys(("step", "batch", "minibatch", "iter", "iteration"), "step"),
    "epoch": "epoch",
}
PERCENT = frozenset({"%", "percent", "pct"})
MEASURES = {
    "loss": (
        "loss, lost, cost, ctcloss, xent, cross entropy, nll, objective, log probability, log "
        "prob, logprob, log likelihood, mse, mae, cross entropy loss, masked loss, negative log "
        "likelihood, loss token"
    ),
    "wer": "wer, word error rate, bwer, gloss wer, gloss error rate, sign wer, sign error rate",
    "ter": "ter, token error rate",
    "ser": "ser, sentence error rate, sequence error rate",
    "per": "per, phone error rate, phoneme error rate",
    "ler": "ler, label error rate, uer, unit error rate",
    "cer": "cer, character error rate, char error rate, bcer",
    "error": "error rate, classification error, err, err rate",
    "edit_distance": "levenshtein, levenshtein distance, mean levenshtein distance, edit distance, "
    "mean edit distance",
    "bleu": "bleu, bleu 4, bleu score, sacrebleu, bleu 3, bleu 2, bleu 1, belu, belu 4",
    "rouge1": "rouge 1, rouge 1 f, rouge 1 fmeasure",
    "rouge2": "rouge 2, rouge 2 f, rouge 2 fmeasure",
    "rougel": "rouge l, rougel, rouge lsum, rougelsum, rouge l f, rougel f, rougel fmeasure",
    "rouge": "rouge",
    "chrf": "chrf",
    "cider": "cider, ci der, cider d",
    "meteor": "meteor",
    "spice": "spice",
    "spider": "spider, spi der",
    "accuracy": "accuracy, acc, accuray, exprate, exp rate, expression rate, expression recognition "
    "rate, token accuracy, token acc, word accuracy, word acc, wacc, "
    "sequence accuracy, frame accuracy, acc full seq, seq acc, seq accuracy, full sequence accuracy, "
    "sentence accuracy, sentence acc, line accuracy, line acc, string accuracy, plate accuracy, "
    "plate acc, exact match, masked accuracy, masked acc, sparse categorical accuracy, categorical "
    "accuracy, top 1, top 1 accuracy, top 1 acc, acc 1, word recognition rate, wrr",
    "char_accuracy": "char accuracy, character accuracy, char acc, acc per char, accuracy per char, "
    "norm ed, norm edit dis, 1 ned, char recognition rate, character recognition rate, crr",
    "f1": "f 1, f 1 score, f score, macro f 1, micro f 1, weighted f 1",
    "perplexity": "perplexity, ppl, perplexity token",
    "emission_ratio": (
        "emission ratio, emitted ratio, emitted target, emitted target ratio, emitted target tokens"
    ),
    "blank_share": "blank share, blank ratio, blank rate, blank fraction",
    "entropy_ratio": "entropy ratio, normalised entropy, normalized entropy",
    "lr": "lr, learning rate, learningrate",
    "grad_norm": (
        "grad norm, gradnorm, gradient norm, total grad norm, total gradient norm, grad norm 2 0 "
        "total"
    ),
}
"""What is measured, by its words in any order; the first name of each is the plainest."""
RANKS = {
    frozenset(name.split()): (metric, rank)
    for metric, names in MEASURES.items()
    for rank, name in enumerate(map(str.strip, names.split(",")))
}
PLURALS = {
    "losses": "loss",
    "accuracies": "accuracy",
    "accs": "acc",
    "rates": "rate",
    "errors": "error",
    "wers": "wer",
    "cers": "cer",
    "lrs": "lr",
}
"""Of words in the names of lists of readings."""
HIGHER_IS_BETTER = frozenset({"objective", "prob", "probability", "logprob", "likelihood"})
"""Words of what a trainer raises where others lower a loss: read with its sign turned."""
OF_A_SPLIT = {"char": ("cer", 5), "word": ("wer", 5), "error": ("error", 5)}
"""What a word means beside a split alone: Tesseract's `char train=90.1%`."""
PASSED_OVER = {
    word: rank
    for rank, words in enumerate(
        (
            "avg average mean overall total joint",
            "current cur latest main clean report lst ce beam",
            "running smooth smoothed greedy rank slice lm value",
            "other ctc all transducer rnnt tdt detok",
        ),
        1,
    )
    for word in words.split()
}
"""Words that change nothing of what is measured; how far a name with it stands behind one without.
"""
NORMALISED = frozenset({"norm", "normalised", "normalized"})
"""Words of an error rate that is a share where the name without them may be a count of errors."""
EPOCH_NAMES = ("epoch", "current epoch", "train epoch", "epoch num", "ep", "epochs trained")
STEP_NAMES = (
    *(
        "step",
        "global step",
        "train global step",
        "trainer global step",
        "iter",
        "iters",
        "iteration",
        "update",
        "updates",
        "steps",
    ),
    *(
        "nupdates",
        "num updates",
        "train num updates",
        "valid num updates",
        "training iteration",
        "learning iteration",
        "train step",
        "global iter",
        "batch id",
        "tot iter",
        "total iter",
        "total step",
        "i iter",
    ),
)
CLOCKS: dict[frozenset[str], Literal["epoch", "step"]] = {
    **{frozenset(name.split()): "epoch" for name in EPOCH_NAMES},
    **{frozenset(name.split()): "step" for name in STEP_NAMES},
}
NOT_A_RATE = frozenset({"momentum", "decay", "scale", "factor", "min", "max", "base", "initial"})
"""Words that make a name with `lr` in it something else."""
NOT_OF_NOW = frozenset(
    {
        "best",
        "min",
        "max",
        "lowest",
        "highest",
        "prev",
        "previous",
        "target",
        "test",
        "final",
        "improvement",
        "delta",
        "std",
    }
)
"""Words that make a value another than the one of this epoch, or of another split."""
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
OF_A_SET = re.compile(r"\d|(?:19|20)\d\d")
APART = re.compile(r"[/.]| - ")
NAMED_APART = 40
"""Rank behind a plain name of one with something before it that stands apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricName:
    """A name understood. split: "train", "val", or "" where it does not say. level: "step", "epoch"
    or "". rank: 0 is the plainest name, less
    goes before it.

    percent: the name says that its values are percent. negated: they rise where a loss falls.
    total: the name says that it is a sum.
    """

    metric: str
    split: str = ""
    level: str = ""
    rank: int = 0
    percent: bool = False
    negated: bool = False
    total: bool = False


@lru_cache(maxsize=4096)
def words(raw: str) -> tuple[str, ...]:
    """A name in lower-case words: `valLoss`, `val/loss` and `Val Loss` are ("val", "loss")."""
    if raw.isalnum() and not raw.isupper():
        raw = CAMEL.sub(" ", raw)
    raw = re.sub(r"dataloader_idx_0\b", " ", raw)
    found = re.findall(r"[a-z]+|\d+|%", raw.lower().replace("lr-", "lr "))
    return tuple(PLURALS.get(word, word) for word in found)


@lru_cache(maxsize=4096)
def clock(raw: str) -> Literal["epoch", "step"] | None:
    """Whether a name counts epochs or steps."""
    return CLOCKS.get(frozenset(words(raw)))


@lru_cache(maxsize=4096)
def known(raw: str) -> MetricName | None:
    """What a name means, with or without what stands apart before it; None where it means nothing
    canonical.
    """
    parts = words(raw)
    whole = _known(parts)
    if whole is None and len(parts) > 1 and OF_A_SET.fullmatch(parts[0]):
        whole = _known(parts[1:])  # the number or the year of a data set: `0_word_acc`
        whole = replace(whole, rank=whole.rank + 30 + int(parts[0])) if whole else None
    if whole is None and parts[-2:] == ("loss", "1"):
        whole = _known(parts[:-1])  # TensorFlow's name of a second one: `loss_1`
        whole = replace(whole, rank=whole.rank + 30) if whole else None
    if whole is None and (spaced := CAMEL.sub(" ", raw)) != raw:
        whole = known(spaced)  # `PhonemeErrorRate/Evaluation`
    *before, last = APART.split(raw)
    if whole is not None or not before:
        return whole
    dropped = [word for part in before for word in words(part)]
    if not NOT_OF_NOW.isdisjoint(dropped):
        return None
    kept = tuple(word for word in dropped if word in SPLITS or word in LEVELS)
    meaning = _known((*kept, *words(last)))
    return replace(meaning, rank=meaning.rank + NAMED_APART + len(before)) if meaning else None


def _known(parts: tuple[str, ...]) -> MetricName | None:
    splits = {SPLITS[part] for part in parts if part in SPLITS}
    levels = {LEVELS[part] for part in parts if part in LEVELS}
    if len(splits) > 1 or len(levels) > 1:
        return None
    parts = tuple(  # without the width of a beam: `bleu_beam1`
        part
        for before, part in zip(("", *parts), parts, strict=False)
        if before != "beam" or not part.isdigit()
    )
    rest = frozenset(
        part for part in parts if part not in SPLITS and part not in LEVELS and part not in PERCENT
    )
    found, passed_over = RANKS.get(rest), 0
    if found is None:
        more = rest & PASSED_OVER.keys()
        found, passed_over = RANKS.get(rest - more), 20 * sum(PASSED_OVER[word] for word in more)
    normalised = rest - NORMALISED
    if found is None and normalised != rest:
        more = normalised & PASSED_OVER.keys()
        of = RANKS.get(normalised) or RANKS.get(normalised - more)
        found = (of[0], -1) if of and _is_rate_of_errors(of[0]) else None
    if found is None and splits and len(rest) == 1:
        found = OF_A_SPLIT.get(next(iter(rest)))
    if found is None and _is_rate(parts):
        found = ("lr", 50 + sum(int(part) for part in parts if part.isdigit() and len(part) < 4))
    if found is None:
        return None
    metric, rank = found
    return MetricName(
        metric=metric,
        split="".join(splits),
        level="".join(levels),
        rank=rank
        + passed_over
        + 100 * (len(parts) - len(set(parts)))
        + (not VAGUE.isdisjoint(parts)),
        percent=not PERCENT.isdisjoint(parts),
        negated=metric == "loss"
        and "negative" not in parts
        and not HIGHER_IS_BETTER.isdisjoint(parts),
        total="total" in parts,
    )


def _is_rate_of_errors(metric: str) -> bool:
    return MEASURED[metric].kind == "error rate" and MEASURED[metric].share


def _is_rate(parts: tuple[str, ...]) -> bool:
    """`lr-AdamW/pg1`, `lr_group_0`, `learning_rate/encoder`: a rate with the name of its optimiser
    or group.
    """
    return (parts[:1] == ("lr",) or parts[:2] == ("learning", "rate")) and NOT_A_RATE.isdisjoint(
        parts
    )


def canonical(metric: str, split: str) -> str:
    """ "loss", "val" -> "val_loss"; rates and norms have no split."""
    return metric if metric in WITHOUT_SPLIT else f"{split}_{metric}"
