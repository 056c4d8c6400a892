"""A model, a data collator and TrainingArguments for the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from examination.loops.task import Network, recordings

NO_LABEL = -100


class Clips(Dataset[dict[str, Tensor]]):
    """Clips scored over the corpus."""

    def __init__(self) -> None:
        frames = torch.cat([features for features, _ in recordings()])
        self.mean, self.std = frames.mean(0), frames.std(0)

    def __len__(self) -> int:
        return len(recordings())

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        features, target = recordings()[index]
        return {"features": (features - self.mean) / self.std, "labels": target}


def collate(clips: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    clips = sorted(clips, key=lambda clip: len(clip["features"]), reverse=True)
    features = [clip["features"] for clip in clips]
    labels = [clip["labels"] for clip in clips]
    return {
        "features": pad_sequence(features, batch_first=True),
        "frames": torch.tensor([len(clip) for clip in features]),
        "labels": pad_sequence(labels, batch_first=True, padding_value=NO_LABEL),
    }


class Model(nn.Module):
    """Gives log-probabilities (batch, frames, vocabulary), and the loss where it has labels."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, features: Tensor, frames: Tensor, labels: Tensor | None = None) -> Any:
        log_probs, steps = self.network(features, frames)
        out = {"logits": log_probs.transpose(0, 1)}
        if labels is not None:
            mask = labels != NO_LABEL
            out["loss"] = F.ctc_loss(log_probs, labels.masked_select(mask), steps, mask.sum(-1))
        return out


class OurTrainer(Trainer):
    """As the library's."""


def arguments(folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=4,
        num_train_epochs=40,
        learning_rate=1e-2,
        weight_decay=1e-2,
        max_grad_norm=1.0,
        warmup_steps=10,
        lr_scheduler_type="linear",
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        seed=0,
    )


def made(folder: str, model: nn.Module, dataset: Dataset[Any]) -> Trainer:
    return OurTrainer(
        model=model, args=arguments(folder), data_collator=collate, train_dataset=dataset
    )
