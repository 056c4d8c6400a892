"""One run: a network under one recipe on one corpus, in one folder, which a kill at any moment
leaves ready to be resumed.

The folder holds `run.json`, `metrics.csv`, `predictions.jsonl`, `last.ckpt`, `best_val_loss.ckpt`,
`best_val_wer.ckpt`, `tensorboard/`, and `result.json` once the run has ended. A checkpoint is saved
at the end of each epoch; what a killed run wrote beyond it is cut off on resuming.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from model.atomic_files import METRICS, Curves, WholeCheckpoints, cut_back, read_rows, write_whole
from model.data import Data
from model.feed import Feed
from model.lightning_ctc import CTC
from model.run_record import (
    RUN,
    WEIGHTS,
    BadRunFolder,
    read_record,
    record,
    subject_for,
    write_record,
)
from model.settings import PRECISIONS, BadSettings, Settings
from model.watching import EpochLine, Patience, Predictions, health
from pytest_overfit.recipe import Recipe, changed

LAST, RESULT, TENSORBOARD = "last.ckpt", "result.json", "tensorboard"
BEST: Mapping[str, str] = {"val_loss": "best_val_loss", "val_wer": "best_val_wer"}
RESTART, RESTART_FACTOR, LR_MIN = 10, 2, 1e-6  # epochs, factor, learning rate
SGD_MOMENTUM = 0.9
NOT_ABOUT_US = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 under torch 2.13
    # whether it may be written to was checked before
    r"Checkpoint directory .* exists and is not empty",
    # depthwise weights under DDP: about speed, and about an axis of size one
    r"Grad strides do not match bucket view strides",
    # clips are kept in memory; --workers is there for other cases
    r"The '.*_dataloader' does not have many workers",
)
"""Warnings that are answered already."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended. ended: "epochs", "patience", "not finite" or "stopped".

    epochs: finished ones. best: the row of the lowest `monitor`.
    """

    ended: str
    epochs: int
    best: Mapping[str, float]
    last: Mapping[str, float]


def recipe_of(settings: Settings, clips: int) -> Recipe:
    """The settings as a recipe: its lengths in optimiser steps of epochs of `clips` clips."""
    batches = math.ceil(math.ceil(clips / settings.processes) / settings.batch_size)
    steps = math.ceil(batches / settings.accumulation_steps)
    recipe = Recipe(
        optimizer=settings.optimizer,  # type: ignore[arg-type]
        lr=settings.learning_rate or 1.0,
        momentum=SGD_MOMENTUM if settings.optimizer == "sgd" else 0.0,
        weight_decay=settings.weight_decay,
        clip=settings.clip or None,
        batch=settings.batch_size,
        accumulation=settings.accumulation_steps,
        schedule=settings.schedule,  # type: ignore[arg-type]
        warmup=round(settings.warmup * steps),
        restart=RESTART * steps,
        restart_factor=RESTART_FACTOR,
        lr_min=LR_MIN if settings.schedule != "constant" else 0.0,
        label_smoothing=settings.label_smoothing,
        norm_momentum=None,
        network=settings.keywords,
        budget=settings.epochs * steps,
    )
    return changed(recipe, settings.tuned or {})


def fit(
    settings: Settings, data: Data, *, folder: Path, weights: Path | None = None, command: str = ""
) -> Result:
    """Train, or go on with what `folder` holds. weights: a checkpoint whose weights the network
    starts from.

    Raises BadRunFolder where `folder` holds a run and `settings.resume` is not set, or the run of
    other settings. Raises KeyboardInterrupt where the run was stopped by hand.
    """
    leads = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    if leads:
        check_folder(folder, settings)
    resumed = settings.resume and (folder / LAST).is_file()
    if resumed and (result := _ended(folder, settings)):
        return result
    gc.collect()  # trainer and module of a run before this one hold each other
    module, described = _prepared(settings, data, weights)
    epoch = _epoch_of(folder / LAST) if resumed else -1
    with quiet():
        trainer = trainer_for(
            settings,
            folder,
            data,
            resumed_from=module.recipe.budget // settings.epochs * (epoch + 1),
        )
        if leads:
            cut_back(folder, epoch)
            write_record(folder, {**described, "command": command})
        try:
            trainer.fit(
                module, datamodule=module.feed, ckpt_path=str(folder / LAST) if resumed else None
            )
        except SystemExit:  # Lightning's answer to Ctrl-C and to SIGTERM
            raise KeyboardInterrupt from None
    result = _result(folder, trainer, settings)
    if leads:
        write_whole(folder / RESULT, json.dumps(vars(result), indent=1) + "\n")
    return result


def check_folder(folder: Path, settings: Settings) -> None:
    """Raises BadRunFolder where the folder holds a run that these settings may not go on with."""
    if not (folder / RUN).is_file():
        return
    if not settings.resume:
        raise BadRunFolder(
            f"{folder} holds a run; go on with it by --resume, or give another --output_dir"
        )
    before = read_record(folder)["settings"]
    for name, value in settings.fixed().items():
        if before.get(name) != value:
            raise BadRunFolder(
                f"{folder / RUN}: the run has --{name} {before.get(name)}, now {value}: resume "
                "it as it was, or use another --output_dir"
            )


def _prepared(settings: Settings, data: Data, weights: Path | None) -> tuple[CTC, dict[str, Any]]:
    """The module, and what run.json says of it."""
    subject = subject_for(settings.network, data, settings.keywords)
    network = subject.fresh(feature_dim=data.train[0].features.shape[1], seed=settings.seed)
    described = record(subject, network, data, settings=settings.fixed(), epochs=settings.epochs)
    if weights is not None:
        load_weights(network, weights)
    feed = Feed(
        data,
        batch_size=settings.batch_size,
        seed=settings.seed,
        augment=settings.augment,
        workers=settings.workers,
    )
    return CTC(
        subject,
        network,
        recipe_of(settings, len(data.train)),
        feed,
        seed=settings.seed,
        frozen=not settings.learning_rate,
    ), described


def trainer_for(
    settings: Settings, folder: Path, data: Data, *, resumed_from: int = 0
) -> L.Trainer:
    """Lightning's trainer with everything that watches the run.

    resumed_from: optimiser steps; TensorBoard forgets what a killed run wrote beyond.
    """
    gpus = torch.cuda.device_count()
    if (
        settings.accelerator == "gpu" or (settings.accelerator == "auto" and gpus)
    ) and gpus < settings.devices:
        raise BadSettings(
            f"--accelerator {settings.accelerator} --devices {settings.devices}: this machine "
            f"has {gpus} GPUs"
        )
    if settings.precision == "16-mixed" and not torch.cuda.is_available():
        raise BadSettings("--precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32")
    watching = [
        Predictions(folder, data.vocabulary),
        EpochLine(),
        health(stop_when_sick=settings.stop_when_sick),
    ]
    checkpoints = [_checkpoint(folder, name, monitor) for monitor, name in BEST.items()]
    tensorboard = TensorBoardLogger(
        folder,
        name="",
        version=TENSORBOARD,
        default_hp_metric=False,
        purge_step=resumed_from or None,
    )
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=DDPStrategy() if settings.processes > 1 else "auto",
        precision=PRECISIONS[settings.precision],  # type: ignore[arg-type]
        max_epochs=settings.epochs,
        accumulate_grad_batches=settings.accumulation_steps,
        default_root_dir=folder,
        logger=[Curves(folder), tensorboard],
        # The last checkpoint comes last: it holds what the others know.
        callbacks=[
            *watching,
            Patience(monitor=settings.monitor, patience=settings.patience),
            *checkpoints,
            _checkpoint(folder, "last", None),
        ],
        plugins=[WholeCheckpoints()],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
    )


def _checkpoint(folder: Path, name: str, monitor: str | None) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder,
        filename=name,
        monitor=monitor,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def load_weights(network: nn.Module, checkpoint: Path) -> None:
    """Give a network the weights of another run's checkpoint.

    Raises BadRunFolder where they do not fit.
    """
    try:
        held = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        network.load_state_dict(
            {
                name.removeprefix(WEIGHTS): value
                for name, value in held.items()
                if name.startswith(WEIGHTS)
            }
        )
    except (OSError, RuntimeError, KeyError) as error:
        raise BadRunFolder(
            f"{checkpoint}: its weights do not fit ({str(error).splitlines()[0]})"
        ) from error


def _epoch_of(checkpoint: Path) -> int:
    try:
        return int(
            torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["epoch"]
        )
    except (RuntimeError, KeyError) as error:
        raise BadRunFolder(
            f"{checkpoint}: not a checkpoint of a run ({str(error).splitlines()[0]}); delete "
            "it to begin anew"
        ) from error


def _ended(folder: Path, settings: Settings) -> Result | None:
    """The result of a run that has nothing more to do."""
    if not (folder / RESULT).is_file():
        return None
    result = Result(**json.loads((folder / RESULT).read_text(encoding="utf-8")))
    over = (
        result.epochs >= settings.epochs
        or result.ended == "not finite"
        or (result.ended == "stopped" and settings.stop_when_sick)
    )
    return result if over else None


def _result(folder: Path, trainer: L.Trainer, settings: Settings) -> Result:
    rows = [
        {name: float(value) for name, value in row.items()} for row in read_rows(folder / METRICS)
    ]
    finite = [row for row in rows if math.isfinite(row[settings.monitor])]
    patience = next(callback for callback in trainer.callbacks if isinstance(callback, Patience))  # type: ignore[attr-defined]
    if not math.isfinite(rows[-1][settings.monitor]):
        ended = "not finite"
    else:
        ended = (
            "epochs" if len(rows) >= settings.epochs else "patience" if patience.over else "stopped"
        )
    return Result(
        ended=ended,
        epochs=len(rows),
        best=min(finite or rows, key=lambda row: row[settings.monitor]),
        last=rows[-1],
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's advertisements, and without warnings that are answered already."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in NOT_ABOUT_US:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)
