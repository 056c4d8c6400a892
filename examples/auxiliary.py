"""Speech into a network with three losses by a plain loop: EXAMPLE_DATA=DIR pytest -m overfit
--overfit-subject examples.auxiliary:subject

The losses are those of VAC for signs: CTC of the sequence, CTC of the frames' own classifier, and
what the first teaches the second. Source: Min et al. 2021, arXiv 2104.02330.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from examples.speech import log_mel
from fixtures.annotations import read_corpus
from pytest_overfit import Loop, Sample, Subject

BANDS = 40
FRAMES_A_STEP = 8
TEMPERATURE = 8.0


class Spoken(Dataset[dict[str, Tensor]]):
    """Wave files with a corpus.csv: log-mel (frames, bands), scored over the clip, and the words
    they say.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, read_corpus(folder / "corpus.csv")
        self.vocabulary = ["<blank>", *sorted({word for row in self.rows for word in row.glosses})]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index]
        mel = log_mel(self.folder / f"{row.name}.wav")
        words = torch.tensor([self.vocabulary.index(word) for word in row.glosses])
        return {"mel": (mel - mel.mean(0)) / (mel.std(0) + 1e-3), "words": words}


def collate(clips: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        "mel": pad_sequence([clip["mel"] for clip in clips], batch_first=True),
        "frames": torch.tensor([len(clip["mel"]) for clip in clips]),
        "words": pad_sequence([clip["words"] for clip in clips], batch_first=True),
        "lengths": torch.tensor([len(clip["words"]) for clip in clips]),
    }


class Aligned(nn.Module):
    """(batch, frames, bands), frames (batch,) -> logits of the sequence and of the frames, each
    (steps, batch, words), and steps (batch,).
    """

    def __init__(self, words: int, width: int = 64) -> None:
        super().__init__()
        self.frame_wise = nn.Sequential(
            nn.Conv1d(BANDS, width, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool1d(4),
            nn.Conv1d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool1d(2),
        )
        self.frame_head = nn.Linear(width, words)
        self.gru = nn.GRU(width, width, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * width, words)

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.frame_wise(mel.transpose(1, 2)).transpose(1, 2)
        logits = self.head(self.gru(seen)[0])
        return (
            logits.transpose(0, 1),
            self.frame_head(seen).transpose(0, 1),
            frames // FRAMES_A_STEP,
        )


def losses(network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Of the sequence, of the frames, and of what the sequence teaches the frames."""
    sequence, frame_wise, steps = network(batch["mel"], batch["frames"])
    ctc = [
        F.ctc_loss(logits.log_softmax(-1), batch["words"], steps, batch["lengths"])
        for logits in (sequence, frame_wise)
    ]
    taught, teacher = (
        (logits / TEMPERATURE).log_softmax(-1) for logits in (frame_wise, sequence.detach())
    )
    return (
        ctc[0],
        ctc[1],
        F.kl_div(taught, teacher, reduction="none", log_target=True).sum(-1).mean(),
    )


def train(network: nn.Module, batches: Iterable[dict[str, Tensor]]) -> Iterator[float]:
    optimizer = torch.optim.Adam(
        network.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=1e-4
    )
    network.train()
    while True:
        for batch in batches:
            optimizer.zero_grad()
            sequence, frame_wise, taught = losses(network, batch)
            loss = sequence + frame_wise + 25.0 * taught
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            yield loss.item()


def sample(number: int, clip: dict[str, Tensor]) -> Sample:
    return Sample(name=str(number), features=clip["mel"], target=clip["words"])


def loader(clips: Spoken) -> DataLoader[dict[str, Tensor]]:
    return DataLoader(clips, batch_size=2, shuffle=True, collate_fn=collate)


def subject() -> Subject:
    clips = Spoken(Path(os.environ["EXAMPLE_DATA"]))
    return Subject(
        name="auxiliary",
        build=lambda vocab_size, feature_dim, seed: Aligned(vocab_size),
        samples=[sample(n, clip) for n, clip in enumerate(clips)],
        vocabulary=clips.vocabulary,
        outputs="logits",
        forward=lambda network, mel, frames: (network(mel, frames)[0], frames // FRAMES_A_STEP),
        loop=Loop(train=train, loader=loader(clips)),
    )
