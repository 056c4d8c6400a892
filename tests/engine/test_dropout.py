"""At which rates a network drops: modules and functions alike, and only where they do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.explain.diagnosis import examine_rung
from pytest_overfit.network.dropout import dropout_rates
from pytest_overfit.recipe import Recipe
from tests.engine.subjects import bigru, clips


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
    subject = replace(bigru(), build=lambda **_: Layers(Dropping(0.95)))
    recipe = Recipe(budget=10, overtime=0.0, fallbacks=())
    rung = Rung(subject=subject, samples=1, recipe=recipe, criteria=criteria_for(1))
    (found,) = [f for f in examine_rung(rung, rung.climb()) if f.name == "noisy_training"]
    assert (found.module, found.headline) == (
        "inner.0",
        "dropout at inner.0 drowns the signal in noise",
    )
