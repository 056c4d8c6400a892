"""The callback: told at the onset, stopped on request with a checkpoint kept, each metric in its
own epoch, one decision for all processes.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from pytest_overfit.health.lightning import HealthCallback, HealthWarning
from pytest_overfit.health.run import BadRun, Facts
from tests.health.made_runs import LEVELS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*Experiment logs directory .* exists"),
]

Metrics = Callable[[int], dict[str, float]]
OVERFITS_FROM = 12


def healthy(epoch: int) -> dict[str, float]:
    return {
        "train_loss": 5 * math.exp(-epoch / 15) + 0.3,
        "val_loss": 5 * math.exp(-epoch / 15) + 0.5,
    }


def overfitting(epoch: int) -> dict[str, float]:
    """Validation turns at OVERFITS_FROM."""
    turn = 5 * math.exp(-min(epoch, OVERFITS_FROM) / 6) + 0.5
    return {
        "train_loss": 5 * math.exp(-epoch / 6) + 0.1,
        "val_loss": turn + 0.08 * max(0, epoch - OVERFITS_FROM),
    }


class Scripted(L.LightningModule):
    """Trains next to nothing and logs what it is told to, each metric in the hook of that name."""

    def __init__(self, metrics: Metrics, *, hook: str = "usual", prefix: str = "") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.metrics, self.hook, self.prefix = metrics, hook, prefix

    def logged(self, split: str) -> dict[str, float]:
        return {
            self.prefix + name: value
            for name, value in self.metrics(self.current_epoch).items()
            if name.startswith(split)
        }

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        if self.hook == "usual":
            self.log_dict(self.logged("train"), on_step=True, on_epoch=True)
        return (self.weight * 0).sum()

    def on_train_epoch_end(self) -> None:
        if self.hook == "late":
            self.log_dict(self.logged("train"))

    def validation_step(self, batch: Any, index: int) -> None:
        self.log_dict(self.logged("val"), batch_size=1)
        if self.hook == "all in validation":
            self.log_dict(self.logged("train"), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.25)


def fit(
    module: Scripted,
    health: HealthCallback,
    folder: Path,
    *,
    epochs: int = 60,
    callbacks: tuple[Any, ...] = (),
    resumed: Path | None = None,
    **given: Any,
) -> L.Trainer:
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[health, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=2,
        **{"logger": CSVLogger(folder, name="", version=""), "default_root_dir": folder, **given},
    )
    data = DataLoader([torch.ones(1)] * 2)
    trainer.fit(module, data, data, ckpt_path=resumed)
    return trainer


def quietly(**given: Any) -> tuple[HealthCallback, list[str]]:
    lines: list[str] = []
    return HealthCallback(warn=lines.append, **given), lines


def test_a_sick_run_is_stopped_with_a_checkpoint_a_report_and_pictures(tmp_path: Path) -> None:
    health, lines = quietly(stop_when_sick=True)
    trainer = fit(Scripted(overfitting), health, tmp_path)
    assert trainer.current_epoch < 40
    last = trainer.current_epoch - 1
    onset, stopped = lines[0], lines[-1]
    assert f"validation loss rises since epoch {OVERFITS_FROM}" in onset
    assert "; try go back to epoch 12" in onset
    kept = tmp_path / "checkpoints" / f"sick-epoch={last}.ckpt"
    assert stopped.startswith(
        f"epoch {last}: stopped, training on is a waste (validation loss rises since epoch 12"
    )
    assert str(kept) in stopped
    assert torch.load(kept, weights_only=True)["epoch"] == last
    assert "validation_loss_rises" in (tmp_path / "health.txt").read_text()
    assert (tmp_path / "health.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "health.svg").is_file()


def test_without_the_request_it_warns_once_and_trains_on(tmp_path: Path) -> None:
    health, lines = quietly()
    trainer = fit(Scripted(overfitting), health, tmp_path, epochs=50)
    assert trainer.current_epoch == 50
    assert sum("validation_loss_rises" in line for line in lines) == 1
    assert sum("training on is a waste" in line for line in lines) == 1
    assert not list(tmp_path.rglob("sick*"))


def test_fine_tuning_of_five_epochs_is_stopped_before_the_last(tmp_path: Path) -> None:
    losses = ((1.2, 0.60), (0.6, 0.42), (0.3, 0.47), (0.1, 0.55), (0.05, 0.66))
    health, lines = quietly(stop_when_sick=True)
    trainer = fit(
        Scripted(lambda epoch: dict(zip(("train_loss", "val_loss"), losses[epoch], strict=True))),
        health,
        tmp_path,
        epochs=5,
    )
    assert trainer.current_epoch == 4
    assert "validation loss rises since epoch 1" in lines[0]


def test_a_healthy_run_is_left_alone(tmp_path: Path) -> None:
    health, lines = quietly(stop_when_sick=True)
    trainer = fit(Scripted(healthy), health, tmp_path, epochs=40)
    assert trainer.current_epoch == 40
    assert lines == []


def test_findings_are_warnings_of_their_own_kind_unless_told_otherwise(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", HealthWarning)
        last = (
            fit(Scripted(overfitting), HealthCallback(stop_when_sick=True), tmp_path).current_epoch
            - 1
        )
    lines = [str(warning.message) for warning in caught if warning.category is HealthWarning]
    assert lines[0].startswith(
        f"epoch {last}: validation_loss_rises (confirmed): validation loss rises since epoch 12"
    )
    assert lines[-1].startswith(f"epoch {last}: stopped, ")
    assert last - 12 <= 6


@pytest.mark.parametrize("hook", ["usual", "late", "all in validation"])
def test_every_metric_is_of_its_own_epoch_whichever_hook_logs_it(hook: str, tmp_path: Path) -> None:
    health, _ = quietly()
    fit(Scripted(healthy, hook=hook), health, tmp_path, epochs=6)
    for name in ("train_loss", "val_loss"):
        curve = health.watch.run.curve(name)
        assert curve.at == tuple(range(6))
        assert curve.values == pytest.approx([healthy(epoch)[name] for epoch in range(6)])
    assert set(health.watch.run.curve("lr").values) == {0.25}


@pytest.mark.parametrize("hook", ["usual", "late", "all in validation"])
def test_what_was_not_measured_in_an_epoch_is_not_told_of_it(hook: str, tmp_path: Path) -> None:
    health, _ = quietly()
    fit(Scripted(healthy, hook=hook), health, tmp_path, epochs=9, check_val_every_n_epoch=3)
    run = health.watch.run
    assert run.curve("val_loss").at == (2, 5, 8)
    assert run.curve("val_loss").values == pytest.approx(
        [healthy(epoch)["val_loss"] for epoch in (2, 5, 8)]
    )
    assert run.curve("train_loss").at == (
        (2, 5, 8) if hook == "all in validation" else tuple(range(9))
    )


def test_the_first_epoch_is_not_told_what_the_sanity_check_measured(tmp_path: Path) -> None:
    health, _ = quietly()
    fit(Scripted(healthy), health, tmp_path, epochs=2, check_val_every_n_epoch=2)
    assert health.watch.run.curve("val_loss").at == (1,)


def test_names_of_the_modules_own_are_mapped(tmp_path: Path) -> None:
    health, lines = quietly(names={"my train_loss": "train_loss", "my val_loss": "val_loss"})
    fit(Scripted(healthy, prefix="my "), health, tmp_path, epochs=2)
    assert len(health.watch.run.curve("val_loss")) == 2
    assert lines == []


def test_metrics_that_are_not_understood_are_said_once(tmp_path: Path) -> None:
    health, lines = quietly()
    fit(Scripted(healthy, prefix="odd "), health, tmp_path, epochs=3)
    assert len(lines) == 1
    assert lines[0].startswith("no loss among the metrics that the module logs (odd train_loss, ")
    assert lines[0].endswith("give HealthCallback names=")


def test_a_name_mapped_to_no_metric_is_refused() -> None:
    with pytest.raises(
        BadRun, match="names maps 'my/val' to 'val_los', which is none of train_loss"
    ):
        HealthCallback(names={"my/val": "val_los"})


def test_a_resumed_run_goes_on_with_its_curves_and_repeats_nothing(tmp_path: Path) -> None:
    whole, _ = quietly()
    fit(Scripted(overfitting), whole, tmp_path / "whole", epochs=50)

    first, first_warnings = quietly()
    every = ModelCheckpoint(
        tmp_path / "kept",
        filename="last",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    fit(Scripted(overfitting), first, tmp_path / "cut", epochs=45, callbacks=(every,))
    second, second_warnings = quietly()
    every = ModelCheckpoint(
        tmp_path / "kept",
        filename="last",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    fit(
        Scripted(overfitting),
        second,
        tmp_path / "cut",
        epochs=50,
        callbacks=(every,),
        resumed=tmp_path / "kept" / "last.ckpt",
    )
    assert any("validation_loss_rises" in line for line in first_warnings)
    assert not any("validation_loss_rises" in line for line in second_warnings)
    for name in ("train_loss", "val_loss", "lr"):
        assert second.watch.run.curve(name).at == whole.watch.run.curve(name).at
        assert second.watch.run.curve(name).values == pytest.approx(
            whole.watch.run.curve(name).values
        )


def test_facts_are_read_from_the_run_json_in_the_log_folder(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        json.dumps({"levels": {"val": [asdict(level) for level in LEVELS]}, "parameters": 3})
    )
    health, _ = quietly()
    fit(Scripted(healthy), health, tmp_path, epochs=1)
    assert health.watch.facts == Facts(parameters=3, levels={"val": LEVELS})


def test_a_bad_run_json_is_said_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"parameters": "many"}')
    health, lines = quietly()
    assert fit(Scripted(healthy), health, tmp_path, epochs=1).current_epoch == 1
    assert len(lines) == 1
    assert "field parameters must be" in lines[0]


def test_the_picture_is_shown_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    health, _ = quietly()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own
        fit(
            Scripted(healthy),
            health,
            tmp_path,
            epochs=2,
            logger=TensorBoardLogger(tmp_path, name="", version=""),
        )
        events = EventAccumulator(str(tmp_path))
        events.Reload()
    assert events.Tags()["images"] == ["health"]


def test_a_trial_of_the_code_leaves_no_files(tmp_path: Path) -> None:
    health, _ = quietly(stop_when_sick=True)
    fit(Scripted(healthy), health, tmp_path, epochs=1, fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_lightning_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    spec = find_spec("pytest_overfit.health.lightning")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(
        ImportError,
        match=r"^the health callback needs lightning: pip install 'pytest-overfit\[train\]'$",
    ):
        spec.loader.exec_module(module_from_spec(spec))


TWO = """
import sys, warnings, json, os
from pathlib import Path
warnings.simplefilter("ignore")
import lightning as L, torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from tests.health.test_lightning import Scripted, healthy, overfitting
from pytest_overfit.health.lightning import HealthCallback

folder = Path(sys.argv[1])

class Apart(Scripted):
    def logged(self, split):
        self.metrics = overfitting if self.global_rank == 0 else healthy
        return super().logged(split)

class Told(L.Callback):
    def on_train_end(self, trainer, module):
        (folder / f"rank {trainer.global_rank}").write_text(json.dumps([trainer.current_epoch, lines, health.watch.sick]))

lines = []
health = HealthCallback(stop_when_sick=True, warn=lines.append)
trainer = L.Trainer(max_epochs=60, accelerator="cpu", devices=2, strategy="ddp_fork", callbacks=[health, Told()], enable_progress_bar=False,
                    enable_model_summary=False, log_every_n_steps=1, logger=CSVLogger(folder, name="", version=""), default_root_dir=folder)
data = DataLoader([torch.ones(1)] * 2)
trainer.fit(Apart(None), data, data)
"""


def test_two_processes_take_one_decision_though_their_metrics_differ(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"rank {rank}").read_text()) for rank in (0, 1))
    assert first[0] == second[0] < 40
    assert first[2]
    assert not second[2]
    assert "stopped" in first[1][-1]
    assert second[1] == []
    assert len(list(tmp_path.rglob("sick-epoch=*.ckpt"))) == 1
