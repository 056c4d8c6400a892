"""Lines of text into a CRNN by Lightning's Trainer: EXAMPLE_DATA=DIR pytest -m overfit
--overfit-subject examples.crnn:subject
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from fixtures.annotations import read_corpus
from pytest_overfit import Subject
from pytest_overfit.lightning import subject_of

HEIGHT = 32
WIDTH_A_STEP = 4


class Lines(Dataset[dict[str, Tensor]]):
    """Pictures with a corpus.csv: columns (width, height), ink is 1, and the letters they show."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, read_corpus(folder / "corpus.csv")
        self.vocabulary = [
            "<blank>",
            *sorted({letter for row in self.rows for letter in row.glosses}),
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index]
        picture = np.asarray(Image.open(self.folder / f"{row.name}.png"))
        letters = torch.tensor([self.vocabulary.index(letter) for letter in row.glosses])
        return {
            "columns": 1 - torch.tensor(picture.T / 255, dtype=torch.float32),
            "letters": letters,
        }


def collate(lines: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        "columns": pad_sequence([line["columns"] for line in lines], batch_first=True),
        "widths": torch.tensor([len(line["columns"]) for line in lines]),
        "letters": pad_sequence([line["letters"] for line in lines], batch_first=True),
        "lengths": torch.tensor([len(line["letters"]) for line in lines]),
    }


class Pages(L.LightningDataModule):
    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self.lines = lines

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self.lines, batch_size=2, shuffle=True, collate_fn=collate)


class CRNN(L.LightningModule):
    """Convolutions over the picture, a GRU over its columns. Source: Shi et al.

    2015, arXiv 1507.05717.
    """

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.gru = nn.GRU(32 * HEIGHT // 4, 64, bidirectional=True, batch_first=True)
        self.head = nn.Linear(128, letters)

    def forward(self, columns: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.convolutions(columns[:, None]).transpose(1, 2).flatten(2)
        return self.head(self.gru(seen)[0]).log_softmax(-1).transpose(0, 1), widths // WIDTH_A_STEP

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        log_probs, steps = self(batch["columns"], batch["widths"])
        return F.ctc_loss(log_probs, batch["letters"], steps, batch["lengths"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3, betas=(0.9, 0.95))
        warmup = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / 10)
        )
        return [optimizer], [{"scheduler": warmup, "interval": "step"}]


def subject() -> Subject:
    lines = Lines(Path(os.environ["EXAMPLE_DATA"]))
    return subject_of(
        lambda: CRNN(len(lines.vocabulary)),
        Pages(lines),
        sample=lambda line: (line["columns"], line["letters"]),
        vocabulary=lines.vocabulary,
        trainer={"max_epochs": 100, "gradient_clip_val": 1.0},
    )
