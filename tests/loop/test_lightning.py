"""Lightning's own Trainer is driven step by step, with the settings and the hooks of the user."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pytest_overfit.lightning import subject_of
from pytest_overfit.loop.lightning import steps_of
from pytest_overfit.subject import BadSample, BadSubject

VOCABULARY = ("<blank>", "A", "B")


class Clips(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(index)
        return {"features": torch.randn(6, 3, generator=draw), "target": torch.tensor([1, 2])}


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.told: list[str] = []

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(features).log_softmax(-1).transpose(0, 1), frames

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        log_probs, _ = self(batch["features"], torch.full((len(batch["features"]),), 6))
        return -log_probs[..., 0].mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.told.append(f"validated in {'train' if self.training else 'eval'} mode")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.told.append("step")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(L.LightningDataModule):
    moved = 0

    def train_dataloader(self) -> DataLoader[Any]:
        return loader()

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        Data.moved += 1
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def loader() -> DataLoader[Any]:
    return DataLoader(Clips(), batch_size=2)


def test_each_optimiser_step_is_given_once_when_it_is_asked_for() -> None:
    module = Module()
    losses = steps_of({"max_epochs": 3, "accumulate_grad_batches": 2})(module, loader())
    assert module.told == []
    next(losses)
    assert module.told == ["step"]
    assert len(list(losses)) == 5
    assert module.told.count("step") == 6


def test_training_ends_where_it_is_left() -> None:
    module = Module()
    losses = steps_of({"max_epochs": 3})(module, loader())
    assert len(list(islice(losses, 2))) == 2
    losses.close()
    assert module.told.count("step") == 2


def test_the_users_settings_and_validation_are_run() -> None:
    module = Module()
    before = module.head.weight.detach().clone()
    list(steps_of({"max_epochs": 1, "gradient_clip_val": 1e-12})(module, loader()))
    assert torch.allclose(module.head.weight, before, rtol=0, atol=1e-5)
    assert module.told == ["step"] * 4 + ["validated in eval mode"] * 2
    assert module.training


def test_a_subject_of_a_data_module_keeps_its_hooks() -> None:
    subject = subject_of(
        Module,
        Data(),
        sample=lambda clip: (clip["features"], clip["target"]),
        vocabulary=VOCABULARY,
        trainer={"max_epochs": 1},
    )
    assert subject.name == "Module"
    assert [sample.name for sample in subject.take(3)] == ["item 0", "item 1", "item 2"]
    assert torch.equal(subject.take(2)[1].features, Clips()[1]["features"])
    before = Data.moved
    assert subject.loop is not None
    assert len(list(subject.loop.train(subject.fresh(feature_dim=3, seed=0), loader()))) == 4
    assert Data.moved > before


def test_a_training_step_without_a_loss_says_so() -> None:
    class Silent(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.optimizers().step()

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(ValueError, match=r"^training_step returns no loss: return it"):
        next(steps_of({"max_epochs": 1})(Silent(), loader()))


def test_what_has_no_loader_is_refused_in_one_line() -> None:
    with pytest.raises(
        BadSubject,
        match=r"^lightning: data must be a LightningDataModule with one DataLoader to train on, "
        "got a list$",
    ):
        subject_of(Module, [], sample=lambda clip: clip, vocabulary=VOCABULARY)


def test_an_item_that_cannot_be_read_is_named() -> None:
    subject = subject_of(
        Module, loader(), sample=lambda clip: clip["features"], vocabulary=VOCABULARY
    )
    with pytest.raises(
        BadSubject, match=r"^item 0: sample must return features and target, got a Tensor$"
    ):
        subject.take(1)
    subject = subject_of(
        Module,
        loader(),
        sample=lambda clip: (clip["features"][..., None], clip["target"]),
        vocabulary=VOCABULARY,
    )
    with pytest.raises(BadSample, match=r"^sample item 0: features must be \(frames, dim\)"):
        subject.take(1)


def test_a_missing_library_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(
        BadSubject,
        match=r"^lightning is not installed, which trains this subject: pip install lightning$",
    ):
        next(steps_of({})(Module(), loader()))
