"""A loss that gets worse, or is no number, where what is read does not; and what is read getting
worse where the loss does not.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import ArrayLike

from pytest_overfit.health.checkup import Checkup, check_up
from pytest_overfit.health.run import Facts, Run
from tests.health.made_runs import curve, noisy

EPOCHS = np.arange(1, 61)
TRAIN = 20 * np.exp(-EPOCHS / 12) + 0.1
RISING = 2 + 6 * np.exp(-EPOCHS / 2) + np.clip(EPOCHS - 20, 0, None) / 50  # 2.0 -> 2.8


def judged(*, clock: str = "epoch", scale: float = 1.0, **curves: ArrayLike) -> Checkup:
    """A run of sixty readings, all but the rate noisy, its losses multiplied by a factor."""
    rng = np.random.default_rng([3, 1])
    every = 1 if clock == "epoch" else 400
    made = {
        name: curve(
            every * EPOCHS[: len(np.asarray(values))],
            noisy(rng, np.asarray(values) * (scale if name.endswith("loss") else 1), 0.004)
            if name != "lr"
            else values,
        )
        for name, values in curves.items()
    }
    return check_up(Run(name="made", clock="step" if every > 1 else "epoch", curves=made))


def settling(level: float, by: float) -> ArrayLike:
    """An error rate that comes down to a level, nearly so at an epoch."""
    return level + (1 - level) * np.exp(-4 * EPOCHS / by)


def reached(level: float) -> ArrayLike:
    """An error rate that falls to a level until epoch 35, and stands."""
    return np.maximum(1 - (1 - level) * EPOCHS / 35, level)


@pytest.mark.parametrize("clock", ["epoch", "step"])
@pytest.mark.parametrize("scale", [1.0, 0.15, 300.0])
@pytest.mark.parametrize(
    ("wer", "verdict", "status"),
    [
        (np.linspace(0.9, 0.3, 60), "go on", "suspected"),  # it still gains
        (reached(0.12), "healthy", "suspected"),  # stands at its best, for a shorter time
        (settling(0.12, 8), "stop", "confirmed"),  # stands for as long as it took and longer
        (reached(0.62), "stop", "confirmed"),  # at its best, which misreads most
        (settling(0.4, 40), "stop", "confirmed"),  # creeps at a level that misreads much
        (settling(0.12, 20) + np.clip(EPOCHS - 25, 0, None) / 350, "stop", "confirmed"),  # worse
    ],
    ids=["gains", "stands", "stands for long", "stands unread", "creeps unread", "worse"],
)
def test_a_rising_loss_convicts_where_reading_is_the_worse_for_it(
    wer: ArrayLike, verdict: str, status: str, scale: float, clock: str
) -> None:
    found = judged(train_loss=TRAIN, val_loss=RISING, val_wer=wer, scale=scale, clock=clock)
    rises = found.finding("validation_loss_rises")
    assert rises is not None
    assert (found.verdict, rises.status) == (verdict, status)


def test_a_small_rise_that_harms_no_reading_is_a_note() -> None:
    small = 2 + (RISING - 2) / 10
    found = judged(train_loss=TRAIN, val_loss=small, val_wer=reached(0.04))
    assert (found.verdict, found.findings) == ("healthy", ())
    assert any("validation loss rose" in note for note in found.notes)
    assert judged(train_loss=TRAIN, val_loss=small).finding("validation_loss_rises")


def test_two_readings_of_an_error_rate_excuse_no_rise() -> None:
    rng = np.random.default_rng([3, 2])
    curves = {
        "train_loss": curve(EPOCHS, noisy(rng, TRAIN, 0.004)),
        "val_loss": curve(EPOCHS, noisy(rng, RISING, 0.004)),
        "val_wer": curve([1, 60], [0.481, 0.475]),
    }
    assert check_up(Run(name="made", curves=curves)).verdict == "stop"


def test_reading_that_got_worse_for_half_of_a_run_convicts_where_the_loss_falls() -> None:
    falling = np.linspace(3, 2, 60)
    early = settling(0.3, 10) + np.clip(EPOCHS - 15, 0, 20) / 60
    late = np.where(EPOCHS <= 45, 1 - EPOCHS / 65, 20 / 65 + (EPOCHS - 45) / 60)
    for wer, found in ((early, True), (late, False)):
        checkup = judged(train_loss=TRAIN, val_loss=falling, val_wer=wer)
        assert (checkup.finding("validation_error_rises") is not None) == found


def scored(epochs: ArrayLike, **curves: ArrayLike) -> Checkup:
    """A run of these epochs, its curves as they are given."""
    made = {name: curve(epochs, values) for name, values in curves.items()}
    return check_up(Run(name="scored", curves=made))


@pytest.mark.parametrize(("gains", "status"), [(0.0, "confirmed"), (1.5, None)])
def test_a_score_that_leaps_about_and_gets_nowhere_excuses_no_rise(
    gains: float, status: str | None
) -> None:
    epochs, rng = np.arange(1, 132), np.random.default_rng(5)
    rising = 3.68 + 0.5 * np.exp(-epochs / 4) + 0.33 * np.clip(epochs - 13, 0, 70) / 70
    bleu = 3.6 * (1 + gains * (1 - np.exp(-epochs / 40))) * np.where(epochs % 4 == 1, 0.15, 1.0)
    checkup = scored(
        epochs,
        train_loss=noisy(rng, 2.5 + 2 * np.exp(-epochs / 60), 0.002),
        val_loss=noisy(rng, rising, 0.002),
        val_bleu=noisy(rng, bleu, 0.05),
    )
    rises = checkup.finding("validation_loss_rises")
    assert (rises.status if rises else None) == status


@pytest.mark.parametrize(("lost", "found"), [(0.02, False), (0.2, True)])
def test_a_score_that_loses_no_more_than_one_that_stands_may_creep_gets_no_worse(
    lost: float, found: bool
) -> None:
    epochs = np.arange(1, 401)
    score = 0.45 * (1 - np.exp(-epochs / 30)) * (1 - lost * np.clip((epochs - 150) / 150, 0, 1))
    loss = 3.4 + 3 * np.exp(-epochs / 30)
    rng = np.random.default_rng(7)
    checkup = scored(
        epochs,
        train_loss=noisy(rng, 3.8 + 3 * np.exp(-epochs / 90), 0.002),
        val_loss=noisy(rng, loss, 0.002),
        val_cider=noisy(rng, score, 0.002),
    )
    assert (checkup.finding("validation_error_rises") is not None) == found


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_validation_loss_of_no_number_while_clips_are_read_is_of_one_clip(value: float) -> None:
    wer = np.linspace(0.9, 0.3, 60)
    found = judged(train_loss=TRAIN, val_loss=np.full(60, value), val_wer=wer)
    not_finite = found.finding("loss_not_finite")
    assert not_finite is not None
    assert (found.verdict, not_finite.status) == ("go on", "suspected")
    assert "zero_infinity" in not_finite.try_


@pytest.mark.parametrize(
    "curves",
    [
        {"val_wer": np.full(60, 1.0), "train_loss": TRAIN},  # nothing is read
        {"val_wer": np.linspace(0.9, 0.3, 60), "train_loss": [*TRAIN[:40], *[math.nan] * 20]},
        {"train_loss": TRAIN},  # nothing tells
        {"val_bleu": np.full(60, 0.02), "train_loss": TRAIN},  # a score that may be next to none
    ],
    ids=["unread", "training too", "untold", "score stands"],
)
def test_a_loss_of_no_number_stops_a_run_that_reads_nothing(curves: dict[str, ArrayLike]) -> None:
    val = [*RISING[:40], *[math.nan] * 20]
    assert judged(val_loss=val, **curves).verdict == "stop"


def test_a_schedule_that_ran_out_at_the_end_of_its_run_is_no_rate_of_zero() -> None:
    rate = np.round(1e-4 * (1 - EPOCHS / 61) ** 2, 6)  # as a log tells it with six digits
    assert (rate == 0).sum() == 4
    assert judged(train_loss=TRAIN, lr=rate).finding("learning_rate_zero") is None
    early = np.where(EPOCHS > 30, 0, rate)
    assert judged(train_loss=TRAIN, lr=early).finding("learning_rate_zero") is not None


def test_training_that_comes_back_too_slowly_has_diverged() -> None:
    back = np.concatenate([1.6 - 0.35 * np.linspace(0, 1, 36), 1.6 - 1.4 * np.linspace(0, 1, 36)])
    fell = 0.45 + 4.5 * np.exp(-np.arange(24) / 4)
    for after, found in ((back[:36], True), (back[36:], False)):
        train = np.concatenate([fell, after])
        checkup = judged(train_loss=train, val_loss=train + 0.3)
        assert (checkup.finding("training_diverges") is not None) == found


def test_an_error_rate_that_crawls_from_100_to_99_percent_never_learns() -> None:
    crawls, loss = np.linspace(1.0, 0.99, 60), np.linspace(3.1, 2.95, 60)
    wer = curve(EPOCHS, noisy(np.random.default_rng([3, 3]), crawls, 0.001))
    for val, found in ((loss, True), (np.linspace(3.1, 1.5, 60), False)):
        curves = {"val_cer": wer, "train_loss": curve(EPOCHS, val), "val_loss": curve(EPOCHS, val)}
        checkup = check_up(Run(name="made", curves=curves))
        assert (checkup.finding("validation_wer_stuck") is not None) == found


def test_three_epochs_at_100_percent_of_a_loss_that_falls_are_too_early() -> None:
    places = EPOCHS[:3]
    for val in ([3.4, 3.05, 2.98], [2.95, 2.99, 2.93], [3.02, 3.12, 3.3]):
        curves = {
            "train_loss": curve(places, [9.1, 3.2, 2.95]),
            "val_loss": curve(places, val),
            "val_wer": curve(places, [1.0, 1.0, 1.0]),
        }
        run = Run(name="made", curves=curves, finished=("all of 3 epochs are told",))
        assert check_up(run).verdict == "go on"


@pytest.mark.parametrize(("came_by", "verdict"), [(5, "stop"), (13, "healthy")])
def test_of_few_readings_a_score_has_waited_enough_that_stands_for_as_long_as_it_took(
    came_by: int, verdict: str
) -> None:
    at = np.arange(1, 20)
    swings = 0.25 * np.resize([1, -1, 0.4, -0.4, 0.8], 19)
    score = 30 * np.minimum(at / came_by, 1) + swings
    val = 4.4 + np.where(at < 6, (6 - at) / 4, (at - 6) / 22)
    curves = {"train_loss": 9.0 * np.exp(-at / 8), "val_loss": val, "val_bleu": score}
    run = Run(
        name="made",
        clock="epoch",
        curves={name: curve(at, values) for name, values in curves.items()},
    )
    assert check_up(run).verdict == verdict


STANDING = 2 + 6 * np.exp(-EPOCHS / 3)


@pytest.mark.parametrize("scale", [1.0, 0.15, 300.0])
def test_a_loss_that_stands_while_training_goes_on_stops_a_run_that_tells_no_reading(
    scale: float,
) -> None:
    found = judged(train_loss=TRAIN + 2, val_loss=STANDING, scale=scale)
    assert found.verdict == "stop"
    assert [finding.name for finding in found.findings] == ["validation_stands"]
    read = judged(train_loss=TRAIN + 2, val_loss=STANDING, val_wer=reached(0.12), scale=scale)
    assert read.findings == ()


def test_what_its_trainer_has_waited_for_needs_fewer_readings() -> None:
    at = range(1, 7)
    curves = {
        "train_loss": curve(at, (6.5, 5.9, 5.6, 5.3, 5.1, 4.8)),
        "val_loss": curve(at, (5.9, 6.6, 6.5, 6.3, 6.3, 6.3)),
    }
    ended = check_up(Run(name="made", curves=curves, finished=("early stopping",)))
    assert [finding.name for finding in ended.findings] == ["validation_stands"]
    assert ended.verdict == "stop"
    assert check_up(Run(name="made", curves=curves)).finding("validation_stands") is None


def test_a_plan_that_is_nearly_done_is_not_stopped_for_a_loss_that_stands() -> None:
    curves = {"train_loss": curve(EPOCHS, TRAIN + 2), "val_loss": curve(EPOCHS, STANDING)}
    plans = [Run(name="made", curves=curves, facts=Facts(epochs=n)) for n in (65, 90)]
    judged_plans = [check_up(run) for run in plans]
    assert [one.findings[0].status for one in judged_plans] == ["suspected", "confirmed"]
    assert [one.verdict for one in judged_plans] == ["cannot tell", "stop"]


def test_what_stands_for_a_short_time_or_since_training_was_thrown_back_is_let_be() -> None:
    late = np.maximum(8 - EPOCHS / 8, 2.3)
    assert judged(train_loss=TRAIN + 2, val_loss=late).findings == ()
    restarted = np.where(EPOCHS < 30, TRAIN + 2, TRAIN + 2 + 3 * np.exp(-(EPOCHS - 30) / 6))
    assert judged(train_loss=restarted, val_loss=STANDING).finding("validation_stands") is None


def test_a_training_loss_that_scatters_too_much_to_tell_excuses_no_rise() -> None:
    rng = np.random.default_rng([3, 7])
    curves = {
        "train_loss": curve(EPOCHS, 28 + 8 * rng.standard_normal(60)),
        "val_loss": curve(EPOCHS, noisy(rng, RISING, 0.004)),
    }
    found = check_up(Run(name="made", curves=curves))
    assert (found.verdict, found.findings[0].name) == ("stop", "validation_loss_rises")


def test_an_empty_output_excuses_no_rise_where_training_clips_are_learnt_by_heart() -> None:
    validation = curve(range(1, 8), [50.7, 47.7, 46.4, 46.3, 49.9, 52.7, 56.2])
    for train, verdict in (
        ([61.7, 44.0, 34.9, 27.7, 22.3, 18.0, 15.1], "stop"),
        ([61.7, 52.0, 50.0, 49.0, 48.0, 47.0, 46.0], "go on"),
    ):
        curves = {
            "train_loss": curve(range(1, 8), train),
            "val_loss": validation,
            "val_cer": curve(range(1, 8), [1.0, 1.0, 0.996, 1.0, 1.0, 0.998, 0.999]),
        }
        assert check_up(Run(name="made", curves=curves)).verdict == verdict


def test_reading_that_never_comes_near_its_best_again_is_harmed_though_it_recovers() -> None:
    back = np.array([0.113, 0.113, 0.12, 0.15, 0.18, 0.16, 0.17, 0.17, 0.175, 0.17])
    ends = np.array([0.16, 0.155, 0.15, 0.146, 0.142, 0.14, 0.139, 0.139, 0.139, 0.139])
    curves = {
        "train_loss": curve(range(1, 21), np.geomspace(0.13, 0.0003, 20)),
        "val_loss": curve(range(1, 21), np.array([0.19, 0.21, 0.25, 0.32, *[0.4] * 16])),
        "val_wer": curve(range(1, 21), np.concatenate([back, ends])),
    }
    assert check_up(Run(name="made", curves=curves)).verdict == "stop"
    better = curves | {"val_wer": curve(range(1, 21), np.concatenate([back, ends - 0.04]))}
    assert check_up(Run(name="made", curves=better)).verdict != "stop"


def test_an_error_rate_alone_that_stands_where_nothing_is_read_is_named() -> None:
    stands = [0.88, 0.945, 0.88, 0.88, 0.85, 0.881, 0.926, 0.864, 0.888, 0.881, 0.893]
    for rate, named in (
        (stands, True),
        ([1.0] * 11, False),
        (list(np.linspace(0.99, 0.86, 11)), False),
    ):
        found = check_up(Run(name="made", curves={"val_cer": curve(range(1, 12), rate)}))
        assert (found.finding("validation_wer_stuck") is not None) == named


def test_what_is_misread_and_stands_for_half_a_run_stops_it_though_training_goes_on() -> None:
    rate = np.maximum(0.9 - EPOCHS / 30, 0.4)
    found = judged(train_loss=TRAIN + 2, val_loss=STANDING, val_wer=rate)
    assert (found.verdict, found.findings[0].name) == ("stop", "validation_stands")
    assert found.findings[0].headline.startswith("validation WER and validation loss bring nothing")
    alone = judged(train_loss=TRAIN + 2, val_wer=rate)
    assert alone.findings[0].headline.startswith("validation WER brings nothing since")


@pytest.mark.parametrize(
    "rate",
    [
        np.maximum(0.9 - EPOCHS / 30, 0.1),  # is read
        np.maximum(0.9 - EPOCHS / 90, 0.4),  # came to stand too late
        np.full(60, 0.97),  # has a name of its own
    ],
)
def test_what_is_read_or_stands_for_a_short_time_or_never_was_read_is_let_be(
    rate: np.ndarray,
) -> None:
    found = judged(train_loss=TRAIN + 2, val_loss=STANDING, val_wer=rate)
    assert found.finding("validation_stands") is None
