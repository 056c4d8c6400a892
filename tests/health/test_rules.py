"""Each rule: what it names, since when, on what evidence; and what it leaves alone."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.rules import RULES
from pytest_overfit.health.rules.overfitting import is_sure
from pytest_overfit.health.rules.trend import Rise
from pytest_overfit.health.run import Facts, Prediction, Run
from tests.health.made_runs import LEVELS, curve, decay, noisy

RULE = {rule.name: rule for rule in RULES}
RNG = [11, 12]


def run(clock="epoch", facts=None, predictions=(), **curves):
    """Curves as sequences, from epoch 1 on, or as `Curve`s."""
    made = {
        name: values if isinstance(values, Curve) else curve(range(1, len(values) + 1), values)
        for name, values in curves.items()
    }
    return Run(
        name="made",
        clock=clock,
        curves=made,
        facts=facts or Facts(),
        predictions=tuple(predictions),
    )


def emissions(emitted, due, *, at=60.0, split="val", clips=5):
    return [
        Prediction(at=at, split=split, target=("t",) * due, prediction=("p",) * emitted)
        for _ in range(clips)
    ]


def steady(epochs, start, end, rate=5, sd=0.005):
    return noisy(np.random.default_rng(RNG), decay(None, epochs, start, end, rate), sd)


def overfitted(epochs=60, best=20, rise=0.4, **curves):
    """Training loss falls all along; validation falls to `best` and rises by a share from there
    on.
    """
    past = np.clip(np.arange(1, epochs + 1) - best, 0, None) / (epochs - best)
    val = 2 * (1 + 3 * np.exp(-np.arange(1, epochs + 1) / 4)) * (1 + rise * past)
    return run(
        train_loss=steady(epochs, 20, 0.1, 12),
        val_loss=noisy(np.random.default_rng(RNG), val, 0.005),
        **curves,
    )


def test_a_rule_without_its_data_says_what_it_needs():
    assert (
        RULE["validation_wer_stuck"].lacks(run(val_loss=[3, 2, 1]))
        == "needs an error rate of validation (val_wer)"
    )
    assert (
        RULE["validation_loss_rises"].lacks(run(val_loss=[3, 2]))
        == "needs 3 readings of val_loss, it has 2"
    )
    assert (
        RULE["gap_wide"].lacks(run(val_loss=[3, 2]))
        == "needs train_loss and 3 readings of val_loss, it has 2"
    )
    assert (
        RULE["predictions_too_short"].lacks(run(train_loss=[3, 2, 1]))
        == "needs val_emission_ratio or 3 predictions"
    )
    assert (
        RULE["nothing_learnt"].lacks(run(train_loss=[3, 2, 1]))
        == "needs the loss levels of train (run.json)"
    )
    assert RULE["steps_out_of_order"].lacks(run()) is None


def test_readings_that_are_no_numbers_do_not_count():
    assert (
        RULE["validation_loss_rises"].lacks(run(train_loss=[3, 2, 1], val_loss=[3, math.nan, 1]))
        == "needs 3 readings of val_loss, it has 2"
    )


@pytest.mark.parametrize("name", RULE)
def test_an_empty_run_is_not_judged_and_accused_of_nothing(name):
    lacks = RULE[name].lacks(run())
    assert lacks is None if name == "steps_out_of_order" else lacks.startswith("needs ")
    assert RULE[name](run()) is None


# -- validation loss rises


def test_validation_loss_that_rises_while_training_falls_is_dated_by_its_minimum():
    made = overfitted()
    finding = RULE["validation_loss_rises"](made)
    best = made.curves["val_loss"].at[int(np.argmin(made.curves["val_loss"].values))]
    assert finding.began == best
    assert abs(best - 20) <= 4
    assert finding.status == "confirmed"
    assert (
        finding.headline == f"validation loss rises since epoch {best:g} while training loss falls"
    )


def test_a_rise_of_both_losses_is_no_overfitting():
    made = overfitted()
    rising = [2 + 0.05 * epoch for epoch in range(60)]
    assert (
        RULE["validation_loss_rises"](
            replace(made, curves=made.curves | {"train_loss": curve(range(1, 61), rising)})
        )
        is None
    )


@pytest.mark.parametrize("last", range(21, 26))
def test_a_few_worse_readings_after_the_best_accuse_nobody(last):
    made = overfitted()
    cut = {
        name: Curve(at=whole.at[:last], values=whole.values[:last])
        for name, whole in made.curves.items()
    }
    assert RULE["validation_loss_rises"](replace(made, curves=cut)) is None


def test_it_is_named_within_fifteen_epochs_of_the_onset():
    made = overfitted(rise=0.5)
    cut = {
        name: Curve(at=whole.at[:35], values=whole.values[:35])
        for name, whole in made.curves.items()
    }
    assert RULE["validation_loss_rises"](replace(made, curves=cut)).began == pytest.approx(
        20, abs=4
    )


def test_while_validation_wer_still_falls_a_rising_loss_is_only_suspected():
    made = overfitted(val_wer=np.linspace(0.9, 0.3, 60))
    finding = RULE["validation_loss_rises"](made)
    assert finding.status == "suspected"
    assert any("validation WER still falls" in fact for fact in finding.evidence)


def test_a_wer_above_85_percent_that_creeps_excuses_no_rising_loss():
    creeping = overfitted(val_wer=np.linspace(1.0, 0.92, 60))
    assert RULE["validation_loss_rises"](creeping).status == "confirmed"


def test_how_validation_swings_on_its_way_down_excuses_no_rise_at_the_bottom():
    made = overfitted(epochs=60, best=10, rise=0.4)
    high = noisy(np.random.default_rng(RNG), 40 + 20 * np.sin(np.arange(40) / 6), 0.02)
    train, val = made.curve("train_loss").values, made.curve("val_loss").values
    late = run(train_loss=[*np.linspace(41, 21, 40), *train], val_loss=[*high, *val])
    assert (
        RULE["validation_loss_rises"](late).began == RULE["validation_loss_rises"](made).began + 40
    )


def test_validation_of_what_has_learnt_nothing_is_not_told_beside_it():
    blind = {"train": tuple(level for level in LEVELS)}
    blank = next(level.loss for level in LEVELS if level.name == "blank")
    val = overfitted().curve("val_loss").values
    falling = blank * np.linspace(1.1, 0.99, 60)
    assert RULE["validation_loss_rises"](run(train_loss=falling, val_loss=val)) is not None
    assert (
        RULE["validation_loss_rises"](
            run(train_loss=falling, val_loss=val, facts=Facts(levels=blind))
        )
        is None
    )


def test_a_loss_that_never_was_a_number_is_named_from_the_start():
    found = RULE["loss_not_finite"](run(train_loss=[math.nan] * 5))
    assert (found.status, found.began) == ("confirmed", 1)


def test_a_ratio_within_its_noise_of_the_bound_is_not_too_short():
    ratios = noisy(np.random.default_rng(RNG), np.full(80, 0.31), 0.1)
    assert (
        RULE["predictions_too_short"](
            run(
                train_loss=steady(80, 20, 3.5),
                val_loss=steady(80, 20, 3.6),
                val_emission_ratio=ratios,
            )
        )
        is None
    )


def test_who_knows_the_training_clips_is_not_asked_whether_it_can_memorise():
    stuck = {
        "train_loss": steady(80, 20, 0.1),
        "val_loss": steady(80, 20, 6.0),
        "val_wer": np.full(80, 0.97),
    }
    known, unknown = (
        RULE["validation_wer_stuck"](run(**stuck, train_wer=np.full(80, rate)))
        for rate in (0.02, 0.95)
    )
    assert "carries over" in known.try_
    assert "pytest -m overfit" in unknown.try_


def test_parameters_a_sample_stand_with_the_evidence_of_overfitting():
    finding = RULE["validation_loss_rises"](
        overfitted(facts=Facts(parameters=7_300_000, train_samples=600))
    )
    assert "12,167 parameters for each of 600 training samples" in finding.evidence


ON = Facts(levels={"train": LEVELS, "val": LEVELS})
FEW = (1, 25, 50, 60)


@pytest.mark.parametrize(
    ("val", "train"),
    [
        ((7.19, 4.90, 4.96, 5.00), (44, 4.2, 2.9, 2.4)),  # by 2 % only
        ((7.19, 4.90, 5.60, 5.10), (44, 4.2, 2.9, 2.4)),  # on its way back
        ((7.19, 4.90, 4.96, 5.29), (44, 4.2, 4.2, 4.1)),  # nothing is learnt meanwhile
        ((7.19, 4.90, 4.80, 5.29), (44, 4.2, 2.9, 2.4)),  # one reading since the best
    ],
)
def test_of_few_readings_only_a_plain_rise_is_believed(val, train):
    assert (
        RULE["validation_loss_rises"](run(val_loss=curve(FEW, val), train_loss=curve(FEW, train)))
        is None
    )


def test_few_readings_of_training_that_all_fall_a_little_learn():
    val = [3.8, 3.87, 3.93, 3.98, 4.36, 4.95, 5.15]
    falls = run(val_loss=val, train_loss=[3.48, 3.44, 3.4, 3.36, 3.32, 3.28, 3.25])
    swings = run(val_loss=val, train_loss=[3.48, 3.44, 3.47, 3.36, 3.32, 3.28, 3.25])
    assert RULE["validation_loss_rises"](falls).began == 1
    assert RULE["validation_loss_rises"](swings) is None


def test_a_rise_before_anything_is_learnt_is_no_overfitting():
    """In the first epochs of CTC both losses are far above what a blank output has."""
    losses = {"train_loss": (40.2, 33.9, 31.6, 27.9), "val_loss": (40.4, 45.6, 45.2, 46.0)}
    assert RULE["validation_loss_rises"](run(**losses))
    blind = {"facts": Facts(levels={"train": LEVELS})}, {"train_wer": (4.96, 6.43, 4.15, 4.77)}
    for known in blind:
        assert RULE["validation_loss_rises"](run(**losses, **known)) is None


def test_an_error_rate_is_stuck_where_the_loss_rises_with_leaps():
    leaps = [4.4 + 0.05 * i + 3 * (i in (7, 8)) for i in range(37)]
    val, rates = [5.4, 5.8, 6.1, 4.4, 7.5, 4.3, 4.3, 4.2, *leaps], [0.97, 0.98] * 22 + [0.97]
    train = steady(45, 5, 3.4)
    for end, found in ((45, True), (20, False)):
        made = run(train_loss=train[:end], val_loss=val[:end], val_wer=rates[:end])
        assert (RULE["validation_wer_stuck"](made) is not None) == found


def test_a_loss_that_rises_while_reading_improves_needs_training_loss_to_be_overfitting():
    val, bleu = (37, 33, 12, 18, 25), (32, 71, 82, 84, 88)
    assert RULE["validation_loss_rises"](run(val_loss=val, val_bleu=bleu)) is None
    assert (
        RULE["validation_loss_rises"](
            run(val_loss=val, val_bleu=bleu, train_loss=(30, 20, 10, 5, 2))
        ).status
        == "suspected"
    )


def test_what_was_read_better_after_the_best_loss_is_said_and_kept():
    """Not the checkpoint of the best loss, which reads far worse."""
    val = [5.0, 4.0, 3.0, *(3.0 + 0.1 * i for i in range(1, 28))]
    wer = [0.9, 0.7, 0.6, 0.5, 0.45, 0.42, 0.4, *([0.38, 0.381] * 11), 0.38]
    found = RULE["validation_loss_rises"](
        run(val_loss=val, val_wer=wer, train_loss=[9 / i for i in range(1, 31)])
    )
    assert found.began == 3
    assert any("got better and stands still: 60.0 % -> 38.0 %" in one for one in found.evidence)
    assert "go back to epoch 8;" in found.try_


def test_a_rise_after_training_loss_is_far_below_validation_is_suspected():
    """What is memorised need not fall further."""
    val = [5.0, 4.0, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7, 3.8, 3.9, 4.0]
    flat = [4.0, 2.0, *(0.5 + 0.01 * (i % 2) for i in range(11))]
    found = RULE["validation_loss_rises"](run(val_loss=val, train_loss=flat))
    assert (found.status, found.began) == ("suspected", 3)
    assert (
        RULE["validation_loss_rises"](run(val_loss=val, train_loss=[value + 3 for value in flat]))
        is None
    )


def test_soon_after_a_warm_restart_validation_may_be_worse():
    """Both losses jump at epoch 40; training has come back below by epoch 60, validation not
    yet.
    """
    train = [*np.linspace(8, 2, 40), *np.linspace(3, 1.5, 20)]
    val = [*np.linspace(8, 2.5, 40), *np.linspace(3.6, 3.3, 20)]
    rate = [1e-3 * (0.5 + 0.5 * math.cos(math.pi * epoch / 40)) for epoch in range(40)]
    rate += [1e-3 * (0.5 + 0.5 * math.cos(math.pi * epoch / 80)) for epoch in range(20)]
    assert RULE["validation_loss_rises"](run(train_loss=train, val_loss=val, lr=rate)) is None


# -- gap


def test_a_gap_is_named_with_the_larger_bound_it_passes():
    finding = RULE["gap_wide"](
        run(train_loss=steady(80, 20, 0.5), val_loss=steady(80, 20, 3.2), facts=ON)
    )
    assert "stands more than 2 above training loss" in finding.headline
    assert RULE["gap_wide"](
        run(train_loss=steady(80, 20, 0.5), val_loss=steady(80, 20, 2.0), facts=ON)
    ).headline.startswith("validation loss stands more than 1 above")


def test_while_validation_falls_a_gap_is_no_illness():
    val = np.linspace(9, 4, 80)
    assert RULE["gap_wide"](run(train_loss=val / 4, val_loss=val)) is None


def test_a_gap_of_a_hundredth_is_none_in_any_unit():
    assert (
        RULE["gap_wide"](run(train_loss=steady(80, 400, 120), val_loss=steady(80, 400, 123)))
        is None
    )


# -- what is read


def test_a_wer_that_stands_above_85_percent_is_named_with_its_range():
    wer = np.clip(noisy(np.random.default_rng(RNG), np.full(60, 0.91), 0.004), 0, None)
    finding = RULE["validation_wer_stuck"](
        run(val_wer=wer, train_wer=[0.827], val_loss=steady(60, 12, 5))
    )
    assert (
        finding.headline
        == f"validation WER stands at {100 * min(wer):.1f}-{100 * max(wer):.1f} % since epoch 1"
    )
    assert "training WER 82.7 % at epoch 1" in finding.evidence


def test_a_wer_that_was_ever_below_is_not_stuck():
    wer = [0.95] * 30 + [0.5] + [0.95] * 29
    assert RULE["validation_wer_stuck"](run(val_wer=wer, val_loss=steady(60, 12, 5))) is None


def test_a_wer_that_touched_84_percent_once_is_only_suspected_to_be_stuck():
    wer = [0.95] * 30 + [0.84] + [0.95] * 29
    assert (
        RULE["validation_wer_stuck"](run(val_wer=wer, val_loss=steady(60, 12, 5))).status
        == "suspected"
    )


def test_an_error_rate_above_100_percent_that_shrinks_reads_nothing_all_the_same():
    wer, val = (
        np.linspace(1.18, 1.05, 33),
        noisy(np.random.default_rng(RNG), np.full(33, 3.7), 1e-3),
    )
    planned = Facts(epochs=200)
    finding = RULE["validation_wer_stuck"](run(val_wer=wer, val_loss=val, facts=planned))
    assert (finding.status, finding.began) == ("confirmed", 1)
    early = {"val_wer": wer[:20], "val_loss": val[:20]}
    assert RULE["validation_wer_stuck"](run(**early, facts=planned)) is None


def test_a_run_that_is_over_is_stuck_since_its_error_rate_came_no_lower():
    wer = [1.0, 0.997, 0.97, 0.95, *[0.987] * 5]
    made = run(val_wer=wer, val_loss=[2.97, 2.91, 2.88, 2.82, 2.71, 2.68, 2.67, 2.66, 2.65])
    finding = RULE["validation_wer_stuck"](replace(made, finished=("all of 9 epochs are told",)))
    assert (finding.status, finding.began) == ("confirmed", 1)


def test_a_high_wer_while_the_loss_falls_is_the_all_blank_phase():
    falling = 7 * np.exp(-0.004 * np.arange(60))
    made = run(
        val_wer=[1.0] * 60, val_emission_ratio=[0.0] * 60, val_loss=falling, train_loss=falling
    )
    assert RULE["validation_wer_stuck"](made) is None
    assert RULE["predictions_too_short"](made) is None


@pytest.mark.parametrize(("ratio", "words"), [(0.0, "empty"), (0.2, "far too short")])
def test_outputs_without_tokens_are_named_once_the_loss_stands(ratio, words):
    finding = RULE["predictions_too_short"](
        run(val_emission_ratio=[ratio] * 60, val_loss=steady(60, 12, 5))
    )
    assert finding.headline.startswith(f"validation predictions are {words}: {ratio:.2g}")
    assert finding.status == "confirmed"


def test_a_peaky_output_of_blanks_with_its_tokens_accuses_nobody():
    made = run(
        val_emission_ratio=[0.97] * 60,
        val_blank_share=[0.94] * 60,
        val_loss=steady(60, 12, 0.3),
        train_loss=steady(60, 12, 0.2),
    )
    assert [rule.name for rule in RULES if rule(made)] == []


def test_outputs_that_grow_accuse_nobody():
    growing = np.linspace(0, 0.3, 60)
    assert (
        RULE["predictions_too_short"](run(val_emission_ratio=growing, val_loss=steady(60, 12, 5)))
        is None
    )


def test_short_predictions_are_counted_in_words():
    finding = RULE["predictions_too_short"](
        run(val_loss=steady(60, 12, 5), predictions=[*emissions(0, 10), *emissions(2, 12)])
    )
    assert finding.evidence[0] == "0-2 words for 10-12 in 10 predictions, 5 of them empty"


@pytest.mark.parametrize(
    "predictions",
    [
        emissions(0, 10, at=5.0),
        emissions(0, 10, clips=2),
        emissions(0, 10, split="train"),
        [*emissions(0, 10, clips=2), *emissions(9, 10)],
        emissions(4, 10),
    ],
    ids=[
        "from the first epochs",
        "two clips",
        "of training, whose loss falls",
        "some of several",
        "short, but not far too short",
    ],
)
def test_other_predictions_accuse_nobody(predictions):
    made = run(
        val_loss=steady(60, 12, 5), train_loss=np.linspace(12, 1, 60), predictions=predictions
    )
    assert RULE["predictions_too_short"](made) is None


def test_an_output_that_died_is_dated_from_then():
    ratio = [0.9] * 40 + [0.0] * 40
    finding = RULE["predictions_too_short"](
        run(val_emission_ratio=ratio, val_loss=steady(80, 12, 5))
    )
    assert finding.began == 41


# -- levels and rates


@pytest.mark.parametrize("level", [7.1, 5.5])
def test_a_loss_that_stands_on_a_blind_level_has_learnt_nothing(level):
    finding = RULE["nothing_learnt"](run(train_loss=steady(60, 60, level, 2), facts=ON))
    assert finding.status == "confirmed"
    assert finding.began < 20


@pytest.mark.parametrize("level", [2.5, 0.1, 3.9])
def test_a_loss_below_or_between_the_blind_levels_has(level):
    assert RULE["nothing_learnt"](run(train_loss=steady(60, 60, level, 2), facts=ON)) is None


def test_a_blind_level_that_is_being_left_accuses_nobody():
    assert (
        RULE["nothing_learnt"](run(train_loss=7.1 * np.exp(-0.003 * np.arange(60)), facts=ON))
        is None
    )


def test_a_loss_that_creeps_on_a_blind_level_for_most_of_a_run_has_learnt_nothing():
    blank = next(level.loss for level in LEVELS if level.name == "blank")
    down = np.concatenate(
        [np.linspace(40, 1.1 * blank, 15), np.linspace(1.1 * blank, 0.98 * blank, 60)]
    )
    made = run(train_loss=down, train_wer=np.ones(75), facts=Facts(levels={"train": LEVELS}))
    finding = RULE["nothing_learnt"](made)
    assert finding.headline.startswith("training loss creeps on the level `blank` since epoch")
    reads = replace(
        made, curves={**made.curves, "train_wer": curve(range(1, 76), np.linspace(1, 0.7, 75))}
    )
    assert RULE["nothing_learnt"](reads) is None


def test_a_blank_phase_that_is_being_left_accuses_nobody():
    blank = next(level.loss for level in LEVELS if level.name == "blank")
    down = np.concatenate(
        [
            np.linspace(40, 1.1 * blank, 9),
            np.linspace(1.1 * blank, 0.97 * blank, 14),
            np.linspace(0.97 * blank, 0.5 * blank, 12),
        ]
    )
    for last in range(9, 36):
        made = run(
            train_loss=down[:last], train_wer=np.ones(last), facts=Facts(levels={"train": LEVELS})
        )
        assert RULE["nothing_learnt"](made) is None, last


def test_validation_that_stays_on_a_blind_level_while_training_leaves_it_is_named():
    finding = RULE["nothing_carries_over"](
        run(train_loss=steady(60, 60, 0.2, 4), val_loss=steady(60, 60, 5.5, 3), facts=ON)
    )
    assert "`unigram`" in finding.headline
    assert "`aligned`" in finding.headline


def test_a_loss_where_it_began_never_fell():
    finding = RULE["loss_never_falls"](
        run(train_loss=noisy(np.random.default_rng(RNG), np.full(30, 80.0), 0.01))
    )
    assert finding.began == 1


def test_a_run_read_from_its_middle_may_be_flat():
    flat = curve(range(50, 90), [0.3] * 40)
    assert RULE["loss_never_falls"](run(train_loss=flat)) is None
    assert RULE["loss_never_falls"](run(train_loss=[0.3] * 40, val_wer=[0.2] * 40)) is None


@pytest.mark.parametrize(
    ("val", "over", "status"),
    [
        ([4.1116, 4.1115, 4.1116, 4.1115, 4.1114], True, "confirmed"),
        ([], True, "suspected"),
        ([4.1116, 4.1, 4.0, 3.9, 3.8], True, None),
        ([4.1116, 4.1115, 4.1116, 4.1115, 4.1114], False, None),
    ],
    ids=["both flat", "training alone", "validation fell", "not over"],
)
def test_few_readings_of_a_run_that_is_over_tell_that_it_never_fell(val, over, status):
    made = replace(
        run(train_loss=[4.1384, 4.1362, 4.1361, 4.1362, 4.1361], val_loss=val),
        finished=("training is over",) if over else (),
    )
    finding = RULE["loss_never_falls"](made)
    assert (finding and finding.status) == status


@pytest.mark.parametrize(("wrong", "found"), [(0.01, False), (0.3, True)])
def test_what_is_left_of_a_loss_may_swing_where_next_to_nothing_is_misread(wrong, found):
    epochs = np.arange(40)
    leaps = np.exp(np.random.default_rng(RNG).normal(0, 0.9, 40))
    swinging = 0.02 * leaps + 0.6 * np.exp(-epochs)
    made = run(
        train_loss=0.02 + 1.6 * np.exp(-epochs / 2),
        val_loss=swinging,
        val_wer=wrong + 0.001 * leaps,
    )
    assert (RULE["loss_oscillates"](made) is not None) == found


@pytest.mark.parametrize(("rates", "since"), [([0.0] * 10, 1), ([1e-3] * 5 + [0.0] * 5, 6)])
def test_a_rate_of_zero_is_named_since_when(rates, since):
    assert RULE["learning_rate_zero"](run(lr=rates)).began == since


@pytest.mark.parametrize(
    "rates",
    [[0.0] + [1e-3] * 9, [1e-3, 5e-4, 1e-6] * 4, [1e-3, 5e-4, 0.0], [3e-4, 1e-6]],
    ids=["before a warm-up", "at the end of each cycle", "when the schedule is over", "eta_min"],
)
def test_a_rate_may_be_low_for_a_while(rates):
    assert RULE["learning_rate_zero"](run(lr=rates)) is None


def test_a_rate_of_zero_with_epochs_left_is_named_at_once():
    made = run(lr=[1e-3, 5e-4, 0.0], facts=Facts(epochs=50))
    assert "50 were planned" in RULE["learning_rate_zero"](made).evidence[0]


# -- stability


def test_a_loss_that_is_no_number_is_dated():
    finding = RULE["loss_not_finite"](run(train_loss=[5, 4, math.nan, math.nan]))
    assert (finding.began, finding.status) == (3, "confirmed")
    assert finding.headline == "training loss is not finite since epoch 3"


def test_a_loss_that_recovered_is_only_suspected():
    assert RULE["loss_not_finite"](run(val_loss=[5, math.inf, 4, 3])).status == "suspected"


def test_an_infinite_gradient_norm_is_what_a_gradient_scaler_skips():
    assert RULE["loss_not_finite"](run(train_loss=[5, 4, 3], grad_norm=[math.inf, 2, 1])) is None


def test_training_that_runs_away_is_dated_by_its_lowest_loss():
    loss = [*np.linspace(20, 1, 20), *noisy(np.random.default_rng(RNG), np.full(15, 9.0), 0.05)]
    finding = RULE["training_diverges"](run(train_loss=loss))
    assert finding.began == pytest.approx(20, abs=1)
    assert "9" in finding.evidence[0]


def test_a_loss_that_creeps_up_for_long_diverges_too():
    finding = RULE["training_diverges"](
        run(
            train_loss=[
                *np.linspace(20, 4, 5),
                *noisy(np.random.default_rng(RNG), np.geomspace(4, 15, 35), 0.05),
            ]
        )
    )
    assert finding.began == pytest.approx(5, abs=2)


def test_a_loss_that_ends_half_again_as_high_as_its_lowest_has_not_come_back():
    down = [*np.linspace(8, 4, 40), *np.geomspace(4, 20, 15), *[20.0] * 30]
    assert RULE["training_diverges"](run(train_loss=[*down, *[6.5] * 3])).began >= 40
    assert RULE["training_diverges"](run(train_loss=[*down, *[4.5] * 3])) is None


@pytest.mark.parametrize(
    "after",
    [[9.0], np.linspace(9, 1.2, 15), [1.3] * 15],
    ids=["one bad epoch", "on its way back", "a little worse"],
)
def test_a_setback_is_no_divergence(after):
    assert RULE["training_diverges"](run(train_loss=[*np.linspace(20, 1, 20), *after])) is None


def test_training_that_jumps_after_a_plateau_is_dated_by_the_last_reading_before_it():
    loss = [*np.linspace(12, 9, 30), *[9.05, 8.95, 9.1, 9.02], *np.linspace(48, 42, 10)]
    finding = RULE["training_diverges"](run(train_loss=loss))
    assert finding.began == 34
    assert "9.02 at" in finding.evidence[0]


THROWN = {
    "train_loss": [5, 2.7, 1.0, 0.5, 0.3, 0.25, 0.2, 1.7],
    "val_loss": [3, 1.5, 0.43, 0.36, 0.38, 0.38, 0.385, 0.43],
    "val_wer": [1, 0.77, 0.4, 0.33, 0.3, 0.29, 0.28, 0.34],
}


def test_all_thrown_back_at_the_last_reading_is_suspected():
    finding = RULE["learning_undone"](run(**THROWN))
    assert (finding.status, finding.began) == ("suspected", 7)
    assert "a single reading" in finding.evidence[-1]


@pytest.mark.parametrize(
    "calm",
    [{"train_loss": 0.22}, {"val_wer": 0.285}, {"val_loss": 0.37}],
    ids=lambda calm: next(iter(calm)),
)
def test_one_thrown_back_alone_is_not(calm):
    curves = {name: [*values[:-1], calm.get(name, values[-1])] for name, values in THROWN.items()}
    assert RULE["learning_undone"](run(**curves)) is None


def test_spikes_are_counted_and_dated():
    loss = steady(60, 8, 0.5, 10, 0.02)
    loss[[20, 40, 50]] *= 8
    finding = RULE["loss_spikes"](run(train_loss=loss))
    assert finding.began == 21
    assert finding.evidence[0] == "spikes at epoch 21, epoch 41, epoch 51"


def test_one_spike_and_batches_that_differ_are_none():
    loss = steady(60, 8, 0.5, 10, 0.02)
    loss[20] *= 8
    assert RULE["loss_spikes"](run(train_loss=loss)) is None
    batches = noisy(np.random.default_rng(RNG), decay(None, 4000, 8, 0.5, 800), 0.5)
    assert RULE["loss_spikes"](run(train_loss=batches, clock="step")) is None


def test_a_loss_that_swings_and_goes_nowhere_oscillates():
    swings = [3 * (1.8 if epoch % 2 else 0.6) for epoch in range(40)]
    assert "swings by" in RULE["loss_oscillates"](run(train_loss=swings)).headline


def test_a_loss_without_a_floor_diverges_below_zero():
    loss = [1.5, 0.6, 0.2, *(-np.geomspace(1, 1e9, 60))]
    found = RULE["training_diverges"](run(train_loss=loss))
    assert (found.status, found.began) == ("confirmed", 4)
    assert found.headline == "training loss runs off below zero since epoch 4"
    density = [900.0, 300.0, *np.linspace(200, -4000, 60)]  # of many dimensions
    assert RULE["training_diverges"](run(train_loss=density)) is None


def test_swings_with_which_validation_came_to_be_read_better_are_suspected_alone():
    swings = [3 * (1.8 if epoch % 2 else 0.6) for epoch in range(40)]
    for last, status in ((0.05, "suspected"), (0.3, "confirmed")):
        rate = [*np.linspace(1.0, 0.3, 20), *np.linspace(0.3, last, 20)]
        assert RULE["loss_oscillates"](run(train_loss=swings, val_wer=rate)).status == status


def test_a_loss_that_runs_away_and_comes_back_oscillates_too():
    away = [
        *np.linspace(40, 4, 10),
        *[4.0] * 12,
        *np.geomspace(4, 110, 4),
        *[110.0] * 4,
        *np.geomspace(110, 5, 6),
    ]
    assert "runs away to 2" in RULE["loss_oscillates"](run(train_loss=away)).headline


def test_a_loss_that_swings_at_the_bottom_or_on_its_way_down_does_not():
    swings = np.array([1.8 if epoch % 2 else 0.6 for epoch in range(40)])
    assert RULE["loss_oscillates"](run(train_loss=swings * np.linspace(8, 1, 40))) is None
    assert RULE["loss_oscillates"](run(train_loss=swings * decay(None, 40, 8, 0.01, 3))) is None


def test_what_is_left_of_a_loss_may_swing_as_it_likes():
    swings = np.array([1.8 if epoch % 2 else 0.1 for epoch in range(16)]) * 0.01
    for first, found in ((4.0, False), (0.4, True)):
        made = run(train_loss=[first, first / 2, first / 9, 0.02, *swings])
        assert (RULE["loss_oscillates"](made) is not None) == found


def test_a_loss_that_was_lowest_early_and_goes_up_and_down_above_that_oscillates():
    long = 1.5 + np.cos(np.arange(64) / 3)
    early = [*np.linspace(2.1, 0.4, 12), *(long + 0.4)]
    found = RULE["loss_oscillates"](run(train_loss=early))
    assert "swings far above its lowest" in found.headline
    rising = [*np.linspace(2.1, 0.4, 12), *np.geomspace(0.5, 4, 64)]
    assert RULE["loss_oscillates"](run(train_loss=rising)) is None
    late = [*np.linspace(9, 2, 12), *long]
    assert RULE["loss_oscillates"](run(train_loss=late)) is None


def test_an_error_rate_that_goes_back_to_reading_nothing_is_undone_though_training_stands():
    rate = [1.6, 0.73, 0.83, *[0.97] * 12, *[1.0] * 15]
    swinging = [90 + 40 * (1 + np.sin(i)) for i in range(30)]
    found = RULE["learning_undone"](run(train_loss=[70.0] * 30, val_loss=swinging, val_wer=rate))
    assert (found.began, found.status) == (2, "confirmed")
    learning = np.linspace(70, 10, 30)
    assert (
        RULE["learning_undone"](run(train_loss=learning, val_loss=swinging, val_wer=rate)) is None
    )


def test_batches_of_one_epoch_swing_because_they_differ():
    places, losses = np.linspace(3, 3.96, 26), [300.0 if n % 2 else 170.0 for n in range(26)]
    assert RULE["loss_oscillates"](run(train_loss=curve(places, losses))) is None
    assert RULE["loss_oscillates"](run(train_loss=curve(10 * places, losses))) is not None


@pytest.mark.parametrize(
    "places",
    [(1, 2, 3, 2, 3, 4), (1, 2, 2, 3, 4, 5, 6, 7, 8)],
    ids=["goes back", "tells an epoch twice"],
)
def test_steps_out_of_order_are_named(places):
    finding = RULE["steps_out_of_order"](run(train_loss=curve(places, range(len(places), 0, -1))))
    assert finding.began == 2


def test_a_reading_that_is_told_again_is_in_order():
    told = curve((1, 2, 2, 3, 4, 5, 6, 7, 8), (9, 8, 8, 7, 6, 5, 4, 3, 2))
    assert RULE["steps_out_of_order"](run(train_loss=told)) is None


def test_an_epoch_that_a_resumed_run_goes_through_again_is_in_order():
    places = (1, 2, 3, 4, 4, 5, 6, 7, 8)
    told = curve(places, (9, 8, 7, 6, 6.1, 5, 4, 3, 2))
    assert RULE["steps_out_of_order"](run(train_loss=told)) is None
    other = curve(places, (9, 8, 7, 6, 8.5, 5, 4, 3, 2))
    assert RULE["steps_out_of_order"](run(train_loss=other)).began == 4


def test_several_readings_an_epoch_are_in_order():
    assert RULE["steps_out_of_order"](run(train_loss=curve((1, 1, 1, 2, 2, 2), [1.0] * 6))) is None


def test_spikes_of_validation_that_training_does_not_share_throw_nothing_back():
    val = list(steady(60, 4, 0.5))
    val[20], val[40] = 6.0, 6.0
    sparse = Curve(at=tuple(range(1, 61, 4)), values=tuple(steady(15, 4, 0.4)))
    assert RULE["loss_spikes"](run(train_loss=steady(60, 4, 0.4), val_loss=val)) is None
    assert RULE["loss_spikes"](run(train_loss=sparse, val_loss=val)).began == 21


def test_nothing_read_until_the_rate_is_spent_is_stuck():
    spent = [1e-3] * 10 + [5e-4] * 6 + [2e-4] * 4
    curves = {"train_loss": steady(20, 3, 2.2, 3), "val_wer": [1.0] * 20}
    found = RULE["validation_wer_stuck"](run(**curves, lr=spent))
    assert (found.status, found.began) == ("confirmed", 1)
    assert RULE["validation_wer_stuck"](run(**curves, lr=[1e-3] * 20)) is None
    assert RULE["validation_wer_stuck"](run(**curves, lr=(spent[:5] + spent[-5:]) * 2)) is None


@pytest.mark.parametrize(
    ("first", "wer", "accused"), [(70, 0.4, True), (70, 0.05, False), (1, 0.4, False)]
)
def test_a_huge_gap_convicts_where_the_log_begins_after_the_turn(first, wer, accused):
    at = range(first, first + 20)
    shown = {
        "train_loss": curve(at, steady(20, 0.03, 0.03)),
        "val_loss": curve(at, steady(20, 3.0, 3.0)),
        "val_wer": curve(at, steady(20, wer, wer)),
    }
    found = RULE["gap_wide"](run(**shown))
    assert (found is not None) == accused
    assert not accused or (found.status, found.began) == ("confirmed", first)


def test_a_rise_that_has_lasted_for_long_convicts_at_less_of_its_noise():
    short, long = (
        Rise(since=1, low=1, high=1.1, share=0.1, noises=3.5, readings=9, lasted=lasted)
        for lasted in (0.2, 0.4)
    )
    assert (is_sure(short), is_sure(long)) == (False, True)


HALTED = [9.0, 7.0, 6.2, *(5.6 + 0.01 * (n % 3) for n in range(40))]


def test_losses_that_have_stood_since_early_are_a_plateau_and_sure_where_the_run_is_over():
    both = {"train_loss": HALTED, "val_loss": HALTED}
    found = RULE["training_stands"](run(**both))
    assert (found.began, found.status) == (4, "suspected")
    assert (
        RULE["training_stands"](replace(run(**both), finished=("it says so",))).status
        == "confirmed"
    )


@pytest.mark.parametrize(
    "curves",
    [
        {"train_loss": HALTED, "val_wer": [0.1] * len(HALTED)},
        {"train_loss": [0.3 * value if value < 6 else value for value in HALTED]},
        {"train_loss": HALTED, "val_loss": [20 / n for n in range(1, len(HALTED) + 1)]},
    ],
    ids=["clips are read", "the loss came down far", "validation still falls"],
)
def test_a_training_loss_that_stands_with_reason_is_no_plateau(curves):
    assert RULE["training_stands"](run(**curves)) is None


def test_what_is_told_within_the_first_epoch_is_told_from_the_beginning():
    within = curve(np.linspace(1, 1.99, 90), [10.74, *(10.5 - 0.001 * (n % 7) for n in range(89))])
    assert RULE["loss_never_falls"](run(train_loss=within)) is not None
    later = curve(np.linspace(3, 3.99, 90), within.values)
    assert RULE["loss_never_falls"](run(train_loss=later)) is None
