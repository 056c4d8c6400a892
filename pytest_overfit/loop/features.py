"""Findings of the features that reach the network: each sample's own, whole and as they were."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from pytest_overfit.finding import Finding
from pytest_overfit.findings.record import Record
from pytest_overfit.loop.located import loop_finding
from pytest_overfit.loop.matching import Row, spread_of
from pytest_overfit.loop.rehearsal import Rehearsal
from pytest_overfit.loop.windows import Loss

AFFINE = 0.999
"""Correlation from which a row is its sample, scaled and shifted."""


SCALED = 0.02
"""Part of a scale, or of the spread, by which rows of one normalisation may differ."""


MASKED = 0.5
"""Share of a clip's numbers set to zero, from which more is hidden than shown."""


def features_are_the_clips_own(rehearsal: Rehearsal) -> tuple[Finding, ...]:
    """What reaches the network is the sample: whole, not normalised once more, not hidden, not
    rounded.
    """
    rows = [
        (row, loss)
        for loss in rehearsal.graded
        if loss.given is not None and not loss.given.exact
        for row in loss.given.rows
    ]
    if not rows:
        return ()
    where = rehearsal.first("ctc") or rows[0][1].where
    count = sum(len(loss.given.rows) for loss in rehearsal.graded if loss.given is not None)
    cut = [
        row
        for row, _ in rows
        if row.off < 1e-3 and row.frames < rehearsal.samples[row.sample].frames
    ]
    if cut and len(cut) >= 0.05 * count:
        least = min(cut, key=lambda row: row.frames / rehearsal.samples[row.sample].frames)
        sample = rehearsal.samples[least.sample]
        return loop_finding(
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
    if shuffled := _shuffled(rehearsal, where):
        return shuffled
    hidden = [row.zeros for row, _ in rows]
    if sum(hidden) / count > MASKED:
        return loop_finding(
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


def _shuffled(rehearsal: Rehearsal, where: str | None) -> tuple[Finding, ...]:
    """Frames in another order, which the subject's own forward does not have."""
    known = [loss for loss in rehearsal.graded if loss.given is not None]
    turned = [loss for loss in known if loss.given is not None and loss.given.shuffled]
    if len(turned) < 0.9 * len(known) or any(_reads_it_so(loss) for loss in turned):
        return ()
    return loop_finding(
        FEATURES_REORDERED,
        "batches",
        headline="the frames of each clip reach the network in another order",
        where=where,
        evidence=(f"at {len(turned)} of {len(known)} losses, every frame is the clip's own",),
        try_="keep frames in time, or turn them in the subject's forward as well",
    )


def _reads_it_so(loss: Loss) -> bool:
    """Whether the subject's own forward of the clips, as they are, gives what the loop has."""
    if loss.turned is None or loss.turned[0].shape != loss.log_probs.shape:
        return False
    return bool((loss.turned[0] - loss.log_probs.float()).abs().max() < 0.1)


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
    return loop_finding(
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
    losses = [loss for loss in rehearsal.graded if loss.given is not None]
    levels = rehearsal.levels
    if levels is None or not losses:
        return ()
    before, after = levels
    if after * 50 > before:
        return ()
    return loop_finding(
        FEATURES_ROUNDED,
        "batches",
        headline=f"features are rounded: {after} different numbers are left of {before}",
        where=where,
        evidence=(f"{count} clips",),
        try_="keep features in floating point",
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


FEATURES_REORDERED = Record(
    name="features_reordered",
    stage="loop",
    means="Frames reach the network in another order than the clip has them, and labels do not.",
    detected="What reaches the network's first module beside the samples, in any order.",
    mend="Keep frames in time.",
    no_remedy="the part is exchanged, which shows the same",
    planted=("unseen_time_reversed",),
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
