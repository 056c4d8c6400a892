"""Small sound networks and what slows them down, one plant each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from pytest_overfit.recipe import Recipe
from pytest_overfit.subject import Subject
from tests.engine import networks
from tests.engine.networks import SOUND, WIDTH, Conv, Net, OverTime, Residual
from tests.engine.subjects import BiGRU
from tests.engine.subjects import subject as gru_subject

Build = Callable[[], nn.Module]
Plant = Callable[[nn.Module], None]


def depthwise(norm: str) -> nn.Module:
    """Separable convolutions with residuals, as in mobile networks."""

    def block(dilation: int) -> nn.Module:
        over_time = Conv(WIDTH, WIDTH, norm=norm, groups=WIDTH, dilation=dilation)
        return Residual(nn.Sequential(over_time, nn.Conv1d(WIDTH, WIDTH, 1)))

    return Net(OverTime(Conv(networks.DIM, WIDTH, norm=norm), block(1), block(2), block(4)))


def residual(norm: str, skip: bool = True, width: int = WIDTH) -> nn.Module:
    """Four blocks of two convolutions each, with or without their skips."""

    def block() -> nn.Module:
        inner = nn.Sequential(Conv(width, width, norm=norm), Conv(width, width, norm=norm))
        return Residual(inner) if skip else inner

    body = OverTime(Conv(networks.DIM, width, norm=norm), *(block() for _ in range(4)))
    return Net(body, width)


class SecondSoftmax(nn.Module):
    """Probabilities where logits are asked for: they lie between 0 and 1."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x).softmax(-1)
        return 4 * out


def by_fan_out(network: nn.Module) -> None:
    """Depthwise weights as torch's fan_out makes them: too small by the root of the groups."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv1d) and module.groups > 1:
                module.weight.div_(module.groups**0.5)


def second_softmax(network: nn.Module) -> None:
    network.head = SecondSoftmax(network.head)  # type: ignore[arg-type]


def subject(
    build: Build, plant: Plant | None = None, recipes: dict[int, Recipe] | None = None
) -> Subject:
    def planted() -> nn.Module:
        network = build()
        if plant:
            plant(network)
        return network

    return replace(networks.subject(planted, networks.clips(10)), recipes=recipes or {})


def slow_group(prefix: str) -> dict[int, Recipe]:
    """A learning rate of a fiftieth in one group."""
    return {n: Recipe(layer_lr={prefix: 0.02}) for n in (1, 2, 5, 10)}


SOUND_SUBJECTS: dict[str, Callable[[], Subject]] = {
    **{
        name: lambda build=build: subject(build)  # type: ignore[misc]
        for name, build in SOUND.items()
        if name not in ("BiGRU", "Transformer")
    },
    "depthwise": lambda: subject(lambda: depthwise("batch")),
    "depthwise without norms": lambda: subject(lambda: depthwise("none")),
    "residual": lambda: subject(lambda: residual("batch")),
    "residual without norms": lambda: subject(lambda: residual("none")),
    "residual with GroupNorm": lambda: subject(lambda: residual("group")),
    "BiGRU": lambda: gru_subject(BiGRU, "bigru"),
}
"""The base of every comparison."""

PLANTED: dict[str, tuple[str, Callable[[], Subject]]] = {
    "depthwise initialisation": (
        "depthwise without norms",
        lambda: subject(lambda: depthwise("none"), by_fan_out),
    ),
    "lost skip": ("residual without norms", lambda: subject(lambda: residual("none", skip=False))),
    "lost skip, normalised": ("residual", lambda: subject(lambda: residual("batch", skip=False))),
    "narrower": ("residual", lambda: subject(lambda: residual("batch", width=4))),
    "narrower, GroupNorm": (
        "residual with GroupNorm",
        lambda: subject(lambda: residual("group", width=4)),
    ),
    "rate of the head": (
        "residual",
        lambda: subject(lambda: residual("batch"), None, slow_group("head")),
    ),
    "rate of the body": (
        "TCN with BatchNorm",
        lambda: subject(SOUND["TCN with BatchNorm"], None, slow_group("body")),
    ),
    "rate of the head, Conformer": (
        "Conformer",
        lambda: subject(SOUND["Conformer"], None, slow_group("head")),
    ),
    "second softmax": ("residual", lambda: subject(lambda: residual("batch"), second_softmax)),
    "second softmax, TCN": (
        "TCN with GroupNorm",
        lambda: subject(SOUND["TCN with GroupNorm"], second_softmax),
    ),
}
"""Slow-down -> the sound network that it was planted in, and the subject with it."""

NORMS = (
    ("TCN with BatchNorm", "TCN with GroupNorm"),
    ("residual", "residual with GroupNorm"),
    ("TCN with BatchNorm", "TCN without norms"),
)
"""Networks that differ by their norm alone, compared both ways."""
