"""At which rates a network drops: modules and functions alike, and only where they do; and how much
randomness is left of a clip.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.explain.diagnosis import examine_rung
from pytest_overfit.network.dropout import dropout_rates
from pytest_overfit.network.noise import MOST, Noise
from pytest_overfit.recipe import Recipe
from tests.engine.subjects import BiGRU, bigru, clips, subject


class Dropping(nn.Module):
    """A layer that drops by a function, in train mode or in none."""

    def __init__(self, rate: float, *, ever: bool = True) -> None:
        super().__init__()
        self.rate, self.ever = rate, ever

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate, self.training and self.ever)


class Layers(nn.Module):
    def __init__(self, dropping: nn.Module) -> None:
        super().__init__()
        self.enter, self.drop = nn.Linear(24, 16), nn.Dropout(0.1)
        self.inner, self.head = nn.Sequential(dropping), nn.Linear(16, 25)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.head(self.inner(self.drop(self.enter(features))))
        return F.dropout(x, p=0.2, training=self.training).log_softmax(-1).transpose(0, 1), frames


@pytest.mark.parametrize(("ever", "rate"), [(True, 0.95), (False, 0.0)])
def test_rates_are_read_where_they_are_asked_for(ever: bool, rate: float) -> None:
    network = Layers(Dropping(0.95, ever=ever))
    assert dropout_rates(bigru(), network, clips(2)) == {"drop": 0.1, "inner.0": rate, "": 0.2}


def test_functions_that_drop_nearly_all_are_named_at_the_module_that_calls_them() -> None:
    of = replace(bigru(), build=lambda **_: Layers(Dropping(0.95)))
    recipe = Recipe(budget=10, overtime=0.0, fallbacks=())
    rung = Rung(subject=of, samples=1, recipe=recipe, criteria=criteria_for(1))
    (found,) = [f for f in examine_rung(rung, rung.climb()) if f.name == "noisy_training"]
    assert (found.module, found.headline) == (
        "inner.0",
        "dropout at inner.0 drowns the signal in noise",
    )


class Hidden(nn.Module):
    """In train mode a learned vector in the place of a share of the steps."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.vector = share, nn.Parameter(torch.ones(24))

    def forward(self, x: Tensor) -> Tensor:
        gone = (torch.rand(x.shape[:2]) < self.share)[..., None] & self.training
        return torch.where(gone, self.vector, x)


class BehindHidden(BiGRU):
    def __init__(self, dim: int, vocabulary: int, *, share: float) -> None:
        super().__init__(dim, vocabulary, dropout=0.1)
        self.hide = nn.Sequential(nn.Linear(dim, dim), Hidden(share))

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.hide(features), frames)


@pytest.mark.parametrize(("share", "module"), [(0.9, "hide.1"), (0.2, None), (0.0, None)])
def test_randomness_that_leaves_little_of_a_clip_is_put_where_it_comes_from(
    share: float, module: str | None
) -> None:
    torch.manual_seed(0)
    of = subject(lambda dim, vocabulary: BehindHidden(dim, vocabulary, share=share), "hidden")
    network = of.build(vocab_size=25, feature_dim=24, seed=0)
    clip = of.samples[0]  # as long as no layer is wide, nor its steps
    noise = Noise.of(of, network, replace(clip, features=clip.features[:46]))
    assert (noise.module, noise.share > MOST) == (module, module is not None)


def test_a_network_without_randomness_has_none() -> None:
    of = bigru()
    network = BiGRU(24, 25, dropout=0.0)
    assert Noise.of(of, network, of.samples[0]) == Noise(share=0.0, module=None)
