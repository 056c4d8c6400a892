"""A course that is read from the cache where it is there, and climbed where it is not."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from pytest_overfit.against.cache import Cache, DamagedEntry, Entry, hash_of
from pytest_overfit.against.course import Course, Piece
from pytest_overfit.climb.ladder import Rung

ADDRESS = re.compile(" at 0x[0-9a-f]+")


def identity(
    rung: Rung, *, key: str, seed: int, samples: str, network: str, code: Mapping[str, str]
) -> str:
    """What a course depends on, as one hash. key: of its ladder, since one file may hold networks
    that differ in nothing but how they begin. samples, network: as `content_of` and `structure_of`.
    code: the hash of each file.
    """
    return hash_of(
        {
            "key": key,
            "code": code,
            "network": network,
            "samples": samples,
            "recipe": asdict(rung.recipe),
            "criteria": [(one.name, one.sign, one.bound) for one in rung.criteria],
            "seed": seed,
            "size": rung.size,
            "device": torch.device(rung.device).type,
            "installed": installed(),
        }
    )


def structure_of(network: torch.nn.Module) -> str:
    """A network as it is built, whose sizes may come from anywhere: its modules, and the shapes of
    its parameters.
    """
    shapes = [list(parameter.shape) for parameter in network.parameters()]
    return f"{ADDRESS.sub('', str(network))} {shapes}"


@cache
def installed() -> list[str]:
    """Python, this package's own code, and every package of the environment with its version."""
    engine = Path(__file__).parents[1]
    own = {str(path.relative_to(engine)): path.read_text("utf-8") for path in engine.rglob("*.py")}
    packages = {f"{one.metadata['Name']} {one.version}" for one in distributions()}
    return [platform.python_version(), hash_of(own), *sorted(packages)]


def processor() -> str:
    """Name, instruction set and threads: what the last digits of a course depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor() or platform.machine())
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


@dataclass
class Account:
    """Where courses came from. elsewhere: those of the cache that another processor climbed."""

    courses: int = 0
    cached: int = 0
    elsewhere: int = 0
    damaged: int = 0


class KeptCourse:
    """One course, as `Course` is. make: begins to climb it. code: of the files that are imported
    by now, each with its hash. of_file: the hash of a file as it stands.
    """

    def __init__(
        self,
        cache: Cache,
        name: str,
        *,
        make: Callable[[], Course],
        code: Callable[[], Mapping[str, str]],
        of_file: Callable[[str], str],
        account: Account,
    ) -> None:
        self._cache, self._name, self._code = cache, name, code
        self._before = code()
        self._entry = self._read(account, of_file)
        self._course = None if self._entry else make()
        self._pieces: list[dict[str, Any]] = []
        account.courses += 1

    def _read(self, account: Account, of_file: Callable[[str], str]) -> Entry | None:
        try:
            entry = self._cache.read(self._name)
        except DamagedEntry:
            account.damaged += 1
            return None
        if entry is None or any(of_file(name) != own for name, own in entry.late.items()):
            return None
        account.cached += 1
        account.elsewhere += entry.processor != processor()
        return entry

    def advance(self, to: int) -> Piece:
        """As `Course.advance`; what is read from the cache has no time."""
        if self._entry:
            row = next(one for one in self._entry.pieces if one["step"] >= to or one["ended"])
            return Piece(**row)
        assert self._course is not None
        piece = self._course.advance(to)
        self._pieces.append(replace(piece, step_seconds=None).to_json())
        if piece.held or piece.ended:
            self._cache.write(self._name, self._as_entry())
        return piece

    def _as_entry(self) -> Entry:
        late = {name: own for name, own in self._code().items() if name not in self._before}
        return Entry(
            pieces=tuple(self._pieces),
            memory_bytes=self.memory_bytes(),
            late=late,
            processor=processor(),
        )

    def memory_bytes(self) -> int:
        """As `Course.memory_bytes`."""
        if self._entry:
            return self._entry.memory_bytes
        assert self._course is not None
        return self._course.memory_bytes()

    def close(self) -> None:
        """As `Course.close`."""
        if self._course:
            self._course.close()
