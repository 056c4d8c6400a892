"""What must hold between train and eval mode: what a network normalises by in eval mode is gathered in train mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit.contracts.bench import Bench, undisturbed
from pytest_overfit.finding import Finding, counted


def statistics_are_gathered(bench: Bench) -> tuple[Finding, ...]:
    """A pass in train mode moves the running statistics of every batch norm that normalises by its batch there and by them in eval mode."""
    before: dict[str, torch.Tensor] = {}
    still: list[str] = []

    def enter(name: str, norm: _BatchNorm) -> None:
        if norm.training and norm.track_running_stats:
            before[name] = _statistics(norm)

    def leave(name: str, norm: _BatchNorm) -> None:
        gathered = before.pop(name, None)
        if gathered is not None and torch.equal(gathered, _statistics(norm)):
            still.append(name)

    handles: list[Any] = []
    for name, norm in _batch_norms(bench.network):
        handles.append(norm.register_forward_pre_hook(lambda norm, _, name=name: enter(name, norm)))
        handles.append(norm.register_forward_hook(lambda norm, _, __, name=name: leave(name, norm)))
    try:
        with undisturbed(bench.network, train=True, seed=bench.seed), torch.no_grad():
            bench.subject.log_probs(bench.network, bench.batch.features, bench.batch.frames)
    finally:
        for handle in handles:
            handle.remove()
    return (_never_gathered(bench, still),) if still else ()


def _statistics(norm: _BatchNorm) -> torch.Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return torch.cat([norm.running_mean, norm.running_var]).clone()


def _batch_norms(network: nn.Module) -> list[tuple[str, _BatchNorm]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm)]


def _never_gathered(bench: Bench, still: list[str]) -> Finding:
    norm = bench.network.get_submodule(still[0])
    return Finding(
        name="train_eval_gap",
        headline=f"{still[0]} normalises by the batch in train mode, and by statistics that no pass in train mode moves in eval mode",
        evidence=(f"{counted(len(still), 'batch norm')} of {len(_batch_norms(bench.network))}, momentum {norm.momentum}",),
        module=still[0],
        try_="give it a momentum above 0, or keep it in eval mode while training too",
        status="confirmed",
    )
