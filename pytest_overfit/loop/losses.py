"""Findings of what reaches network and loss: each sample's own features, lengths and targets, and
CTC of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.windows import Loss

UNNORMALISED = 0.1
"""Nats by which a step's probabilities may miss a sum of 1: half precision comes to a hundredth."""
SAME, SAME_IN_HALF = 1e-2, 0.3
"""Nats that lie between two passages of one network over one batch, in float32 and where a part is
in half precision.
"""


def _of_the_output(losses: Sequence[Loss]) -> list[Loss]:
    """Of the losses of each passage the one that is nearest to what the network itself gives: the
    others are of other heads.
    """
    nearest: dict[int, Loss] = {}
    for loss in losses:
        if loss.own is not None and loss.own[0].shape == loss.log_probs.shape:
            best = nearest.get(loss.passage)
            nearest[loss.passage] = loss if best is None or _gap(loss) < _gap(best) else best
    return list(nearest.values())


def loss_is_of_the_output(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """What CTC is given in the loop: log-probabilities in float32, the subject's blank, the steps
    that each clip has.
    """
    losses = rehearsal.graded
    if not losses:
        return ()
    first = losses[0]
    if all(
        loss.blank != rehearsal.subject.blank for loss in losses if loss.passage == first.passage
    ):
        return loop_finding(
            OTHER_BLANK,
            "loss",
            headline=(
                f"the loop's CTC has blank {first.blank}, the subject says "
                f"{rehearsal.subject.blank}"
            ),
            where=first.where,
            try_=f"blank={rehearsal.subject.blank}",
        )
    off = max(float(loss.log_probs.float().logsumexp(-1).abs().max()) for loss in losses[:4])
    if off > UNNORMALISED:
        return loop_finding(
            LOSS_UNNORMALISED,
            "loss",
            headline=(
                "the loop's CTC is given what are no log-probabilities: a step sums to "
                f"exp({off:.2g})"
            ),
            where=first.where,
            try_="log_softmax once, over the vocabulary",
        )
    kinds = [
        dtype
        for dtype in (torch.float16, torch.bfloat16)
        if all(_fits(loss.log_probs, dtype) for loss in losses[:4])
    ]
    if kinds:
        return loop_finding(
            LOSS_IN_HALF,
            "precision",
            headline=f"the loop's CTC is given {kinds[0]} numbers: sums over paths need float32",
            where=first.where,
            evidence=(
                (
                    f"every one of {losses[0].log_probs.numel()} log-probabilities is a {kinds[0]} "
                    "number"
                ),
            ),
            try_="log_probs.float() before log_softmax, outside autocast",
        )
    return _lengths(rehearsal, losses)


def _fits(values: torch.Tensor, dtype: torch.dtype) -> bool:
    return values.dtype == dtype or bool((values.to(dtype).to(values.dtype) == values).all())


def _lengths(rehearsal: Rehearsal, losses: Sequence[Loss]) -> tuple[Finding, ...]:
    """Lengths given to CTC are the steps that the network says each clip has."""
    heads = Counter(loss.passage for loss in losses)
    alone = [
        loss
        for loss in losses
        if heads[loss.passage] == 1
        and loss.own is not None
        and loss.own[0].shape[-1] == loss.log_probs.shape[-1]
    ]
    judged = alone or _of_the_output(losses)
    wrong = [
        (loss, rehearsal.samples[clip].name, given, own)
        for loss in judged
        for clip, given, own in zip(loss.clips, loss.input_lengths, loss.own_steps, strict=True)
        if given != own
    ]
    if not wrong or len({loss.where for loss, *_ in wrong}) > 1:
        return ()
    if all(sorted(one.input_lengths) == sorted(one.own_steps) for one, *_ in wrong):
        loss, sample, given, own = wrong[0]
        return loop_finding(
            OTHER_LENGTHS,
            "batches",
            headline=(
                f"clips are read by the lengths of their batch mates: {given} steps of {sample}, "
                f"which has {own}"
            ),
            where=loss.where,
            samples=(sample,),
            try_="sort features, lengths and targets by one order",
        )
    loss, sample, given, own = max(wrong, key=lambda one: abs(one[2] - one[3]))
    padded = all(given == len(loss.log_probs) for loss, _, given, _ in wrong)
    return loop_finding(
        OTHER_LENGTHS,
        "loss" if given > own else "batches",
        headline=f"the loop's CTC reads {given} steps of {sample}, which has {own}"
        + (": the length of the padded batch" if padded else ""),
        where=loss.where,
        evidence=(
            f"so at {len(wrong)} of {sum(len(loss.input_lengths) for loss in judged)} clips",
        ),
        samples=(sample,),
        try_="give CTC the steps that the network returns",
    )


def network_is_used_as_it_is(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """For the samples' own features the loop's CTC is given what a network of the same weights
    gives.
    """
    losses = _of_the_output(rehearsal.graded)
    gaps = [_gap(loss) for loss in losses]
    off = [
        i
        for i, (gap, loss) in enumerate(zip(gaps, losses, strict=True))
        if gap > (SAME_IN_HALF if loss.half else SAME)
    ]
    if len(losses) < 3 or not off:
        return ()
    if 0 not in off and len(off) >= (len(gaps) - 1) / 2:
        return loop_finding(
            STATE_ACROSS_BATCHES,
            "state",
            headline=(
                "what the network gives for a batch depends on the batches before it: state is "
                "carried from one to the next"
            ),
            where=losses[off[0]].where,
            evidence=(
                (
                    f"the first batch is as from fresh, {len(off)} of {len(losses) - 1} after it "
                    f"are not, by up to {max(gaps):.2g} nats"
                ),
            ),
            try_="begin each batch from a fresh state",
        )
    if len(off) == len(gaps):
        return loop_finding(
            OTHER_OUTPUT,
            "loss",
            headline=(
                "the loop's CTC is not given what the network gives for these clips: up to "
                f"{max(gaps):.2g} nats lie between"
            ),
            where=losses[0].where,
            evidence=(f"at all {len(losses)} losses",),
            try_="compare the subject's forward with the step of your loop",
            severity="warning",
        )
    return ()


def _gap(loss: Loss) -> float:
    """Largest difference of log-probabilities inside the clips, of those that are not
    negligible.
    """
    assert loss.own is not None
    own, steps = loss.own
    inside = torch.arange(len(own))[:, None] < steps.clamp(max=len(own))[None]
    likely = (own > -10)[inside]
    return float(((own - loss.log_probs.float()).abs()[inside] * likely).max())


OTHER_BLANK = Record(
    name="other_blank",
    stage="loop",
    means="The loop's loss and the subject disagree on the blank, so what is learned cannot be "
    "read.",
    detected="The blank that torch's CTC is called with.",
    mend="One blank for loss, decoder and subject.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("wrong_blank",),
)


LOSS_UNNORMALISED = Record(
    name="loss_unnormalised",
    stage="loop",
    means="The loop gives CTC numbers that are no log-probabilities, so its loss means nothing.",
    detected="The sum of probabilities at each step that reaches torch's CTC.",
    mend="log_softmax once, over the vocabulary.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("loss_of_probabilities",),
)


LOSS_IN_HALF = Record(
    name="loss_in_half",
    stage="loop",
    means=(
        "CTC is computed from half-precision numbers, in which sums over many steps lose what "
        "distinguishes paths."
    ),
    detected=(
        "The type of what reaches torch's CTC, and whether every number of it fits into half "
        "precision."
    ),
    mend="Turn to float32 before log_softmax and CTC.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("half_ctc",),
    harmless=True,
)


OTHER_LENGTHS = Record(
    name="other_lengths",
    stage="loop",
    follows=(
        "targets_mixed_up",
        "loss_unnormalised",
    ),
    means="CTC reads more or fewer steps of a clip than it has: padding, or half of it.",
    detected="Lengths that reach torch's CTC beside those that the network gives for the same "
    "clips.",
    mend="Give CTC the steps that the network returns.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("lengths_of_the_padded", "frames_too_short"),
    harmless=True,
)


STATE_ACROSS_BATCHES = Record(
    name="state_across_batches",
    stage="loop",
    means=(
        "A state, such as that of an RNN, goes from one batch to the next though their clips have "
        "nothing to do with each other."
    ),
    detected=(
        "What reaches torch's CTC beside what a network of the same weights gives for the same "
        "clips."
    ),
    mend="Start each batch from a fresh state.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("state_carried",),
    harmless=True,
)


OTHER_OUTPUT = Record(
    name="other_output",
    stage="loop",
    follows=(
        "dropout_outweighs",
        "targets_mixed_up",
        "other_lengths",
        "loss_unnormalised",
    ),
    means=(
        "The loop reads the network otherwise than the subject does, so what it trains is not what "
        "is judged."
    ),
    detected=(
        "What reaches torch's CTC beside what a network of the same weights gives for the same "
        "clips."
    ),
    mend="Let the subject's forward and the loop's step do the same.",
    no_remedy="it is a warning: which of both is right cannot be told",
    not_planted="what differs by intent looks the same",
    harmless=True,
)
