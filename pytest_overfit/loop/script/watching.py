"""Notes what reaches CTC in a script, and which network it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pytest_overfit.loop.script.loaders import Kind


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """A network that was called, from outside of any other, and what it returned."""

    network: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Ctc:
    """A CTC loss with a gradient. log_probs: (steps, batch, vocabulary).

    inside: whether the network itself computed it.
    """

    log_probs: Tensor
    targets: Tensor
    input_lengths: Tensor
    target_lengths: Tensor
    blank: int
    value: float
    inside: bool


class Watcher:
    """Told of what a script does; what is raised here ends it."""

    def built(self, kind: Kind | None, given: Mapping[str, Any]) -> None:
        """A DataLoader is built: its kind, None where its dataset has no length, and as it was."""

    def drawn(self, kind: Kind, indices: Sequence[int]) -> None:
        """A batch is drawn."""

    def began(self, network: nn.Module) -> None:
        """A network is about to be called from outside of any other, with gradients."""

    def passed(self) -> None:
        """A network is about to be called so without gradients."""

    def called(self, call: Call) -> None:
        """A network was called with gradients."""

    def ctc(self, ctc: Ctc) -> None:
        """A CTC loss with a gradient was taken."""


@contextmanager
def calls_watched(watcher: Watcher) -> Iterator[None]:
    """Tell of networks that are called from outside, and of CTC losses with a gradient."""
    stack: list[nn.Module] = []
    inner, inner_call = torch.ctc_loss, nn.Module.__call__

    def outermost() -> nn.Module | None:
        return next(
            (module for module in stack if next(module.parameters(), None) is not None), None
        )

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if _again():
            return inner_call(module, *args, **kwargs)
        alone = outermost() is None
        stack.append(module)
        outer = alone and outermost() is module
        try:
            if outer:
                watcher.began(module) if torch.is_grad_enabled() else watcher.passed()
            output = inner_call(module, *args, **kwargs)
        finally:
            stack.pop()
        if outer and torch.is_grad_enabled():
            watcher.called(Call(network=module, args=args, kwargs=kwargs, output=output))
        return output

    def ctc_loss(
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Any,
        target_lengths: Any,
        *rest: Any,
        **named: Any,
    ) -> Tensor:
        value: Tensor = inner(log_probs, targets, input_lengths, target_lengths, *rest, **named)
        if value.requires_grad:
            blank = int(rest[0] if rest else named.get("blank", 0))
            lengths = {
                "input_lengths": torch.as_tensor(input_lengths),
                "target_lengths": torch.as_tensor(target_lengths),
            }
            inside = outermost() is not None
            watcher.ctc(
                Ctc(
                    log_probs=log_probs,
                    targets=targets,
                    blank=blank,
                    value=float(value.detach().mean()),
                    inside=inside,
                    **lengths,
                )
            )
        return value

    with ExitStack() as open_:
        # Not a global hook: only newer versions of torch tell one of keyword arguments.
        open_.enter_context(patch.object(nn.Module, "__call__", call))
        open_.enter_context(patch.object(torch, "ctc_loss", ctc_loss))
        yield


def _again() -> bool:
    """Whether a checkpoint runs modules once more, in a backward pass."""
    return torch._C._current_graph_task_id() != -1


def copied(tree: Any) -> Any:
    """The same with tensors of its own, without their graphs."""
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, tree)
