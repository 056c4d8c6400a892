"""What must hold between train and eval mode: what a network normalises by in eval mode is gathered in train mode."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit.contracts.bench import Bench, undisturbed
from pytest_overfit.finding import Finding, counted


def statistics_are_gathered(bench: Bench) -> tuple[Finding, ...]:
    """A pass in train mode moves the running statistics of every batch norm that normalises by its batch there and by them in eval mode."""
    norms = [(name, module) for name, module in bench.network.named_modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    with undisturbed(bench.network, train=True, seed=bench.seed), torch.no_grad():
        before = {name: _statistics(norm) for name, norm in norms}
        bench.subject.log_probs(bench.network, bench.batch.features, bench.batch.frames)
        still = [name for name, norm in norms if _gathered_nothing(before[name], _statistics(norm))]
    return (_never_gathered(bench, still, len(norms)),) if still else ()


def _statistics(norm: _BatchNorm) -> tuple[int, torch.Tensor]:
    """How many batches it has gathered from, and what."""
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return int(norm.num_batches_tracked), torch.cat([norm.running_mean, norm.running_var])


def _gathered_nothing(before: tuple[int, torch.Tensor], after: tuple[int, torch.Tensor]) -> bool:
    return after[0] > before[0] and torch.equal(before[1], after[1])


def _never_gathered(bench: Bench, still: list[str], norms: int) -> Finding:
    norm = bench.network.get_submodule(still[0])
    return Finding(
        name="train_eval_gap",
        headline=f"{still[0]} normalises by the batch in train mode, and by statistics that no pass in train mode moves in eval mode",
        evidence=(f"{counted(len(still), 'batch norm')} of {norms}, momentum {norm.momentum}",),
        module=still[0],
        try_="give it a momentum above 0, or keep it in eval mode while training too",
        status="confirmed",
    )
