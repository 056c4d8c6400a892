"""A change to a team's text: a fault with the part that it is in, or a sound change, and the module
that comes of it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

Kind = Literal["generator", "lightning", "huggingface"]
KINDS: tuple[Kind, ...] = ("generator", "lightning", "huggingface")
Part = Literal[
    "optimiser",
    "scheduler",
    "clip",
    "precision",
    "accumulation",
    "batches",
    "loss",
    "mode",
    "state",
    "network",
]
"""Of a loop; the network, where a loop leaves the forward pass to it."""
Lot = Literal["seen", "held out", "unseen kind", "fresh kind", "reported kind", "reported, aside"]
"""What was known of a change when findings were written.

seen, held out: looked at meanwhile, and set aside. unseen, fresh and reported kinds: of kinds that
no finding was written for when they were planted; those of public reports were mended for
afterwards, but for a third of their kinds, which are aside.
"""
Edit = tuple[str, str]
"""What stands in the sound text, once, and what is written in its place."""
TEAMS = Path(__file__).parent / "teams"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A small change to a sound text.

    part: of the loop, that is guilty; None where the change is sound. also: parts that may be named
    as well, where the fault lies between two.
    """

    name: str
    edits: tuple[Edit, ...]
    part: Part | None = None
    also: tuple[Part, ...] = ()
    lot: Lot = "seen"

    def text(self, sound: str) -> str:
        """The changed text. Raises ValueError where an edit does not fit exactly once."""
        for old, new in self.edits:
            if sound.count(old) != 1:
                raise ValueError(
                    f"{self.name}: {old!r} stands {sound.count(old)} times in the text"
                )
            sound = sound.replace(old, new)
        return sound

    def parts(self) -> tuple[Part, ...]:
        return () if self.part is None else (self.part, *self.also)


def sound(name: str, *edits: Edit, held_out: bool = False) -> Change:
    return Change(name=name, edits=edits, lot="held out" if held_out else "seen")


def fault(
    name: str, part: Part, *edits: Edit, also: Sequence[Part] = (), held_out: bool = False
) -> Change:
    lot: Lot = "held out" if held_out else "seen"
    return Change(name=name, edits=edits, part=part, also=tuple(also), lot=lot)


def planted(kind: Kind, change: Change, folder: Path) -> ModuleType:
    """The team's module with the change, imported from a file in `folder`."""
    name = f"{kind}_{change.name}"
    path = folder / f"{name}.py"
    path.write_text(
        change.text((TEAMS / f"{kind}.py").read_text(encoding="utf-8")), encoding="utf-8"
    )
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
