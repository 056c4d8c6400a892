"""What can be measured: the canonical metrics, how each is called, and which way is better.

The canonical name of a curve, whatever its log calls it, is a split and what is measured, see
MEASURED: `train_loss`, `val_wer`; `lr` and `grad_norm` have no split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a curve measures. words: as a report calls it. better: None where neither is.

    share: values are shares, 0.9 is 90 %; an error rate can pass 1.
    """

    words: str
    kind: Literal["loss", "error rate", "score", "output", "recipe"]
    better: Literal["lower", "higher"] | None = None
    share: bool = False


def _error_rate(words: str) -> Metric:
    return Metric(words=words, kind="error rate", better="lower", share=True)


MEASURED: Mapping[str, Metric] = {
    "loss": Metric(words="loss", kind="loss", better="lower"),  # its unit: `Run.loss_unit`
    "wer": _error_rate("WER"),
    "ter": _error_rate("TER"),  # of tokens: glosses, subwords
    "ser": _error_rate("SER"),  # of sentences
    "per": _error_rate("PER"),  # of phonemes
    "ler": _error_rate("LER"),  # of labels
    "cer": _error_rate("CER"),
    "error": _error_rate("error rate"),  # of whatever is classified
    "edit_distance": Metric(words="edit distance", kind="error rate", better="lower"),
    "bleu": Metric(words="BLEU", kind="score", better="higher"),
    "rouge1": Metric(words="ROUGE-1", kind="score", better="higher"),
    "rouge2": Metric(words="ROUGE-2", kind="score", better="higher"),
    "rougel": Metric(words="ROUGE-L", kind="score", better="higher"),
    "rouge": Metric(words="ROUGE", kind="score", better="higher"),
    "chrf": Metric(words="chrF", kind="score", better="higher"),
    "cider": Metric(words="CIDEr", kind="score", better="higher"),
    "meteor": Metric(words="METEOR", kind="score", better="higher"),
    "spice": Metric(words="SPICE", kind="score", better="higher"),
    "spider": Metric(words="SPIDEr", kind="score", better="higher"),
    "accuracy": Metric(words="accuracy", kind="score", better="higher", share=True),
    "char_accuracy": Metric(
        words="accuracy of characters", kind="score", better="higher", share=True
    ),
    "f1": Metric(words="F1", kind="score", better="higher", share=True),
    "perplexity": Metric(words="perplexity", kind="loss", better="lower"),
    "emission_ratio": Metric(words="emitted / target tokens", kind="output"),
    "blank_share": Metric(words="blank share", kind="output", share=True),
    "entropy_ratio": Metric(words="entropy / ln V", kind="output", share=True),
    "lr": Metric(words="learning rate", kind="recipe"),
    "grad_norm": Metric(words="gradient norm", kind="recipe"),
}
"""What is measured.

Of several error rates the first is the one that a run is judged by, see `Run.read_by`.
"""


WITHOUT_SPLIT = frozenset({"lr", "grad_norm"})


def metric(name: str) -> Metric | None:
    """What the curve of this canonical name measures; None for a name that only its log knows."""
    split, _, measured = name.partition("_")
    if split in ("train", "val"):
        return MEASURED.get(measured)
    return MEASURED[name] if name in WITHOUT_SPLIT else None
