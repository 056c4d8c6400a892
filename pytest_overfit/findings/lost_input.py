"""Findings of an input that is lost on its way: the output is the same for any clip."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pytest_overfit.finding import Finding
from pytest_overfit.findings.bench import Bench, perturbed
from pytest_overfit.findings.bench.wiring import JITTER, Wiring
from pytest_overfit.findings.record import Record
from pytest_overfit.findings.remedies import (
    NORMED,
    PLAIN_CALL,
    RESET_MODULE,
    UNCLIPPED,
    USUAL_EPS,
    WITHOUT_IT,
)
from pytest_overfit.findings.signal import DEAD_UNITS
from pytest_overfit.network.locate import rms
from pytest_overfit.network.recorder import Call, differ

SHRINKS = 100.0
"""By how much smaller the numbers must be that a module puts out to be blamed for what is lost in
rounding behind it.
"""


def indistinct(wiring: Wiring) -> tuple[Tensor, Tensor] | None:
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


def input_lost(wiring: Wiring, features: Tensor, changed: Tensor) -> Finding:
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
    # A block that is given the difference is to blame before a part of it that is not.
    losing = (
        i
        for i, (one, other) in enumerate(pairs)
        if i >= first_dead and differ(one.inputs, other.inputs)
    )
    loser = next(losing, None)
    reaches = loser is not None
    one = calls[first_dead if loser is None else loser]
    last = calls[alive[-1]].module if alive else "the input"
    if loser is not None and (shrinking := _shrinking(calls[: loser + 1])):
        return _scaled_away(bench, shrinking, last, one)
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
        if reaches and not alive
        else f"check what becomes of {f'the output of {last}' if alive else last} before {one.module}",
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
            given, made = rms(call.inputs[0]), rms(call.outputs[0])
            if given > SHRINKS * made > 0:
                return call
    return None


def _scaled_away(bench: Bench, shrinking: Call, last: str, dead: Call) -> Finding:
    """What tells clips apart is made so small that biases leave nothing of it in the numbers' type."""
    name = shrinking.module
    given, made = rms(shrinking.inputs[0]), rms(shrinking.outputs[0])
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
    remedies=(PLAIN_CALL, USUAL_EPS, *NORMED, RESET_MODULE, UNCLIPPED, *WITHOUT_IT),
    planted=(
        "net-input-ignored",
        "net-clips-alike",
        "net-frozen-gain",
        "net-shut-buffer",
        "net-frozen-stem",
    ),
)
