"""How the observed modules feed each other, read from autograd's graph, so that functions between them do not hide it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from torch.autograd.graph import Node

FEATURES = -1
"""Stands among indices of calls for the network's input."""


def feeders(node: Node | None, owners: Mapping[Node, int], root: Node | None) -> tuple[set[int], list[str]]:
    """The nearest observed calls upstream of `node` (itself, if a call owns it), and the functions on the way, nearest first.

    FEATURES is among the calls where the input is reached unobserved. There is no call where the graph is cut: nothing upstream but
    parameters.
    """
    found: set[int] = set()
    seen: dict[Node, None] = {}
    queue = deque([node] if node is not None else [])
    while queue:
        current = queue.popleft()
        if current is root:
            found.add(FEATURES)
        elif current in owners:
            found.add(owners[current])
        elif current not in seen:
            seen[current] = None
            queue += [upstream for upstream, _ in current.next_functions if upstream is not None]
    return found, [node.name() for node in seen if "AccumulateGrad" not in node.name()]


def main_path(fed_by: Sequence[set[int]], last: set[int]) -> set[int]:
    """The calls that every way from the features to the output passes (its dominators).

    fed_by: for each call its feeders, all of them earlier calls. last: the feeders of the output.
    """
    through: list[set[int]] = []
    for index, sources in enumerate(fed_by):
        through.append({index} | _common(sources, through))
    return _common(last, through)


def _common(sources: set[int], through: Sequence[set[int]]) -> set[int]:
    ways = [set[int]() if source == FEATURES else through[source] for source in sources]
    return set.intersection(*ways) if ways else set()
