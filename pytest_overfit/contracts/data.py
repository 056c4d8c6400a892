"""What must hold of the samples. Every sample is read once; nothing is run but, where values are huge, the network on two scales."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from pytest_overfit.contracts.bench import SOUGHT, Bench
from pytest_overfit.contracts.passage import distance
from pytest_overfit.finding import Finding, counted, naming
from pytest_overfit.subject import BadSample, Sample, look_transposed

LOUD, FAINT = 100.0, 1e-3
"""Bounds on the rms of all features. Between them lie z-scores (1), raw coordinates (0.5) and decibels (50); pixels (130) do not."""
UNEVEN, SELDOM = 20.0, 0.1
"""Largest over smallest deviation of columns that vary alike, and the share of frames in which a column must change to have one."""
ABSURD_FAINT, ABSURD = 1e-6, 1e3
"""Bounds that no unit of measurement explains passing, and no norm in the network excuses."""


def features_are_finite(bench: Bench) -> tuple[Finding, ...]:
    bad: dict[str, str] = {}
    for sample, summary in zip(bench.samples, bench.summaries, strict=True):
        if sample.features.numel() == 0:
            bad[sample.name] = f"{sample.name}: no features, shape {tuple(sample.features.shape)}"
        elif not (math.isfinite(summary.low) and math.isfinite(summary.high)):
            wrong = (~torch.isfinite(sample.features)).nonzero()
            frame, column = wrong[0].tolist()
            bad[sample.name] = f"{sample.name}: {counted(len(wrong), 'value')} not finite, first at frame {frame}, column {column}"
    if not bad:
        return _odd_widths(bench)
    return (
        Finding(
            name="bad_features",
            headline=f"{counted(len(bad), 'sample')} of {len(bench.samples)} have features that are empty or not finite: {naming([*bad])}",
            evidence=tuple(list(bad.values())[:5]),
            samples=tuple(bad),
            try_="leave these samples out, or mask what was not detected before differencing and scaling",
            status="confirmed",
        ),
    )


def _odd_widths(bench: Bench) -> tuple[Finding, ...]:
    widths = [sample.features.shape[1] for sample in bench.samples]
    common = max(set(widths), key=widths.count, default=0)
    odd = tuple(sample.name for sample, width in zip(bench.samples, widths, strict=True) if width != common)
    if not odd:
        return ()
    advice = "they look like (dim, frames): give (frames, dim)" if look_transposed(bench.samples) else "use one feature layout"
    headline = f"{counted(len(odd), 'sample')} of {len(widths)} have features of another width than {common}: {naming(odd)}"
    return (Finding(name="bad_features", headline=headline, samples=odd, try_=advice, status="confirmed"),)


def features_are_scaled(bench: Bench) -> tuple[Finding, ...]:
    finite = [summary.rms for summary in bench.summaries if math.isfinite(summary.rms)]
    rms = math.sqrt(sum(value**2 for value in finite) / len(finite)) if finite else 1.0
    absurd = not ABSURD_FAINT <= rms <= ABSURD
    if FAINT <= rms <= LOUD or rms == 0:
        return _uneven_columns(bench)
    normalised = _normalises_itself(bench, 1 / rms)
    if normalised and not absurd:
        return ()
    why = "which no unit explains" if normalised else "and the network does not normalise them"
    size = max(max(abs(summary.low), abs(summary.high)) for summary in bench.summaries if math.isfinite(summary.rms))
    return (
        Finding(
            name="unscaled_input",
            headline=f"the features have an rms of {rms:.4g}, {why}",
            evidence=(f"largest absolute value {size:.3g}", f"expected an rms between {FAINT:g} and {LOUD:g}"),
            try_="standardise each feature over the training set, once",
        ),
    )


def _uneven_columns(bench: Bench) -> tuple[Finding, ...]:
    """A warning where columns differ far in how much they vary, and the network does not make them alike: the faint ones are hardly heard.

    Columns that seldom change, such as those of a hand that is seldom seen, have no scale to speak of and are left out.
    """
    if not bench.usable:
        return ()
    rows = torch.cat([sample.features for sample in bench.usable]).double()
    moving = ((rows - rows.median(0).values).abs() > 0).double().mean(0) > SELDOM
    deviations = torch.where(moving, rows.std(0), torch.nan)
    if int(moving.sum()) < 2:
        return ()
    low, high = int(deviations.nan_to_num(torch.inf).argmin()), int(deviations.nan_to_num(0.0).argmax())
    ratio = float(deviations[high] / deviations[low])
    scale = torch.where(moving, 1 / deviations, 1.0).to(rows.dtype)
    if not ratio > UNEVEN or _normalises_itself(bench, scale.to(bench.batch.features)):
        return ()
    return (
        Finding(
            name="unscaled_input",
            headline=f"feature columns differ {ratio:.0f}-fold in how much they vary, and the network does not make them alike",
            evidence=(
                f"column {high} has a standard deviation of {float(deviations[high]):.3g}, column {low} of {float(deviations[low]):.3g}",
                f"the mean of column {high} is {float(rows[:, high].mean()):.3g}",
            ),
            try_="standardise each feature over the training set, once",
            status="confirmed",
            severity="warning",
        ),
    )


def _normalises_itself(bench: Bench, factor: float | Tensor) -> bool:
    """Whether the network gives nearly the same output, in train mode, for features of another scale. factor: one, or one for each column."""
    if not bench.usable or bench.failure:
        return False
    batch = bench.batch
    as_is, steps = bench.run(batch.features, batch.frames, train=True)
    scaled, _ = bench.run(batch.features * factor, batch.frames, train=True)
    valid = int(steps.min())
    return distance(as_is[:valid], scaled[:valid]) < 0.05 * float(as_is[:valid].float().std())


def features_vary(bench: Bench) -> tuple[Finding, ...]:
    still = tuple(sample.name for sample, summary in zip(bench.samples, bench.summaries, strict=True) if summary.still)
    if not still:
        return ()
    return (
        Finding(
            name="dead_input",
            headline=f"{counted(len(still), 'sample')} of {len(bench.samples)} show the same features at every frame: {naming(still)}",
            samples=still,
            try_="check how these clips were extracted; leave them out",
            status="confirmed",
        ),
    )


def targets_are_readable(bench: Bench) -> tuple[Finding, ...]:
    blank, vocabulary = bench.subject.blank, bench.vocabulary
    bad: dict[str, str] = {}
    for sample in bench.samples:
        labels = sample.target.tolist()
        outside = [label for label in labels if not 0 <= label < vocabulary]
        if not labels:
            bad[sample.name] = f"{sample.name}: its target is empty"
        elif outside:
            bad[sample.name] = f"{sample.name}: label {outside[0]} is outside the vocabulary of {vocabulary}"
        elif blank in labels:
            bad[sample.name] = f"{sample.name}: the blank ({blank}) stands at position {labels.index(blank)} of its target"
    if not bad:
        return ()
    return (
        Finding(
            name="bad_target",
            headline=f"{counted(len(bad), 'sample')} of {len(bench.samples)} have a target that CTC cannot be trained on: {naming([*bad])}",
            evidence=tuple(list(bad.values())[:5]),
            samples=tuple(bad),
            try_="rebuild the targets with this vocabulary, or leave these samples out",
            status="confirmed",
        ),
    )


def samples_do_not_conflict(bench: Bench) -> tuple[Finding, ...]:
    groups: dict[tuple[object, ...], list[Sample]] = defaultdict(list)
    for sample, summary in zip(bench.samples, bench.summaries, strict=True):
        if math.isfinite(summary.total) and not summary.still:
            groups[(tuple(sample.features.shape), summary.total, summary.low, summary.high)].append(sample)
    pairs = [pair for group in groups.values() if len(group) > 1 for pair in _conflicts(group)]
    if not pairs:
        return ()
    first, second = pairs[0]
    return (
        Finding(
            name="conflicting_samples",
            headline=f"{first.name} and {second.name} have the same features and different targets" + _and_more(len(pairs) - 1),
            evidence=tuple(f"{a.name}: {a.target.tolist()}; {b.name}: {b.target.tolist()}" for a, b in pairs[:5]),
            samples=tuple(dict.fromkeys(sample.name for pair in pairs for sample in pair)),
            try_="keep the sample whose target is right",
            status="confirmed",
        ),
    )


def _and_more(pairs: int) -> str:
    return f", and so do {counted(pairs, 'more pair')}" if pairs else ""


def _conflicts(group: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Pairs of the group's first sample, or first of its kind, with others that have its features and not its target."""
    pairs = []
    leaders: list[Sample] = []
    for sample in group:
        leader = next((other for other in leaders if torch.equal(other.features, sample.features)), None)
        if leader is None:
            leaders.append(sample)
        elif leader.target.tolist() != sample.target.tolist():
            pairs.append((leader, sample))
    return pairs


def samples_are_stable(bench: Bench) -> tuple[Finding, ...]:
    """Fetch the first samples twice, as two rungs would."""
    count = min(len(bench.samples), SOUGHT)
    first, second = _fetch(bench, count), _fetch(bench, count)
    changed = tuple(one.name for one, other in zip(first, second, strict=False) if not _same(one, other))
    if not changed and len(first) == len(second):
        return ()
    return (
        Finding(
            name="unstable_input",
            headline="fetching the samples twice gives " + (f"different ones: {naming(changed)}" if changed else "more or fewer"),
            evidence=(f"{len(changed)} of {counted(count, 'sample')} changed",),
            samples=changed,
            try_="switch augmentation off for these tests, and read frames in their own order",
            status="confirmed",
        ),
    )


def _fetch(bench: Bench, count: int) -> Sequence[Sample]:
    """Samples as the subject gives them now; those of the bench where it refuses, which `targets_are_readable` reports."""
    samples = bench.subject.samples
    try:
        return list(samples(count) if callable(samples) else samples[:count])[:count]
    except BadSample:
        return bench.samples[:count]


def _same(one: Sample, other: Sample) -> bool:
    same_target = one.name == other.name and one.target.tolist() == other.target.tolist()
    same_shape = one.features.shape == other.features.shape
    return same_target and same_shape and torch.allclose(one.features, other.features, rtol=0, atol=0, equal_nan=True)
