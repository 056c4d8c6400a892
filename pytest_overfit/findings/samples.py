"""Findings of the samples: features that are broken, still, unscaled, unstable or contradictory.

Every sample is read once; nothing is run but, where values are huge, the network on two scales.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.findings.bench import SOUGHT, Bench
from pytest_overfit.findings.bench.summary import Summary
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.findings.remedies import LEAVE_OUT, Remedy, leave_out
from pytest_overfit.network.recorder import distance
from pytest_overfit.subject import BadSample, Sample, look_transposed

if TYPE_CHECKING:
    from pytest_overfit.climb.ladder import Rung

LOUD, FAINT = 100.0, 1e-3
"""Bounds on the rms of all features.

Between them lie z-scores (1), raw coordinates (0.5) and decibels (50); pixels (130) do not.
"""
UNEVEN, SELDOM = 20.0, 0.1
"""Largest over smallest deviation of columns that vary alike, and the share of frames in which a
column must change to have one.
"""
MOST_ROWS = 2000
"""Frames, of all clips evenly, that tell which columns vary."""
COPY, FRAMES = 0.01, 8
"""Share of the energy of what changes over a clip by which a copy of it differs at most: two takes of
one sign differ by half of it and more; and frames that a clip must have for that.
"""
ABSURD_FAINT, ABSURD = 1e-6, 1e3
"""Bounds that no unit of measurement explains passing, and no norm in the network excuses."""


def features_are_finite(bench: Bench) -> tuple[Finding, ...]:
    """Samples without features, or with numbers that are not finite."""
    bad: dict[str, str] = {}
    for sample, summary in zip(bench.samples, bench.summaries, strict=True):
        if sample.features.numel() == 0:
            bad[sample.name] = f"{sample.name}: no features, shape {tuple(sample.features.shape)}"
        elif not (math.isfinite(summary.low) and math.isfinite(summary.high)):
            wrong = (~torch.isfinite(sample.features)).nonzero()
            frame, column = wrong[0].tolist()
            bad[sample.name] = (
                f"{sample.name}: {counted(len(wrong), 'value')} not finite, first at frame "
                f"{frame}, column {column}"
            )
    if not bad:
        return _odd_widths(bench)
    return (
        BAD_FEATURES.finding(
            headline=(
                f"{counted(len(bad), 'sample')} of {len(bench.samples)} have features that are "
                f"empty or not finite: {naming([*bad])}"
            ),
            evidence=tuple(list(bad.values())[:5]),
            samples=tuple(bad),
            try_=(
                "leave these samples out, or mask what was not detected before differencing and "
                "scaling"
            ),
            status="confirmed",
        ),
    )


def _odd_widths(bench: Bench) -> tuple[Finding, ...]:
    widths = [sample.features.shape[1] for sample in bench.samples]
    common = max(set(widths), key=widths.count, default=0)
    odd = tuple(
        sample.name for sample, width in zip(bench.samples, widths, strict=True) if width != common
    )
    if not odd:
        return ()
    advice = (
        "they look like (dim, frames): give (frames, dim)"
        if look_transposed(bench.samples)
        else "use one feature layout"
    )
    headline = (
        f"{counted(len(odd), 'sample')} of {len(widths)} have features of another width than "
        f"{common}: {naming(odd)}"
    )
    return (BAD_FEATURES.finding(headline=headline, samples=odd, try_=advice, status="confirmed"),)


def features_are_scaled(bench: Bench) -> tuple[Finding, ...]:
    """Features that are far louder or fainter than what networks are started for, all of them or
    some columns.
    """
    finite = [summary.rms for summary in bench.summaries if math.isfinite(summary.rms)]
    rms = math.sqrt(sum(value**2 for value in finite) / len(finite)) if finite else 1.0
    absurd = not ABSURD_FAINT <= rms <= ABSURD
    if FAINT <= rms <= LOUD or rms == 0:
        return _uneven_columns(bench)
    normalised = _normalises_itself(bench, 1 / rms)
    if normalised and not absurd:
        return _uneven_columns(bench)
    why = "which no unit explains" if normalised else "and the network does not normalise them"
    size = max(
        max(abs(summary.low), abs(summary.high))
        for summary in bench.summaries
        if math.isfinite(summary.rms)
    )
    return (
        UNSCALED_INPUT.finding(
            headline=f"the features have an rms of {rms:.4g}, {why}",
            evidence=(
                f"largest absolute value {size:.3g}",
                f"expected an rms between {FAINT:g} and {LOUD:g}",
            ),
            try_="standardise each feature over the training set, once",
        ),
    )


def _uneven_columns(bench: Bench) -> tuple[Finding, ...]:
    """A warning where columns differ far in how much they vary, and the network does not make them
    alike: the faint ones are hardly heard.

    Columns that seldom change, such as those of a hand that is seldom seen, have no scale to speak
    of and are left out.
    """
    if not bench.usable:
        return ()
    rows = torch.cat([sample.features for sample in bench.usable])
    some = rows[:: -(-len(rows) // MOST_ROWS)]  # a median sorts them
    moving = (some != some.median(0).values).float().mean(0) > SELDOM
    deviations = torch.where(moving, rows.double().std(0), torch.nan)
    if int(moving.sum()) < 2:
        return ()
    low, high = (
        int(deviations.nan_to_num(torch.inf).argmin()),
        int(deviations.nan_to_num(0.0).argmax()),
    )
    ratio = float(deviations[high] / deviations[low])
    scale = torch.where(moving, 1 / deviations, 1.0).to(rows.dtype)
    if not ratio > UNEVEN or _normalises_itself(bench, scale.to(bench.batch.features)):
        return ()
    return (
        UNSCALED_INPUT.finding(
            headline=(
                f"feature columns differ {ratio:.0f}-fold in how much they vary, and the network "
                "does not make them alike"
            ),
            evidence=(
                (
                    f"column {high} has a standard deviation of {float(deviations[high]):.3g}, "
                    f"column {low} of {float(deviations[low]):.3g}"
                ),
                f"the mean of column {high} is {float(rows[:, high].mean()):.3g}",
            ),
            try_="standardise each feature over the training set, once",
            status="confirmed",
            severity="warning",
        ),
    )


def _normalises_itself(bench: Bench, factor: float | Tensor) -> bool:
    """Whether the network gives nearly the same output, in train mode, for features of another
    scale. factor: one, or one for each column.
    """
    if not bench.usable or bench.failure:
        return False
    batch = bench.batch
    as_is, steps = bench.run(batch.features, batch.frames, train=True)
    scaled, _ = bench.run(batch.features * factor, batch.frames, train=True)
    valid = int(steps.min())
    return distance(as_is[:valid], scaled[:valid]) < 0.05 * float(as_is[:valid].float().std())


def features_vary(bench: Bench) -> tuple[Finding, ...]:
    """Samples whose frames are all the same."""
    still = tuple(
        sample.name
        for sample, summary in zip(bench.samples, bench.summaries, strict=True)
        if summary.still
    )
    if not still:
        return ()
    return (
        DEAD_INPUT.finding(
            headline=(
                f"{counted(len(still), 'sample')} of {len(bench.samples)} show the same features "
                f"at every frame: {naming(still)}"
            ),
            samples=still,
            try_="check how these clips were extracted; leave them out",
            status="confirmed",
        ),
    )


def samples_do_not_conflict(bench: Bench) -> tuple[Finding, ...]:
    """Samples with the same features and different targets; a clip may end earlier than another of
    which it is the beginning.
    """
    pairs = [
        pair
        for group in _alike(bench, lambda summary: None if summary.still else summary)
        for pair in _conflicts([bench.samples[place] for place in group])
    ]
    same = "have the same features and different targets"
    if not pairs:
        pairs = _beginnings(bench)
        same = "are the same frame by frame, until the second ends, and have different targets"
    if not pairs:
        pairs = _copies(bench)
        same = "have nearly the same features, frame by frame, and different targets"
    if not pairs:
        return ()
    first, second = pairs[0]
    shared = first.features.data_ptr() == second.features.data_ptr()
    return (
        CONFLICTING_SAMPLES.finding(
            headline=f"{first.name} and {second.name} {same}" + _and_more(len(pairs) - 1),
            evidence=(
                *(("their features lie in the same memory",) if shared else ()),
                *(
                    f"{a.name}: {a.target.tolist()}; {b.name}: {b.target.tolist()}"
                    for a, b in pairs[:5]
                ),
            ),
            samples=tuple(dict.fromkeys(sample.name for pair in pairs for sample in pair)),
            try_="copy the features of each sample as it is read: one buffer is filled again for all"
            if shared
            else "keep the sample whose target is right",
            status="confirmed",
        ),
    )


def _alike(bench: Bench, known_by: Callable[[Summary], Hashable]) -> list[list[int]]:
    """Places of finite samples that are known by the same, two or more of each, without those that
    are known by None: features need not be held for it.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, summary in enumerate(bench.summaries):
        if math.isfinite(summary.total) and (key := known_by(summary)) is not None:
            groups[key].append(place)
    return [group for group in groups.values() if len(group) > 1]


def _beginnings(bench: Bench) -> list[tuple[Sample, Sample]]:
    """Pairs of a sample and a shorter one that is its beginning, and whose target is none; where a
    clip is cut, its last token may be as well.
    """
    pairs = []
    for group in _alike(
        bench, lambda one: None if one.start is None else (one.start, one.shape[1:])
    ):
        longest, *others = sorted(group, key=lambda place: -bench.summaries[place].shape[0])
        for place in others:
            whole, part = bench.samples[longest], bench.samples[place]
            frames, tokens = len(part.features), len(part.target) - 1
            if torch.equal(whole.features[:frames], part.features) and (
                whole.target[:tokens].tolist() != part.target[:tokens].tolist()
            ):
                pairs.append((whole, part))
    return pairs


def _copies(bench: Bench) -> list[tuple[Sample, Sample]]:
    """Pairs of samples that differ by no more than COPY of what changes over a clip, as copies do that
    noise was added to, and not by their targets alone.
    """
    pairs = []
    for group in _alike(
        bench, lambda one: None if one.still or one.shape[0] < FRAMES else one.shape
    ):
        group.sort(key=lambda place: bench.summaries[place].rms)
        for one, other in pairwise(group):
            a, b = bench.samples[one], bench.samples[other]
            moves = (a.features - a.features.mean(0)).square().sum()
            apart = (a.features - b.features).square().sum()
            if apart < COPY * moves and a.target.tolist() != b.target.tolist():
                pairs.append((a, b))
    return pairs


def _and_more(pairs: int) -> str:
    do = "does" if pairs == 1 else "do"
    return f", and so {do} {counted(pairs, 'more pair')}" if pairs else ""


def _conflicts(group: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Pairs of the group's first sample, or first of its kind, with others that have its features
    and not its target.
    """
    pairs = []
    leaders: list[Sample] = []
    for sample in group:
        leader = next(
            (other for other in leaders if torch.equal(other.features, sample.features)), None
        )
        if leader is None:
            leaders.append(sample)
        elif leader.target.tolist() != sample.target.tolist():
            pairs.append((leader, sample))
    return pairs


def samples_are_stable(bench: Bench) -> tuple[Finding, ...]:
    """Fetch the first samples again, as another rung would; where they are not the bench's, twice."""
    count = min(len(bench.samples), SOUGHT)
    first = _fetch(bench, count)
    if len(first) == count and all(map(_same, first, bench.samples)):
        return ()
    second = _fetch(bench, count)
    changed = tuple(
        one.name for one, other in zip(first, second, strict=False) if not _same(one, other)
    )
    if not changed and len(first) == len(second):
        return ()
    return (
        UNSTABLE_INPUT.finding(
            headline="fetching the samples twice gives "
            + (f"different ones: {naming(changed)}" if changed else "more or fewer"),
            evidence=(f"{len(changed)} of {counted(count, 'sample')} changed",),
            samples=changed,
            try_="switch augmentation off for these tests, and read frames in their own order",
            status="confirmed",
        ),
    )


def _fetch(bench: Bench, count: int) -> Sequence[Sample]:
    """Samples as the subject gives them now; those of the bench where it refuses, which
    `targets_are_readable` reports.
    """
    samples = bench.subject.samples
    try:
        return list(samples(count) if callable(samples) else samples[:count])[:count]
    except BadSample:
        return bench.samples[:count]


def _same(one: Sample, other: Sample) -> bool:
    same_target = one.name == other.name and one.target.tolist() == other.target.tolist()
    same_shape = one.features.shape == other.features.shape
    return (
        same_target
        and same_shape
        and torch.allclose(one.features, other.features, rtol=0, atol=0, equal_nan=True)
    )


def _standardised(rung: Rung, _: Finding) -> Rung:
    samples = rung.subject.take(rung.samples)
    rows = torch.cat([sample.features for sample in samples])
    mean, deviation = rows.mean(0), rows.std(0).clamp(min=1e-6)
    scaled = [replace(sample, features=(sample.features - mean) / deviation) for sample in samples]
    return replace(rung, subject=replace(rung.subject, samples=scaled))


def _fetched_once(rung: Rung, _: Finding) -> Rung:
    return replace(rung, subject=replace(rung.subject, samples=rung.subject.take(rung.samples)))


KEEP_FIRST = Remedy(
    name="all of those samples but the first left out",
    change=lambda rung, finding: leave_out(rung, finding.samples[1:]),
)
STANDARDISE = Remedy(name="features z-scored", change=_standardised)
FETCH_ONCE = Remedy(name="samples fetched once", change=_fetched_once)

BAD_FEATURES = Record(
    name="bad_features",
    stage="data",
    means="Some samples have features that are empty, not finite (NaN or infinite), or of another "
    "width than the rest. A network turns a single "
    "NaN into a loss of NaN, and every weight with it.",
    detected="Every value of every sample is read once.",
    mend=(
        "Leave these samples out, or mask what was not detected before you difference and scale. "
        "Features are (frames, dim), of one layout."
    ),
    remedies=(LEAVE_OUT,),
    planted=("data-nan",),
)
UNSCALED_INPUT = Record(
    name="unscaled_input",
    stage="data",
    means="The features are far from unit scale, or their columns differ far in how much they "
    "vary, and the network does not normalise them. "
    "Large columns drown small ones, and a learning rate that suits one scale does not suit the "
    "other.",
    detected="The root mean square of all features is compared with what z-scores, raw "
    "coordinates and decibels have, and the deviations of "
    "columns with each other. A network that gives the same output on another scale normalises "
    "them itself, and is left alone.",
    mend=(
        "Standardise each feature over the training set, once: subtract its mean and divide by its "
        "standard deviation."
    ),
    remedies=(STANDARDISE,),
    planted=("data-scale", "data-faint"),
)
DEAD_INPUT = Record(
    name="dead_input",
    stage="data",
    means=(
        "Some clips show the same features at every frame: nothing in them says when anything "
        "happens."
    ),
    detected="Each clip's frames are compared with its first.",
    mend="Check how these clips were extracted; leave them out.",
    remedies=(LEAVE_OUT,),
    planted=("data-constant",),
)
UNSTABLE_INPUT = Record(
    name="unstable_input",
    stage="data",
    means="The same sample is not the same when it is fetched again. A rung asks whether a "
    "network can memorise; what changes each time cannot "
    "be memorised.",
    detected="The first samples are fetched twice, as two rungs would, and compared value by "
    "value.",
    mend="Switch augmentation off for these tests, and read frames in their own order.",
    remedies=(FETCH_ONCE,),
    planted=("data-order",),
)
CONFLICTING_SAMPLES = Record(
    name="conflicting_samples",
    stage="data",
    means=(
        "Two samples have the same features and different targets. No network can be right about "
        "both. Or one is the beginning of the other, whose target does not begin so: nothing but "
        "where it ends tells them apart, as where a buffer is filled again for each clip."
    ),
    detected="Samples of equal shape, sum and extremes, those that begin alike, and those of one "
    "shape that are as loud, are compared value by value; a hundredth of what changes over a clip is "
    "what a copy with a little noise may differ by.",
    mend="Keep the sample whose target is right; copy what is read into a buffer.",
    remedies=(KEEP_FIRST,),
    planted=("data-duplicate", "data-buffer"),
)

FINITE_FEATURES = Contract(
    name="finite features",
    holds="every feature is a finite number, in one layout",
    about="data",
    examine=features_are_finite,
    finds=(BAD_FEATURES,),
)
MOVING_FEATURES = Contract(
    name="moving features",
    holds="every clip changes over time",
    about="data",
    examine=features_vary,
    finds=(DEAD_INPUT,),
)
STABLE_SAMPLES = Contract(
    name="stable samples",
    holds="fetching the samples twice gives the same ones",
    about="data",
    examine=samples_are_stable,
    finds=(UNSTABLE_INPUT,),
)
NO_CONFLICTS = Contract(
    name="no conflicts",
    holds="no two clips share features and differ in target",
    about="data",
    examine=samples_do_not_conflict,
    finds=(CONFLICTING_SAMPLES,),
)
SCALED_FEATURES = Contract(
    name="scaled features",
    holds="features are of unit scale, or the network normalises them",
    about="data",
    examine=features_are_scaled,
    finds=(UNSCALED_INPUT,),
)
