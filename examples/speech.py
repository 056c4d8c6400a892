"""Speech, wave files as log-mel.

EXAMPLE_DATA=DIR pytest -m overfit --overfit-subject examples.speech:subject
"""

from pathlib import Path

import torch
from scipy.io import wavfile
from transformers.audio_utils import mel_filter_bank

from examples.reading import subject_of
from pytest_overfit import Subject


def log_mel(path: Path) -> torch.Tensor:
    rate, sound = wavfile.read(path)
    wave, window = torch.tensor(sound / 32768.0).float(), torch.hann_window(512)
    power = torch.stft(wave, 512, 256, window=window, return_complex=True).abs().square()
    return (power.T @ torch.tensor(mel_filter_bank(257, 40, 50, 8000, rate)).float() + 1e-6).log()


def subject() -> Subject:
    return subject_of("speech", ".wav", log_mel)
