"""Findings of branches: nothing that is trained may stand behind a gate that is frozen shut."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.bench import Bench, perturbed
from pytest_overfit.findings.bench.wiring import UPHEAVAL, Wiring, flow
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import UNFREEZE, Remedy
from pytest_overfit.network import network_edits
from pytest_overfit.network.recorder import differ

if TYPE_CHECKING:
    from pytest_overfit.climb.ladder import Rung


def branches_carry(bench: Bench) -> tuple[Finding, ...]:
    """No frozen zero keeps what is trained from its input or from its gradient.

    Without a gradient are parameters that get one as soon as that zero is another number. Without
    an input are modules behind a frozen layer that gives the same for any clip. A gate at zero that
    is trained is lawful, as of ReZero: it opens. So are adapters that are frozen whole: nothing of
    theirs is trained.
    """
    wiring = bench.once(Wiring.of)
    gates = _frozen_zeros(wiring)
    if not gates:
        return ()
    silent = (wiring.trained & wiring.flow.attached) - wiring.flow.alive
    if silent and _revived(bench, silent, gates):
        for gate in sorted(gates):
            if revived := _revived(bench, silent, {gate}):
                return (_dead(gate, f"no gradient reaches {naming(sorted(revived))}"),)
    starved = _starved(wiring, gates)
    return (
        (
            _dead(
                starved[0],
                (
                    f"{naming(starved[1])}, which {'is' if len(starved[1]) == 1 else 'are'} "
                    "trained, cannot tell clips apart"
                ),
            ),
        )
        if starved
        else ()
    )


def _starved(wiring: Wiring, gates: set[str]) -> tuple[str, list[str]] | None:
    """A gate whose module is given different things for two clips and gives the same, with the
    trained modules that see no difference.
    """
    bench = wiring.bench
    first = bench.clips[0].features
    calls, *_ = bench.passage(first)
    others, *_ = bench.passage(
        wiring.disturbed(torch.ones_like(bench.batch.features, dtype=torch.bool))[
            0, : len(first)
        ].cpu()
    )
    pairs = list(zip(calls, others, strict=False))
    shut = {
        one.module
        for one, other in pairs
        if differ(one.inputs, other.inputs) and not differ(one.outputs, other.outputs)
    }
    gate = next((gate for gate in sorted(gates) if gate.rpartition(".")[0] in shut), None)
    if gate is None:
        return None
    blind = [
        one.module
        for one, other in pairs
        if one.inputs
        and not differ(one.inputs, other.inputs)
        and wiring.below(one.module) & wiring.trained
    ]
    own = gate.rpartition(".")[0]
    starved = list(dict.fromkeys(([own] if wiring.below(own) & wiring.trained else []) + blind))
    return (gate, starved) if starved else None


def _frozen_zeros(wiring: Wiring) -> set[str]:
    """Frozen parameters, and buffers that are no statistics, that are all zero."""
    network = wiring.bench.network
    statistics = {
        f"{name}.running_mean"
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
    }
    held = [
        (name, tensor)
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
        if tensor.is_floating_point()
    ]
    return {
        name
        for name, tensor in held
        if name not in wiring.trained | statistics and tensor.numel() and not tensor.any()
    }


def _revived(bench: Bench, silent: frozenset[str], gates: set[str]) -> frozenset[str]:
    with perturbed(bench.network, gates, scale=UPHEAVAL, seed=bench.seed):
        return silent & (flow(bench, train=False).alive | flow(bench, train=True).alive)


def _dead(gate: str, shown: str) -> Finding:
    module, _, own = gate.rpartition(".")
    return DEAD_BRANCH.finding(
        headline=f"the branch of {module} carries nothing: its {own} is zero and frozen"
        if module
        else f"a branch carries nothing: {own} is zero and frozen",
        evidence=(shown, f"while {gate} is zero; it is not trained"),
        module=module or None,
        try_=f"unfreeze {gate}, start it elsewhere than at zero, or take the branch out",
        status="confirmed",
    )


def _opened(rung: Rung, finding: Finding) -> Rung:
    """The gates of the named module at one: its own frozen zeros, and those buffers that are no
    statistics.
    """

    def open_gates(network: nn.Module) -> bool:
        module = network.get_submodule(finding.module or "")
        frozen = [p for p in module.parameters(recurse=False) if not p.requires_grad]
        buffers = (
            []
            if isinstance(module, _BatchNorm)
            else [b for b in module.buffers(recurse=False) if b.is_floating_point()]
        )
        shut = [tensor for tensor in (*frozen, *buffers) if tensor.numel() and not tensor.any()]
        for tensor in shut:
            tensor.fill_(1.0)
        return bool(shut)

    return replace(rung, subject=network_edits.edited(rung.subject, open_gates))


OPEN_GATE = Remedy(name="that gate at one", change=_opened)

DEAD_BRANCH = Record(
    name="dead_branch",
    stage="network",
    means="What is trained stands behind a gate that is zero and frozen: no gradient reaches it, "
    "or it sees no clip. The branch carries nothing, and "
    "never will. A gate at zero that is trained is lawful: it opens.",
    detected=(
        "Frozen zeros are given another value, one by one; what then gets a gradient, or is told "
        "clips apart, was dead."
    ),
    mend="Unfreeze the named gate, start it elsewhere than at zero, or take the branch out.",
    follows=("non_finite_output", "non_finite_gradient", "input_ignored"),
    remedies=(OPEN_GATE, UNFREEZE),
    planted=("net-frozen-scale", "net-shut-norm", "net-shut-residual"),
    harmless=True,
)

OPEN_BRANCHES = Contract(
    name="open branches",
    holds="nothing trained stands behind a gate frozen at zero",
    about="network",
    examine=branches_carry,
    finds=(DEAD_BRANCH,),
)
