"""The Trainer of transformers as a loop under test: its arguments, its collator and what a subclass
overrides, as they run.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pytest_overfit.loop.items import Read, samples_of
from pytest_overfit.loop.loop import Loop
from pytest_overfit.loop.pulled import StepDone, pulled
from pytest_overfit.subject import BadSubject, Subject

QUIET = {
    "report_to": [],
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "load_best_model_at_end": False,
    "push_to_hub": False,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "dataloader_num_workers": 0,
}
"""What a Trainer is told besides the user's arguments: to save, to report and to evaluate nothing.
"""
INPUTS = ("input_values", "input_features")
"""What transformers calls the features of speech."""


def subject_of(
    model: Callable[[], Any],
    dataset: Any,
    collator: Callable[[list[Any]], Any],
    arguments: Any,
    *,
    vocabulary: Sequence[str],
    trainer: Callable[..., Any] | None = None,
    sample: Read | None = None,
    name: str | None = None,
    **described: Any,
) -> Subject:
    """A model, its dataset, its data collator and its TrainingArguments, trained by the library's
    own Trainer.

    model: makes a fresh model. trainer: a subclass of Trainer, or what is called in its place.
    sample: an item of the dataset -> its features and its target; default input_values or
    input_features, and labels.
    described: fields of `Subject`, where the model is no CTC model of the library, whose forward,
    blank and layout are known.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = _trainer(trainer, model(), arguments, folder, collator, dataset)
        made.accelerator.prepare = lambda loader: (
            loader
        )  # the batches as they are before they go to a device
        loader, blank = (
            made.get_train_dataloader(),
            getattr(getattr(made.model, "config", None), "pad_token_id", None),
        )
    known = {"forward": forward_clips, "outputs": "logits", "layout": "BTV", "blank": blank or 0}
    return Subject(
        name=name or type(made.model).__name__,
        build=lambda vocab_size, feature_dim, seed: model(),
        samples=samples_of(dataset, sample or _item),
        vocabulary=vocabulary,
        loop=Loop(train=steps_of(arguments, trainer), loader=loader),
        **{**known, **described},
    )


def forward_clips(model: Any, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """A CTC model of the library: features (batch, frames, dim) -> logits (batch, steps,
    vocabulary), steps (batch,).

    A model of waveforms has features of one number a frame.
    """
    mask = (torch.arange(features.shape[1], device=features.device) < frames[:, None]).long()
    waves = model.main_input_name == "input_values"
    given = {model.main_input_name: features[..., 0] if waves else features, "attention_mask": mask}
    steps = model._get_feat_extract_output_lengths(frames)
    return model(**given).logits, steps


def _item(item: Any) -> tuple[Any, Any]:
    present = [name for name in INPUTS if name in item]
    if not present or "labels" not in item:
        raise BadSubject(
            f"huggingface: items have {', '.join(item)}: give sample=lambda item: (features, "
            "target)"
        )
    return item[present[0]], item["labels"]


def steps_of(
    arguments: Any, trainer: Callable[..., Any] | None = None
) -> Callable[[Any, Any], Iterator[float]]:
    """`train(model, batches)` by such a Trainer; yields the loss after each optimiser step."""

    def train(model: Any, batches: Any) -> Iterator[float]:
        return pulled(lambda step_done: _train(model, batches, arguments, trainer, step_done))

    return train


def _trainer(
    kind: Callable[..., Any] | None,
    model: Any,
    arguments: Any,
    folder: str,
    collator: Any,
    dataset: Any,
) -> Any:
    """The user's Trainer, writing into `folder` alone.

    Raises BadSubject where the library is not installed.
    """
    try:
        from transformers import PrinterCallback, Trainer
    except ModuleNotFoundError as error:
        raise BadSubject(
            "transformers is not installed, which trains this subject: pip install "
            "transformers accelerate"
        ) from error

    arguments = copy.copy(arguments)
    for field, value in {**QUIET, "output_dir": folder}.items():
        setattr(arguments, field, value)
    try:
        made = (kind or Trainer)(
            model=model, args=arguments, data_collator=collator, train_dataset=dataset
        )
    except ImportError as error:
        raise BadSubject(f"transformers cannot train: {str(error).splitlines()[0]}") from error
    made.remove_callback(PrinterCallback)
    return made


def _train(
    model: Any, batches: Any, arguments: Any, kind: Callable[..., Any] | None, step_done: StepDone
) -> None:
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        """Tells of each optimiser step, after the schedule and the zeroing that follow it."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step_done(losses.of_step())

    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(kind, model, arguments, folder, batches.collate_fn, batches.dataset)
        trainer.add_callback(Steps())
        trainer.get_train_dataloader = lambda: trainer.accelerator.prepare(batches)
        losses = _Losses(trainer)
        trainer.train()


class _Losses:
    """The loss of each optimiser step: the sum over its parts, as `training_step` returns them."""

    def __init__(self, trainer: Any) -> None:
        self._parts: list[float] = []
        step = trainer.training_step

        def training_step(*args: Any, **kwargs: Any) -> Any:
            loss = step(*args, **kwargs)
            self._parts.append(float(loss))
            return loss

        trainer.training_step = training_step

    def of_step(self) -> float:
        parts, self._parts = self._parts, []
        return sum(parts)
