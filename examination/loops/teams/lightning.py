"""A LightningModule and its DataModule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from examination.loops.task import Network, recordings

BATCH = 4
TRAINER: dict[str, Any] = {"max_epochs": 40, "gradient_clip_val": 1.0}


class Clips(Dataset[dict[str, Tensor]]):
    """Clips scored over the corpus."""

    def __init__(self) -> None:
        frames = torch.cat([features for features, _ in recordings()])
        self.mean, self.std = frames.mean(0), frames.std(0)

    def __len__(self) -> int:
        return len(recordings())

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        features, target = recordings()[index]
        return {"features": (features - self.mean) / self.std, "target": target}


def collate(clips: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    clips = sorted(clips, key=lambda clip: len(clip["features"]), reverse=True)
    features = [clip["features"] for clip in clips]
    targets = [clip["target"] for clip in clips]
    return {
        "features": pad_sequence(features, batch_first=True),
        "frames": torch.tensor([len(clip) for clip in features]),
        "targets": pad_sequence(targets, batch_first=True),
        "target_lengths": torch.tensor([len(target) for target in targets]),
    }


class Data(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(Clips(), batch_size=BATCH, shuffle=True, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(Clips(), batch_size=BATCH, collate_fn=collate)


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = self.network(features, frames)
        return out

    def loss_of(self, batch: dict[str, Tensor]) -> Tensor:
        log_probs, steps = self(batch["features"], batch["frames"])
        return F.ctc_loss(log_probs, batch["targets"], steps, batch["target_lengths"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss_of(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss_of(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=1e-2)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"},
        }
