"""`Tape`: reads each tensor as it passes the hooks, before anything can change it in place; and how
what it read hangs together.

How modules feed each other is read from autograd's graph, so that functions between them do not
hide it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node

from pytest_overfit.network.layout import Layout, main_tensor, padded
from pytest_overfit.network.observation import FEATURES
from pytest_overfit.network.recorder import Place
from pytest_overfit.network.signal import (
    ACTIVATIONS,
    Signal,
    effective_rank,
    linear_response,
    read_signal,
    valid_mask,
)
from pytest_overfit.subject import Batch

Layouts = Mapping[Place, tuple[Layout | None, Layout | None]]


@dataclass(kw_only=True, eq=False)
class Visit:
    """One call that was read. module: None for a function between modules.

    same_as: the earlier visit whose output is this very tensor.
    """

    call: Place
    kind: str
    module: nn.Module | None
    entering: Signal | None
    signal: Signal
    rank: float | None
    bias_to_signal: float | None
    fed_by: set[int]
    through: tuple[str, ...]
    same_as: int | None
    gradient_norm: float | None = None

    def take_gradient(self, gradient: Tensor) -> None:
        """Keep the norm of the first gradient that arrives: that of the output itself, where its
        base gets one too.
        """
        if self.gradient_norm is None:
            self.gradient_norm = float(gradient.norm())


class Tape:
    """The visits of one forward pass, in the order in which they end.

    owners: autograd node -> index of the visit whose output it made. root: the node of the
    features.
    """

    def __init__(self, layouts: Layouts, batch: Batch, root: Node | None) -> None:
        self.layouts, self.frames, self.longest, self.root = (
            layouts,
            batch.frames,
            batch.features.shape[1],
            root,
        )
        self.visits: list[Visit] = []
        self.owners: dict[Node, int] = {}
        self._entered: dict[Place, tuple[Signal | None, tuple[str, ...]]] = {}
        self._open = [""]
        self._read: dict[tuple[int, int], tuple[Tensor, Signal | None]] = {}

    def enter(self, call: Place, _: nn.Module, entering: object) -> None:
        """Read what goes in; an activation that is a function in the caller's code becomes a visit
        of its own.
        """
        caller, layout = self._open[-1], self.layouts.get(call, (None, None))[0]
        self._open.append(call[0])
        tensor = main_tensor(entering)
        if layout is None or tensor is None:
            self._entered[call] = (None, ())
            return
        sources, functions = feeders(tensor.grad_fn, self.owners, self.root)
        learned = (
            tensor.grad_fn is not None and not sources
        )  # a query made of parameters tells no clips apart, and need not
        self._entered[call] = (
            None if learned else self._signal(entering, tensor, layout),
            tuple(map(plain_name, functions)),
        )
        if functions and functions[0] in ACTIVATIONS:
            kind = plain_name(functions[0])
            name = f"{caller}.{kind}()".lstrip(".")
            self._add(
                (name, sum(visit.call[0] == name for visit in self.visits)),
                kind,
                None,
                entering,
                layout,
            )

    def leave(self, call: Place, module: nn.Module, leaving: object) -> None:
        """Read what comes out, unless it does not carry the clips."""
        layout = self.layouts.get(call, (None, None))[1]
        if layout is not None:
            self._add(call, type(module).__name__, module, leaving, layout)
        self._entered.pop(call)
        self._open.pop()

    def _add(
        self, call: Place, kind: str, module: nn.Module | None, output: object, layout: Layout
    ) -> None:
        tensor = main_tensor(output)
        signal = self._signal(output, tensor, layout) if tensor is not None else None
        if tensor is None or signal is None:
            return
        index, node = len(self.visits), tensor.grad_fn
        same_as = self.owners.get(node) if node is not None else None
        signal_in, through = self._entered.get(call, (None, ()))
        visit = Visit(
            call=call,
            kind=kind,
            module=module,
            entering=signal_in,
            signal=signal,
            rank=self.visits[same_as].rank if same_as is not None else self._rank(output, layout),
            bias_to_signal=self._bias_to_signal(module, tensor, layout),
            fed_by=feeders(node, self.owners, self.root)[0] or {index - 1},
            through=through,
            same_as=same_as,
        )
        self.visits.append(visit)
        # writing into a view makes autograd forget the view's node and go on from its base
        for made in (tensor, tensor._base):
            if made is not None and made.grad_fn is not None:
                self.owners.setdefault(made.grad_fn, index)
                made.register_hook(visit.take_gradient)

    def _signal(self, value: object, tensor: Tensor, layout: Layout) -> Signal | None:
        key = (id(tensor), tensor._version)
        if key not in self._read:
            rows = self._rows(value, layout)
            self._read[key] = (
                tensor,
                read_signal(*rows, _function(tensor)) if rows is not None else None,
            )
        return self._read[key][1]

    def _rows(self, value: object, layout: Layout) -> tuple[Tensor, Tensor] | None:
        """The tensor as (clips, steps, channels), and which of its steps are valid: (clips,
        steps).
        """
        tensor = padded(value)
        arranged = layout.arrange(tensor.detach(), self.frames) if tensor is not None else None
        return (
            None
            if arranged is None
            else (arranged, valid_mask(self.frames, arranged.shape[1], self.longest))
        )

    def _rank(self, value: object, layout: Layout) -> float | None:
        rows = self._rows(value, layout)
        return effective_rank(*rows) if rows is not None else None

    def _bias_to_signal(
        self, module: nn.Module | None, output: Tensor, layout: Layout
    ) -> float | None:
        response = linear_response(module, output.detach()) if module is not None else None
        rows = self._rows(response[0], layout) if response is not None else None
        if response is None or rows is None:
            return None
        arranged, valid = rows
        energy = float(arranged[valid].float().square().mean())
        bias = float(response[1].float().square().mean())
        return bias / energy if energy > 0 else float("inf") if bias > 0 else 0.0


def plain_name(node: str) -> str:
    """`ReluBackward0` -> `relu`."""
    return node.rpartition("Backward")[0].lower()


def _function(tensor: Tensor) -> str:
    return tensor.grad_fn.name() if tensor.grad_fn is not None else ""


def feeders(
    node: Node | None, owners: Mapping[Node, int], root: Node | None
) -> tuple[set[int], list[str]]:
    """The nearest observed calls upstream of `node` (itself, if a call owns it), and the functions
    on the way, nearest first.

    FEATURES is among the calls where the input is reached unobserved. There is no call where the
    graph is cut: nothing upstream but parameters.
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


def dominators(fed_by: Sequence[set[int]], last: set[int]) -> set[int]:
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
