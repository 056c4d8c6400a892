"""The rules of the health report, live, in a Hugging Face trainer: warned at the onset, stopped on
request.

    Trainer(..., callbacks=[HealthTrainerCallback(stop_when_sick=True)])

It judges what the trainer logs: `loss`, `eval_loss`, `eval_wer`, `learning_rate`, and whatever
`compute_metrics` returns under a name that says what it is. Needs transformers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_overfit.health.callbacks import HealthWarning, checked_names, understood, write_report
from pytest_overfit.health.run import Facts
from pytest_overfit.health.watch import Watch

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError(
            "the health callback of Hugging Face trainers needs transformers: pip install "
            "transformers"
        ) from error


class HealthTrainerCallback(TrainerCallback):
    """Judges the run after every evaluation.

    stop_when_sick: stop where the verdict is *stop*, after a checkpoint is saved as the trainer
    saves its own.
    warn:    told one line for each new finding, by the first process; default: a HealthWarning.
    names:   metrics as the trainer logs them -> names of `watch.METRICS`, where they do not say by
             themselves what they are.
    facts:   of the run, its loss levels above all.

    Attributes: watch. The report is left in the trainer's output folder.
    """

    def __init__(
        self,
        *,
        stop_when_sick: bool = False,
        warn: Callable[[str], None] | None = None,
        names: Mapping[str, str] | None = None,
        facts: Facts | None = None,
    ) -> None:
        self.stop_when_sick, self.names = (
            stop_when_sick,
            checked_names(names, "HealthTrainerCallback"),
        )
        self.watch = Watch(facts=facts)
        self._warn = warn or (lambda line: warnings.warn(line, HealthWarning, stacklevel=2))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """What the trainer logged before it was resumed belongs to this run."""
        self.watch.folder = _folder(args)
        self.watch.name = self.watch.folder.name
        self.watch.planned_steps = state.max_steps or None
        for logged in state.log_history:
            self._note(logged, int(logged.get("step", 0)))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Note what was logged, and after an evaluation judge."""
        logged = dict(logs or {})
        new = self._note(logged, state.global_step)
        for line in new if state.is_world_process_zero else ():
            self._warn(line)
        evaluated = any(name.startswith("eval_") for name in logged)
        if (
            evaluated
            and self.watch.sick
            and self.stop_when_sick
            and not control.should_training_stop
        ):
            control.should_training_stop = control.should_save = True
            if state.is_world_process_zero and self.watch.checkup is not None:
                self._warn(
                    f"step {state.global_step}: stopped, training on is a waste "
                    f"({'; '.join(self.watch.checkup.reasons)})"
                )
        if evaluated and state.is_world_process_zero and self.watch.checkup is not None:
            write_report(self.watch.checkup, _folder(args))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave the last report."""
        if state.is_world_process_zero and self.watch.checkup is not None:
            write_report(self.watch.checkup, _folder(args))

    def _note(self, logged: Mapping[str, Any], step: int) -> list[str]:
        """Watch what is understood of a record of the log; the lines to be said of it.

        The summary at the end is no reading.
        """
        if "train_runtime" in logged:
            return []
        values = {
            name: float(value)
            for name, value in logged.items()
            if isinstance(value, int | float) and name not in ("epoch", "step")
        }
        named = {
            "train_loss" if name == "loss" else name.replace("eval_", "val_", 1): value
            for name, value in values.items()
        }
        own = {
            "train_loss" if name == "loss" else name.replace("eval_", "val_", 1): canonical_name
            for name, canonical_name in self.names.items()
        }
        metrics = {
            name: value
            for name, value in understood(named, own).items()
            if not math.isnan(value) or name.endswith("loss")
        }
        if not metrics:
            return []
        new = self.watch.log(step=step, **metrics)
        return [
            f"step {step}: {finding.name} ({finding.status}): {finding.headline}"
            + (f"; try {finding.try_}" if finding.try_ else "")
            for finding in new
        ]


def _folder(args: TrainingArguments) -> Path:
    return Path(args.output_dir or ".")
