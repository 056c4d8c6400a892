"""Findings of what is trained: all that learns must be given to the optimiser, and nothing be frozen
as it was drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import commonpath

import torch
from torch import Tensor, nn

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.bench import Bench
from pytest_overfit.findings.bench.wiring import Wiring, nodes_behind
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import CALLED_FIRST, REGISTERED, TRAIN_ALL, UNFREEZE
from pytest_overfit.network.network_edits import TORCHS_OWN
from pytest_overfit.network.recorder import undisturbed

FROZEN = 0.1
"""Share of the parameters that must be frozen as they were drawn to be told."""


def all_that_learns_is_trained(bench: Bench) -> tuple[Finding, ...]:
    """Every parameter that gets a gradient is given to the optimiser, and so is the last layer."""
    if strangers := _strangers(bench):
        return (_unregistered(bench, strangers),)
    if bench.made_by_a_call:
        return (_made_late(bench),)
    wiring = bench.once(Wiring.of)
    left_out = sorted(wiring.flow.alive - wiring.trained)
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in left_out)) or _frozen_head(
        wiring
    )
    if not modules:
        return _frozen_as_drawn(wiring)
    head = _last_with_parameters(wiring)
    modules.sort(key=lambda module: module != head)  # what ends the network hurts most
    missing = (
        "gets a gradient and is not given to the optimiser"
        if left_out
        else "ends the network and is frozen"
    )
    return (
        PARAMETER_NOT_TRAINED.finding(
            headline=f"{modules[0] or 'the network'} {missing}"
            + (f", like {counted(len(modules) - 1, 'more module')}" if len(modules) > 1 else ""),
            evidence=(f"parameters: {naming(left_out)}",) if left_out else (),
            module=modules[0],
            try_="give it to the optimiser, or say that it is frozen with requires_grad_(False)"
            if left_out
            else "unfreeze it",
            status="confirmed" if left_out else "suspected",
        ),
    )


def _made_late(bench: Bench) -> Finding:
    """Parameters that the first call makes, in the place of others or anew."""
    names = bench.made_by_a_call
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    return PARAMETER_NOT_TRAINED.finding(
        headline=f"the first call makes {naming([one or 'the network' for one in modules])} anew: an optimiser made before it is given "
        "other parameters",
        evidence=(
            f"{counted(len(names), 'parameter')} of the network after its first call "
            f"{'is' if len(names) == 1 else 'are'} not among those that it was built with",
        ),
        module=modules[0] or None,
        try_="make them in __init__, or as torch.nn's lazy layers, whose parameters stay the same",
        status="confirmed",
    )


def _strangers(bench: Bench) -> list[Tensor]:
    """Tensors that learn, by the graph of the output, and are no parameters of the network: no
    optimiser is given them.
    """
    known = {id(parameter) for parameter in bench.network.parameters()}
    features = (
        bench.batch.features
    )  # a network may ask for its gradient, as those with checkpoints do
    with undisturbed(bench.network, train=True, seed=bench.seed), torch.enable_grad():
        log_probs, _ = bench.subject.log_probs(bench.network, features, bench.batch.frames)
    leaves = [node.variable for node in nodes_behind(log_probs) if hasattr(node, "variable")]
    return [
        leaf
        for leaf in leaves
        if id(leaf) not in known and not torch.equal(leaf.flatten(), features.flatten())
    ]


def _unregistered(bench: Bench, strangers: list[Tensor]) -> Finding:
    """Named by the attribute that holds them, where one does: modules in a plain list or dict, a
    tensor that is no nn.Parameter.
    """
    held = [
        (owner, path)
        for owner, path, tensors in _held_aside(bench.network)
        if any(t is s for t in tensors for s in strangers)
    ]
    where = (
        f"in {held[0][1]}, a plain attribute"
        if held
        else "made anew in the forward pass, or held outside it"
    )
    shapes = ", ".join(dict.fromkeys(str(tuple(tensor.shape)) for tensor in strangers[:3]))
    return PARAMETER_NOT_TRAINED.finding(
        headline=(
            f"{counted(len(strangers), 'tensor')} with a gradient "
            f"{'is' if len(strangers) == 1 else 'are'} no parameter of the network: {where}"
        ),
        evidence=(
            f"shapes {shapes}",
            (
                "what is no parameter is not given to the optimiser, not saved and not moved to a "
                "device"
            ),
        ),
        module=held[0][0] or None if held else None,
        try_=(
            "keep layers in nn.ModuleList or nn.ModuleDict, tensors in nn.Parameter, and make them "
            "in __init__"
        ),
        status="confirmed",
    )


def _held_aside(network: nn.Module) -> Iterator[tuple[str, str, list[Tensor]]]:
    """(owner, dotted path, its tensors) of attributes that hold modules or tensors and do not
    register them.
    """
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            items = (
                value.values()
                if isinstance(value, dict)
                else value
                if isinstance(value, list | tuple)
                else [value]
            )
            tensors: list[Tensor] = [
                t for item in items if isinstance(item, nn.Module) for t in item.parameters()
            ]
            tensors += [item for item in items if isinstance(item, Tensor)]
            if tensors and attribute not in TORCHS_OWN:
                yield name, f"{name}.{attribute}".lstrip("."), tensors


def _last_with_parameters(wiring: Wiring) -> str | None:
    """The last module with parameters of its own that ran."""
    network = wiring.bench.network
    owners = [
        call.module
        for call in wiring.calls
        if any(True for _ in network.get_submodule(call.module).parameters(recurse=False))
    ]
    return owners[-1] if owners else None


def _frozen_head(wiring: Wiring) -> list[str]:
    """The last module with parameters that ran, where all of them are frozen while others are
    trained.
    """
    head = _last_with_parameters(wiring)
    if head is None or not wiring.trained:
        return []
    frozen = all(
        not parameter.requires_grad
        for parameter in wiring.bench.network.get_submodule(head).parameters()
    )
    return [head] if frozen else []


def _frozen_as_drawn(wiring: Wiring) -> tuple[Finding, ...]:
    """Weights that are frozen and that another seed draws otherwise: nothing was learnt by them, and
    nothing will be. A warning where all that is trained stands behind them, as behind a trunk whose
    weights are loaded elsewhere; not where it is the last module alone.
    """
    bench, network = wiring.bench, wiring.bench.network
    frozen = {
        name: parameter
        for name, parameter in network.named_parameters()
        if not parameter.requires_grad and name not in wiring.trained and parameter.dim() > 1
    }
    if not frozen or not wiring.trained:
        return ()
    other = dict(
        bench.subject.fresh(
            feature_dim=bench.clips[0].features.shape[1], seed=bench.seed + 1, size=bench.size
        ).named_parameters()
    )
    drawn = [
        name
        for name, parameter in frozen.items()
        if name in other
        and not other[name].requires_grad
        and other[name].shape == parameter.shape
        and not torch.equal(other[name].to(parameter), parameter)
    ]
    share = sum(frozen[name].numel() for name in drawn) / sum(
        parameter.numel() for parameter in network.parameters()
    )
    if share < FROZEN:
        return ()
    order = list(dict.fromkeys(call.module for call in wiring.calls))
    learns, held = (
        [name for name in order if name in {one.rpartition(".")[0] for one in names}]
        for names in (wiring.trained, drawn)
    )
    ahead = bool(learns and held) and order.index(held[-1]) < order.index(learns[0])
    head_alone = learns == [_last_with_parameters(wiring)]
    parts = _common(held or [name.rpartition(".")[0] for name in drawn])
    return (
        PARAMETER_NOT_TRAINED.finding(
            headline=f"{naming(parts)} {'is' if len(parts) == 1 else 'are'} frozen as drawn at "
            f"random: {share:.0%} of the parameters"
            + (f", all but {learns[0]}, are" if head_alone else " are")
            + " never trained",
            evidence=(
                f"another seed draws {drawn[0]} otherwise, so that it holds nothing learnt before",
            ),
            module=parts[-1] if head_alone else parts[0],
            try_="load the weights that they were trained to, or unfreeze them",
            status="confirmed",
            severity="failure" if head_alone or (learns and not ahead) else "warning",
        ),
    )


def _common(modules: list[str]) -> list[str]:
    """Of the modules within each child of the network, the path that they have in common."""
    children: dict[str, list[str]] = {}
    for name in modules:
        children.setdefault(name.partition(".")[0], []).append(name.replace(".", "/"))
    return [commonpath(paths).replace("/", ".") for paths in children.values()]


PARAMETER_NOT_TRAINED = Record(
    name="parameter_not_trained",
    stage="network",
    means="A parameter gets a gradient and no optimiser is given it, or the last layer is frozen, "
    "or layers are frozen as drawn at random, or kept where torch does not see them, in a plain list "
    "or dict, or made anew by the first call, when the optimiser holds others.",
    detected=(
        "What has a gradient is compared with what Subject(trainable=...) gives, and with the "
        "network's parameters; frozen weights, a tenth of all or more, with those of another seed. Such "
        "a trunk in front of all that is trained is a warning: its weights may be loaded elsewhere."
    ),
    mend=(
        "Give it to the optimiser, or freeze it with requires_grad_(False); keep layers in "
        "nn.ModuleList or nn.ModuleDict."
    ),
    follows=("carried_state",),  # what is carried holds leaves of earlier calls
    remedies=(TRAIN_ALL, UNFREEZE, REGISTERED, CALLED_FIRST),
    planted=("train-optimizer-misses", "train-frozen-head"),
)

ALL_TRAINED = Contract(
    name="all trained",
    holds="every parameter with a gradient is in the optimiser",
    about="network",
    examine=all_that_learns_is_trained,
    finds=(PARAMETER_NOT_TRAINED,),
)
