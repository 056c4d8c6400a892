"""Rules: what can be wrong with a training run, each a function from a run to a finding or None, named after the bad thing.

A rule reads the run alone and speaks only of what lasts: a sound run is noisy, restarts its learning rate, stands still before it drops, and
begins all blank.
"""

from __future__ import annotations

from pytest_overfit.health.rules.learning import learning_rate_zero, loss_never_falls, nothing_carries_over, nothing_learnt
from pytest_overfit.health.rules.output import outputs, predictions_too_short, validation_wer_stuck
from pytest_overfit.health.rules.overfitting import gap_wide, validation_error_rises, validation_loss_rises
from pytest_overfit.health.rules.rule import Rule, error_rates, levels, readings, validation
from pytest_overfit.health.rules.stability import (
    learning_undone,
    loss_not_finite,
    loss_oscillates,
    loss_spikes,
    steps_out_of_order,
    training_diverges,
)

__all__ = ["RULES", "Rule"]

LOSS = readings("train_loss", "val_loss", least=3)
RULES: tuple[Rule, ...] = (
    Rule(judge=loss_not_finite, needs=(readings("train_loss", "val_loss", numbers=False),)),
    Rule(judge=learning_rate_zero, needs=(readings("lr", least=2),)),
    Rule(judge=training_diverges, needs=(readings("train_loss", least=3),)),
    Rule(judge=loss_never_falls, needs=(readings("train_loss", least=10),)),
    Rule(judge=nothing_learnt, needs=(levels("train"), readings("train_loss", least=3))),
    Rule(judge=learning_undone, needs=(readings("train_loss", least=3), validation(3))),
    Rule(judge=validation_loss_rises, needs=(readings("val_loss", least=3),)),
    Rule(judge=validation_error_rises, needs=(error_rates(3),)),
    Rule(judge=predictions_too_short, needs=(outputs, LOSS)),
    Rule(judge=validation_wer_stuck, needs=(error_rates(3),)),
    Rule(judge=nothing_carries_over, needs=(levels("val"), levels("train"), readings("val_loss", least=3), readings("train_loss", least=3))),
    Rule(judge=gap_wide, needs=(readings("train_loss", least=3), readings("val_loss", least=3))),
    Rule(judge=loss_oscillates, needs=(readings("train_loss", "val_loss", least=16),)),
    Rule(judge=loss_spikes, needs=(readings("train_loss", "val_loss", least=8),), stops=False),
    Rule(judge=steps_out_of_order, stops=False),
)
"""Gravest first: what comes earlier may be the cause of what comes later."""
