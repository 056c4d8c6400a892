"""Where numbers stop being finite: the first function that makes nan or inf out of finite numbers,
forward or backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from pytest_overfit.findings.bench import gradients
from pytest_overfit.findings.bench.wiring import nodes_behind
from pytest_overfit.network.recorder import tensors
from pytest_overfit.network.source import calling_line

MODERATE = 1e4
"""Largest absolute value that a network which has not blown up hands to a function."""
Run = Callable[[], tuple[Tensor, Tensor]]
"""Runs a network. Returns rows of log-probabilities, (steps, vocabulary), and a scalar loss."""


@dataclass(frozen=True, kw_only=True)
class Breach:
    """The first function that made numbers which are not finite.

    what: its output, or the gradient that it hands back. function: its name. dtype: of its result.
    module: the innermost module under way, "" for the network itself. where: `file:line` of the
    code that called it, where that is not torch's. count, total: of the result, not finite, in all.
    largest: absolute value of the largest finite number it was given; 0 where it was given none.
    before: of a gradient, the function whose output held nan or inf before.
    """

    what: Literal["output", "gradient"]
    function: str
    dtype: str
    module: str
    where: str | None
    count: int
    total: int
    largest: float
    before: Breach | None = None

    @property
    def overflowed(self) -> bool:
        """Whether it was given numbers so large that the fault lies before it.

        CTC's own gradient is finite but for log-probabilities that lie hundreds of nats apart.
        """
        return self.largest > MODERATE or self.function == "ctc_loss"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A call under way. largest: absolute value of the largest finite number it was given."""

    function: str
    module: str
    where: str | None
    largest: float = 0.0


class _Watch(TorchFunctionMode):
    """Notes who makes numbers that are not finite, and which function each autograd node is of."""

    def __init__(self) -> None:
        super().__init__()
        self.modules = [""]
        self.nan: Breach | None = None
        self.infinite: Breach | None = None
        self.overflow: Breach | None = None
        self.rising: Breach | None = None
        self.places: dict[Node, _Place] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [t.detach() for t in tensors((args, kwargs or {}))]
        had_nan = any(bool(t.isnan().any()) for t in given)
        finite = all(bool(torch.isfinite(t).all()) for t in given)
        largest = max((_largest(t) for t in given), default=0.0)
        result = func(*args, **(kwargs or {}))
        name = str(getattr(func, "__name__", func)).strip("_")
        for made in tensors(result):
            place = _Place(
                function=name, module=self.modules[-1], where=calling_line(), largest=largest
            )
            if made.grad_fn is not None:
                self.places.setdefault(made.grad_fn, place)
            if not self.nan and given and not had_nan and bool(made.detach().isnan().any()):
                of_infinity = any(bool(t.isposinf().any()) for t in given)
                self.nan = (self.rising if of_infinity else None) or _breach("output", place, made)
            if given and bool(made.detach().isinf().any()):
                breach = _breach("output", place, made)
                rises = bool(made.detach().isposinf().any())  # masks added up fall to -inf
                if finite:
                    self.infinite = self.infinite or breach
                    if rises and breach.overflowed:
                        self.overflow = self.overflow or breach
                if rises and not had_nan and not any(bool(t.isposinf().any()) for t in given):
                    self.rising = self.rising or breach
        return result


def _largest(tensor: Tensor) -> float:
    known = tensor[torch.isfinite(tensor)]
    return float(known.abs().max()) if known.numel() else 0.0


def _breach(what: Literal["output", "gradient"], place: _Place, made: Tensor) -> Breach:
    return Breach(
        what=what,
        function=place.function,
        dtype=str(made.dtype).removeprefix("torch."),
        module=place.module,
        where=place.where,
        count=int((~torch.isfinite(made.detach())).sum()),
        total=made.numel(),
        largest=place.largest,
    )


@contextmanager
def _under_way(network: nn.Module, watch: _Watch) -> Iterator[None]:
    """Keep the names of the modules under way, the innermost last."""

    def leave(*_: object) -> None:
        watch.modules.pop()

    handles = []
    for name, module in network.named_modules():
        name = name.partition(".parametrizations.")[0]  # it is the holder's weight that it makes
        handles += [
            module.register_forward_pre_hook(
                lambda *_, name=name: watch.modules.append(name), prepend=True
            ),
            module.register_forward_hook(leave, always_call=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_breach(network: nn.Module, run: Run) -> Breach | None:
    """The first function that makes numbers which are not finite; None where all are.

    Of an output that is not finite its maker is named: who made inf of numbers too large, else the
    first to make nan, or the inf that it was given, else inf; masks made of -inf count only where
    they reach the output. Of a finite one, the first backward step that makes a gradient which is
    not finite is named, or who made nan before.
    """
    watch = _Watch()
    with torch.enable_grad(), _under_way(network, watch), watch:
        rows, value = run()
    broken = not bool(torch.isfinite(rows).all()) or not bool(torch.isfinite(value))
    if broken:
        return watch.overflow or watch.nan or watch.infinite
    back = _first_backward(value, watch.places) if value.requires_grad else None
    if back is None:
        return None
    back = replace(back, before=watch.nan or watch.infinite)
    if watch.nan is None:
        return back
    # Nan that no loss reads, as in padding, spoils the gradient of all behind it: its maker is named.
    made = watch.nan
    return replace(back, function=made.function, module=made.module, where=made.where)


def _first_backward(value: Tensor, places: dict[Node, _Place]) -> Breach | None:
    found: list[Breach] = []

    def watch(node: Node) -> Any:
        def look(given_back: tuple[Any, ...], given: tuple[Any, ...]) -> None:
            arrived = [tensor for tensor in given if isinstance(tensor, Tensor)]
            bad = [t for t in given_back if isinstance(t, Tensor) and not torch.isfinite(t).all()]
            if not found and bad and all(bool(torch.isfinite(t).all()) for t in arrived):
                name = node.name().partition("Backward")[0].lower()
                place = places.get(node, _Place(function=name, module="", where=None))
                found.append(_breach("gradient", place, bad[0]))

        return node.register_hook(look)

    nodes = nodes_behind(value)
    handles = [watch(node) for node in nodes]
    leaves = [node.variable for node in nodes if hasattr(node, "variable")]
    try:
        gradients(value, leaves)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
