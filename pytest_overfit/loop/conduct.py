"""Findings of how a loop treats its network: modes, gradients that reach it, weights and randomness
that stay its own.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.gradients import zeroed_before_step
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.told import told
from pytest_overfit.loop.windows import FEWEST


def modes_are_right(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Backward passes come from train mode, evaluation from eval mode."""
    windows = (*rehearsal.windows, rehearsal.rest)
    passes = [event for window in windows for event in window.of("backward")]
    wrong = [event for event in passes if not event.facts["training"]]
    told_apart = _tells_modes_apart(rehearsal.network)
    if len(wrong) >= FEWEST:
        return told(
            TRAINED_IN_EVAL,
            "mode",
            headline=f"{len(wrong)} of {len(passes)} backward passes come from eval mode",
            where=wrong[0].where,
            evidence=(f"modules that differ in train mode: {naming(told_apart)}",)
            if told_apart
            else ("no module of this network differs in train mode",),
            try_="network.train() at the start of each epoch, and no backward() in validation",
            severity="failure" if told_apart else "warning",
        )
    judged = [loss for window in windows for loss in window.losses if not loss.graded]
    in_train = [loss for loss in judged if loss.training]
    if told_apart and len(in_train) >= FEWEST and len(in_train) == len(judged):
        return told(
            EVALUATED_IN_TRAIN,
            "mode",
            headline="validation runs in train mode: dropout and batch statistics are in its "
            "figures",
            where=in_train[0].where,
            evidence=(
                (
                    f"{len(in_train)} losses without gradients; modules that differ: "
                    f"{naming(told_apart)}"
                ),
            ),
            try_="network.eval() before validation, network.train() after it",
            severity="failure"
            if any(isinstance(module, _BatchNorm) for module in rehearsal.network.modules())
            else "warning",
        )
    return ()


def _tells_modes_apart(network: nn.Module) -> list[str]:
    """Modules that do another thing in train mode."""
    kinds = (nn.modules.dropout._DropoutNd, _BatchNorm)
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, kinds) or (isinstance(module, nn.RNNBase) and module.num_layers > 1)
    ]


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
    whole = len(cut) == len(given & rehearsal.reached)
    return told(
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
    back = [
        later
        for earlier, later in pairwise(windows)
        if _same(earlier.weights, later.weights)
        and not _same(earlier.weights, earlier.updates[-1].after)
    ]
    if len(back) >= FEWEST:
        load = rehearsal.first("load")
        return told(
            WEIGHTS_PUT_BACK,
            "state",
            headline="weights are put back after each step: nothing that is learned stays",
            where=load,
            evidence=(
                (
                    f"before {len(back)} of {len(windows)} backward passes they were what they had "
                    "been a step before"
                ),
            ),
            try_="keep a best state as copies, and load it after training",
        )
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
        return ()
    return told(
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


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one
    )


def randomness_is_fresh(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """The generator is not set anew at each step."""
    seeded = [window for window in rehearsal.windows if window.of("seed")]
    if len(seeded) < max(FEWEST, 0.8 * len(rehearsal.windows)):
        return ()
    return told(
        RANDOMNESS_REPEATS,
        "state",
        headline=(
            "the random generator is seeded at each step: dropout and augmentation are the same "
            "each time"
        ),
        where=rehearsal.first("seed"),
        evidence=(f"torch.manual_seed in {len(seeded)} of {len(rehearsal.windows)} steps",),
        try_="seed once, before training",
        severity="failure" if _tells_modes_apart(rehearsal.network) else "warning",
    )


TRAINED_IN_EVAL = Record(
    name="trained_in_eval",
    stage="loop",
    means=(
        "Gradients come from eval mode: dropout is off and batch norms use what they never "
        "gathered, or validation is trained on."
    ),
    detected="The network's mode at each backward().",
    mend="network.train() before each epoch, and no backward() in validation.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("eval_left_on", "never_in_train_mode", "trained_on_validation"),
    harmless=True,
)
EVALUATED_IN_TRAIN = Record(
    name="evaluated_in_train",
    stage="loop",
    follows=("trained_in_eval",),
    means=(
        "Validation runs in train mode, so its figures are of another network, and batch norms "
        "learn from it."
    ),
    detected="The network's mode at each loss without gradients.",
    mend="network.eval() before validation, network.train() after it.",
    no_remedy="it changes what is reported, not what is learned",
    planted=("validated_in_train_mode",),
    harmless=True,
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
