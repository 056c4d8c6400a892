"""The rules of the health report, live, in a Lightning trainer: warned at the onset, stopped on
request.

    Trainer(callbacks=[HealthCallback(stop_when_sick=True)])

Metrics are those that the module logs, under any name that says what it is: `val_loss`,
`valid/wer`, `train_loss_epoch`. Needs lightning.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_overfit.health.callbacks import (
    REPORT,
    HealthWarning,
    checked_names,
    understood,
    write_report,
)
from pytest_overfit.health.readers.folder import RUN_JSON, find_beside, read_facts
from pytest_overfit.health.run import BadRun, Facts
from pytest_overfit.health.watch import Watch

__all__ = ["HealthCallback", "HealthWarning"]

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    # Both packages may be installed; a trainer's callbacks must be of its own.
    for package in sorted(
        ("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules
    ):
        try:
            Callback = import_module(package).Callback
            break
        except ImportError:
            continue
    else:
        raise ImportError(
            "the health callback needs lightning: pip install 'pytest-overfit[train]'"
        )

PICTURES = "health"
"""Files in the trainer's log folder, as .png and .svg."""


class HealthCallback(Callback):
    """Judges the run after every epoch.

    stop_when_sick: stop where the verdict is *stop*, after a checkpoint `sick-epoch=NN.ckpt` is
    written beside the others.
    warn:    told one line for each new finding, by the first process; default: a HealthWarning.
    names:   metrics as the module logs them -> names of `watch.METRICS`, where they do not say by
             themselves what they are.
    facts:   of the run, its loss levels above all; default: those in a run.json in the log folder.

    Attributes: watch. The report, and where matplotlib is installed the pictures, are left in the
    log folder and in TensorBoard.
    """

    def __init__(
        self,
        *,
        stop_when_sick: bool = False,
        warn: Callable[[str], None] | None = None,
        names: Mapping[str, str] | None = None,
        facts: Facts | None = None,
    ) -> None:
        self.stop_when_sick, self.names = stop_when_sick, checked_names(names, "HealthCallback")
        self.watch = Watch(facts=facts)
        self._warn = warn or _warn
        self._folder: Path | None = None
        self._lr: float | None = None
        self._epoch: int | None = None
        self._before: dict[str, Any] = {}
        self._validated: dict[str, Any] = {}
        self._of_validation: set[str] = set()
        self._present: set[str] | None = None
        self._late: set[str] = set()
        self._warned: set[str] = set()

    # -- which metrics are of which epoch: Lightning keeps the last value of each, and a module may

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._folder = (
            None
            if getattr(trainer, "fast_dev_run", False)
            else Path(trainer.log_dir or trainer.default_root_dir)
        )
        self._present = None
        if self._folder is not None:
            self.watch.name, self.watch.folder = self._folder.name, self._folder
        if self._folder is not None and self.watch.facts == Facts():
            self._read_facts(trainer, [self._folder, Path(trainer.default_root_dir)])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_late(trainer)
        self._validated = {}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        self._lr = max(float(group["lr"]) for group in optimizer.param_groups)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = dict(trainer.callback_metrics)
        self._validated = {
            name: value for name, value in now.items() if value is not self._before.get(name)
        }
        self._of_validation |= self._validated.keys()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = dict(trainer.callback_metrics)
        trained = {
            name: value
            for name, value in now.items()
            if name not in self._of_validation | self._late
        }
        self._epoch, self._present = trainer.current_epoch, set(now)
        metrics = understood({**trained, **self._validated}, self.names)
        if self._lr is not None:
            metrics.setdefault("lr", self._lr)
        if not {"train_loss", "val_loss"} & metrics.keys():
            logged = ", ".join(sorted(now)) or "none"
            self._warn_once(
                trainer,
                "no loss",
                (
                    f"no loss among the metrics that the module logs ({logged}): give "
                    "HealthCallback names="
                ),
            )
        self._judge(trainer, metrics)
        self._stop_if_sick(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_late(trainer)
        if trainer.is_global_zero and self._folder is not None and self.watch.checkup is not None:
            write_report(self.watch.checkup, self._folder)
            self._draw(trainer, self._folder)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if trainer.is_global_zero and self._folder is not None and self.watch.checkup is not None:
            write_report(self.watch.checkup, self._folder)

    def state_dict(self) -> dict[str, Any]:
        return self.watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        try:
            self.watch.load_state_dict(state_dict)
        except BadRun as error:
            self._warn(str(error))

    def _log_late(self, trainer: Trainer) -> None:
        """What the module logged in its own `on_train_epoch_end`, which comes after this
        callback's: it belongs to the epoch before.
        """
        if self._present is None or self._epoch is None:
            return
        now = dict(trainer.callback_metrics)
        self._late |= now.keys() - self._present - self._of_validation
        metrics = understood({name: now[name] for name in self._late if name in now}, self.names)
        self._present = None
        if metrics:
            self._judge(trainer, metrics)

    # -- what is done about it ---------------------------------------------------------------------

    def _judge(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Every process keeps watch, so that all can be asked and saved; the first one speaks."""
        epoch = self._epoch or 0
        new = self.watch.log(epoch=epoch, **metrics)
        for finding in new if trainer.is_global_zero else ():
            self._warn(
                f"epoch {epoch}: {finding.name} ({finding.status}): {finding.headline}"
                + (f"; try {finding.try_}" if finding.try_ else "")
            )
        if (
            new
            and trainer.is_global_zero
            and self._folder is not None
            and self.watch.checkup is not None
        ):
            write_report(self.watch.checkup, self._folder)

    def _stop_if_sick(self, trainer: Trainer) -> None:
        """The first process decides for all: metrics that are not synchronised differ between
        them.
        """
        sick = bool(trainer.strategy.broadcast(self.watch.sick))
        if not sick or trainer.should_stop:
            return
        reasons = "; ".join(self.watch.checkup.reasons) if self.watch.checkup else ""
        if not self.stop_when_sick:
            line = (
                f"epoch {self._epoch}: training on is a waste ({reasons}); stop_when_sick=True "
                "would stop here"
            )
            self._warn_once(trainer, "sick", line)
            return
        kept = ""
        if self._folder is not None:
            path = self._checkpoints(trainer) / f"sick-epoch={self._epoch:02}.ckpt"
            trainer.save_checkpoint(path)
            kept = f"; checkpoint {path}, report {self._folder / REPORT}"
        trainer.should_stop = True
        self._warn_once(
            trainer,
            "stopped",
            f"epoch {self._epoch}: stopped, training on is a waste ({reasons}){kept}",
        )

    def _checkpoints(self, trainer: Trainer) -> Path:
        """Where the trainer keeps its checkpoints."""
        own = getattr(trainer.checkpoint_callback, "dirpath", None)
        return Path(own) if own else (self._folder or Path()) / "checkpoints"

    def _draw(self, trainer: Trainer, folder: Path) -> None:
        try:
            from pytest_overfit.health.pictures import draw, save_pictures, to_tensorboard
        except ImportError:
            return
        run, checkup = self.watch.run, self.watch.checkup
        try:
            save_pictures(run, checkup, folder, name=PICTURES)
            for writer in (getattr(logger, "experiment", None) for logger in trainer.loggers):
                if hasattr(writer, "add_image"):
                    to_tensorboard(draw(run, checkup), writer, trainer.global_step)
        except Exception as error:  # a picture is not worth the end of a long run
            self._warn(f"the pictures could not be drawn: {type(error).__name__}: {error}")

    def _read_facts(self, trainer: Trainer, folders: list[Path]) -> None:
        path = find_beside(RUN_JSON, folders)
        try:
            self.watch.facts = read_facts(path) if path else Facts()
        except BadRun as error:
            self._warn_once(trainer, "facts", str(error))

    def _warn_once(self, trainer: Trainer, what: str, line: str) -> None:
        if trainer.is_global_zero and what not in self._warned:
            self._warn(line)
        self._warned.add(what)


def _warn(line: str) -> None:
    warnings.warn(line, HealthWarning, stacklevel=2)
