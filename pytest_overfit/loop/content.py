"""Findings of what reaches network and loss: each sample's own features, lengths and targets, and
CTC of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

import torch

from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.matching import ALIKE, Row, spread_of
from pytest_overfit.loop.rehearsal import Loss, Rehearsal
from pytest_overfit.loop.told import told
from pytest_overfit.subject import Sample

UNNORMALISED = 0.1
"""Nats by which a step's probabilities may miss a sum of 1: half precision comes to a hundredth."""
AFFINE = 0.999
"""Correlation from which a row is its sample, scaled and shifted."""
SCALED = 0.02
"""Part of a scale, or of the spread, by which rows of one normalisation may differ."""
MASKED = 0.5
"""Share of a clip's numbers set to zero, from which more is hidden than shown."""
SAME, SAME_IN_HALF = 1e-2, 0.3
"""Nats that lie between two passages of one network over one batch, in float32 and where a part is
in half precision.
"""


def _graded(rehearsal: Rehearsal) -> list[Loss]:
    return [loss for loss in rehearsal.losses if loss.graded]


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
    losses = _graded(rehearsal)
    if not losses:
        return ()
    first = losses[0]
    if all(
        loss.blank != rehearsal.subject.blank for loss in losses if loss.passage == first.passage
    ):
        return told(
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
        return told(
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
        return told(
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
    told_of = alone or _of_the_output(losses)
    wrong = [
        (loss, rehearsal.samples[clip].name, given, own)
        for loss in told_of
        for clip, given, own in zip(loss.clips, loss.input_lengths, loss.own_steps, strict=True)
        if given != own
    ]
    if not wrong or len({loss.where for loss, *_ in wrong}) > 1:
        return ()
    loss, sample, given, own = max(wrong, key=lambda one: abs(one[2] - one[3]))
    padded = all(given == len(loss.log_probs) for loss, _, given, _ in wrong)
    return told(
        OTHER_LENGTHS,
        "loss" if given > own else "batches",
        headline=f"the loop's CTC reads {given} steps of {sample}, which has {own}"
        + (": the length of the padded batch" if padded else ""),
        where=loss.where,
        evidence=(
            f"so at {len(wrong)} of {sum(len(loss.input_lengths) for loss in told_of)} clips",
        ),
        samples=(sample,),
        try_="give CTC the steps that the network returns",
    )


def targets_are_the_clips_own(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """The target that CTC is given for a row is that of the sample whose features the row holds."""
    losses = _least_wrong(
        rehearsal,
        [
            loss
            for loss in _graded(rehearsal)
            if loss.given is not None and len(loss.targets) == len(loss.given.rows)
        ],
    )
    pairs = [pair for loss in losses for pair in _pairs(rehearsal, loss)]
    wrong = [(target, sample) for target, sample in pairs if target != sample.target.tolist()]
    if not pairs or len(wrong) < max(1, 0.05 * len(pairs)):
        return ()
    where, name = losses[0].where, wrong[0][1].name
    names = tuple(dict.fromkeys(sample.name for _, sample in wrong))
    evidence = (
        f"{len(wrong)} of {len(pairs)} targets: {naming(list(names))}",
        f"{name}: {wrong[0][0]} in the place of {wrong[0][1].target.tolist()}",
    )
    record, headline, try_ = _what_is_wrong(rehearsal, losses, wrong)
    return told(
        record,
        "batches",
        headline=headline,
        where=where,
        evidence=evidence,
        samples=names,
        try_=try_,
    )


def _what_is_wrong(
    rehearsal: Rehearsal, losses: Sequence[Loss], wrong: Sequence[tuple[list[int], Sample]]
) -> tuple[Record, str, str]:
    """Of targets that are not the clips' own: the record, what is told, and what to change."""
    if all(target[: len(sample.target)] == sample.target.tolist() for target, sample in wrong):
        return (
            TARGETS_PADDED,
            "padding is read as labels: targets go on past their end",
            "target_lengths: the number of tokens of each target",
        )
    target, sample = wrong[0]
    offset = target[0] - int(sample.target[0]) if target else 0
    if offset and all(target == (sample.target + offset).tolist() for target, sample in wrong):
        return (
            TARGETS_SHIFTED,
            f"every label is off by {offset:+d} where it reaches the loss",
            "one vocabulary for dataset, collate and loss",
        )
    own = [
        Counter(tuple(rehearsal.samples[clip].target.tolist()) for clip in loss.clips)
        for loss in losses
    ]
    if all(
        Counter(map(tuple, loss.targets)) == counts
        for loss, counts in zip(losses, own, strict=True)
    ):
        return (
            TARGETS_MIXED_UP,
            "clips are trained on the targets of their batch mates",
            "sort features, lengths and targets by one order",
        )
    return (
        TARGETS_CHANGED,
        "targets that reach the loss are not the samples' own",
        "compare what collate gives with the dataset's items",
    )


def _pairs(rehearsal: Rehearsal, loss: Loss) -> list[tuple[list[int], Sample]]:
    """The target that CTC was given for each row that is known for sure, and the sample that the
    row holds.
    """
    assert loss.given is not None
    rows = zip(loss.targets, loss.given.rows, strict=True)
    return [(target, rehearsal.samples[row.sample]) for target, row in rows if row.likeness > ALIKE]


def _least_wrong(rehearsal: Rehearsal, losses: Sequence[Loss]) -> list[Loss]:
    """Of the losses of each passage the one whose targets are the samples' most: another head may
    have targets of another kind.
    """

    def wrong(loss: Loss) -> int:
        return sum(target != sample.target.tolist() for target, sample in _pairs(rehearsal, loss))

    best: dict[int, Loss] = {}
    for loss in losses:
        if loss.passage not in best or wrong(loss) < wrong(best[loss.passage]):
            best[loss.passage] = loss
    return list(best.values())


def features_are_the_clips_own(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """What reaches the network is the sample: whole, not normalised once more, not hidden, not
    rounded.
    """
    rows = [
        (row, loss)
        for loss in _graded(rehearsal)
        if loss.given is not None and not loss.given.exact
        for row in loss.given.rows
    ]
    if not rows:
        return ()
    where = rehearsal.first("ctc") or rows[0][1].where
    count = sum(len(loss.given.rows) for loss in _graded(rehearsal) if loss.given is not None)
    cut = [
        row
        for row, _ in rows
        if row.off < 1e-3 and row.frames < rehearsal.samples[row.sample].frames
    ]
    if cut and len(cut) >= 0.05 * count:
        least = min(cut, key=lambda row: row.frames / rehearsal.samples[row.sample].frames)
        sample = rehearsal.samples[least.sample]
        return told(
            FEATURES_CUT,
            "batches",
            headline=(
                f"clips are cut: {least.frames} of {sample.frames} frames of {sample.name} reach "
                "the network"
            ),
            where=where,
            evidence=(f"{len(cut)} of {count} clips",),
            samples=(sample.name,),
            try_="pad to the longest clip of the batch",
        )
    hidden = [row.zeros for row, _ in rows]
    if sum(hidden) / count > MASKED:
        return told(
            FEATURES_HIDDEN,
            "batches",
            headline=(
                f"{sum(hidden) / count:.0%} of each clip is set to zero before it reaches the "
                "network"
            ),
            where=where,
            evidence=(f"{count} clips",),
            try_="mask a few spans, not most of the clip",
        )
    return _rescaled(rehearsal, [row for row, _ in rows], count, where) or _rounded(
        rehearsal, count, where
    )


def _rescaled(
    rehearsal: Rehearsal, rows: Sequence[Row], count: int, where: str | None
) -> tuple[Finding, ...]:
    """Items of the dataset stand at unit scale, and what reaches the network does not: they were
    normalised once more.
    """
    affine = [row for row in rows if row.likeness > AFFINE and row.zeros < 0.01]
    if len(affine) < 0.9 * count:
        return ()
    mean, spread = spread_of(rehearsal.samples)
    scale, shift = median(row.scale for row in affine), median(row.shift for row in affine)
    if any(
        abs(row.scale - scale) > SCALED * abs(scale) or abs(row.shift - shift) > SCALED * spread
        for row in affine
    ):
        return ()  # another for each clip, as by augmentation
    given_mean, given_spread = scale * mean + shift, abs(scale) * spread
    unit = abs(mean) < 0.5 and 0.5 < spread < 2
    if not unit or (abs(given_mean) < 0.5 and 0.5 < given_spread < 2):
        return ()
    return told(
        NORMALISED_TWICE,
        "batches",
        headline=(
            f"features are normalised twice: the network is given mean {given_mean:.2f} and "
            f"deviation {given_spread:.2f}"
        ),
        where=where,
        evidence=(
            (
                f"each is {scale:.3g} times its item {shift:+.3g}; items have mean {mean:.2f} and "
                f"deviation {spread:.2f}"
            ),
        ),
        try_="normalise once: in the dataset, in collate or in the network",
    )


def _rounded(rehearsal: Rehearsal, count: int, where: str | None) -> tuple[Finding, ...]:
    """Few numbers are left of many."""
    losses = [loss for loss in _graded(rehearsal) if loss.given is not None]
    levels = rehearsal.levels
    if levels is None or not losses:
        return ()
    before, after = levels
    if after * 50 > before:
        return ()
    return told(
        FEATURES_ROUNDED,
        "batches",
        headline=f"features are rounded: {after} different numbers are left of {before}",
        where=where,
        evidence=(f"{count} clips",),
        try_="keep features in floating point",
    )


def network_is_used_as_it_is(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """For the samples' own features the loop's CTC is given what a network of the same weights
    gives.
    """
    losses = _of_the_output(_graded(rehearsal))
    gaps = [_gap(loss) for loss in losses]
    off = [
        i
        for i, (gap, loss) in enumerate(zip(gaps, losses, strict=True))
        if gap > (SAME_IN_HALF if loss.half else SAME)
    ]
    if len(losses) < 3 or not off:
        return ()
    if 0 not in off and len(off) >= (len(gaps) - 1) / 2:
        return told(
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
        return told(
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
TARGETS_PADDED = Record(
    name="targets_padded",
    stage="loop",
    means="Padding of targets is read as labels.",
    detected=(
        "Targets that reach torch's CTC beside those of the samples whose features stand in the "
        "same row."
    ),
    mend="Give the number of tokens of each target.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("labels_padded_as_labels",),
    harmless=True,
)
TARGETS_SHIFTED = Record(
    name="targets_shifted",
    stage="loop",
    means="Every label is off by the same number, so the blank or no token stands for a real one.",
    detected=(
        "Targets that reach torch's CTC beside those of the samples whose features stand in the "
        "same row."
    ),
    mend="One vocabulary everywhere.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("label_off_by_one",),
    harmless=True,
)
TARGETS_MIXED_UP = Record(
    name="targets_mixed_up",
    stage="loop",
    means="Inputs were put into another order and targets were not: clips learn what others say.",
    detected=(
        "Targets that reach torch's CTC beside those of the samples whose features stand in the "
        "same row."
    ),
    mend="Sort whole items, not their parts.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("inputs_sorted_alone", "targets_sorted_alone"),
)
TARGETS_CHANGED = Record(
    name="targets_changed",
    stage="loop",
    means="Targets that reach the loss are others than the samples'.",
    detected=(
        "Targets that reach torch's CTC beside those of the samples whose features stand in the "
        "same row."
    ),
    mend="Compare what collate gives with the dataset's items.",
    no_remedy="the part is exchanged, which shows the same",
    not_planted="the kinds that have a name of their own are planted",
    harmless=True,
)
FEATURES_CUT = Record(
    name="features_cut",
    stage="loop",
    means="Clips lose frames between dataset and network.",
    detected="What reaches the network's first module beside the samples.",
    mend="Pad to the longest clip.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("frames_cut",),
    harmless=True,
)
FEATURES_HIDDEN = Record(
    name="features_hidden",
    stage="loop",
    means="Most of each clip is set to zero before the network sees it.",
    detected="What reaches the network's first module beside the samples.",
    mend="Mask a few short spans.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("all_masked",),
)
NORMALISED_TWICE = Record(
    name="normalised_twice",
    stage="loop",
    means="Features of unit scale are normalised once more, and no longer are.",
    detected="What reaches the network's first module is each sample times one number plus "
    "another.",
    mend="Normalise in one place.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("normalised_twice",),
    harmless=True,
)
FEATURES_ROUNDED = Record(
    name="features_rounded",
    stage="loop",
    follows=("features_hidden",),
    means="Features were turned into whole numbers on their way: most of what they say is gone.",
    detected="How many different numbers reach the network, and how many there were.",
    mend="Keep them in floating point.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("rounded_to_halves",),
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
