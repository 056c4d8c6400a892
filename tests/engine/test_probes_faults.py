"""Planted faults: each is found, in train and in eval mode and over seeds, at the module it was
planted in.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit.network import (
    Observation,
    constant_signal,
    dead_units,
    exploding_signal,
    first_drop,
    rank_bottleneck,
    rows_for_people,
    vanishing_gradient,
)
from tests.engine.networks import (
    DIM,
    MODES,
    WIDTH,
    Build,
    Conv,
    Mode,
    Net,
    OverTime,
    Recurrent,
    clips,
    detected,
    observed,
)

Observations = tuple[Observation, ...]


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gru(x)[0]
        return out


class Does(nn.Module):
    """A function of (B, T, C)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project, as the historical network had it, with every convolution started
    by fan_out.
    """

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        wide = 4 * channels
        self.expand, self.norm = nn.Conv1d(channels, wide, 1), norm(wide)
        self.depthwise, self.norm2 = nn.Conv1d(wide, wide, 5, padding=2, groups=wide), norm(wide)
        self.project, self.norm3 = nn.Conv1d(wide, channels, 1), norm(channels)
        for conv in (self.expand, self.depthwise, self.project):
            # what torch 1.0 to 2.x count as fan_out: the groups are left out
            nn.init.normal_(
                conv.weight, std=math.sqrt(2 / (conv.out_channels * conv.kernel_size[0]))
            )
            nn.init.zeros_(conv.bias if conv.bias is not None else torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.expand(x)))
        out: Tensor = self.norm3(self.project(F.relu(self.norm2(self.depthwise(x)))))
        return out


class Historical(nn.Module):
    """Blocks between a stem of stride 2 and a transposed convolution that undoes it."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.stem = nn.Conv1d(DIM, WIDTH, 3, padding=1, stride=2)
        self.blocks = nn.Sequential(*(InvertedResidual(WIDTH, norm) for _ in range(6)))
        self.temporal_upsample = nn.ConvTranspose1d(WIDTH, WIDTH, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.temporal_upsample(self.blocks(self.stem(x.transpose(1, 2))))).transpose(
            1, 2
        )


class TimeAttention(nn.Module):
    """Self-attention without a residual path, whose queries are too small to choose a step."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        nn.init.normal_(self.query.weight, std=deviation)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(WIDTH)).softmax(-1)
        out: Tensor = weights @ self.value(x)
        return out


def convolutions(
    alter: Callable[[list[Conv]], object], *after: nn.Module, norm: str = "none", stride: int = 1
) -> Build:
    """Four convolutions, altered, then `after`."""

    def build() -> nn.Module:
        layers = [Conv(DIM if k == 0 else WIDTH, WIDTH, norm=norm, stride=stride) for k in range(4)]
        with torch.no_grad():
            alter(layers)
        return Net(nn.Sequential(OverTime(*layers), *after))

    return build


def sequence(*layers: Callable[[], nn.Module]) -> Build:
    """A linear layer with ReLU, then `layers`, then a GRU."""
    return lambda: Net(
        nn.Sequential(nn.Linear(DIM, WIDTH), nn.ReLU(), *(layer() for layer in layers), Gru())
    )


def sigmoids() -> nn.Module:
    layers = [layer for _ in range(10) for layer in (nn.Linear(WIDTH, WIDTH), nn.Sigmoid())]
    return Net(nn.Sequential(nn.Linear(DIM, WIDTH), nn.ReLU(), *layers))


def dead_function() -> nn.Module:
    network = Recurrent()
    nn.init.constant_(network.project.bias, -50)
    return network


Found = Callable[[Observations], Observation | None]


def dropped(observations: Observations) -> Observation | None:
    drop = first_drop(observations)
    return drop.at if drop else None


def constant(same: str) -> Found:
    def find(observations: Observations) -> Observation | None:
        found = constant_signal(observations)
        return found.at if found and found.same == same else None

    return find


FAULTS: dict[str, tuple[Build, Found, str]] = {
    "dead ReLU": (
        convolutions(lambda layers: layers[2].conv.bias.fill_(-50)),
        dead_units,
        "body.0.layers.2.activation",
    ),
    "dead ReLU, a function": (dead_function, dead_units, "gru"),
    "ten sigmoids": (sigmoids, vanishing_gradient, "body.3"),
    "ten sigmoids, forward": (sigmoids, dropped, "body.3"),
    "weights x 50": (
        convolutions(lambda layers: layers[1].conv.weight.mul_(50)),
        exploding_signal,
        "body.0.layers.1.conv",
    ),
    "weights x 50, norms": (
        convolutions(lambda layers: layers[1].conv.weight.mul_(50), norm="batch"),
        exploding_signal,
        "body.0.layers.1.conv",
    ),
    "bias x 1000": (
        convolutions(lambda layers: layers[1].conv.bias.copy_(torch.linspace(1e3, 2e3, WIDTH))),
        dropped,
        "body.0.layers.1.conv",
    ),
    "zero weights": (
        convolutions(lambda layers: layers[2].conv.weight.zero_()),
        constant("clips"),
        "body.0.layers.2.conv",
    ),
    "zero weights, norms": (
        convolutions(lambda layers: layers[2].conv.weight.zero_(), norm="batch"),
        constant("clips"),
        "body.0.layers.2.conv",
    ),
    "zero weights, drop": (
        convolutions(lambda layers: layers[2].conv.weight.zero_()),
        dropped,
        "body.0.layers.2.conv",
    ),
    "depthwise fan_out": (lambda: Net(Historical()), dropped, "body.temporal_upsample"),
    "attention to everything": (sequence(lambda: TimeAttention(1e-3)), constant("steps"), "body.2"),
    "mean over time": (
        sequence(lambda: Does(lambda x: x.mean(1, keepdim=True).expand_as(x))),
        constant("steps"),
        "body.2",
    ),
    "times zero": (sequence(lambda: Does(lambda x: x * 0)), constant("zero"), "body.2"),
    "width 1": (
        sequence(lambda: nn.Linear(WIDTH, 1), lambda: nn.Linear(1, WIDTH), nn.ReLU),
        rank_bottleneck,
        "body.2",
    ),
    "width 2": (
        sequence(lambda: nn.Linear(WIDTH, 2), lambda: nn.Linear(2, WIDTH), nn.ReLU),
        rank_bottleneck,
        "body.2",
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FAULTS)
def test_finds(name: str, mode: Mode) -> None:
    build, find, module = FAULTS[name]
    found = {
        seed: find(observed(build, mode, seed=seed, samples=clips(seed=seed))) for seed in range(4)
    }
    assert {seed: o and o.module for seed, o in found.items()} == dict.fromkeys(range(4), module)


@pytest.mark.parametrize("mode", MODES)
def test_a_drop_carries_its_causes(mode: Mode) -> None:
    drop = first_drop(observed(lambda: Net(Historical()), mode))
    assert drop is not None
    assert drop.before > 1e-2
    assert drop.after < 1e-6
    assert not drop.between
    assert drop.at.bias_to_signal is not None
    assert drop.at.bias_to_signal > 1e4
    assert [o.module for o in drop.weak] == [f"body.blocks.{k}.depthwise" for k in range(6)]


@pytest.mark.parametrize("mode", MODES)
def test_batch_norm_hides_the_drop_and_hurts_nobody(mode: Mode) -> None:
    assert not detected(observed(lambda: Net(Historical(nn.BatchNorm1d)), mode))


def test_a_function_between_modules_is_told_from_a_module() -> None:
    found = constant_signal(observed(dead_function, "eval"))
    assert found is not None
    assert (found.at.module, found.same, found.between) == ("gru", "zero", True)
    assert "relu" in found.at.through


def test_a_lost_branch_is_named_inside_its_block() -> None:
    class Fusion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(DIM // 2, WIDTH), nn.Linear(DIM // 2, WIDTH)
            nn.init.constant_(self.right.bias, 1e4)
            self.mix = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.mix(self.left(x[..., : DIM // 2]) + self.right(x[..., DIM // 2 :]))
            return out

    drop = first_drop(observed(lambda: Net(Fusion()), "eval"))
    assert drop is not None
    assert drop.at.module == "body.right"


def test_not_finite_is_located() -> None:
    build = convolutions(lambda layers: layers[1].conv.weight.fill_(math.inf))
    exploded = exploding_signal(observed(build, "eval"))
    assert exploded is not None
    assert exploded.module == "body.0.layers.1.conv"


def test_people_read_the_blocks_that_they_know() -> None:
    rows = rows_for_people(observed(lambda: Net(Historical()), "eval"))
    assert [row.module for row in rows][-3:] == ["body.blocks.5", "body.temporal_upsample", "head"]
