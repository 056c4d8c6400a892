"""Training runs made up from a seed: sound ones, in which nothing may be found, and sick ones, with
the rules of which one must find it.

A run here is a smooth course plus the disturbances that real ones have: noise that is heavy, that
remembers, or that has outliers; validation read at some epochs only; rates that restart; a phase in
which everything is blank; a plateau before the drop; step clocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.run import Facts, Prediction, Run
from pytest_overfit.levels import Level

LEVELS = (
    Level(name="uniform", loss=115.0),
    Level(name="blank", loss=7.1),
    Level(name="unigram", loss=5.5),
)
LEVELS += (Level(name="bag of clip", loss=2.5), Level(name="aligned", loss=0.0))
Rng = np.random.Generator
Make = Callable[[Rng], Run]


@dataclass(frozen=True, kw_only=True)
class Course:
    """Losses and output of a run, one row an epoch: arrays (epochs,)."""

    train: np.ndarray
    val: np.ndarray
    lr: np.ndarray | None = None


def curve(at, values):
    return Curve(at=tuple(map(float, at)), values=tuple(map(float, values)))


def noisy(rng, values, sd, memory=0.0):
    """Multiplied by exp(noise) of deviation sd; neighbours correlate by `memory`."""
    noise = np.empty(len(values))
    noise[0] = rng.normal()
    for i in range(1, len(values)):
        noise[i] = memory * noise[i - 1] + math.sqrt(1 - memory**2) * rng.normal()
    return values * np.exp(sd * noise)


def wer_of(loss):
    """An error rate that goes with a loss: 1 on the unigram plateau, falling to 0 with the loss."""
    return np.clip(loss / 4.5, 0.0, 1.0)


def emission_of(loss):
    """Emitted over target tokens: none on the blank plateau, all where clips are read."""
    return np.clip(1.25 - loss / 4.5, 0.0, 1.0)


def run_of(rng, course, *, name="made", facts=True, every=1, metrics=True, sparse=None):
    """A log of a course: validation every `every` epochs, or at the epochs `sparse` only."""
    epochs = np.arange(1, len(course.train) + 1)
    read = np.array(sparse) - 1 if sparse is not None else np.arange(every - 1, len(epochs), every)
    shown = read if sparse is not None else np.arange(len(epochs))
    curves = {
        "train_loss": curve(epochs[shown], course.train[shown]),
        "val_loss": curve(epochs[read], course.val[read]),
    }
    if course.lr is not None:
        curves["lr"] = curve(epochs[shown], course.lr[shown])
    if metrics:
        for split, loss, at in (("train", course.train, shown), ("val", course.val, read)):
            curves[f"{split}_wer"] = curve(
                epochs[at], np.clip(wer_of(loss[at]) + 0.01 * rng.normal(size=len(at)), 0, None)
            )
            curves[f"{split}_emission_ratio"] = curve(epochs[at], emission_of(loss[at]))
            curves[f"{split}_blank_share"] = curve(epochs[at], 1 - 0.06 * emission_of(loss[at]))
    known = (
        Facts(levels={"train": LEVELS, "val": LEVELS}, parameters=1_200_000, train_samples=600)
        if facts
        else Facts()
    )
    return Run(name=name, curves=curves, facts=known)


# -- sound courses


def decay(rng, epochs, start, end, rate):
    return end + (start - end) * np.exp(-np.arange(epochs) / rate)


def steady(rng):
    """Both losses fall to a plateau; validation is noisy, train little."""
    epochs = int(rng.integers(15, 200))
    rate = epochs * rng.uniform(0.05, 0.6)
    end = rng.uniform(0.05, 0.6)
    train = decay(rng, epochs, rng.uniform(4, 45), end, rate)
    val = train + rng.uniform(0.05, 0.6) * (1 - np.exp(-np.arange(epochs) / rate))
    memory = rng.choice([0.0, 0.5, 0.8])
    return Course(
        train=noisy(rng, train, rng.uniform(0.002, 0.05)),
        val=noisy(rng, val, rng.uniform(0.005, 0.1), memory),
        lr=_lr(rng, epochs),
    )


def _lr(rng, epochs):
    x = np.arange(epochs) / max(epochs, 1)
    kind = rng.integers(4)
    return [
        None,
        np.full(epochs, 3e-4),
        3e-4 * (0.5 + 0.5 * np.cos(math.pi * x)) + 1e-6,
        3e-4 * np.minimum(1, (np.arange(epochs) + 1) / 5),
    ][kind]


def restarts(rng):
    """Cosine warm restarts (T_0 10, T_mult 2): both losses jump at a restart, and end each cycle
    lower than the one before.
    """
    epochs = int(rng.integers(25, 160))
    bounds, length = [0], 10
    while bounds[-1] < epochs:
        bounds.append(bounds[-1] + length)
        length *= 2
    rate, train, floor = np.empty(epochs), np.empty(epochs), rng.uniform(4, 20)
    jump, drop = rng.uniform(1.1, 2.2), rng.uniform(0.4, 0.85)
    for a, b in pairwise(bounds):
        phase = np.arange(b - a) / (b - a)
        cosine = 0.5 + 0.5 * np.cos(math.pi * phase)
        low = floor * drop
        high = floor * (jump if a else 1)
        part = low + (high - low) * (0.7 * cosine + 0.3 * np.exp(-8 * phase))
        rate[a : min(b, epochs)] = (1e-6 + (1e-3 - 1e-6) * cosine)[: epochs - a]
        train[a : min(b, epochs)] = part[: epochs - a]
        floor = low
    val = train * rng.uniform(1.0, 1.3) + rng.uniform(0, 0.4)
    return Course(
        train=noisy(rng, train, 0.02),
        val=noisy(rng, val, rng.uniform(0.01, 0.06)),
        lr=rate if rng.random() < 0.7 else None,
    )


def all_blank(rng):
    """Down from uniform at once, then long on the blank and unigram plateaus, falling by a little,
    then the drop.
    """
    phase = int(rng.integers(10, 60))
    rest = int(rng.integers(0, 60))
    first = decay(rng, 5, rng.uniform(30, 115), 7.1, 1.0)
    plateau = 7.1 * np.exp(-rng.uniform(0.002, 0.01) * np.arange(phase))
    drop = decay(rng, rest, plateau[-1], rng.uniform(0.1, 1.0), max(rest, 1) / rng.uniform(3, 6))
    train = np.concatenate([first, plateau, drop])
    val = train + 0.4 * np.concatenate([np.zeros(5 + phase), 1 - np.exp(-np.arange(rest) / 10)])
    return Course(
        train=noisy(rng, train, rng.uniform(0.002, 0.01)),
        val=noisy(rng, val, rng.uniform(0.002, 0.02)),
        lr=_lr(rng, len(train)),
    )


def plateau_then_drop(rng):
    """A flat plateau of up to thirty epochs, with a hump or without, that is left again."""
    before, flat, after = (
        int(rng.integers(low, high)) for low, high in ((5, 20), (8, 23), (15, 60))
    )
    level = rng.uniform(1.5, 5)
    hump = 1 + rng.uniform(0, 0.06) * np.sin(np.linspace(0, math.pi, flat))
    train = np.concatenate(
        [
            decay(rng, before, 20, level, before / 4),
            np.full(flat, level),
            decay(rng, after, level, 0.2 * level, after / 3),
        ]
    )
    val = np.concatenate([train[:before], level * hump, train[before + flat :]]) + rng.uniform(
        0, 0.3
    )
    return Course(
        train=noisy(rng, train, 0.01),
        val=noisy(rng, val, rng.uniform(0.005, 0.04)),
        lr=_lr(rng, len(train)),
    )


def heavy_tailed(rng):
    """Validation noise with outliers (Student's t, 3 degrees of freedom)."""
    course = steady(rng)
    return Course(
        train=course.train,
        val=course.val * np.exp(0.03 * np.clip(rng.standard_t(3, len(course.val)), -6, 6)),
        lr=course.lr,
    )


def regularised(rng):
    """Dropout: training loss is above validation loss, and both are on their plateau for long."""
    epochs = int(rng.integers(40, 150))
    val = decay(rng, epochs, 20, rng.uniform(0.3, 2), epochs / rng.uniform(5, 12))
    return Course(
        train=noisy(rng, 1.3 * val + 0.3, 0.03),
        val=noisy(rng, val, rng.uniform(0.01, 0.06), rng.choice([0, 0.6])),
        lr=_lr(rng, epochs),
    )


def logged(make):
    def whole(rng):
        course = make(rng)
        return run_of(
            rng,
            course,
            facts=rng.random() < 0.7,
            every=int(rng.choice([1, 1, 1, 2, 5])),
            metrics=rng.random() < 0.8,
        )

    return whole


def sparsely(make):
    def some(rng):
        course = make(rng)
        count = int(rng.integers(3, 8))
        chosen = np.sort(
            rng.choice(
                np.arange(2, len(course.train) + 1),
                size=min(count, len(course.train) - 1),
                replace=False,
            )
        )
        return run_of(rng, course, sparse=[1, *chosen.tolist()], facts=rng.random() < 0.5)

    return some


def by_steps(rng):
    """Training loss of every batch, which differ a lot; validation at times."""
    steps, batches = int(rng.integers(1500, 6000)), np.arange(6000)
    train = decay(rng, steps, 20, rng.uniform(0.2, 1), steps / rng.uniform(3, 8))
    read = np.arange(199, steps, 200)
    val = noisy(rng, train[read] * 1.1 + 0.2, rng.uniform(0.01, 0.05))
    curves = {
        "train_loss": curve(batches[:steps], noisy(rng, train, rng.uniform(0.1, 0.5))),
        "val_loss": curve(batches[read], val),
    }
    return Run(name="steps", clock="step", curves=curves)


SOUND: dict[str, Make] = {
    "steady": logged(steady),
    "restarts": logged(restarts),
    "all_blank": logged(all_blank),
    "plateau_then_drop": logged(plateau_then_drop),
    "heavy_tailed": logged(heavy_tailed),
    "regularised": logged(regularised),
    "sparse_steady": sparsely(steady),
    "sparse_all_blank": sparsely(all_blank),
    "sparse_restarts": sparsely(restarts),
    "by_steps": by_steps,
}


# -- sick runs, with the rules of which one at least must name it


def overfitting(rng):
    epochs = int(rng.integers(40, 150))
    train = decay(rng, epochs, 20, 0.05, epochs / rng.uniform(4, 8))
    onset = int(epochs * rng.uniform(0.2, 0.5))
    level = train[onset] + rng.uniform(0.3, 1.5)
    past = np.clip(np.arange(epochs) - onset, 0, None) / epochs
    val = np.maximum(
        train + (level - train[onset]) * np.minimum(1, np.arange(epochs) / onset), level
    ) * (1 + rng.uniform(0.3, 1.5) * past)
    return run_of(
        rng,
        Course(train=noisy(rng, train, 0.02), val=noisy(rng, val, rng.uniform(0.005, 0.04))),
        every=int(rng.choice([1, 2])),
    )


def overfitting_sparsely(rng):
    epochs = [
        1,
        *sorted(rng.choice(np.arange(15, 35), 1).tolist()),
        *sorted(rng.choice(np.arange(45, 80), 2, replace=False).tolist()),
    ]
    low = rng.uniform(2, 5)
    val = np.array([low * 1.5, low, low * rng.uniform(1.005, 1.1), low * rng.uniform(1.11, 1.5)])
    train = np.array([rng.uniform(8, 45), low * 0.85, low * 0.6, low * 0.45])
    return Run(
        name="few", curves={"train_loss": curve(epochs, train), "val_loss": curve(epochs, val)}
    )


def collapsed(rng):
    """Blank for ever."""
    epochs = int(rng.integers(40, 120))
    train = noisy(rng, decay(rng, epochs, 60, rng.uniform(5.2, 7.2), 2), rng.uniform(0.002, 0.02))
    val = noisy(rng, decay(rng, epochs, 60, rng.uniform(5.4, 7.4), 2), rng.uniform(0.002, 0.02))
    return run_of(rng, Course(train=train, val=val), facts=rng.random() < 0.5)


def diverged(rng):
    epochs = int(rng.integers(20, 80))
    turn = int(epochs * rng.uniform(0.3, 0.7))
    train = decay(rng, epochs, 20, 1.0, turn / 3)
    train[turn:] = rng.uniform(7, 12)
    return run_of(
        rng,
        Course(
            train=noisy(rng, train, 0.05),
            val=noisy(rng, train * 1.1, 0.05),
            lr=np.full(epochs, 0.03),
        ),
    )


def became_nan(rng):
    course = steady(rng)
    turn = int(rng.integers(1, len(course.train)))
    course.train[turn:] = math.nan
    return run_of(rng, course)


def rate_zero(rng):
    epochs = int(rng.integers(25, 60))
    train = noisy(rng, np.full(epochs, rng.uniform(20, 115)), 0.01)
    val = np.full(epochs, train[0])
    return run_of(
        rng, Course(train=train, val=val, lr=np.zeros(epochs) if rng.random() < 0.5 else None)
    )


def spiky(rng):
    epochs = int(rng.integers(40, 150))
    train = noisy(rng, decay(rng, epochs, 10, 0.5, epochs / 4), 0.03)
    at = rng.choice(np.arange(8, epochs - 4, 6), size=3, replace=False)
    train[at] *= rng.uniform(4, 15, 3)
    return run_of(
        rng, Course(train=train, val=noisy(rng, decay(rng, epochs, 10, 0.6, epochs / 4), 0.03))
    )


def swinging(rng):
    epochs = int(rng.integers(30, 120))
    train = noisy(rng, decay(rng, epochs, 10, rng.uniform(2, 5), 4), rng.uniform(0.4, 0.7))
    return run_of(rng, Course(train=train, val=noisy(rng, decay(rng, epochs, 10, 4, 4), 0.3)))


def short_output(rng):
    """Training learns, validation reads next to nothing: a word or two for ten."""
    epochs = int(rng.integers(50, 120))
    train = noisy(rng, decay(rng, epochs, 44, 2.3, epochs / 5), 0.02)
    val = noisy(rng, decay(rng, epochs, 12, 4.9, epochs / 12), 0.02)
    made = run_of(rng, Course(train=train, val=val), metrics=False, facts=False)
    predictions = [
        Prediction(
            at=float(epochs),
            split="val",
            target=("a",) * int(rng.integers(10, 13)),
            prediction=("a",) * int(rng.integers(0, 3)),
        )
        for _ in range(8)
    ]
    wer = noisy(rng, np.full(epochs, 0.915), 0.005)
    return Run(
        name="short",
        curves={**made.curves, "val_wer": curve(range(1, epochs + 1), wer)},
        predictions=tuple(predictions),
    )


def undone(rng):
    """Both losses rise for good, by less than running away takes."""
    epochs = int(rng.integers(40, 100))
    turn = int(epochs * rng.uniform(0.3, 0.6))
    train = decay(rng, epochs, 12, 2.0, turn / 4)
    train[turn:] *= np.minimum(1 + rng.uniform(0.4, 0.7) * np.arange(1, epochs - turn + 1) / 4, 1.6)
    return run_of(
        rng, Course(train=noisy(rng, train, 0.01), val=noisy(rng, 1.1 * train + 0.3, 0.01))
    )


def gap(rng):
    """Training is learnt by heart, validation stands far above it."""
    epochs = int(rng.integers(60, 120))
    train = noisy(rng, decay(rng, epochs, 20, 0.3, epochs / 10), 0.01)
    val = noisy(rng, decay(rng, epochs, 20, rng.uniform(2.6, 3.6), epochs / 12), 0.005)
    return run_of(rng, Course(train=train, val=val))


def loss_stands(rng):
    """Training goes on, validation stands, and nothing tells what is read."""
    epochs = int(rng.integers(40, 100))
    train = noisy(rng, decay(rng, epochs, 20, 0.2, epochs / 3), 0.005)
    val = noisy(rng, decay(rng, epochs, 20, 2.2, epochs / 20), 0.005)
    return run_of(rng, Course(train=train, val=val), metrics=False, facts=False)


def halted(rng):
    """Both losses fall at first and stand for all the rest, and nothing tells what is read."""
    epochs = int(rng.integers(50, 120))
    train = noisy(rng, decay(rng, epochs, 10, rng.uniform(6, 8), epochs / 40), 0.005)
    val = noisy(rng, decay(rng, epochs, 10, rng.uniform(6, 8), epochs / 40), 0.005)
    return run_of(rng, Course(train=train, val=val), metrics=False, facts=False)


def error_rises(rng):
    """The error rate of validation gets worse while its loss stands still and training goes on."""
    epochs = int(rng.integers(50, 100))
    train = noisy(rng, decay(rng, epochs, 20, 0.2, epochs / 3), 0.005)
    val = noisy(rng, decay(rng, epochs, 20, 2.2, epochs / 40), 0.003)
    made = run_of(rng, Course(train=train, val=val), facts=False)
    best = epochs // 3
    wer = (
        0.4
        + 0.5 * np.exp(-np.arange(epochs) / (best / 6))
        + rng.uniform(0.2, 0.3) * np.clip(np.arange(epochs) - best, 0, None) / (epochs - best)
    )
    return Run(
        name="error",
        curves={**made.curves, "val_wer": curve(range(1, epochs + 1), noisy(rng, wer, 0.005))},
    )


def memorised(rng):
    """Training is read, validation stands where the frequencies of tokens do."""
    epochs = int(rng.integers(50, 100))
    train = noisy(rng, decay(rng, epochs, 60, 0.2, 4), 0.01)
    return run_of(rng, Course(train=train, val=noisy(rng, decay(rng, epochs, 60, 5.5, 3), 0.005)))


def out_of_order(rng):
    """A run was begun again into the same file."""
    course = steady(rng)
    made = run_of(rng, course)
    again = {
        name: Curve(
            at=(*whole.at[: 2 * len(whole) // 3], *whole.at[len(whole) // 3 :]),
            values=(*whole.values[: 2 * len(whole) // 3], *whole.values[len(whole) // 3 :]),
        )
        for name, whole in made.curves.items()
    }
    return Run(name="twice", curves=again, facts=made.facts)


SICK: dict[str, tuple[Make, set[str]]] = {
    "overfitting": (overfitting, {"validation_loss_rises"}),
    "overfitting_sparsely": (overfitting_sparsely, {"validation_loss_rises"}),
    "collapsed": (collapsed, {"nothing_learnt", "predictions_too_short", "validation_wer_stuck"}),
    "diverged": (diverged, {"training_diverges"}),
    "became_nan": (became_nan, {"loss_not_finite"}),
    "rate_zero": (rate_zero, {"learning_rate_zero", "loss_never_falls"}),
    "spiky": (spiky, {"loss_spikes"}),
    "swinging": (swinging, {"loss_oscillates"}),
    "short_output": (short_output, {"predictions_too_short"}),
    "undone": (undone, {"learning_undone"}),
    "gap": (gap, {"gap_wide"}),
    "loss_stands": (loss_stands, {"validation_stands"}),
    "halted": (halted, {"training_stands"}),
    "error_rises": (error_rises, {"validation_error_rises"}),
    "memorised": (memorised, {"nothing_carries_over"}),
    "out_of_order": (out_of_order, {"steps_out_of_order"}),
}


def until(run, last):
    """A run as it stood at a place."""
    kept = {
        name: Curve(
            at=tuple(at for at in whole.at if at <= last),
            values=tuple(v for at, v in zip(whole.at, whole.values, strict=True) if at <= last),
        )
        for name, whole in run.curves.items()
    }
    return Run(
        name=run.name,
        clock=run.clock,
        curves=kept,
        facts=run.facts,
        predictions=tuple(p for p in run.predictions if (p.at or 0) <= last),
    )
