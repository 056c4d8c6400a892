"""Findings of the targets that reach the loss: each sample's own, beside its features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_overfit.finding import Finding, naming
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.matching import ALIKE
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.windows import Loss
from pytest_overfit.subject import Sample


def targets_are_the_clips_own(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """The target that CTC is given for a row is that of the sample whose features the row holds."""
    losses = _least_wrong(
        rehearsal,
        [
            loss
            for loss in rehearsal.graded
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
    return loop_finding(
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
