"""A plain loop in the words that people have, with a few places to break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from pytest_overfit import Loop, Sample, Subject
from tests.engine.subjects import BiGRU, clips, subject


class Clips(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.samples[index].features, self.samples[index].target


def collate(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    features, targets = zip(*items, strict=True)
    frames, tokens = (torch.tensor([len(one) for one in many]) for many in (features, targets))
    return pad_sequence(list(features), batch_first=True), frames, torch.cat(list(targets)), tokens


def trained(
    *,
    optimizer: Callable[[Any], Optimizer] = lambda parameters: torch.optim.Adam(
        parameters, lr=5e-3
    ),
    rate: Callable[[int], float] = lambda step: 1.0,
    backward: Callable[[Tensor, Optimizer], None] = lambda loss, _: loss.backward(),
    between: Callable[[nn.Module, int], None] = lambda network, step: None,
    epochs: int = 100,
) -> Callable[[nn.Module, Any], Iterator[float]]:
    """rate: factor on the learning rate at each step. between: done after each step."""

    def train(network: nn.Module, batches: Any) -> Iterator[float]:
        chosen = optimizer(network.parameters())
        schedule, step = LambdaLR(chosen, rate), 0
        network.train()
        for _ in range(epochs):
            for features, frames, targets, tokens in batches:
                chosen.zero_grad()
                log_probs, steps = network(features, frames)
                loss = F.ctc_loss(log_probs, targets, steps, tokens)
                backward(loss, chosen)
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                chosen.step()
                schedule.step()
                step += 1
                between(network, step)
                yield loss.item()

    return train


def plain(
    train: Callable[..., Iterator[float]],
    network: Callable[..., nn.Module] = BiGRU,
    *,
    batch: int = 2,
    **described: Any,
) -> Subject:
    """A subject that is trained by this loop."""
    samples = clips(16)
    return subject(
        network,
        "plain",
        samples=samples,
        loop=Loop(
            train=train, loader=DataLoader(Clips(samples), batch_size=batch, collate_fn=collate)
        ),
        **described,
    )
