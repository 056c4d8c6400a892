"""Batches for Lightning: each process reads its share of the clips, in an order that follows from
seed and epoch.
"""

from __future__ import annotations

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from model.data import Altered, Data, Order, Plain
from pytest_overfit.subject import Batch, Sample, collate

VAL, TRAIN = 0, 1
"""Which of the two validation loaders reads what."""


class Feed(L.LightningDataModule):
    """Training batches, and two sets to read in eval mode: validation clips, and the first
    `watched` training clips as they are.
    """

    def __init__(
        self, data: Data, *, batch_size: int, seed: int, augment: bool, workers: int = 0
    ) -> None:
        super().__init__()
        self.data, self.batch_size, self.seed, self.augment, self.workers = (
            data,
            batch_size,
            seed,
            augment,
            workers,
        )
        self.watched = min(len(data.train), len(data.val))

    def train_dataloader(self) -> DataLoader[Sample]:
        read = Altered(self.data.altered) if self.augment else Plain(self.data.train)
        return self._loader(read, self._order(len(self.data.train), self.seed))

    def val_dataloader(self) -> list[DataLoader[Sample]]:
        val = self._loader(Plain(self.data.val), self._order(len(self.data.val), None))
        train = self._loader(Plain(self.data.train), self._order(self.watched, None))
        return [val, train]

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        return batch.to(device)

    def real(self, loader: int, batch: int, clips: int) -> int:
        """How many clips of an eval batch of this process count: those that fill up the last batch
        are left out.
        """
        order = self._order(len(self.data.val) if loader == VAL else self.watched, None)
        return min(max(order.real - batch * self.batch_size, 0), clips)

    def _order(self, count: int, seed: int | None) -> Order:
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        return Order(count, seed=seed, rank=rank, world=world)

    def _loader(self, clips: Dataset[Sample], order: Order) -> DataLoader[Sample]:
        """With a generator of its own: without one each pass takes a number of the global one,
        which dropout draws from.
        """
        own = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            clips,
            batch_size=self.batch_size,
            sampler=order,
            collate_fn=collate,
            num_workers=self.workers,
            generator=own,
        )
