"""Which observations to read: the main path for the machine, the blocks a reader knows for people."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_overfit.probes.graph import FEATURES
from pytest_overfit.probes.observation import Observation

Observations = Sequence[Observation]


def main_path(observations: Observations) -> list[Observation]:
    """What every way from the features to the output passes, in forward order; of modules with the same output the innermost.

    A last layer whose weights start at zero is left out while its gradient shows that they will not stay there.
    """
    path = [o for o in observations if o.on_main_path and o.same_as is None]
    return path[:-1] if path and path[-1].weight_gain == 0 and path[-1].parameter_gradient_norm else path


def feeding(observations: Observations) -> set[int]:
    """Indices of what feeds the output, over any number of stations."""
    reached: set[int] = set()
    queue = [index for index, o in enumerate(observations) if o.on_main_path]
    while queue:
        index = queue.pop()
        if index != FEATURES and index not in reached:
            reached.add(index)
            queue += observations[index].fed_by
    return reached | {index for index, o in enumerate(observations) if o.same_as in reached}


def rows_for_people(observations: Observations) -> list[Observation]:
    """The blocks a reader knows, in forward order: the network's direct parts, gates and functions left out.

    A container of blocks, and a part that holds more than half of all layers, gives way to its own parts.
    """
    feeds = feeding(observations)
    opened = _opened(observations)
    return [
        o
        for index, o in enumerate(observations)
        if index in feeds
        and o.call == 0
        and o.steps_out != 1
        and not o.module.endswith("()")
        and not (o.leaf and o.same_as is not None)
        and o.module not in opened
        and opened.issuperset(_parents(o.module))
    ]


def _opened(observations: Observations) -> set[str]:
    """Names that stand for their parts: those of `rows_for_people`, and containers that are never called themselves."""
    layers = {o.module for o in observations if o.leaf and not o.module.endswith("()")}
    blocks = {o.module.rpartition(".")[0] for o in observations if not o.leaf}
    opened = {parent for o in observations for parent in _parents(o.module)} - {o.module for o in observations}
    for o in observations:
        most = 2 * sum(name.startswith(o.module + ".") for name in layers) > len(layers)
        if most or (o.container and o.module in blocks):
            opened.add(o.module)
    return opened


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]
