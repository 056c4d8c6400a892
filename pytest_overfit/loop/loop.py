"""A loop: the user's own training, and the batches it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler

from pytest_overfit.subject import BadSubject

Part = Literal[
    "optimiser",
    "scheduler",
    "clip",
    "precision",
    "accumulation",
    "batches",
    "loss",
    "mode",
    "state",
]
PARTS: tuple[Part, ...] = get_args(Part)
"""What a loop is made of."""

Train = Callable[[Any, "DataLoader[Any]"], Iterator[float]]


class Exchanged(Protocol):
    """A part of ours in a loop that runs."""

    def during(self) -> AbstractContextManager[object]:
        """Entered while the loop's code runs."""

    def on_event(self, event: Any) -> None:
        """Told of what the loop does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Loop:
    """The user's own training.

    train:  (network, batches) -> iterator of the loss after each optimiser step: a generator that
            yields where `optimizer.step()` was called.
    loader: the DataLoader it trains on. Item i of its dataset is sample i of the subject.
    exchange: puts a part of ours in the place of one of the loop's, for a trial.
    rows: what reaches the network -> (batch, frames, dim), where it is not so by itself.
    outside: the loop has its own network and batches and is known from outside alone; contracts of
        the network are not asked of it.
    """

    train: Train
    loader: DataLoader[Any]
    exchange: Callable[[Any], Exchanged] | None = None
    rows: Callable[[Tensor], Tensor] = lambda batch: batch
    outside: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.loader, DataLoader):
            raise BadSubject(
                f"Loop: loader must be a torch DataLoader, got a {type(self.loader).__name__}: "
                "DataLoader(dataset, collate_fn=...)"
            )
        if not callable(self.train):
            raise BadSubject(
                "Loop: train must be a generator function train(network, batches), got a "
                f"{type(self.train).__name__}"
            )
        if not hasattr(self.loader.dataset, "__getitem__") or not hasattr(
            self.loader.dataset, "__len__"
        ):
            raise BadSubject(
                "Loop: the loader's dataset must have items and a length, so that it can be "
                "cut to a rung's samples"
            )

    def batches(self, samples: int, drawn: Callable[[Sequence[int]], None]) -> DataLoader[Any]:
        """The user's loader over the first `samples` items, as many times each as make its epoch as
        long as before.

        An epoch keeps its length, since schedules count in epochs. drawn: told which samples each
        batch holds. In this process, so that what happens can be seen.
        """
        loader = self.loader
        cut = _Cut(loader.dataset, samples)

        def collate(items: Sequence[tuple[int, Any]]) -> Any:
            drawn([index for index, _ in items])
            return loader.collate_fn([item for _, item in items])

        given: dict[str, Any] = {"collate_fn": collate}
        if isinstance(loader.sampler, RandomSampler):
            return DataLoader(
                cut, batch_size=loader.batch_size, shuffle=True, drop_last=loader.drop_last, **given
            )
        if loader.batch_size is not None and isinstance(loader.sampler, SequentialSampler):
            return DataLoader(
                cut, batch_size=loader.batch_size, drop_last=loader.drop_last, **given
            )
        if loader.batch_sampler is not None:
            return DataLoader(cut, batch_sampler=loader.batch_sampler, **given)
        raise BadSubject(
            "Loop: the loader makes no batches: give it a batch_size or a batch_sampler"
        )


class _Cut(Dataset[tuple[int, Any]]):
    """The first `samples` items over and over, each with its index, as long as the whole."""

    def __init__(self, whole: Any, samples: int) -> None:
        self.whole, self.samples = whole, samples

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index % self.samples, self.whole[index % self.samples]


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's generators."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def modes_of(network: nn.Module) -> dict[nn.Module, bool]:
    """Which modules are in train mode."""
    return {module: module.training for module in network.modules()}


def put_back(modes: dict[nn.Module, bool]) -> None:
    """Put modules back into the modes that were kept of them."""
    for module, training in modes.items():
        module.training = training
