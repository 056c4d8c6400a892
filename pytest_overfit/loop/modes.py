"""Findings of modes: what is trained in train mode and judged in eval mode, and what train mode leaves."""

from __future__ import annotations

from torch.nn.modules.batchnorm import _BatchNorm

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.watcher import telling
from pytest_overfit.loop.windows import FEWEST

HEAVY = 0.9
"""Dropout above which next to nothing passes; beyond 0.5 it is rare."""


def modes_are_right(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Backward passes come from train mode, evaluation from eval mode."""
    windows = (*rehearsal.windows, rehearsal.rest)
    passes = [event for window in windows for event in window.of("backward")]
    wrong = [event for event in passes if not event.facts["training"]]
    differing = [name for name, _ in telling(rehearsal.network)]
    if len(wrong) >= FEWEST:
        return loop_finding(
            TRAINED_IN_EVAL,
            "mode",
            headline=f"{len(wrong)} of {len(passes)} backward passes come from eval mode",
            where=wrong[0].where,
            evidence=(f"modules that differ in train mode: {naming(differing)}",)
            if differing
            else ("no module of this network differs in train mode",),
            try_="network.train() at the start of each epoch, and no backward() in validation",
            severity="failure" if differing else "warning",
        )
    judged = [loss for window in windows for loss in window.losses if not loss.graded]
    in_train = [loss for loss in judged if loss.training]
    if differing and len(in_train) >= FEWEST and len(in_train) == len(judged):
        return loop_finding(
            EVALUATED_IN_TRAIN,
            "mode",
            headline="validation runs in train mode: dropout and batch statistics are in its "
            "figures",
            where=in_train[0].where,
            evidence=(
                (
                    f"{len(in_train)} losses without gradients; modules that differ: "
                    f"{naming(differing)}"
                ),
            ),
            try_="network.eval() before validation, network.train() after it",
            severity="failure"
            if any(isinstance(module, _BatchNorm) for module in rehearsal.network.modules())
            else "warning",
        )
    return ()


def train_mode_is_whole(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """In train mode dropout and norms are in train mode too, and dropout leaves something."""
    passes = [event for window in rehearsal.windows for event in window.of("backward")]
    passes = [event for event in passes if event.facts["training"]]
    heavy = [event for event in passes if max(event.facts["dropped"].values(), default=0) > HEAVY]
    if len(heavy) >= FEWEST:
        name, rate = max(heavy[0].facts["dropped"].items(), key=lambda one: float(one[1]))
        return loop_finding(
            DROPOUT_OUTWEIGHS,
            "mode",
            headline=f"dropout of {rate:.0%} in {name}: next to nothing of a clip passes",
            where=heavy[0].where,
            evidence=(f"at {len(heavy)} of {len(passes)} backward passes",),
            try_="dropout of 0.1 to 0.5",
        )
    known = {name for name, _ in telling(rehearsal.network)}
    asleep = [event for event in passes if known and set(event.facts["asleep"]) == known]
    if len(asleep) < FEWEST:
        return ()
    return loop_finding(
        TRAINED_IN_EVAL,
        "mode",
        headline=(
            f"the network is in train mode, and {counted(len(known), 'module')} that differ there "
            f"{'is' if len(known) == 1 else 'are'} in eval mode: {naming(sorted(known))}"
        ),
        where=asleep[0].where,
        evidence=(f"at {len(asleep)} of {len(passes)} backward passes",),
        try_="network.train() where a part was put into eval mode, if that was not meant",
        severity="warning",
    )


DROPOUT_OUTWEIGHS = Record(
    name="dropout_outweighs",
    stage="loop",
    means="Dropout was set so high that next to nothing of a clip reaches what learns.",
    detected="The dropout of modules in train mode at each backward().",
    mend="Dropout of 0.1 to 0.5.",
    no_remedy="it is set by the loop itself, and must be set lower there",
    planted=("unseen_dropout_of_nearly_all",),
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
