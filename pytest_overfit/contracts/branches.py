"""What must hold of branches: nothing that is trained stands behind a gate that is frozen shut."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit.contracts.bench import Bench, shaken
from pytest_overfit.contracts.passage import differ
from pytest_overfit.contracts.wiring import UPHEAVAL, Wiring, flow
from pytest_overfit.finding import Finding, naming


def branches_carry(bench: Bench) -> tuple[Finding, ...]:
    """No frozen zero keeps what is trained from its input or from its gradient.

    Without a gradient are parameters that get one as soon as that zero is another number. Without an input are modules behind a frozen
    layer that gives the same for any clip. A gate at zero that is trained is lawful, as of ReZero: it opens. So are adapters that are
    frozen whole: nothing of theirs is trained.
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
        (_dead(starved[0], f"{naming(starved[1])}, which {'is' if len(starved[1]) == 1 else 'are'} trained, cannot tell clips apart"),)
        if starved
        else ()
    )


def _starved(wiring: Wiring, gates: set[str]) -> tuple[str, list[str]] | None:
    """A gate whose module is given different things for two clips and gives the same, with the trained modules that see no difference."""
    bench = wiring.bench
    first = bench.clips[0].features
    calls, *_ = bench.passage(first)
    others, *_ = bench.passage(wiring.disturbed(torch.ones_like(bench.batch.features, dtype=torch.bool))[0, : len(first)].cpu())
    pairs = list(zip(calls, others, strict=False))
    shut = {one.module for one, other in pairs if differ(one.inputs, other.inputs) and not differ(one.outputs, other.outputs)}
    gate = next((gate for gate in sorted(gates) if gate.rpartition(".")[0] in shut), None)
    if gate is None:
        return None
    blind = [one.module for one, other in pairs if one.inputs and not differ(one.inputs, other.inputs) and wiring.below(one.module) & wiring.trained]
    own = gate.rpartition(".")[0]
    starved = list(dict.fromkeys(([own] if wiring.below(own) & wiring.trained else []) + blind))
    return (gate, starved) if starved else None


def _frozen_zeros(wiring: Wiring) -> set[str]:
    """Frozen parameters, and buffers that are no statistics, that are all zero."""
    network = wiring.bench.network
    statistics = {f"{name}.running_mean" for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    held = [(name, tensor) for name, tensor in (*network.named_parameters(), *network.named_buffers()) if tensor.is_floating_point()]
    return {name for name, tensor in held if name not in wiring.trained | statistics and tensor.numel() and not tensor.any()}


def _revived(bench: Bench, silent: frozenset[str], gates: set[str]) -> frozenset[str]:
    with shaken(bench.network, gates, scale=UPHEAVAL, seed=bench.seed):
        return silent & (flow(bench, train=False).alive | flow(bench, train=True).alive)


def _dead(gate: str, shown: str) -> Finding:
    module, _, own = gate.rpartition(".")
    return Finding(
        name="dead_branch",
        headline=f"the branch of {module} carries nothing: its {own} is zero and frozen"
        if module
        else f"a branch carries nothing: {own} is zero and frozen",
        evidence=(shown, f"while {gate} is zero; it is not trained"),
        module=module or None,
        try_=f"unfreeze {gate}, start it elsewhere than at zero, or take the branch out",
        status="confirmed",
    )
