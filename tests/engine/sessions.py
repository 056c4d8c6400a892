"""What a session came to, made by hand: one rung that holds, one that broke with its diagnosis, one
that was not tried.
"""

from pytest_overfit.climb.ladder import Attempt, Outcome
from pytest_overfit.explain.diagnosis import Diagnosis, Row
from pytest_overfit.explain.trials import Trial
from pytest_overfit.finding import Finding
from pytest_overfit.levels import Level, LevelMatch
from pytest_overfit.recipe import Recipe
from pytest_overfit.training import Reading, Trace

LEVELS = tuple(
    Level(name=name, loss=loss)
    for name, loss in (("uniform", 8.0), ("blank", 2.5), ("unigram", 2.4), ("bag of clip", 2.3))
)


def reading(step, loss):
    shares = {
        "exact_share": 0.0,
        "nearest_target_share": 0.5,
        "emission_ratio": 0.8,
        "blank_share": 0.9,
        "entropy_ratio": 0.2,
    }
    return Reading(step=step, loss=loss, token_error_rate=0.7, normalisation_error=0.0, **shares)


def attempt(losses, *, held=False):
    trace = Trace(losses=list(losses), readings=[reading(len(losses), losses[-1])])
    level_match = LevelMatch(level=LEVELS[3], measured=losses[-1], descending=False, ladder=LEVELS)
    return Attempt(
        seed=0,
        recipe=Recipe(),
        steps=len(losses),
        seconds=1.0,
        held=held,
        verdicts=(),
        trace=trace,
        level_match=level_match,
    )


def climbed(name="toy"):
    finding = Finding(
        name="time_collapse",
        headline=f"conv of {name} leaves 11 steps",
        module="conv",
        status="confirmed",
    )
    table = (
        Row(module="stem", where=None, steps=40, between_sample_share=0.8, gradient=1.0),
        Row(module="conv", where="net.py:3", steps=11, between_sample_share=0.7, gradient=0.5),
    )
    trial = Trial(
        finding="time_collapse", remedy="a smaller stride there", held=True, steps=25, seconds=1.0
    )
    explained = Diagnosis(findings=(finding,), table=table, trials=(trial,))
    rungs = {"subject": name, "parameters": 1234}
    return [
        (
            Outcome(
                **rungs, samples=1, status="ok", attempts=(attempt([8.0, 1.0, 0.01], held=True),)
            ),
            None,
        ),
        (
            Outcome(**rungs, samples=5, status="broken", attempts=(attempt([8.0, 4.0, 2.31]),)),
            explained,
        ),
        (Outcome(subject=name, samples=10, status="not tried", broke_at=5), None),
    ]
