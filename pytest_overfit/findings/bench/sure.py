"""A fresh network made as sure of its output as a trained one: what breaks only then shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pytest_overfit.findings.bench import Bench
from pytest_overfit.measures import valid_steps

SURE = 40.0
"""Nats between the likeliest and the least likely token of a network that is sure of its output."""


@contextmanager
def sure(bench: Bench) -> Iterator[bool]:
    """The bench's network with its last layer's output scaled, until its tokens would lie SURE nats
    apart. Gives whether there is a layer to scale.
    """
    rows = valid_steps(bench.outputs[0].float(), bench.outputs[1])
    calls, *_ = bench.passage(bench.clips[0].features)
    heads = [c.module for c in calls if _own_parameters(bench.network, c.module)]
    spread = float((rows.amax(-1) - rows.amin(-1)).max()) if rows.isfinite().all() else 0.0
    if not heads or not spread > 0:
        yield False
        return

    def scale(_: nn.Module, __: Any, output: Any) -> Any:
        return output * (SURE / spread) if isinstance(output, Tensor) else output

    handle = bench.network.get_submodule(heads[-1]).register_forward_hook(scale)
    try:
        yield True
    finally:
        handle.remove()


def _own_parameters(network: nn.Module, module: str) -> bool:
    return any(True for _ in network.get_submodule(module).parameters(recurse=False))
