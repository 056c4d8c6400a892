"""Rules: what can be wrong with a training run, each a function from a run to a finding or None,
named after the bad thing.

A rule reads the run alone and speaks only of what lasts: a sound run is noisy, restarts its
learning rate, stands still before it drops, and begins all blank.
"""

from __future__ import annotations

from pytest_overfit.health.rules import learning, order, output, overfitting, stability, undone
from pytest_overfit.health.rules.rule import Rule, error_rates, levels, readings, validation

__all__ = ["RULES", "Rule"]

LOSS = readings("train_loss", "val_loss", least=3)
BOTH = (readings("train_loss", least=3), readings("val_loss", least=3))
RULES: tuple[Rule, ...] = (
    Rule(
        record=stability.LOSS_NOT_FINITE,
        judge=stability.loss_not_finite,
        needs=(readings("train_loss", "val_loss", numbers=False),),
        slower=0.1,
    ),
    Rule(
        record=learning.LEARNING_RATE_ZERO,
        judge=learning.learning_rate_zero,
        needs=(readings("lr", least=2),),
    ),
    Rule(
        record=stability.TRAINING_DIVERGES,
        judge=stability.training_diverges,
        needs=(readings("train_loss", least=3),),
        slower=0.1,
    ),
    Rule(
        record=learning.LOSS_NEVER_FALLS,
        judge=learning.loss_never_falls,
        needs=(learning.enough_to_fall,),
    ),
    Rule(
        record=learning.NOTHING_LEARNT,
        judge=learning.nothing_learnt,
        needs=(levels("train"), readings("train_loss", least=3)),
    ),
    Rule(
        record=learning.TRAINING_STANDS,
        judge=learning.training_stands,
        needs=(readings("train_loss", least=10),),
    ),
    Rule(
        record=undone.LEARNING_UNDONE,
        judge=undone.learning_undone,
        needs=(readings("train_loss", least=3), validation(3)),
        slower=0.3,
    ),
    Rule(
        record=overfitting.VALIDATION_LOSS_RISES,
        judge=overfitting.validation_loss_rises,
        needs=(readings("val_loss", least=3),),
        overfits=True,
    ),
    Rule(
        record=overfitting.VALIDATION_STANDS,
        judge=overfitting.validation_stands,
        needs=(validation(3),),
        overfits=True,
    ),
    Rule(
        record=overfitting.VALIDATION_ERROR_RISES,
        judge=overfitting.validation_error_rises,
        needs=(error_rates(3),),
        overfits=True,
    ),
    Rule(
        record=output.PREDICTIONS_TOO_SHORT,
        judge=output.predictions_too_short,
        needs=(output.outputs, LOSS),
    ),
    Rule(
        record=output.VALIDATION_WER_STUCK,
        judge=output.validation_wer_stuck,
        needs=(error_rates(3),),
    ),
    Rule(
        record=learning.NOTHING_CARRIES_OVER,
        judge=learning.nothing_carries_over,
        needs=(levels("val"), levels("train"), *BOTH[::-1]),
        overfits=True,
    ),
    Rule(record=overfitting.GAP_WIDE, judge=overfitting.gap_wide, needs=BOTH, overfits=True),
    Rule(
        record=stability.LOSS_OSCILLATES,
        judge=stability.loss_oscillates,
        needs=(readings("train_loss", "val_loss", least=16),),
        slower=0.3,
    ),
    Rule(
        record=stability.LOSS_SPIKES,
        judge=stability.loss_spikes,
        needs=(readings("train_loss", "val_loss", least=8),),
        stops=False,
    ),
    Rule(record=order.STEPS_OUT_OF_ORDER, judge=order.steps_out_of_order, stops=False),
)
"""Gravest first: what comes earlier may be the cause of what comes later."""
