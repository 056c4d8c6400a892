"""The catalogue: every record, contract and detector of this package's modules, gathered by looking
into them.

A module that is put into this folder is part of it. Contracts are ordered by what they are about,
causes before what follows from them; detectors as they stand in their modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TypeVar, get_args

from pytest_overfit.findings.record import About, Contract, Detector, Record
from pytest_overfit.subject import Subject

GATHERERS = ("catalogue", "examine", "book")
"""Modules of this folder that read the catalogue."""
Kind = TypeVar("Kind", Record, Contract, Detector)


def _modules() -> Iterator[ModuleType]:
    """The modules beside this one, by name."""
    folder = Path(__file__).parent
    for name in sorted(path.stem for path in folder.glob("[!_]*.py") if path.stem not in GATHERERS):
        yield import_module(f"{__package__}.{name}")


def _those(kind: type[Kind], modules: tuple[ModuleType, ...]) -> tuple[Kind, ...]:
    """What the modules hold of a kind, by itself or in a tuple, each once, in the order of its
    definition.
    """
    held = [value for module in modules for value in vars(module).values()]
    found = [
        one
        for value in held
        for one in (value if isinstance(value, tuple) else (value,))
        if isinstance(one, kind)
    ]
    return tuple({id(one): one for one in found}.values())


MODULES = tuple(_modules())
RECORDS: dict[str, Record] = {record.name: record for record in _those(Record, MODULES)}
DETECTORS: tuple[Detector, ...] = _those(Detector, MODULES)


def _depth(name: str) -> int:
    """How long the longest chain of causes before a finding is."""
    return 1 + max((_depth(cause) for cause in RECORDS[name].follows), default=0)


CONTRACTS: tuple[Contract, ...] = tuple(
    sorted(
        _those(Contract, MODULES),
        key=lambda contract: (
            get_args(About).index(contract.about),
            contract.may_be_meant,
            min(_depth(record.name) for record in contract.finds),
        ),
    )
)


def record_of(name: str, subject: Subject | None = None) -> Record | None:
    """The record of a finding, of the subject's own contracts too; None of one that has none."""
    own = {
        record.name: record
        for contract in (subject.contracts if subject else ())
        for record in contract.finds
    }
    return RECORDS.get(name) or own.get(name)
