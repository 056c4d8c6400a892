"""Findings of a network's wiring: all of the input must reach the output, and a gradient all that
is trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pytest_overfit import ctc
from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.bench import Bench, perturbed
from pytest_overfit.findings.bench.wiring import JITTER, UPHEAVAL, Wiring, is_below
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import (
    BYPASS,
    PLAIN_CALL,
    RESET_MODULE,
    SLOPED,
    UNCLIPPED,
    UNDETACH,
    USUAL_EPS,
)
from pytest_overfit.findings.signal import DEAD_UNITS
from pytest_overfit.network.recorder import Call, differ, distance, undisturbed

NUMBERED = re.compile(r"\.\d+(?=\.)")
"""A block of several in the path of a module."""
EDGE = 0.1
"""Share of the columns, at either edge, that a stride over features may leave over."""
SHRINKS = 100.0
"""By how much smaller the numbers must be that a module puts out to be blamed for what is lost in
rounding behind it.
"""
IGNORED_INSIDE = 0.1
"""Share of a clip's inner frames without any effect that max pooling, by chance, may leave; strides
without overlap leave more.
"""


def all_parts_are_wired(bench: Bench) -> tuple[Finding, ...]:
    """The output depends on the input, on each frame and on every module, and a gradient reaches each
    module that is trained.
    """
    wiring = bench.once(Wiring.of)
    dim = bench.batch.features.shape[-1]
    if len(wiring.columns) == dim:
        noise = wiring.disturbed(torch.ones_like(bench.batch.features, dtype=torch.bool))
        clip = bench.clips[0].frames
        return (_input_lost(wiring, bench.clips[0].features, noise[0, :clip]),)
    if (twins := _indistinct(wiring)) is not None:
        return (_input_lost(wiring, *twins),)
    unused = wiring.unused
    moving = [module for module in wiring.silent_modules if module not in unused]
    detached = [module for module in moving if not wiring.below(module) & wiring.flow.attached]
    stuck = [module for module in moving if module not in detached and wiring.moves(module, JITTER)]
    found = [_detached(wiring, detached)] if detached else []
    found += [_stuck(module) for module in stuck]
    found += [_unused(wiring, module) for module in unused]
    inner = max(sum(bench.batch.frames.tolist()), 1)
    if len(wiring.frames) > IGNORED_INSIDE * inner:
        found.append(_frames_ignored(wiring, inner))
    return tuple(found)


def all_columns_are_read(bench: Bench) -> tuple[Finding, ...]:
    """The output depends on every column of the input."""
    wiring = bench.once(Wiring.of)
    silent, dim = wiring.columns, bench.batch.features.shape[-1]
    # A module that is never used is told with its columns.
    told = not silent or len(silent) == dim or wiring.unused
    return () if told else (_columns_ignored(wiring),)


def _indistinct(wiring: Wiring) -> tuple[Tensor, Tensor] | None:
    """Two clips, (frames, dim) each, cut to one length, if the network gives the very same for all that
    are cut so, with noise on its parameters too, as some start at zero; None where it tells some
    apart.
    """
    bench = wiring.bench
    frames = min(clip.frames for clip in bench.clips)
    cut = torch.stack([clip.features[:frames] for clip in bench.clips])
    other = next((one for one in cut if not torch.equal(one, cut[0])), None)
    if other is None or not bench.takes(frames):
        return None
    with perturbed(bench.network, set(wiring.trained), scale=JITTER, seed=bench.seed):
        output, steps = bench.run(cut, torch.full((len(cut),), frames))
    output = output[: int(steps.min())]
    return (cut[0], other) if bool((output == output[:, :1]).all()) else None


def _input_lost(wiring: Wiring, features: Tensor, changed: Tensor) -> Finding:
    """The output is the same for two clips, (frames, dim) each: name the first module behind which
    nothing of what differs is left.
    """
    bench = wiring.bench
    calls, *_ = bench.passage(features, train=True)
    others, *_ = bench.passage(changed, train=True)
    pairs = list(zip(calls, others, strict=False))
    alive = [i for i, (one, other) in enumerate(pairs) if differ(one.outputs, other.outputs)]
    first_dead = alive[-1] + 1 if alive else 0
    if first_dead >= len(pairs):
        return INPUT_IGNORED.finding(
            headline="the output does not depend on the input", status="confirmed"
        )
    losing = (
        i for i in range(first_dead, len(pairs)) if differ(pairs[i][0].inputs, pairs[i][1].inputs)
    )
    # A block that is given the difference is to blame before a part of it that is not.
    first_dead = next(losing, first_dead)
    one, other = pairs[first_dead]
    last = calls[alive[-1]].module if alive else "the input"
    if differ(one.inputs, other.inputs) and (shrinking := _shrinking(calls[: first_dead + 1])):
        return _scaled_away(bench, shrinking, last, one)
    reaches = differ(one.inputs, other.inputs)
    killer = bench.network.get_submodule(one.module)
    bare = not any(True for _ in killer.children()) and not any(True for _ in killer.parameters())
    shut = all(
        bool((tensor <= 0).all()) for tensor in one.inputs
    )  # what is given positive numbers and puts out zeros is no activation
    dead = reaches and bare and shut and all(bool((tensor == 0).all()) for tensor in one.outputs)
    return (DEAD_UNITS if dead else INPUT_IGNORED).finding(
        headline=f"the output does not depend on the input: {one.module} gives the same for any "
        "clip" + (", all zeros" if dead else ""),
        evidence=(
            f"{last} is the last that still tells inputs apart",
            f"{one.module} is {'given and loses' if reaches else 'not given'} the difference",
            *(f"its {name}, {tuple(own.shape)}, is all zeros" for name, own in _zeros_of(killer)),
        ),
        module=one.module,
        try_="start its bias at 0"
        if dead
        else f"check what {one.module} makes of the input"
        if not alive
        else f"check what becomes of the output of {last} before {one.module}",
        status="confirmed",
    )


def _zeros_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """A module's own tables and weights that are zero throughout."""
    own = (*module.named_buffers(recurse=False), *module.named_parameters(recurse=False))
    return [(name, tensor) for name, tensor in own if tensor.dim() > 1 and not tensor.any()]


def _shrinking(calls: list[Call]) -> Call | None:
    """The first call that makes far smaller numbers of what it is given."""
    for call in calls:
        if call.inputs and call.outputs:
            given, made = _size(call.inputs), _size(call.outputs)
            if given > SHRINKS * made > 0:
                return call
    return None


def _size(tensors: tuple[Tensor, ...]) -> float:
    """Root mean square of the first, in double precision: squares of what is below 1e-23 are none in
    single.
    """
    return float(tensors[0].double().square().mean().sqrt())


def _scaled_away(bench: Bench, shrinking: Call, last: str, dead: Call) -> Finding:
    """What tells clips apart is made so small that biases leave nothing of it in the numbers' type."""
    name = shrinking.module
    given, made = _size(shrinking.inputs), _size(shrinking.outputs)
    eps = getattr(bench.network.get_submodule(name), "eps", None)
    variance = shrinking.inputs[0].var()
    outweighs = isinstance(eps, float) and eps > float(variance)
    return INPUT_IGNORED.finding(
        headline="the output does not depend on the input: what tells clips apart is scaled away, "
        f"first at {name}",
        evidence=(
            f"it makes numbers of size {made:.2g} of such of size {given:.2g}",
            *(
                (f"its eps of {eps:g} outweighs their variance of {variance:.2g}",)
                if outweighs
                else ()
            ),
            f"behind {last} nothing is left of the difference in "
            + str(dead.outputs[0].dtype).removeprefix("torch."),
        ),
        module=name,
        try_=f"give {name} an eps far below the variance of its input"
        if outweighs
        else f"check how {name} is initialised: let it keep the size of what it is given, or add its "
        "input to what it puts out",
        status="confirmed",
    )


def _detached(wiring: Wiring, modules: list[str]) -> Finding:
    """Modules that shape the output and are cut from its gradient; located at the first of them
    that runs with gradients switched off, else at the first module behind the cut.
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
    return DETACHED_BRANCH.finding(
        headline=f"no gradient reaches {naming(cut)}"
        + (f": the graph is cut before {behind}" if behind else ""),
        evidence=(
            (
                "the output answers to changes of these modules, and their parameters are not in "
                "its graph"
            ),
        ),
        module=behind,
        try_="look for detach(), .data, no_grad or a copy through numpy"
        + (f" in front of {behind}" if behind else ""),
        status="confirmed",
    )


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
        try_=f"look behind {cut} for an argmax, a rounding, a comparison, or a softmax over one "
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
    columns = f"columns {_spans(wiring.columns)}{_parts(wiring)} of the input change nothing either"
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
    return next(
        (
            name
            for name, _ in wiring.bench.network.named_modules()
            if name != module
            and NUMBERED.sub(".#", f".{name}.") == of
            and wiring.below(name) & wiring.flow.alive
        ),
        None,
    )


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


def _columns_ignored(wiring: Wiring) -> Finding:
    """A warning where they are dropped before any layer, which is then made for what is left, or a
    few at the edges are lost, as a stride over features leaves them, and no part of the input with
    them.
    """
    dim, silent = wiring.bench.batch.features.shape[-1], wiring.columns
    at_the_edges = all(column < EDGE * dim or column >= (1 - EDGE) * dim for column in silent)
    left_over = at_the_edges and len(silent) <= EDGE * dim and not _parts(wiring)
    chosen = not _any_layer_is_given(wiring, dim)
    return COLUMNS_IGNORED.finding(
        severity="warning" if left_over or chosen else "failure",
        headline=f"{len(silent)} of {dim} feature columns change nothing: {_spans(silent)}"
        + _parts(wiring),
        evidence=("they are dropped before any layer: each is made for what is left",)
        if chosen
        else (),
        try_="check the slices that the network takes of its input",
        status="confirmed",
    )


def _any_layer_is_given(wiring: Wiring, dim: int) -> bool:
    """Whether any module with parameters of its own is given as many features as there are."""
    return any(
        dim in tensor.shape
        for call in wiring.calls
        if any(True for _ in wiring.bench.network.get_submodule(call.module).parameters(False))
        for tensor in call.inputs
    )


def _frames_ignored(wiring: Wiring, inner: int) -> Finding:
    """A warning where no gap is as long as a clip's frames for one token, as of frames skipped on
    purpose: no token is lost in it.
    """
    bench = wiring.bench
    silent = {
        clip: [frame for one, frame in wiring.frames if one == clip] for clip, _ in wiring.frames
    }
    gaps = {
        clip: max(high - low + 1 for low, high in _runs(frames)) for clip, frames in silent.items()
    }
    room = {
        clip: bench.clips[clip].frames / ctc.steps_needed(bench.clips[clip].target.tolist())
        for clip in silent
    }
    worst = max(gaps, key=lambda clip: gaps[clip] / room[clip])
    return SKIPPED_FRAMES.finding(
        headline=(
            f"{len(wiring.frames)} of {inner} frames change nothing: in {bench.clips[worst].name}, "
            f"frames {_spans(silent[worst])}"
        ),
        evidence=(f"{gaps[worst]} of them in a row, where a token has {room[worst]:.3g} frames",),
        samples=tuple(bench.clips[clip].name for clip in silent),
        try_=_skipping(wiring),
        status="confirmed",
        severity="failure" if gaps[worst] >= room[worst] else "warning",
    )


def _skipping(wiring: Wiring) -> str:
    """What to look at: the first module that is given another value at a skipped frame and does not
    answer, else what stands before it.
    """
    bench = wiring.bench
    clip, frame = wiring.frames[0]
    features = bench.clips[clip].features
    changed = features.clone()
    changed[frame] += 1 + features.std()
    calls, *_ = bench.passage(features)
    others, *_ = bench.passage(changed)
    for call, other in zip(calls, others, strict=False):
        module = bench.network.get_submodule(call.module)
        if next(module.children(), None) is None and not differ(call.outputs, other.outputs):
            if not differ(call.inputs, other.inputs):
                return f"check what is cut off or left out before {call.module}"
            kernel, stride = getattr(module, "kernel_size", None), getattr(module, "stride", None)
            sizes = f": its kernel is {kernel}, its stride {stride}" if kernel and stride else ""
            return f"check {call.module}, which is given these frames and does not use them{sizes}"
    return "check what is cut off a clip"


def _parts(wiring: Wiring) -> str:
    silent, dim = set(wiring.columns), wiring.bench.batch.features.shape[-1]
    parts = [
        name
        for name, where in wiring.bench.subject.parts.items()
        if set(range(dim)[where]) <= silent
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _runs(numbers: list[int]) -> list[list[int]]:
    """First and last of each run of neighbours: 1, 2, 3, 7 as (1, 3), (7, 7)."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs


def _spans(numbers: list[int]) -> str:
    """1, 2, 3, 7 as 1-3, 7: the first five runs."""
    return naming([f"{low}-{high}" if high > low else f"{low}" for low, high in _runs(numbers)])


INPUT_IGNORED = Record(
    name="input_ignored",
    stage="network",
    means="The output does not depend on the input, or gives the same for all clips of a length; or "
    "a rung is passed on inputs that should undo it. Such a network knows clips by their length or "
    "their place in the batch, if at all.",
    detected="All features are replaced by noise, and clips cut to one length by each other: the "
    "output must answer. After a pass, clips are swapped, stretched "
    "to each other's length, and replaced by noise: the pass must die.",
    mend="Check what becomes of the input behind the named module; look for targets that reach the "
    "network.",
    follows=("non_finite_output", "non_finite_gradient", "unscaled_input", "random_in_eval"),
    remedies=(PLAIN_CALL, USUAL_EPS, RESET_MODULE, UNCLIPPED, BYPASS),
    planted=(
        "net-input-ignored",
        "net-clips-alike",
        "net-frozen-gain",
        "net-shut-buffer",
        "net-frozen-stem",
    ),
)
COLUMNS_IGNORED = Record(
    name="columns_ignored",
    stage="network",
    means="Some feature columns change nothing: what stands in them, such as a hand, is never read.",
    detected=(
        "Columns without a gradient in either mode are replaced by noise: the output must answer. A "
        "few at the edges, as a stride over features leaves them, are only told, and so are those that "
        "are dropped before any layer, each being made for what is left."
    ),
    mend="Check the slices that the network takes of its input; accept it where they are meant.",
    follows=("non_finite_output", "non_finite_gradient", "input_ignored", "random_in_eval"),
    remedies=(PLAIN_CALL,),
    planted=("net-columns-ignored",),
    harmless=True,  # the others are read
)
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
    remedies=(UNDETACH, SLOPED, BYPASS),
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
SKIPPED_FRAMES = Record(
    name="skipped_frames",
    stage="network",
    means=(
        "Some frames inside clips change nothing: they are cut off, or strides jump over them. A "
        "gap as long as a token hides it."
    ),
    detected="Frames without a gradient in either mode are changed, and the output does not "
    "answer.",
    mend="Check the named module's kernel against its stride, and what is cut off before it.",
    follows=(
        "non_finite_output",
        "non_finite_gradient",
        "time_collapse",
        "wrong_steps",
        "place_lost",
        "random_in_eval",
    ),
    remedies=(PLAIN_CALL,),
    planted=("net-frames-ignored", "net-frames-cut"),
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
READ_COLUMNS = Contract(
    name="read columns",
    holds="the output depends on every feature column",
    about="network",
    examine=all_columns_are_read,
    finds=(COLUMNS_IGNORED,),
    may_be_meant=True,
)
