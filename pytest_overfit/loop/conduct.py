"""Findings of how a loop treats its network: modes, gradients that reach it, weights and randomness
that stay its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.gradients import LOST_GRADIENT, zeroed_before_step
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.watcher import telling
from pytest_overfit.loop.windows import FEWEST, Window

KEPT = 0.1
"""Share of what steps moved, at or below which they are taken back."""
JUMP = 0.5
"""Share of its size by which a parameter moves without a step only where it is made anew: fresh
values lie 1.4 times their size apart, those of an average or a bound far less.
"""


def gradients_reach_the_network(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """What has a gradient by our loss has one in the loop, if an optimiser has it."""
    updates = rehearsal.updates[: 4 * FEWEST]
    passes = [event for window in rehearsal.windows for event in window.of("backward")]
    if (
        len(updates) < FEWEST
        or not passes
        or any(zeroed_before_step(window) for window in rehearsal.windows)
    ):
        return ()
    given = frozenset().union(*(update.given for update in updates))
    with_gradient = {
        name
        for update in updates
        for name, gradient in update.gradients.items()
        if bool(gradient.any())
    }
    named = dict(rehearsal.network.named_parameters())
    cut = sorted(
        name
        for name in (given & rehearsal.reached) - with_gradient
        if name in named and named[name].requires_grad
    )
    if not cut:
        return ()
    grew = {name for update in updates for name, one in update.grown.items() if bool(one.any())}
    if lost := sorted(grew & set(cut)):
        return loop_finding(
            LOST_GRADIENT,
            "accumulation",
            headline=(
                f"backward() gives {counted(len(lost), 'parameter')} a gradient, and at the step "
                f"there is none: {naming(lost)}"
            ),
            where=updates[0].where,
            evidence=(f"so at each of the first {len(updates)} steps",),
            try_="zero gradients before backward() or after the step, not between",
        )
    whole = len(cut) == len(given & rehearsal.reached)
    return loop_finding(
        GRADIENT_CUT,
        "loss",
        headline="backward() reaches no parameter of the network"
        if whole
        else f"backward() does not reach {counted(len(cut), 'parameter')}: {naming(cut)}",
        where=passes[0].where,
        evidence=("by our loss each of them has a gradient",),
        try_="no .detach(), .item(), torch.tensor(...) or torch.no_grad() between network and loss",
    )


def weights_stay(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """What a step moved stays moved, and what is frozen does not move."""
    windows = [window for window in rehearsal.windows if window.updates and window.weights]
    shares = [_kept(earlier, later) for earlier, later in pairwise(windows)]
    back = [share for share in shares if share is not None and share <= KEPT]
    if len(back) >= max(FEWEST, len(shares) / 2):
        return loop_finding(
            WEIGHTS_PUT_BACK,
            "state",
            headline=(
                "weights are put back after each step: "
                + (f"{max(back):.1%} of what is learned stays" if max(back) else "nothing stays")
            ),
            where=rehearsal.first("load"),
            evidence=(f"after {len(back)} of {len(shares)} steps",),
            try_="keep a best state or an average as copies, and load it after training",
        )
    if replaced := _replaced(windows):
        return replaced
    named = dict(rehearsal.network.named_parameters())
    frozen = [name for name, parameter in named.items() if not parameter.requires_grad]
    last = rehearsal.updates[-FEWEST:]
    moving = sorted(
        name
        for name in frozen
        if last
        and all(name in update.before and bool((update.moved(name) != 0).any()) for update in last)
    )
    if not moving:
        return _frozen_on_the_way(rehearsal)
    return loop_finding(
        FROZEN_MOVES,
        "state",
        headline=(
            f"{counted(len(moving), 'frozen parameter')} still "
            f"move{'s' if len(moving) == 1 else ''}: {naming(moving)}"
        ),
        where=last[0].where,
        evidence=("an optimiser moves what has a gradient, momentum or decay left, frozen or not",),
        try_="freeze before the first step, and leave frozen parameters out of the optimiser",
    )


def _replaced(windows: Sequence[Window]) -> tuple[Finding, ...]:
    """Weights that are others before a gradient than after the step before it."""
    found = [
        (later, names)
        for earlier, later in pairwise(windows)
        if (names := _jumped(earlier.updates[-1].after, later.weights))
    ]
    if len(found) < FEWEST:
        return ()
    names = sorted(frozenset().union(*(names for _, names in found)))
    return loop_finding(
        WEIGHTS_REPLACED,
        "state",
        headline=(
            f"between steps {counted(len(names), 'parameter')} get"
            f"{'s' if len(names) == 1 else ''} new values, and what was learned is gone: "
            f"{naming(names)}"
        ),
        where=next((event.where for event in found[0][0].of("backward")), None),
        evidence=(f"at {len(found)} of {len(windows)} steps, by no step of an optimiser",),
        try_="initialise and load weights before the first epoch",
    )


def _jumped(after: Mapping[str, Tensor], later: Mapping[str, Tensor]) -> list[str]:
    """Parameters that lie farther apart than JUMP of their size."""
    return [
        name
        for name, old in after.items()
        if name in later
        and later[name].shape == old.shape
        and bool(old.any())
        and float((later[name] - old).float().norm()) > JUMP * float(old.float().norm())
    ]


def _kept(earlier: Window, later: Window) -> float | None:
    """Share of what the steps of a window moved that is still there before the next gradient.

    None where they moved nothing, or the network has other parameters by then.
    """
    after = earlier.updates[-1].after
    if not earlier.weights.keys() == later.weights.keys() == after.keys():
        return None
    moved, kept = (
        math.sqrt(
            sum(float((now[n] - old).float().square().sum()) for n, old in earlier.weights.items())
        )
        if all(now[name].shape == old.shape for name, old in earlier.weights.items())
        else 0.0
        for now in (after, later.weights)
    )
    return kept / moved if moved else None


def _frozen_on_the_way(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """What the optimiser holds, our loss reaches and the loop froze; a warning: it may be meant."""
    if len(rehearsal.updates) < FEWEST:
        return ()
    last = rehearsal.updates[-1]
    named = dict(rehearsal.network.named_parameters())
    held = last.given & rehearsal.trainable & rehearsal.reached
    frozen = sorted(name for name in held if name in named and not named[name].requires_grad)
    if not frozen:
        return ()
    return loop_finding(
        FROZEN_ON_THE_WAY,
        "state",
        headline=(
            f"the loop freezes {counted(len(frozen), 'parameter')} that its optimiser holds: "
            f"{naming(frozen)}"
        ),
        where=last.where,
        evidence=("they could learn when the network was built, and get no gradient any more",),
        try_="leave what is frozen out of the optimiser; unfreeze it if that was not meant",
        severity="warning",
    )


def randomness_is_fresh(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """The generator is not set anew at each step."""
    seeded = [window for window in rehearsal.windows if window.of("seed")]
    if len(seeded) < max(FEWEST, 0.8 * len(rehearsal.windows)):
        return ()
    return loop_finding(
        RANDOMNESS_REPEATS,
        "state",
        headline=(
            "the random generator is seeded at each step: dropout and augmentation are the same "
            "each time"
        ),
        where=rehearsal.first("seed"),
        evidence=(f"torch.manual_seed in {len(seeded)} of {len(rehearsal.windows)} steps",),
        try_="seed once, before training",
        severity="failure" if any(telling(rehearsal.network)) else "warning",
    )


GRADIENT_CUT = Record(
    name="gradient_cut",
    stage="loop",
    follows=(
        "lost_gradient",
        "optimiser_elsewhere",
        "features_hidden",
    ),
    means=(
        "Between network and loss the loop cuts the gradient, so a part or all of the network "
        "cannot learn."
    ),
    detected="Parameters in the optimiser that have a gradient by our loss and none in the loop.",
    mend="Take out .detach(), .item(), torch.tensor(...) and torch.no_grad() on the way.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("encoder_without_gradient", "output_detached", "loss_wrapped_again"),
)


WEIGHTS_PUT_BACK = Record(
    name="weights_put_back",
    stage="loop",
    means="The loop overwrites the weights with older ones after each step.",
    detected="Weights before a step beside those before the step earlier.",
    mend="Load a kept state after training, not within it.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("weights_put_back",),
)


WEIGHTS_REPLACED = Record(
    name="weights_replaced",
    stage="loop",
    follows=("not_optimised", "optimiser_elsewhere", "weights_put_back"),
    means="Between steps, as at each epoch, the loop gives weights new values: learning begins anew.",
    detected="Weights after a step beside those before the next gradient.",
    mend="Initialise and load weights once, before the first epoch.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("fresh_begun_anew_each_epoch",),
)


FROZEN_MOVES = Record(
    name="frozen_moves",
    stage="loop",
    means=(
        "Parameters that are frozen still move: they are in the optimiser, with an old gradient, "
        "momentum or decay."
    ),
    detected="Frozen parameters before and after each step.",
    mend="Freeze before the first backward(), and leave them out of the optimiser.",
    no_remedy="it spoils what was to be kept, and breaks no rung by itself",
    planted=("frozen_too_late",),
    harmless=True,
)


FROZEN_ON_THE_WAY = Record(
    name="frozen_on_the_way",
    stage="loop",
    means="The loop freezes parameters that it gave to its optimiser, so they never learn.",
    detected="Parameters of the optimiser that our loss reaches and that no longer ask for one.",
    mend="Unfreeze them, or leave them out of the optimiser.",
    no_remedy="it may be meant, and fails nothing",
    planted=("frozen_in_the_first_step",),
    harmless=True,
)
RANDOMNESS_REPEATS = Record(
    name="randomness_repeats",
    stage="loop",
    means="Every step draws the same random numbers, so dropout leaves out the same units always.",
    detected="Calls of torch.manual_seed between losses.",
    mend="Seed once, before training.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("seeded_each_step",),
    harmless=True,
)
