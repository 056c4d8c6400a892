"""The callback of a Hugging Face trainer: fine-tuning of five epochs is stopped in time, what is
sound is left alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pytest_overfit.health.callbacks import HealthWarning  # noqa: E402
from pytest_overfit.health.huggingface import HealthTrainerCallback  # noqa: E402
from pytest_overfit.health.run import BadRun  # noqa: E402

OVERFITS = (
    (1.2, 0.60, 0.30),
    (0.6, 0.42, 0.25),
    (0.3, 0.47, 0.249),
    (0.1, 0.55, 0.25),
    (0.05, 0.66, 0.251),
)
IMPROVES = (
    (1.2, 0.60, 14.3),
    (0.6, 0.42, 12.5),
    (0.3, 0.35, 11.8),
    (0.25, 0.31, 11.1),
    (0.2, 0.30, 10.7),
)
"""Training loss, validation loss, WER, an epoch each; the second in percent, below 20 all the time.
"""


def arguments_for(folder: Path) -> SimpleNamespace:
    """What the callback reads of a trainer's arguments; the real ones need accelerate."""
    return SimpleNamespace(output_dir=str(folder))


def state(step: int = 0, *, steps: int = 500, first: bool = True) -> transformers.TrainerState:
    return transformers.TrainerState(global_step=step, max_steps=steps, is_world_process_zero=first)


def train(
    callback: HealthTrainerCallback,
    folder: Path,
    epochs: Sequence[tuple[float, float, float]],
    *,
    first: bool = True,
) -> int | None:
    """Log as a trainer does, 100 steps an epoch. Returns the epoch after which it was stopped."""
    arguments, control = arguments_for(folder), transformers.TrainerControl()
    callback.on_train_begin(arguments, state(), control)
    for epoch, (train, val, wer) in enumerate(epochs, start=1):
        now = state(100 * epoch, first=first)
        callback.on_log(
            arguments,
            now,
            control,
            logs={"loss": train, "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": epoch},
        )
        callback.on_log(
            arguments,
            now,
            control,
            logs={"eval_loss": val, "eval_wer": wer, "eval_runtime": 3.0, "epoch": epoch},
        )
        if control.should_training_stop:
            return epoch
    callback.on_log(
        arguments,
        state(100 * len(epochs)),
        control,
        logs={"train_runtime": 60.0, "train_loss": 9.9},
    )
    callback.on_train_end(arguments, state(100 * len(epochs), first=first), control)
    return None


def quietly(**given: object) -> tuple[HealthTrainerCallback, list[str]]:
    lines: list[str] = []
    speak: Callable[[str], None] = lines.append
    return HealthTrainerCallback(warn=speak, **given), lines  # type: ignore[arg-type]


def test_five_epochs_of_overfitting_are_stopped_before_the_last(tmp_path: Path) -> None:
    callback, lines = quietly(stop_when_sick=True)
    assert train(callback, tmp_path, OVERFITS) == 4
    assert lines[0].startswith(
        "step 400: validation_loss_rises (confirmed): validation loss rises since step 200 "
        "while training loss falls"
    )
    assert lines[-1].startswith("step 400: stopped, training on is a waste")
    assert "validation_loss_rises" in (tmp_path / "health.txt").read_text()


def test_without_the_request_it_warns_once_and_lets_it_train(tmp_path: Path) -> None:
    callback, lines = quietly()
    assert train(callback, tmp_path, OVERFITS) is None
    assert sum("validation_loss_rises" in line for line in lines) == 1


def test_what_improves_is_left_alone_and_its_percent_are_percent(tmp_path: Path) -> None:
    callback, lines = quietly(stop_when_sick=True)
    assert train(callback, tmp_path, IMPROVES) is None
    assert lines == []
    assert callback.watch.run.curve("val_wer").values == pytest.approx(
        [wer / 100 for _, _, wer in IMPROVES]
    )


def test_the_summary_at_the_end_displaces_nothing(tmp_path: Path) -> None:
    callback, _ = quietly()
    train(callback, tmp_path, IMPROVES)
    assert callback.watch.run.curve("train_loss").values == tuple(train for train, _, _ in IMPROVES)


def test_only_the_first_process_speaks(tmp_path: Path) -> None:
    callback, lines = quietly(stop_when_sick=True)
    assert train(callback, tmp_path, OVERFITS, first=False) == 4
    assert lines == []


def test_a_resumed_run_knows_what_was_logged_before(tmp_path: Path) -> None:
    callback, lines = quietly()
    before = [
        {"step": 100 * n, "loss": train} for n, (train, _, _) in enumerate(OVERFITS[:3], start=1)
    ]
    before += [
        {"step": 100 * n, "eval_loss": val, "eval_wer": wer}
        for n, (_, val, wer) in enumerate(OVERFITS[:3], start=1)
    ]
    resumed = state(300)
    resumed.log_history = sorted(before, key=lambda logged: logged["step"])
    arguments, control = arguments_for(tmp_path), transformers.TrainerControl()
    callback.on_train_begin(arguments, resumed, control)
    train, val, wer = OVERFITS[3]
    callback.on_log(arguments, state(400), control, logs={"loss": train})
    callback.on_log(arguments, state(400), control, logs={"eval_loss": val, "eval_wer": wer})
    assert any("validation loss rises since step 200" in line for line in lines)


def test_a_metric_of_another_name_is_mapped_and_a_wrong_one_refused(tmp_path: Path) -> None:
    callback, _ = quietly(names={"eval_gloss_error": "val_wer"})
    callback.on_log(
        arguments_for(tmp_path),
        state(100),
        transformers.TrainerControl(),
        logs={"eval_gloss_error": 0.4},
    )
    assert callback.watch.run.curve("val_wer").values == (0.4,)
    with pytest.raises(BadRun, match="names maps 'eval_loss' to 'validation'"):
        HealthTrainerCallback(names={"eval_loss": "validation"})


def test_by_default_a_finding_is_a_warning_of_its_own_kind(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HealthWarning)
        train(HealthTrainerCallback(), tmp_path, OVERFITS)
    assert any(
        warning.category is HealthWarning and "validation_loss_rises" in str(warning.message)
        for warning in caught
    )


class Torn(torch.nn.Module):
    """One number that training can only lower, which raises the validation loss each time: it
    overfits by construction.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))

    def forward(self, sign: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "loss": torch.exp(self.number * sign.float().mean()),
            "logits": sign.float()[:, None],
        }


def test_a_real_trainer_is_stopped_in_time(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=5,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        learning_rate=0.2,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["sign"],
    )
    callback, lines = quietly(stop_when_sick=True)
    trainer = transformers.Trainer(
        model=Torn(),
        args=arguments,
        train_dataset=[{"sign": 1}] * 8,
        eval_dataset=[{"sign": -1}] * 4,
        callbacks=[callback],
    )
    trainer.train()
    assert trainer.state.epoch < 5
    assert any("validation_loss_rises (confirmed)" in line for line in lines)
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert callback.watch.run.curve("val_loss").values == pytest.approx(losses)
