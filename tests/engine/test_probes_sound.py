"""Sound networks of many shapes: nothing is said against any."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pytest_overfit.network import dead_units, observe
from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Sample
from pytest_overfit.training import Training
from tests.engine.networks import (
    DIM,
    MODES,
    SOUND,
    WIDTH,
    Mode,
    Net,
    Recurrent,
    clips,
    detected,
    observed,
    subject,
)
from tests.engine.subjects import HEALTHY


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", SOUND)
def test_is_silent_about_sound_networks(name: str, mode: Mode) -> None:
    spoken = {
        seed: detected(observed(SOUND[name], mode, seed=seed, samples=clips(seed=seed)))
        for seed in range(10)
    }
    assert not any(spoken.values()), spoken


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", HEALTHY)
def test_is_silent_about_healthy_subjects(name: str, mode: Mode) -> None:
    healthy = HEALTHY[name]()
    samples = healthy.take(10)
    dim = samples[0].features.shape[1]
    spoken = {
        seed: detected(
            observe(
                healthy, healthy.fresh(feature_dim=dim, seed=seed), samples[seed:][:6], mode=mode
            )
        )
        for seed in range(5)
    }
    assert not any(spoken.values()), spoken


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_is_silent_about_raw_features(mode: Mode) -> None:
    spoken = {
        name: detected(observed(build, mode, samples=clips(raw=True)))
        for name, build in SOUND.items()
    }
    assert not any(spoken.values()), spoken


@pytest.mark.parametrize("name", ["BiGRU", "TCN with BatchNorm", "Transformer"])
def test_is_silent_while_training(name: str) -> None:
    described = subject(SOUND[name])
    samples = described.take(6)
    training = Training(described, samples, Recipe(), seed=0)
    for _ in range(3):
        list(training.advance(15))
        assert not any(
            detected(observe(described, training.network, samples, mode=mode)) for mode in MODES
        )


def test_is_silent_about_a_last_layer_that_starts_at_zero() -> None:
    def build() -> nn.Module:
        network = Recurrent()
        nn.init.zeros_(network.head.weight)
        return network

    assert not detected(observed(build, "train"))


class TwoHands(nn.Module):
    """An encoder a hand.

    That of a hand that nobody shows sees zeros, and its bias shuts its ReLU: no fault of its own.
    """

    def __init__(self, bias: float = -1.0) -> None:
        super().__init__()
        self.left = nn.Sequential(
            nn.Linear(DIM // 2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        )
        self.right = nn.Sequential(
            nn.Linear(DIM // 2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        )
        nn.init.constant_(self.left[0].bias, bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.left(features[..., : DIM // 2]) + self.right(features[..., DIM // 2 :])


def test_a_part_of_the_input_that_never_moves_accuses_no_layer_behind_it() -> None:
    still = [
        Sample(
            name=s.name,
            features=torch.cat([torch.zeros(s.frames, DIM // 2), s.features[:, DIM // 2 :]], 1),
            target=s.target,
        )
        for s in clips()
    ]
    for mode in MODES:
        assert dead_units(observed(lambda: Net(TwoHands()), mode, samples=still)) is None


def test_a_layer_that_shuts_on_moving_input_is_accused_still() -> None:
    found = dead_units(observed(lambda: Net(TwoHands(bias=-50.0)), "train"))
    assert found is not None
    assert found.module == "body.left.1"
