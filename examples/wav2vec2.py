"""Waveforms into wav2vec2 by the Trainer of transformers: EXAMPLE_DATA=DIR pytest -m overfit
--overfit-subject examples.wav2vec2:subject
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import TrainingArguments, Wav2Vec2Config, Wav2Vec2ForCTC

from fixtures.annotations import read_corpus
from pytest_overfit import Subject
from pytest_overfit.huggingface import subject_of

RATE = 8000
NO_LABEL = -100


class Speech(Dataset[dict[str, Tensor]]):
    """Wave files with a corpus.csv: samples of zero mean and unit variance, and the words they
    say.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, read_corpus(folder / "corpus.csv")
        self.vocabulary = ["<pad>", *sorted({word for row in self.rows for word in row.glosses})]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index]
        rate, samples = wavfile.read(self.folder / f"{row.name}.wav")
        sound = torch.tensor(resample_poly(samples / 32768, RATE, rate), dtype=torch.float32)
        labels = torch.tensor([self.vocabulary.index(word) for word in row.glosses])
        return {"input_values": (sound - sound.mean()) / sound.std(), "labels": labels}


def collate(clips: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    sounds = [clip["input_values"] for clip in clips]
    masks = [torch.ones(len(sound), dtype=torch.long) for sound in sounds]
    return {
        "input_values": pad_sequence(sounds, batch_first=True),
        "attention_mask": pad_sequence(masks, batch_first=True),
        "labels": pad_sequence(
            [clip["labels"] for clip in clips], batch_first=True, padding_value=NO_LABEL
        ),
    }


def tiny(words: int) -> Wav2Vec2ForCTC:
    """62 steps a second, from three convolutions and two layers."""
    config = Wav2Vec2Config(
        vocab_size=words,
        pad_token_id=0,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        conv_dim=(32, 48, 48),
        conv_kernel=(32, 6, 4),
        conv_stride=(16, 4, 2),
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        mask_time_prob=0.0,
        ctc_loss_reduction="mean",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
    )
    return Wav2Vec2ForCTC(config)


def arguments() -> TrainingArguments:
    return TrainingArguments(
        "logs",
        per_device_train_batch_size=2,
        num_train_epochs=100,
        learning_rate=2e-3,
        warmup_steps=10,
        adam_beta2=0.95,
        use_cpu=True,
    )


def subject() -> Subject:
    speech = Speech(Path(os.environ["EXAMPLE_DATA"]))
    words = speech.vocabulary
    return subject_of(lambda: tiny(len(words)), speech, collate, arguments(), vocabulary=words)
