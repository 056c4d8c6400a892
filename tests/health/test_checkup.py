"""A checkup: the team's own figures, what makes a verdict, what is said of what is missing, and the
command that comes next.
"""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_overfit.health import report
from pytest_overfit.health.checkup import check_up
from pytest_overfit.health.curves.curve import Curve
from pytest_overfit.health.rules import RULES
from pytest_overfit.health.run import Facts, Prediction, Run
from tests.health.made_runs import LEVELS, SICK, SOUND, curve, decay, noisy

FEW = (1, 25, 50, 60)
SENTENCE = (
    "MORGEN",
    "REGEN",
    "UND",
    "WIND",
    "IM",
    "NORDEN",
    "AUCH",
    "SCHNEE",
    "DANN",
    "KALT",
    "JETZT",
    "WETTER",
)
TEAM = Run(
    name="teacher",
    sources=(Path("logs/teacher.log"),),
    curves={
        "train_loss": curve(FEW, (44.59, 4.19, 2.87, 2.36)),
        "val_loss": curve(FEW, (7.19, 4.90, 4.96, 5.29)),
        "train_wer": curve((60,), (0.827,)),
        "val_wer": curve(FEW, (0.921, 0.912, 0.908, 0.915)),
    },
    predictions=tuple(
        Prediction(at=60.0, split="val", target=SENTENCE[:due], prediction=prediction)
        for due, prediction in ((10, ()), (11, ("REGEN",)), (12, ("WIND", "WIND")))
    ),
)


def trained(epochs=60, train=(20, 0.3), val=(20, 0.6), rate=6, facts=None, **curves):
    rng = np.random.default_rng(3)
    losses = {
        "train_loss": noisy(rng, decay(rng, epochs, *train, rate), 0.01),
        "val_loss": noisy(rng, decay(rng, epochs, *val, rate), 0.01),
    }
    made = {
        name: curve(range(1, len(values) + 1), values)
        for name, values in {**losses, **curves}.items()
    }
    return Run(name="made", curves=made, facts=facts or Facts())


# -- the team's own figures


def test_the_teams_figures_show_both_illnesses_and_end_in_stop(snapshot):
    checkup = check_up(TEAM)
    assert checkup.verdict == "stop"
    assert checkup.finding("validation_loss_rises").began == 25
    assert (
        checkup.finding("predictions_too_short").status
        == checkup.finding("validation_wer_stuck").status
        == "confirmed"
    )
    assert report.text(checkup) == snapshot


def test_the_teams_figures_for_machines(snapshot):
    assert report.to_json(check_up(TEAM)) == snapshot


def test_their_case_is_clear_without_predictions_and_error_rates_too():
    losses = {name: TEAM.curves[name] for name in ("train_loss", "val_loss")}
    checkup = check_up(Run(name="teacher", curves=losses))
    assert [finding.name for finding in checkup.findings] == ["validation_loss_rises"]
    assert checkup.verdict == "stop"
    assert (
        dict(checkup.not_judged)["validation_wer_stuck"]
        == "needs an error rate of validation (val_wer)"
    )


def test_how_wide_their_gap_is_depends_on_the_unit():
    losses = {name: TEAM.curves[name] for name in ("train_loss", "val_loss")}
    in_nats = Run(name="teacher", curves=losses, facts=Facts(levels={"val": LEVELS}))
    assert (
        check_up(in_nats).finding("gap_wide").headline
        == "validation loss stands more than 2 above training loss since epoch 50"
    )
    unread = check_up(
        Run(name="teacher", curves={**losses, "val_wer": TEAM.curves["val_wer"]})
    ).finding("gap_wide")
    assert unread.headline == (
        "training loss lies more than 40 % below validation loss, which stands still, since "
        "epoch 50"
    )


def test_at_their_epoch_25_nothing_was_wrong_yet():
    early = {
        name: Curve(at=whole.at[:2], values=whole.values[:2])
        for name, whole in TEAM.curves.items()
        if len(whole) > 1
    }
    checkup = check_up(Run(name="teacher", curves=early))
    assert checkup.findings == ()
    assert (checkup.verdict, checkup.reasons) == (
        "cannot tell",
        ("validation was measured twice: nothing shows where it goes",),
    )


# -- verdicts


def test_every_rule_finds_rules_out_or_says_why_it_does_not_judge():
    for kind in SOUND:
        checkup = check_up(SOUND[kind](np.random.default_rng(1)))
        names = [
            *(finding.name for finding in checkup.findings),
            *checkup.ruled_out,
            *dict(checkup.not_judged),
        ]
        assert sorted(names) == sorted(rule.name for rule in RULES)


READ = decay(None, 100, 1.0, 0.12, 6)


def test_a_run_that_learnt_and_came_to_rest_is_healthy():
    checkup = check_up(trained(epochs=100, val_wer=READ))
    assert checkup.verdict == "healthy"
    assert checkup.next_command is None
    assert checkup.reasons[-1].startswith("best checkpoint: validation WER 12.0 % at epoch ")


def test_without_an_error_rate_nobody_can_tell_whether_anything_is_read():
    checkup = check_up(trained(epochs=100))
    assert checkup.verdict == "cannot tell"
    assert checkup.reasons[0] == "no error rate in the log: nothing shows whether anything is read"
    assert checkup.next_command.endswith(
        "# once an error rate of validation is logged beside the loss"
    )


@pytest.mark.parametrize("rate", [6, 40], ids=["at rest", "still improving"])
def test_of_a_run_that_is_over_it_is_said_whether_more_would_have_helped(rate):
    over = replace(
        trained(epochs=100, rate=rate, val_wer=decay(None, 100, 1.0, 0.12, rate)),
        finished=("max_steps 3000 reached (state.json)",),
    )
    checkup = check_up(over)
    assert checkup.verdict == ("healthy" if rate == 6 else "go on")
    assert "max_steps 3000 reached (state.json)" in checkup.reasons
    assert any(reason.startswith("best checkpoint: validation WER") for reason in checkup.reasons)
    assert checkup.reasons[-1].endswith(
        "more would have helped little" if rate == 6 else "it ended while it improved: train longer"
    )
    assert checkup.next_command is None


def test_a_run_that_is_over_has_settled_where_its_last_sixth_brought_next_to_nothing():
    sinking = np.concatenate([np.geomspace(1.0, 0.2, 30), np.linspace(0.199, 0.192, 10)])
    made = trained(epochs=40, rate=40, val_wer=sinking)
    made.curves["val_loss"] = curve(range(1, 41), 3 * sinking)
    over = replace(made, finished=("all of 40 epochs are told",))
    assert check_up(over).verdict == "healthy"
    assert check_up(made).verdict == "go on"  # nobody says that it is over
    del over.curves["val_wer"]  # its loss alone does not show that what is read has settled
    assert check_up(over).verdict == "go on"


@pytest.mark.parametrize(("bleu", "verdict"), [(3.8, "go on"), (24.0, "healthy")])
def test_a_run_whose_bleu_is_next_to_nothing_is_not_healthy(bleu, verdict):
    made = trained(epochs=100, val_bleu=bleu * (1 - READ) / 0.88)
    assert check_up(made).verdict == verdict


def test_a_fall_that_is_slow_and_sure_goes_on_where_a_run_is_over():
    loss = [1.54, 1.49, 1.45, 1.42, 1.4, 1.38, 1.37, 1.355, 1.344, 1.333]
    score = [0.52, 0.53, 0.541, 0.549, 0.556, 0.562, 0.563, 0.568, 0.57, 0.574]
    curves = {"val_loss": curve(range(1, 11), loss), "val_accuracy": curve(range(1, 11), score)}
    made = Run(name="made", sources=(), curves=curves, finished=("all of 10 epochs are told",))
    assert check_up(made).verdict == "go on"


def test_a_run_that_still_improves_goes_on():
    checkup = check_up(trained(rate=40))
    assert checkup.verdict == "go on"
    assert checkup.reasons[0].startswith("validation loss still falls: ")


def test_a_score_that_still_gets_better_rises():
    score = run_of_score(np.linspace(0.2, 0.6, 20))
    assert check_up(score).reasons == (
        "validation accuracy still rises: 60.0 % at epoch 20 is its highest so far",
    )


def run_of_score(values):
    at = range(1, len(values) + 1)
    losses = [3 / i for i in at]
    curves = {"train_loss": curve(at, losses), "val_accuracy": curve(at, values)}
    return Run(name="made", sources=(), curves=curves)


def test_a_short_log_is_too_early_to_call_healthy():
    checkup = check_up(trained(epochs=10, rate=0.5, val_wer=np.linspace(0.2, 0.201, 10)))
    assert checkup.verdict == "go on"
    assert checkup.reasons == (
        "too early to tell: 10 readings, it takes 12 to say where a run goes",
    )


def test_of_a_short_log_in_which_nothing_fell_nothing_can_be_told():
    flat = {"train_loss": (5.06, 5.12, 5.12), "val_loss": (4.57, 4.51, 4.49), "val_wer": (1, 1, 1)}
    curves = {name: curve((400, 800, 1200), values) for name, values in flat.items()}
    assert check_up(Run(name="begun", clock="step", curves=curves)).verdict == "cannot tell"


def test_a_short_log_that_reads_all_but_everything_is_healthy():
    rate = [0.2, 0.1, 0.05, 0.02, 0.01, 0.006, 0.004, 0.004, 0.004, 0.004]
    assert check_up(trained(epochs=10, rate=0.5, val_wer=rate)).verdict == "healthy"


def test_an_error_rate_that_is_told_at_each_new_best_alone_stands_since_the_last():
    bests = curve(range(4, 41, 2), np.geomspace(1, 0.2, 19))
    still = {"train_loss": curve(range(1, 101), np.geomspace(9, 0.1, 100)), "val_cer": bests}
    assert check_up(Run(name="bests", curves=still)).verdict == "healthy"
    to_the_end = {name: curve(own.at[:44], own.values[:44]) for name, own in still.items()}
    assert check_up(Run(name="bests", curves=to_the_end)).verdict == "go on"


def test_of_what_was_measured_once_nothing_can_be_told():
    once = {
        "train_loss": curve((1,), (173.0,)),
        "val_loss": curve((1,), (80.0,)),
        "val_wer": curve((1,), (1.0,)),
    }
    checkup = check_up(Run(name="begun", curves=once))
    assert (checkup.verdict, checkup.reasons) == (
        "cannot tell",
        ("validation was measured once: nothing shows where it goes",),
    )


def test_an_error_rate_that_is_still_high_is_not_called_healthy():
    checkup = check_up(
        trained(epochs=100, train=(20, 0.5), val_wer=[1.0] * 70 + [0.7] + [0.9] * 29)
    )
    assert checkup.verdict == "go on"
    assert checkup.reasons == ("nothing found, but validation WER is 90.0 %",)


def test_what_is_only_suspected_does_not_stop_a_run():
    spiky = check_up(SICK["spiky"][0](np.random.default_rng(1)))
    assert spiky.verdict == "go on"
    assert spiky.reasons[0].startswith("suspected: training loss spikes")


def test_confirmed_findings_come_first():
    spiked = trained(epochs=100, lr=[0.0] * 100)
    values = np.array(spiked.curves["train_loss"].values)
    values[[30, 50, 70]] *= 9
    findings = check_up(
        Run(name="both", curves=spiked.curves | {"train_loss": curve(range(1, 101), values)})
    ).findings
    assert [(finding.name, finding.status) for finding in findings] == [
        ("learning_rate_zero", "confirmed"),
        ("loss_spikes", "suspected"),
    ]


def test_of_a_run_without_any_curve_nothing_can_be_told():
    checkup = check_up(Run(name="nothing"))
    assert (checkup.findings, checkup.verdict) == ((), "cannot tell")
    assert "nothing: no curve" in report.text(checkup)


# -- notes and what is missing


def test_levels_gap_and_parameters_are_notes():
    facts = Facts(levels={"train": LEVELS, "val": LEVELS}, parameters=7_300_000, train_samples=600)
    notes = check_up(trained(val=(20, 3.0), rate=30, facts=facts)).notes
    assert re.fullmatch(
        r"training loss 3\.\d\d nats per token: the nearest level is `bag of clip` \(2\.50\)",
        notes[0],
    )
    assert any(note.startswith("gap (validation - training loss) 2.") for note in notes)
    assert notes[-1] == "7,300,000 parameters, 600 training samples: 12,167 parameters a sample"


def test_what_a_log_tells_is_not_asked_for():
    every = {
        name: [0.5] * 60
        for name in (
            "train_wer",
            "val_wer",
            "val_emission_ratio",
            "val_blank_share",
            "val_entropy_ratio",
            "lr",
            "grad_norm",
        )
    }
    facts = Facts(levels={"train": LEVELS, "val": LEVELS}, parameters=1, train_samples=1)
    complete = trained(facts=facts, **every)
    assert check_up(complete).more_evidence == (
        (
            "a checkpoint beside the log: blanks, entropy, emitted tokens and probes measured on "
            "real samples"
        ),
    )
    assert len(check_up(trained()).more_evidence) == 10


# -- the next command

STARTED = (
    "python -m model.train mobilenetv3 --learning_rate 0.001 --dropout 0.3 --weight_decay 1e-4 "
    "--epochs 60 --output_dir checkpoints/first"
)
OVERFITS = {"val": (20, 0.6), "train": (20, 0.05)}


def command_for(kind, command=STARTED, **known):
    made = SICK[kind][0](np.random.default_rng(0))
    keep = {
        name: whole for name, whole in made.curves.items() if not name.endswith(("wer", "ratio"))
    }
    return check_up(
        Run(name="made", curves=keep, facts=Facts(command=command, **known))
    ).next_command


def test_overfitting_is_answered_by_more_dropout_and_weight_decay_into_a_new_folder():
    expected = (
        "python -m model.train mobilenetv3 --learning_rate 0.001 --dropout 0.5 --weight_decay "
        "0.001 --epochs 60 --output_dir checkpoints/first-next"
    )
    assert command_for("overfitting") == expected
    assert command_for("overfitting", STARTED + " --resume") == expected


def test_divergence_is_answered_by_a_smaller_rate_however_the_option_is_written():
    assert "--learning_rate 0.0001 " in command_for("diverged")
    assert (
        command_for("diverged", "train.py --model.lr=0.05 --save-dir=x")
        == "train.py --model.lr=0.005 --save-dir=x"
    )
    assert command_for("became_nan", "train.py --lr 1e-3") == "train.py --lr 0.0001"


def test_a_keyword_of_the_network_is_an_option_that_was_left_out():
    assert (
        command_for("overfitting", "python -m model.train mobilenetv3", network={"dropout": 0.0})
        == "python -m model.train mobilenetv3 --dropout 0.2"
    )


@pytest.mark.parametrize(
    "command", [None, "python train.py", "python 'train.py", "train.py --lr fast"]
)
def test_a_command_without_such_an_option_leads_to_the_ladder(command):
    assert command_for("diverged", command) == (
        "pytest -m overfit --overfit-subject package.module:subject  # can it memorise a few "
        "clips at all?"
    )


def test_a_run_that_learnt_nothing_leads_to_the_ladder():
    made = SICK["collapsed"][0](np.random.default_rng(0))
    checkup = check_up(
        Run(name="made", curves=made.curves, facts=Facts(command=STARTED, subject="mobilenetv3"))
    )
    assert checkup.next_command.startswith("pytest -m overfit --overfit-subject mobilenetv3 ")


def test_a_run_that_goes_on_is_resumed_and_given_more_epochs_where_its_own_are_over():
    assert (
        check_up(trained(rate=40, facts=Facts(command=STARTED, epochs=150))).next_command
        == STARTED + " --resume"
    )
    assert (
        "--epochs 120 "
        in check_up(trained(rate=40, facts=Facts(command=STARTED, epochs=60))).next_command
    )
    assert (
        check_up(trained(rate=40)).next_command
        == "pytest -m health --overfit-run=made  # when more is logged"
    )


# -- whatever a log holds

NUMBERS = (
    st.floats(allow_nan=True, allow_infinity=True)
    | st.floats(-10, 100)
    | st.sampled_from([0.0, 0.85, 1.0, -1.0])
)
CURVES = st.dictionaries(
    st.sampled_from(
        [
            "train_loss",
            "val_loss",
            "train_wer",
            "val_wer",
            "val_emission_ratio",
            "lr",
            "grad_norm",
            "other",
        ]
    ),
    st.lists(st.tuples(st.integers(0, 200), NUMBERS), max_size=60).map(
        lambda points: Curve(
            at=tuple(float(at) for at, _ in points), values=tuple(v for _, v in points)
        )
    ),
)
PREDICTIONS = st.lists(
    st.builds(
        Prediction,
        at=st.none() | st.floats(0, 200),
        split=st.sampled_from(["train", "val", ""]),
        target=st.lists(st.just("t"), max_size=5).map(tuple),
        prediction=st.lists(st.just("p"), max_size=5).map(tuple),
    ),
    max_size=6,
).map(tuple)
FACTS = st.builds(
    Facts,
    levels=st.sampled_from([{}, {"train": LEVELS}, {"train": LEVELS, "val": LEVELS}]),
    epochs=st.none() | st.integers(1, 300),
)


@settings(max_examples=150)
@given(
    curves=CURVES, predictions=PREDICTIONS, facts=FACTS, clock=st.sampled_from(["epoch", "step"])
)
@example(  # no training loss to compare with
    curves={"val_loss": curve((0, 1, 2), (0.5, 1.0, 1.0)), "val_wer": curve((0,), (1.0,))},
    predictions=(),
    facts=Facts(),
    clock="epoch",
)
def test_any_log_is_judged_and_told_in_a_report_that_fits(curves, predictions, facts, clock):
    checkup = check_up(
        Run(name="any", clock=clock, curves=curves, predictions=predictions, facts=facts)
    )
    text = report.text(checkup)
    assert max(map(len, text.splitlines())) <= report.WIDTH
    json.loads(report.to_json(checkup), parse_constant=pytest.fail)
    assert checkup.verdict != "stop" or checkup.findings
    for finding in checkup.findings:
        assert finding.evidence
        assert finding.try_
        assert not math.isnan(finding.began)
        assert "nan" not in finding.headline


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), scale=st.floats(0.05, 20), shift=st.integers(0, 3))
@example(seed=3716, scale=1.0, shift=1)  # a third cycle that is half over, as the second once was
def test_a_verdict_does_not_hang_on_the_unit_of_the_loss_but_for_the_gap(seed, scale, shift):
    kind = ("steady", "restarts", "plateau_then_drop", "regularised")[shift]
    run = SOUND[kind](np.random.default_rng([seed, 77]))
    scaled = {
        name: Curve(at=whole.at, values=tuple(scale * value for value in whole.values))
        if name.endswith("loss")
        else whole
        for name, whole in run.curves.items()
    }
    names = {finding.name for finding in check_up(run).findings} - {"gap_wide"}
    again = {finding.name for finding in check_up(Run(name="scaled", curves=scaled)).findings} - {
        "gap_wide"
    }
    assert again == names - {"nothing_learnt", "nothing_carries_over"}


def made(**curves):
    return Run(
        name="made",
        curves={
            name: value if isinstance(value, Curve) else curve(range(1, len(value) + 1), value)
            for name, value in curves.items()
        },
    )


def test_training_loss_alone_tells_nothing_however_it_falls():
    checkup = check_up(made(train_loss=np.geomspace(8, 0.1, 60)))
    assert checkup.verdict == "cannot tell"
    assert any("measured on other clips" in reason for reason in checkup.reasons)


def test_a_loss_that_falls_is_no_gain_where_what_is_read_stands():
    still = 0.05 + 0.001 * np.resize([1, -1], 60)
    losses = {"train_loss": np.geomspace(1, 0.1, 60), "val_loss": np.geomspace(1, 0.2, 60)}
    assert check_up(made(**losses, val_wer=still)).verdict == "healthy"
    assert check_up(made(**losses, val_wer=np.geomspace(0.5, 0.05, 60))).verdict == "go on"


def test_a_lowest_reading_within_the_noise_is_no_gain():
    noisy_rate = 0.2 + 0.01 * np.resize([1, -1, 0.6, -0.4], 30)
    noisy_rate[25] -= 0.002
    losses = {"train_loss": np.geomspace(3, 0.1, 30)}
    assert check_up(made(**losses, val_wer=noisy_rate)).verdict == "healthy"


@pytest.mark.parametrize(("last", "verdict"), [(0.97, "cannot tell"), (0.93, "go on")])
def test_a_few_readings_from_late_in_a_run_tell_only_where_they_improve(last, verdict):
    at = (170, 171, 172)
    curves = {"train_loss": (161.6, 161.9, 161.9), "val_wer": (0.945, 0.95, last)}
    assert check_up(
        made(**{name: curve(at, values) for name, values in curves.items()})
    ).verdict == (verdict)


@pytest.mark.parametrize(
    ("wobble", "verdict"), [(0.0005, "go on"), (0.01, "cannot tell")], ids=["smooth", "noisy"]
)
def test_a_loss_alone_that_sinks_by_little_improves_where_it_is_smooth(wobble, verdict):
    epochs = np.arange(1, 31)
    val = 1.4 + 1.6 * np.exp(-epochs / 6) + wobble * np.resize([1, -1, 0.5, -0.5], 30)
    checkup = check_up(made(train_loss=np.geomspace(3, 1, 30), val_loss=val))
    assert checkup.findings == ()
    assert checkup.verdict == verdict


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.17, "go on"), (0.6, "healthy")])
def test_a_low_accuracy_is_not_healthy(accuracy, verdict):
    learnt = 1 - np.exp(-np.arange(1, 61) / 4)
    val = 7.7 - 1.5 * learnt
    curves = {"train_loss": val - 0.5, "val_loss": val, "val_accuracy": accuracy * learnt}
    assert check_up(made(**curves)).verdict == verdict


def test_a_training_loss_that_may_be_unsteady_is_no_reason_to_go_on():
    steady = np.geomspace(3, 0.05, 80)
    spiked = steady * np.where(np.isin(np.arange(80), (50, 60, 70)), 9.0, 1.0)
    rate = np.maximum(0.6 * 0.9 ** np.arange(80), 0.08) + 0.001 * np.resize([1, -1], 80)
    val = 0.4 + np.geomspace(3, 0.01, 80)
    checkup = check_up(made(train_loss=spiked, val_loss=val, val_wer=rate))
    assert [(f.name, f.status) for f in checkup.findings] == [("loss_spikes", "suspected")]
    assert checkup.verdict == "healthy"
