"""Where kinds of faults are planted: networks of this repository and foreign ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from examination.hosts import HOSTS, host_subject
from examination.sound.catalogue import SOUND
from pytest_overfit.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Place:
    """A healthy subject and a module of it that all of the signal passes, (batch, time, width)."""

    name: str
    make: Callable[[], Subject]
    site: str
    width: int


def _ours(name: str) -> Place:
    host = HOSTS[name]
    return Place(name=name, make=lambda: host_subject(host), site=host.middle, width=host.width)


def _foreign(name: str, site: str, width: int) -> Place:
    return Place(name=name, make=SOUND[name].make, site=site, width=width)


PLACES: dict[str, Place] = {
    place.name: place
    for place in (
        *(_ours(name) for name in HOSTS),
        _foreign("depth-separable", "enter", 64),
        _foreign("ConvNeXt", "norm", 32),
        _foreign("subsampled pre-norm Transformer", "out", 32),
        _foreign("shifted frames", "flat", 32),
        _foreign("retention", "norm", 32),
    )
}
