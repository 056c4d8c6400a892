"""Lightning's Trainer as a loop under test: the module, its hooks and the Trainer's own settings,
as they run.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from pytest_overfit.loop.items import Read, samples_of
from pytest_overfit.loop.loop import Loop
from pytest_overfit.loop.pulled import StepDone, pulled
from pytest_overfit.subject import BadSubject, Subject

QUIET: Mapping[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
    "devices": 1,
}
"""What a Trainer is told besides the user's settings: to write nothing, and where to run."""
VALIDATED = 2
"""Batches of validation after each epoch: enough for what it leaves behind to be seen."""


def subject_of(
    module: Callable[[], Any],
    data: Any,
    *,
    sample: Read,
    vocabulary: Sequence[str],
    trainer: Mapping[str, Any] | None = None,
    name: str | None = None,
    **described: Any,
) -> Subject:
    """A LightningModule and its data, trained by Lightning's own Trainer.

    module: makes a fresh LightningModule. data: its LightningDataModule, or a DataLoader to train
    on.
    sample: an item of the dataset -> its features and its target. trainer: the settings of the
    Trainer.
    described: fields of `Subject`, such as forward, where the module is not called with features
    and frames.
    """
    loader = _train_loader(data)
    return Subject(
        name=name or type(module()).__name__,
        build=lambda vocab_size, feature_dim, seed: module(),
        samples=samples_of(loader.dataset, sample),
        vocabulary=vocabulary,
        loop=Loop(train=steps_of(trainer or {}, data), loader=loader),
        **described,
    )


def _train_loader(data: Any) -> DataLoader[Any]:
    """The DataLoader that training draws from. Raises BadSubject where there is none."""
    loader = data
    if not isinstance(data, DataLoader) and callable(getattr(data, "train_dataloader", None)):
        data.prepare_data()
        data.setup("fit")
        loader = data.train_dataloader()
    if not isinstance(loader, DataLoader):
        kind = type(loader).__name__
        raise BadSubject(
            "lightning: data must be a LightningDataModule with one DataLoader to train on, "
            f"got a {kind}"
        )
    return loader


def steps_of(
    settings: Mapping[str, Any], data: Any = None
) -> Callable[[Any, Any], Iterator[float]]:
    """`train(module, batches)` by a Trainer with these settings; yields the loss after each
    optimiser step.
    """

    def train(module: Any, batches: Any) -> Iterator[float]:
        return pulled(
            lambda step_done: _fit(module, batches, data, settings, step_done),
            during=_without_advice,
        )

    return train


def _fit(
    module: Any, batches: Any, data: Any, settings: Mapping[str, Any], step_done: StepDone
) -> None:
    try:
        from lightning.pytorch import Callback, LightningDataModule, Trainer
        from lightning.pytorch.utilities.model_helpers import is_overridden
    except ModuleNotFoundError as error:
        raise BadSubject(
            "lightning is not installed, which trains this subject: pip install lightning"
        ) from error

    class Steps(Callback):
        """Tells of each optimiser step, after the schedulers that follow it."""

        seen = 0

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            if trainer.global_step > self.seen:
                self.seen = trainer.global_step
                step_done(_loss(outputs))

    validates = is_overridden("validation_step", module)
    given: dict[str, Any] = {
        "train_dataloaders": batches,
        "val_dataloaders": batches if validates else None,
    }
    if isinstance(data, LightningDataModule):
        theirs = data.val_dataloader if is_overridden("val_dataloader", data) else list
        data = copy.copy(data)
        data.train_dataloader = lambda: batches
        data.val_dataloader = lambda: _as_many(theirs(), batches) if validates else []
        given = {"datamodule": data}
    callbacks = [*settings.get("callbacks", ()), Steps()]
    trainer = Trainer(
        **{"limit_val_batches": VALIDATED, **settings, **QUIET, "callbacks": callbacks}
    )
    trainer.fit(module, **given)


def _as_many(theirs: Any, batches: Any) -> Any:
    """These batches in the place of each validation loader; once, where there is none."""
    return [batches] * len(theirs) if isinstance(theirs, Sequence) and theirs else batches


def _loss(outputs: Any) -> float:
    """What a training_step returned: a loss, or a mapping with one.

    Raises ValueError where it is nothing.
    """
    value = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if value is None:
        raise ValueError("training_step returns no loss: return it, so that its fall can be seen")
    return float(value)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Lightning warns of few workers, short epochs and its own dependencies, which no loop is to
    blame for.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning(_utilities)?\.")
        yield
