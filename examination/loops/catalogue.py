"""Every change, by kind of training."""

from __future__ import annotations

from examination.loops import generator_changes, huggingface_changes, lightning_changes
from examination.loops.fresh_changes import FRESH
from examination.loops.planting import Change, Kind
from examination.loops.reported_changes import REPORTED
from examination.loops.unseen_changes import UNSEEN
from examination.loops.unseen_sound import UNSEEN_SOUND

_FAULTS: dict[Kind, tuple[Change, ...]] = {
    "generator": generator_changes.FAULTS,
    "lightning": lightning_changes.FAULTS,
    "huggingface": huggingface_changes.FAULTS,
}
_SOUND: dict[Kind, tuple[Change, ...]] = {
    "generator": generator_changes.SOUND,
    "lightning": lightning_changes.SOUND,
    "huggingface": huggingface_changes.SOUND,
}


def faults(kind: Kind) -> tuple[Change, ...]:
    return _FAULTS[kind]


def sound_changes(kind: Kind) -> tuple[Change, ...]:
    return _SOUND[kind]


def unseen(kind: Kind) -> tuple[Change, ...]:
    return UNSEEN[kind]


def changes(kind: Kind) -> tuple[Change, ...]:
    return (
        *faults(kind),
        *unseen(kind),
        *FRESH[kind],
        *REPORTED[kind],
        *sound_changes(kind),
        *UNSEEN_SOUND[kind],
    )
