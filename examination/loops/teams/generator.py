"""A plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from examination.loops.task import Network, recordings

EPOCHS = 40
BATCH = 4


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


def loss_of(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    log_probs, steps = network(batch["features"], batch["frames"])
    return F.ctc_loss(log_probs, batch["targets"], steps, batch["target_lengths"])


def validate(network: nn.Module, batches: Iterable[dict[str, Tensor]]) -> float:
    network.eval()
    with torch.no_grad():
        losses = [loss_of(network, batch).item() for batch in batches]
    network.train()
    return sum(losses) / len(losses)


def train(network: Network, batches: Iterable[dict[str, Tensor]]) -> Iterator[float]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    network.train()
    for _ in range(EPOCHS):
        for batch in batches:
            optimizer.zero_grad()
            loss = loss_of(network, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            yield loss.item()
        scheduler.step()
        validate(network, batches)
