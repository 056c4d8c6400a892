"""The lowest versions that pyproject.toml declares, as pip's constraints: `python -m
tests.portability.lowest EXTRA,EXTRA`.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def lowest(project: Mapping[str, Any], extras: Iterable[str]) -> list[str]:
    """`name==version` for each requirement of the project and of these extras that applies here, by
    name; raises ValueError without a bound.
    """
    listed = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
    ]
    pins = {}
    for requirement in map(Requirement, listed):
        if requirement.name == project["name"] or (
            requirement.marker and not requirement.marker.evaluate()
        ):
            continue
        bounds = [part.version for part in requirement.specifier if part.operator in (">=", "==")]
        if len(bounds) != 1:
            raise ValueError(f"{PYPROJECT.name}: {requirement} must have one lowest version")
        pins[requirement.name] = bounds[0]
    return [f"{name}=={version}" for name, version in sorted(pins.items())]


if __name__ == "__main__":
    declared = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    print("\n".join(lowest(declared, sys.argv[1].split(","))))
