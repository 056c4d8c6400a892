"""Findings of a network's wiring: all of the input must reach the output, and a gradient all that
is trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.bench import Bench, perturbed
from pytest_overfit.findings.bench.wiring import JITTER, UPHEAVAL, Wiring, is_below
from pytest_overfit.findings.lost_input import INPUT_IGNORED, indistinct, input_lost
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import (
    SLOPED,
    TRUE_GRADIENT,
    UNDETACH,
    WITHOUT_IT,
)
from pytest_overfit.findings.signal import DEAD_UNITS
from pytest_overfit.findings.unread import (
    IGNORED_INSIDE,
    SKIPPED_FRAMES,
    frames_ignored,
    parts_in,
    spans,
)
from pytest_overfit.network.recorder import Call, differ, distance, undisturbed

NUMBERED = re.compile(r"\.\d+(?=\.)")
"""A block of several in the path of a module."""


def all_parts_are_wired(bench: Bench) -> tuple[Finding, ...]:
    """The output depends on the input, on each frame and on every module, and a gradient reaches each
    module that is trained.
    """
    wiring = bench.once(Wiring.of)
    dim = bench.batch.features.shape[-1]
    if len(wiring.columns) == dim:
        noise = wiring.disturbed(torch.ones_like(bench.batch.features, dtype=torch.bool))
        clip = bench.clips[0].frames
        return (input_lost(wiring, bench.clips[0].features, noise[0, :clip]),)
    if (twins := indistinct(wiring)) is not None:
        return (input_lost(wiring, *twins),)
    unused = wiring.unused
    moving = [module for module in wiring.silent_modules if module not in unused]
    detached = [module for module in moving if not wiring.below(module) & wiring.flow.attached]
    stuck = [module for module in moving if module not in detached and wiring.moves(module, JITTER)]
    stuck += [module for module in wiring.silent_owners if wiring.moves(module, JITTER, own=True)]
    found = [_detached(wiring, detached)] if detached else []
    found += [_stuck(module) for module in stuck]
    found += [_unused(wiring, module) for module in unused]
    inner = max(sum(bench.batch.frames.tolist()), 1)
    if len(wiring.frames) > IGNORED_INSIDE * inner:
        found.append(frames_ignored(wiring, inner))
    return tuple(found)


def _detached(wiring: Wiring, modules: list[str]) -> Finding:
    """Modules that shape the output and are cut from its gradient; located at the first of them
    that runs with gradients switched off, else at the module that holds it and has a gradient, or the
    first behind the cut.
    """
    cut = [module or "the network" for module in modules]
    if (off := _without_gradient(wiring, modules)) is not None:
        return DETACHED_BRANCH.finding(
            headline=f"no gradient reaches {naming(cut)}: {off} runs with gradients switched off",
            evidence=("torch.is_grad_enabled() is False where it is called, in train mode",),
            module=off,
            try_="call it outside torch.no_grad, and checkpoint with use_reentrant=False",
            status="confirmed",
        )
    behind = _first_behind(wiring, modules)
    inside = _cut_inside(wiring, modules[0], behind or "")
    place = inside or behind
    return DETACHED_BRANCH.finding(
        headline=f"no gradient reaches {naming(cut)}"
        + (f": the graph is cut {'in' if inside else 'before'} {place}" if place else ""),
        evidence=(
            (
                "the output answers to changes of these modules, and their parameters are not in "
                "its graph"
            ),
        ),
        module=place,
        try_="look for detach(), .data, no_grad or a copy through numpy"
        + (f" {'in' if inside else 'in front of'} {place}" if place else ""),
        status="confirmed",
    )


def _cut_inside(wiring: Wiring, module: str, behind: str) -> str | None:
    """The smallest module around one that is cut off which a gradient reaches all the same, where
    what stands behind the cut is outside of it.
    """
    while module := module.rpartition(".")[0]:
        if wiring.below(module) & wiring.flow.attached:
            return None if f"{behind}.".startswith(f"{module}.") else module
    return None


def _stuck(module: str) -> Finding:
    """A module that a gradient of zero reaches, there and near by, and that the output answers to
    all the same: by steps, which have no slope.
    """
    cut = module or "the network"
    return DETACHED_BRANCH.finding(
        headline=f"the gradient of {cut} is zero, and the output answers to it by steps",
        evidence=(
            "a little noise on its parameters gives another output, and their gradient is exactly "
            "zero, in both modes, with noise and without",
        ),
        module=module or None,
        try_=f"look in {cut} and behind it for an argmax, a rounding, a comparison, or a softmax over one "
        "number",
        status="confirmed",
    )


def _without_gradient(wiring: Wiring, modules: list[str]) -> str | None:
    """The first of these modules that is called with gradients switched off, in train mode."""
    bench, off = wiring.bench, list[str]()

    def note(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _, __: None if torch.is_grad_enabled() else off.append(name)

    handles = [
        bench.network.get_submodule(name).register_forward_pre_hook(note(name))
        for name in modules
        if name
    ]
    try:
        with undisturbed(bench.network, train=True, seed=bench.seed), torch.enable_grad():
            bench.subject.log_probs(bench.network, bench.batch.features, bench.batch.frames)
    finally:
        for handle in handles:
            handle.remove()
    return off[0] if off else None


def _first_behind(wiring: Wiring, modules: list[str]) -> str | None:
    """The first module that gets a gradient and that is given something else when the given modules
    change.
    """
    bench = wiring.bench
    names: set[str] = set().union(*(wiring.below(module) for module in modules))
    with perturbed(bench.network, names, scale=UPHEAVAL, seed=bench.seed):
        others, *_ = bench.passage(bench.clips[0].features)
    pairs: Iterable[tuple[Call, Call]] = zip(wiring.calls, others, strict=False)
    return next(
        (
            one.module
            for one, other in pairs
            if _owns(wiring, one.module) and differ(one.inputs, other.inputs)
        ),
        None,
    )


def _owns(wiring: Wiring, module: str) -> bool:
    own = {
        f"{module}.{name}"
        for name, _ in wiring.bench.network.get_submodule(module).named_parameters(recurse=False)
    }
    return bool(own & wiring.flow.alive)


def _unused(wiring: Wiring, module: str) -> Finding:
    """A warning where the module has no share in the output's graph and no input is lost with it,
    as heads that serve another loss. One that hands its input on beside all that it has learnt
    serves none.
    """
    hands_on = _hands_on(wiring, module)
    if hands_on and (last := _only_zeros(wiring, module)):
        return DEAD_UNITS.finding(
            headline=f"{module} is trained and puts out nothing but zeros",
            evidence=(f"{last} is given numbers and makes zeros of all of them",),
            module=last,
            try_="start its bias at 0, or end in no activation that cuts off",
            status="confirmed",
        )
    twin = _used_twin(wiring, module) or _first_of_several(wiring, module)
    columns = (
        f"columns {spans(wiring.columns)}{parts_in(wiring)} of the input change nothing either"
    )
    return UNUSED_MODULE.finding(
        headline=(
            f"{module or 'the network'} is trained and never used: the output does not depend on it"
            + (", though what it hands on does reach it" if hands_on else "")
        ),
        evidence=(
            *((columns,) if wiring.columns else ()),
            *((f"{twin}, its like, is used",) if twin else ()),
        ),
        module=module,
        try_="use it, remove it, or leave it out of `trainable` where it serves another loss",
        status="confirmed",
        severity="failure"
        if wiring.columns or hands_on or twin or wiring.below(module) & wiring.flow.attached
        else "warning",
    )


def _used_twin(wiring: Wiring, module: str) -> str | None:
    """The module at the same place of another block, which the output does depend on, where one's
    own block is used as well: what it puts out is thrown away. None of one that is not called, or of
    a head, which may serve another loss in each block.
    """
    block = module.rpartition(".")[0]
    if not NUMBERED.search(f".{block}.") or not wiring.below(block) & wiring.flow.alive:
        return None
    given = [t for call in wiring.calls if call.module == module for t in call.outputs if t.dim()]
    if not given or any(wiring.bench.vocabulary in tensor.shape for tensor in given):
        return None
    of = NUMBERED.sub(".#", f".{module}.")
    alike = [
        name
        for name, _ in wiring.bench.network.named_modules()
        if NUMBERED.sub(".#", f".{name}.") == of
    ]
    used = [name for name in alike if wiring.below(name) & wiring.flow.alive]
    # What the last block alone hands to a next one leads nowhere, as in WaveNet.
    return None if used == alike[:-1] and module == alike[-1] else next(iter(used), None)


def _only_zeros(wiring: Wiring, module: str) -> str | None:
    """The first module within one, or itself, that puts out nothing but zeros, where that is what
    comes out of it; else None.
    """
    own = [call for call in wiring.calls if is_below(call.module, module)]
    if not own or any(bool(one.any()) for one in own[-1].outputs):
        return None
    return next(call.module for call in own if not any(bool(one.any()) for one in call.outputs))


def _first_of_several(wiring: Wiring, module: str) -> str | None:
    """The first of a list of modules, where it alone is called and used, and this is one of the others:
    a loop over them ends in its first round.
    """
    held, _, place = module.rpartition(".")
    if not place.isdigit() or not isinstance(
        several := wiring.bench.network.get_submodule(held), nn.ModuleList
    ):
        return None
    called = {call.module for call in wiring.calls}
    names = [f"{held}.{index}" for index in range(len(several))]
    first = names[0]
    alone = [name for name in names if name in called] == [first]
    used = wiring.below(first) & wiring.flow.alive
    alike = type(several[0]) is type(wiring.bench.network.get_submodule(module))
    return first if alone and used and alike else None


def _hands_on(wiring: Wiring, module: str) -> bool:
    """Whether the output answers to other numbers in what a module puts out."""
    bench = wiring.bench
    if not module:
        return False

    def change(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, Tensor) and output.is_floating_point():
            return output + torch.linspace(-1, 1, output.numel()).to(output).view_as(output)
        if isinstance(output, tuple) and output:
            return (change(_, __, output[0]), *output[1:])
        return output

    batch = bench.batch
    before, _ = bench.run(batch.features, batch.frames)
    handle = bench.network.get_submodule(module).register_forward_hook(change)
    try:
        after, _ = bench.run(batch.features, batch.frames)
    finally:
        handle.remove()
    return distance(before.float(), after.float()) > bench.tolerance


DETACHED_BRANCH = Record(
    name="detached_branch",
    stage="network",
    means="Modules shape the output and are cut off from its gradient: they stay as they started.",
    detected=(
        "Their parameters are changed and the output answers, while they are not in its graph: the "
        "first module behind the cut is named. Or their gradient is exactly zero, and the output "
        "answers to a little noise on them: they are named."
    ),
    mend=(
        "Look for detach(), .data, no_grad or a copy through numpy in front of the named module; "
        "behind it, where its gradient is zero, for a choice that has none: an argmax, a rounding, a "
        "softmax over one number."
    ),
    follows=("non_finite_output", "non_finite_gradient"),
    remedies=(UNDETACH, SLOPED, TRUE_GRADIENT, *WITHOUT_IT),
    planted=("net-detach", "net-router"),
    harmless=True,
)
UNUSED_MODULE = Record(
    name="unused_module",
    stage="network",
    means="A module is trained and the output does not depend on it: a branch that is built and "
    "not used, or times 0, or a block that hands on its own input. A head that serves another "
    "loss is lawful, and only told.",
    detected="Modules without a gradient in either mode are changed, and the output does not "
    "answer. It fails where columns are lost with it, where what it hands on is used, where the same "
    "module of another block is used, or the first alone of a list.",
    mend=(
        "Use it, remove it, or leave it out of Subject(trainable=...) where it serves another loss."
    ),
    follows=("non_finite_output", "non_finite_gradient", "dead_branch", "unscaled_input"),
    no_remedy="what the module was meant to add cannot be known",
    planted=("net-modality", "net-modality-times-0", "net-auxiliary-head"),
    harmless=True,
)

WHOLE_WIRING = Contract(
    name="whole wiring",
    holds="the output uses all of its input, gradients reach all modules",
    about="network",
    examine=all_parts_are_wired,
    finds=(
        INPUT_IGNORED,
        DEAD_UNITS,
        DETACHED_BRANCH,
        UNUSED_MODULE,
        SKIPPED_FRAMES,
    ),
)
