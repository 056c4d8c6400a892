"""Every DataLoader that a script builds, cut: the one it trains on to a rung's samples over and
over, others to as many items.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import Any
from unittest.mock import patch

from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, default_convert

IN_THIS_PROCESS: dict[str, Any] = {
    "num_workers": 0,
    "prefetch_factor": None,
    "persistent_workers": False,
    "multiprocessing_context": None,
    "worker_init_fn": None,
    "timeout": 0,
    "pin_memory": False,
}
"""What a loader is told, so that what it does can be seen."""

Kind = tuple[str, int, int | None, str]
"""What loaders over one dataset for one purpose share: class and length of the dataset, batch size,
collate.
"""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How loaders are cut. twice: to batches of one item and itself, to see it alone; else
    `samples` items, as an epoch of `items`.

    training: the kind of loader that is trained on; None where it is not known yet.
    """

    samples: int
    items: int | None = None
    training: Kind | None = None
    twice: bool = False


def kind_of(dataset: Any, batch_size: int | None, collate: Any) -> Kind:
    """The kind of a loader, by what it was built from."""
    return (
        type(dataset).__qualname__,
        len(dataset),
        batch_size,
        getattr(collate, "__qualname__", type(collate).__qualname__),
    )


class Items(Dataset[tuple[int, Any]]):
    """The first `samples` items of a script's dataset over and over, each with its index; all else
    is asked of the dataset itself.
    """

    def __init__(self, whole: Any, samples: int, length: int) -> None:
        self.whole, self.samples, self.length = whole, samples, length
        self._last: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, Any]:
        index = int(index) % self.samples
        if self._last is None or self._last[0] != index:
            self._last = index, self.whole[index]
        return self._last

    def __getattr__(self, name: str) -> Any:
        if name == "whole":
            raise AttributeError(name)
        return getattr(self.whole, name)


Drawn = Callable[[Kind, Sequence[int]], None]
"""Told of each batch: the kind of its loader and which items it holds."""
Built = Callable[[Kind | None, Mapping[str, Any]], None]
"""Told of each loader that is built: its kind, None where its dataset has no length, and its
arguments as they were given.
"""


def cut_loaders(cut: Cut, drawn: Drawn, built: Built) -> AbstractContextManager[object]:
    """While the block lasts, DataLoaders that are built are cut."""
    inner = DataLoader.__init__
    signature = inspect.signature(inner)

    @wraps(inner)
    def init(loader: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(loader, *args, **kwargs).arguments
        given.pop("self")
        dataset = given["dataset"]
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            built(None, given)
            inner(loader, **{**given, **IN_THIS_PROCESS})
            return
        if isinstance(dataset, Items):
            dataset = dataset.whole
        batch_size = given.get("batch_size", 1)
        collate = given.get("collate_fn") or (
            default_convert
            if batch_size is None and given.get("batch_sampler") is None
            else default_collate
        )
        kind = kind_of(dataset, batch_size, collate)

        built(kind, {**given, "dataset": dataset})

        def collated(items: Any) -> Any:
            if isinstance(items, tuple):  # a loader that makes no batches
                drawn(kind, [items[0]])
                return collate(items[1])
            pairs = items if cut.twice else _once(items)
            drawn(kind, [index for index, _ in pairs])
            return collate([item for _, item in pairs])

        inner(loader, **_cut(given, dataset, kind, cut), **IN_THIS_PROCESS, collate_fn=collated)

    return patch.object(DataLoader, "__init__", init)


def _once(items: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Each item of a batch once, since a large batch of a few clips is those clips many times;
    twice, where there is one alone.
    """
    single = list({index: (index, item) for index, item in items}.values())
    return [*single, *single] if len(single) == 1 and len(items) > 1 else single


def _cut(given: dict[str, Any], dataset: Any, kind: Kind, cut: Cut) -> dict[str, Any]:
    """The arguments of a loader, cut."""
    own = {
        name: value
        for name, value in given.items()
        if name not in IN_THIS_PROCESS and name not in ("dataset", "collate_fn")
    }
    count = min(cut.samples, len(dataset))
    if cut.twice:
        kept = {name: own[name] for name in ("generator",) if name in own}
        return {
            "dataset": Items(dataset, count, count),
            "batch_sampler": [[index, index] for index in range(count)],
            **kept,
        }
    if cut.training not in (None, kind):
        plain = own.get("sampler") is None and own.get("batch_sampler") is None
        return {**own, "dataset": Items(dataset, count, count if plain else len(dataset))}
    return {**own, "dataset": Items(dataset, count, cut.items or len(dataset))}
