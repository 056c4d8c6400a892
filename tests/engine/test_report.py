"""What is printed, pinned: headlines that stand alone, bodies, tables, annotations, and JSON that
is JSON.
"""

import json
import math
from dataclasses import replace

import pytest

from pytest_overfit import Outcome, Recipe
from pytest_overfit.climb.ladder import Attempt, Detour, Ended, Verdict, criteria_for
from pytest_overfit.climb.misread import worst
from pytest_overfit.finding import Finding, counted
from pytest_overfit.levels import Level
from pytest_overfit.plugin import github, report_json
from pytest_overfit.plugin.failure import body, headline
from pytest_overfit.plugin.summary import summary
from pytest_overfit.plugin.wording import number, phrase
from pytest_overfit.training import Reading, Trace


def reading(**changes):
    plain = {
        "step": 40,
        "loss": 2.412,
        "token_error_rate": 0.71,
        "exact_share": 0.0,
        "nearest_target_share": 0.5,
        "emission_ratio": 0.8,
    }
    return Reading(
        **{
            **plain,
            "blank_share": 0.91,
            "entropy_ratio": 0.21,
            "normalisation_error": 1e-7,
            **changes,
        }
    )


def attempt(
    *,
    samples=10,
    held=False,
    recipe=None,
    seed=0,
    steps=40,
    ended=None,
    why=None,
    readings=None,
    **changes,
):
    trace = Trace(
        losses=[10.0 - 0.2 * step for step in range(steps)],
        readings=[reading(**changes)] if readings is None else readings,
    )
    verdicts = (
        tuple(criterion.judge(trace.readings[-1], trace) for criterion in criteria_for(samples))
        if trace.readings
        else ()
    )
    recipe = recipe or Recipe()
    return Attempt(
        seed=seed,
        recipe=recipe,
        steps=steps,
        seconds=1.25,
        held=held,
        verdicts=verdicts,
        trace=trace,
        ended=ended,
        why=why,
    )


OK = attempt(held=True, loss=0.3, token_error_rate=0.1)


def outcome(*attempts, samples=10, status="broken", **changes):
    return Outcome(
        subject="toy",
        samples=samples,
        status=status,
        attempts=attempts,
        parameters=1_234_567,
        where="model/toy.py:17",
        **changes,
    )


NOT_TRIED = Outcome(subject="toy", samples=20, status="not tried", broke_at=10)
SECOND = replace(Recipe(), lr=1.5e-3)
DETOUR = Detour(level=Level(name="repeats merged", loss=1 / 6), step=200, path_steps=60)
NAMES = ("<blank>", "HELLO", "GOOD DAY", "RAIN", "SUN")
CAUSES = {
    "a criterion": outcome(attempt()),
    "a worst clip": outcome(
        replace(
            attempt(),
            misread=worst(["c0", "c1"], [[1, 2], [4, 4, 1]], [[1, 2], [1, 2, 3, 4, 1]], NAMES),
        )
    ),
    "a uniform output": outcome(attempt(entropy_ratio=0.99)),
    "a blank output": outcome(attempt(emission_ratio=0.01)),
    "a babbling output": outcome(attempt(emission_ratio=3.2)),
    "a negative loss": outcome(attempt(loss=-0.24, normalisation_error=4.0)),
    "an output that is not normalised": outcome(attempt(normalisation_error=4.0)),
    "a loss that is not finite": outcome(
        attempt(
            steps=3,
            readings=[],
            ended=Ended.NOT_FINITE,
            why="the loss is nan at step 3 (samples c1)",
        )
    ),
    "a reading that is not finite": outcome(attempt(loss=math.nan, token_error_rate=1.0)),
    "too few steps": outcome(
        findings=(
            Finding(
                name="time_collapse",
                headline=(
                    "2 of 10 targets do not fit: conv leaves 11 steps of 176 frames for a target "
                    "that needs 14"
                ),
                evidence=(
                    "c2: 14 tokens, 0 repeats, 11 steps",
                    "c5: 12 tokens, 0 repeats, 11 steps",
                ),
                module="conv",
                samples=("c2", "c5"),
                try_="lower the stride of conv, or of one before it",
                status="confirmed",
            ),
        )
    ),
    "an error": outcome(error="RuntimeError: no luck\n  File x.py, line 3"),
    "one seed of three": outcome(
        attempt(seed=0), replace(OK, seed=1), attempt(seed=2), chance_of_error=0.0049
    ),
}


@pytest.mark.parametrize("broken", CAUSES.values(), ids=CAUSES.keys())
def test_a_headline_is_one_line_that_stands_alone(broken, snapshot):
    text = headline(broken)
    assert "\n" not in text
    assert text == snapshot


BODIES = {
    **{
        name: CAUSES[name]
        for name in (
            "a criterion",
            "a worst clip",
            "too few steps",
            "an error",
            "one seed of three",
        )
    },
    "a detour": outcome(replace(attempt(), detour=DETOUR)),
    "several recipes": outcome(
        attempt(ended=Ended.STOOD_STILL, why="the loss stood still for 100 steps"),
        attempt(recipe=SECOND, token_error_rate=0.6),
    ),
}


@pytest.mark.parametrize("broken", BODIES.values(), ids=BODIES.keys())
def test_a_body_says_what_was_tried_and_how_to_try_again(broken, snapshot):
    known = [outcome(OK, samples=5, status="ok"), broken]
    text = body(
        broken,
        known,
        (5, 10, 20),
        'pytest "test_toy.py::test_overfits[toy-10 samples]" --overfit-seed=0',
    )
    assert text == snapshot


def test_a_loss_is_never_printed_without_its_unit():
    broken = CAUSES["a criterion"]
    text = headline(replace(broken, attempts=(attempt(loss=9.0),))) + body(
        broken, [broken], (10,), "pytest"
    )
    for words in text.split("loss ")[1:]:
        value = words.split()[0].strip(",;")
        if value[0].isdigit():
            assert words.split()[1].startswith("nats/token"), words


def test_a_criterion_is_phrased_with_its_value_and_its_bound():
    verdict = Verdict(name="WER", sign="<", bound=0.5, value=0.714, held=False)
    assert phrase(verdict) == "WER 71.4 %, must be < 50 %"
    assert phrase(replace(verdict, value=math.inf)) == "WER not finite, must be < 50 %"


def test_the_summary_is_a_table_a_subject(snapshot):
    mended = outcome(attempt(samples=5), replace(OK, recipe=SECOND), samples=5, status="ok")
    seeds = outcome(
        attempt(seed=0),
        replace(OK, seed=1),
        replace(OK, seed=2, steps=70),
        samples=2,
        status="ok",
        chance_of_error=0.0524,
    )
    other = Outcome(
        subject="other",
        samples=1,
        status="broken",
        error="subject other has 0 samples, a rung of 1 was asked for",
    )
    led_off = outcome(replace(OK, detour=DETOUR), samples=3, status="ok")
    rows = [
        NOT_TRIED,
        outcome(attempt(), attempt(recipe=SECOND)),
        mended,
        seeds,
        led_off,
        outcome(OK, samples=1, status="ok", chance_of_error=0.05),
        other,
    ]
    assert summary(rows) == snapshot


@pytest.mark.parametrize("text", ["[/srv/data]", "[bold]", "shape [1, 2]", ":warning:"])
def test_brackets_and_colons_in_names_are_printed_as_they_are(text):
    assert summary(
        [Outcome(subject=f"toy {text}", samples=1, status="broken", error="none")]
    ).startswith(f"toy {text}\n")


def test_json_is_strict_and_complete():
    broken = CAUSES["a reading that is not finite"]
    rows = json.loads(
        report_json.to_json([(broken, None), (NOT_TRIED, None)]),
        parse_constant=lambda constant: pytest.fail(constant),
    )
    assert rows["version"] == report_json.VERSION
    first, second = rows["outcomes"]
    assert first["attempts"][0]["readings"][0]["loss"] is None
    assert first["attempts"][0]["recipe"]["lr"] == 5e-3
    assert (second["status"], second["broke_at"]) == ("not tried", 10)
    assert first["notes"] == second["notes"] == []


def test_json_says_how_a_rung_was_climbed_that_ctc_alone_does_not_climb():
    led_off = outcome(replace(OK, detour=DETOUR), samples=2, status="ok", chance_of_error=0.05)
    (row,) = json.loads(report_json.to_json([(led_off, None)]))["outcomes"]
    assert row["attempts"][0]["detour"]["level"] == "repeats merged"
    assert row["notes"] == [
        (
            "seeds at 2: 1 of 1 held; a network that climbs with 1 of 20 seeds is called ok in 5 % "
            "of cases"
        ),
        (
            "detour at 2: CTC alone stood on `repeats merged` (0.167 nats/token) after 200 steps; "
            "then 60 steps on one path a clip, and CTC again"
        ),
    ]


def test_an_annotation_points_at_the_networks_line_and_is_encoded():
    broken = replace(
        CAUSES["an error"],
        subject="toy, 50%: b",
        error="Error: 100%\nmore",
        where="model/a,b.py:17",
    )
    text = "toy, 50%25: b breaks at 10 samples: it could not be trained: Error: 100%25"
    assert (
        github.annotation(broken)
        == f"::error file=model/a%2Cb.py,line=17,title=overfit toy%2C 50%25%3A b::{text}"
    )


@pytest.mark.parametrize("where", [None, "/usr/lib/python/torch/nn.py:3"])
def test_an_annotation_names_no_file_that_is_not_of_the_project(where):
    assert github.annotation(replace(CAUSES["an error"], where=where)).startswith(
        "::error title=overfit toy::toy breaks at 10 samples"
    )


def test_the_step_summary_is_a_markdown_table(snapshot):
    led_off = outcome(replace(OK, detour=DETOUR), samples=2, status="ok")
    climbed = [
        (led_off, None),
        (outcome(OK, samples=5, status="ok"), None),
        (CAUSES["a criterion"], None),
        (NOT_TRIED, None),
    ]
    text = github.markdown(climbed)
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert text == snapshot


def test_numbers_are_written_in_three_digits_and_counts_with_their_nouns():
    assert [number(value) for value in (0.0, 0.71428, 12.345, math.nan)] == [
        "0",
        "0.714",
        "12.3",
        "not finite",
    ]
    assert [counted(count, "step") for count in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
