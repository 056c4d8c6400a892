"""What looks on while a network trains: early stopping, predictions, a line an epoch, and the
health rules.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_only

from model.atomic_files import PREDICTIONS, append_lines
from model.lightning_ctc import CTC
from pytest_overfit.health.lightning import HealthCallback


class Patience(EarlyStopping):
    """Early stopping that resuming neither outlasts nor keeps from being given another patience.

    It stops where the metric is not finite, too.
    """

    def __init__(self, *, monitor: str, patience: int) -> None:
        super().__init__(monitor=monitor, patience=patience, mode="min")

    @property
    def over(self) -> bool:
        """Whether validation has not improved for as long as it may."""
        return bool(self.wait_count >= self.patience)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.over


class Predictions(L.Callback):
    """A few clips an epoch, read greedily, as lines of predictions.jsonl: epoch, split, target,
    prediction.
    """

    def __init__(self, folder: Path, vocabulary: tuple[str, ...]) -> None:
        self.path, self.vocabulary = folder / PREDICTIONS, vocabulary

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, CTC)
        rows = (
            (split, self._names(target), self._names(prediction))
            for split, target, prediction in pl_module.shown
        )
        named = ("split", "target", "prediction")
        append_lines(
            self.path,
            [
                {"epoch": trainer.current_epoch, **dict(zip(named, row, strict=True))}
                for row in rows
            ],
        )

    def _names(self, tokens: list[int]) -> list[str]:
        return [self.vocabulary[token] for token in tokens]


class EpochLine(L.Callback):
    """One line an epoch."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        row = {name: float(value) for name, value in trainer.callback_metrics.items()}
        losses = f"loss train {row['train_loss']:.3f}, val {row['val_loss']:.3f} nats/token"
        errors = f"WER train {row['train_wer']:.1%}, val {row['val_wer']:.1%}"
        pl_module.print(
            f"epoch {trainer.current_epoch}: {losses}; {errors}; "
            f"{time.perf_counter() - self.began:.1f} s"
        )


def health(*, stop_when_sick: bool) -> HealthCallback:
    """The rules of the health report, read live; a finding is a line on stderr."""
    return HealthCallback(
        stop_when_sick=stop_when_sick,
        warn=lambda line: print(f"health: {line}", file=sys.stderr, flush=True),
    )
