"""Findings of whose parameters the optimisers have."""

from __future__ import annotations

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.windows import FEWEST


def optimisers_have_the_network(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """Every parameter that learns is in an optimiser that takes steps, and nothing else is."""
    updates = rehearsal.updates
    if not updates:
        return ()
    given = frozenset().union(*(update.given for update in updates))
    names = {
        name for name, parameter in rehearsal.network.named_parameters() if parameter.requires_grad
    }
    foreign = max(update.foreign for update in updates)
    if not given and foreign:
        return loop_finding(
            OPTIMISER_ELSEWHERE,
            "optimiser",
            headline=(
                f"the optimiser has {counted(foreign, 'parameter')}, and none of them is the "
                "network's"
            ),
            where=updates[0].where,
            try_=(
                "build the optimiser from the parameters of the network that is trained, after it "
                "is complete"
            ),
        )
    left = sorted((names & rehearsal.trainable) - given) if not foreign else sorted(names - given)
    left = [name for name in left if name in rehearsal.reached or foreign]
    if not left:
        return ()
    return loop_finding(
        NOT_OPTIMISED,
        "optimiser",
        headline=(
            f"{counted(len(left), 'parameter')} that could learn "
            f"{'is' if len(left) == 1 else 'are'} in no optimiser: {naming(left)}"
        ),
        where=updates[0].where,
        evidence=(f"the optimiser has {counted(foreign, 'parameter')} that the network does not",)
        if foreign
        else (),
        try_=(
            "build the optimiser after the last change of the network, from all its parameters; "
            "freeze with requires_grad what is not to learn"
        ),
    )


def optimisers_last(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """The same parameters are stepped by the same optimiser."""
    seen: dict[frozenset[str], list[int]] = {}
    for update in rehearsal.updates:
        line = seen.setdefault(update.given, [])
        if not line or line[-1] != id(update.optimizer):
            line.append(id(update.optimizer))
    made = max((len(set(line)) for line in seen.values()), default=0)
    if made < FEWEST:
        return ()
    return loop_finding(
        OPTIMISER_RENEWED,
        "optimiser",
        headline=(
            f"{made} optimisers took turns at the same parameters in {len(rehearsal.updates)} "
            "steps: each begins without momentum"
        ),
        where=rehearsal.updates[0].where,
        evidence=("a schedule counts on with the first of them alone",),
        try_="build the optimiser once, before the first epoch",
    )


OPTIMISER_ELSEWHERE = Record(
    name="optimiser_elsewhere",
    stage="loop",
    means="The optimiser was given the parameters of another network, so this one never moves.",
    detected="The parameters in the optimiser beside those of the network.",
    mend="Build the optimiser from the network that is trained.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("optimizer_of_another",),
)


NOT_OPTIMISED = Record(
    name="not_optimised",
    stage="loop",
    follows=(
        "lost_gradient",
        "gradient_cut",
    ),
    means=(
        "Some parameters that could learn are in no optimiser: a part was replaced after it was "
        "built, or never given."
    ),
    detected=(
        "The parameters in the optimisers that take steps beside those of the network that the "
        "loss reaches."
    ),
    mend="Build the optimiser last, from all parameters that are to learn.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("optimizer_before_head", "encoder_not_given"),
)


OPTIMISER_RENEWED = Record(
    name="optimiser_renewed",
    stage="loop",
    means=(
        "A new optimiser is built again and again: momentum and variance begin from nothing each "
        "time."
    ),
    detected="Optimisers that step the same parameters are counted.",
    mend="Build the optimiser once.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("new_optimizer_each_epoch",),
    harmless=True,
)
