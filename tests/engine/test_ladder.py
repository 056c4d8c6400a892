"""The ladder: which criteria judge which scale, what is called broken and what is not, and what an
outcome says of its attempts.
"""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_overfit import Recipe, Rung, Sample, Subject
from pytest_overfit.climb.attempt import rank_of, unwatched
from pytest_overfit.climb.controls import Control
from pytest_overfit.climb.ladder import (
    BadLadder,
    Criterion,
    Ended,
    Outcome,
    Progress,
    check_rungs,
    criteria_for,
)
from pytest_overfit.ctc import greedy_decode
from pytest_overfit.explain.trials import _holds_as_it_is
from pytest_overfit.findings.record import Contract, Record
from pytest_overfit.plugin.wording import unread_text
from pytest_overfit.recipe import default_recipe
from pytest_overfit.training import Reading, Trace, Training
from pytest_overfit.trend import crawls, ran_away, stands_still
from tests.engine import subjects
from tests.engine.subjects import bigru

VOCABULARY = tuple("-ABCDEFGH")


def clips(count):
    """Tokens are fixed patterns 4 frames long with 2 still frames after each; every other clip has
    an adjacent repeat.
    """
    generator = torch.Generator().manual_seed(7)
    patterns = torch.randn(len(VOCABULARY), 12, generator=generator)
    made = []
    for i in range(count):
        target = torch.randint(1, len(VOCABULARY), (3 + i % 4,), generator=generator)
        if i % 2 == 0:
            target[1] = target[0]
        still = torch.zeros(2, 12)
        features = torch.cat(
            [still, *(torch.cat([patterns[token].expand(4, -1), still]) for token in target)]
        )
        made.append(
            Sample(
                name=f"c{i}",
                features=features + 0.1 * torch.randn(features.shape, generator=generator),
                target=target,
            )
        )
    return made


class BiGRU(nn.Module):
    def __init__(self, feature_dim, vocab_size, hidden=32):
        super().__init__()
        self.rnn = nn.GRU(feature_dim, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, vocab_size)

    def forward(self, features, frames):
        return self.head(self.rnn(features)[0]).log_softmax(-1).transpose(0, 1), frames


class Convolutions(nn.Module):
    """Climbs a rung in a tenth of a second."""

    def __init__(self, feature_dim, vocab_size, stride=1):
        super().__init__()
        self.stride = stride
        self.first = nn.Conv1d(feature_dim, 32, 5, stride=stride, padding=2)
        self.norm = nn.BatchNorm1d(32)
        self.head = nn.Conv1d(32, vocab_size, 5, padding=2)

    def forward(self, features, frames):
        hidden = self.norm(self.first(features.transpose(1, 2))).relu()
        return self.head(hidden).log_softmax(1).permute(2, 0, 1), (frames - 1) // self.stride + 1


def of(network, name="toy", **changes):
    build = lambda vocab_size, feature_dim, seed: network(feature_dim, vocab_size)  # noqa: E731
    return Subject(
        **{"name": name, "build": build, "samples": clips(60), "vocabulary": VOCABULARY, **changes}
    )


def climb(subject, samples, recipe=None, *, bounds=None, **fields):
    rung = Rung(
        subject=subject,
        samples=samples,
        recipe=recipe or default_recipe(samples),
        criteria=criteria_for(samples, bounds),
        **fields,
    )
    progress: list[Progress] = []
    return rung.climb(progress.append), progress


def reading(**changes):
    perfect = {
        "step": 9,
        "loss": 0.001,
        "token_error_rate": 0.0,
        "exact_share": 1.0,
        "nearest_target_share": 1.0,
    }
    return Reading(
        **{
            **perfect,
            "emission_ratio": 1.0,
            "blank_share": 0.8,
            "entropy_ratio": 0.05,
            "normalisation_error": 0.0,
            **changes,
        }
    )


FALLING = Trace(losses=[10.0 - 0.1 * i for i in range(90)])
FLAT = Trace(losses=[10.0 + 0.01 * (i % 2) for i in range(90)])


def failing(samples, *, trace=FALLING, bounds=None, **changes):
    verdicts = [
        criterion.judge(reading(**changes), trace) for criterion in criteria_for(samples, bounds)
    ]
    return [verdict.name for verdict in verdicts if not verdict.held]


@pytest.mark.parametrize("samples", [1, 2, 5, 9, 10, 20, 49, 50, 100, 1000])
def test_a_perfect_reading_holds_on_every_scale(samples):
    assert failing(samples) == []


@pytest.mark.parametrize("samples", [1, 2, 5, 10, 20, 50, 100])
def test_a_negative_loss_holds_on_no_scale(samples):
    assert failing(samples, loss=-0.01) == ["loss not negative"]
    assert failing(samples, loss=-1e-4) == []


@pytest.mark.parametrize("samples", [1, 2, 5, 10, 20, 50, 100])
def test_an_output_that_is_not_normalised_holds_on_no_scale(samples):
    assert failing(samples, normalisation_error=0.02) == ["normalisation error"]
    assert failing(samples, normalisation_error=0.019) == []


@pytest.mark.parametrize("samples", [1, 2, 5, 10, 20, 50, 100])
def test_a_reading_without_numbers_holds_on_no_scale(samples):
    assert failing(samples, loss=math.nan, token_error_rate=math.nan, entropy_ratio=math.nan)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"loss": 0.0099}, []),
        ({"loss": 0.01}, ["loss"]),
        ({"token_error_rate": 0.001}, ["WER"]),
        ({"exact_share": 0.0}, ["exact share"]),
        ({"nearest_target_share": 0.0, "entropy_ratio": 1.0}, []),
    ],
)
def test_one_sample_must_be_reconstructed_exactly_at_a_loss_below_a_hundredth(changes, failed):
    assert failing(1, trace=FLAT, **changes) == failed


@pytest.mark.parametrize("samples", [2, 5])
@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"loss": 0.99, "token_error_rate": 0.19, "exact_share": 0.0}, []),
        ({"loss": 1.0}, ["loss"]),
        ({"token_error_rate": 0.2}, ["WER"]),
        ({"nearest_target_share": 0.8}, ["nearest target share"]),
    ],
)
def test_two_to_five_samples_must_be_told_apart_at_a_loss_below_one_and_a_fifth_of_errors(
    samples, changes, failed
):
    assert failing(samples, trace=FLAT, **changes) == failed


@pytest.mark.parametrize("samples", [10, 20])
@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"loss": 4.99, "token_error_rate": 0.49, "nearest_target_share": 0.0}, []),
        ({"loss": 5.0}, ["loss"]),
        ({"token_error_rate": 0.5}, ["WER"]),
        ({"trace": FLAT}, ["loss, last tenth over first"]),
    ],
)
def test_ten_to_twenty_samples_must_improve_to_a_loss_below_five_and_half_of_errors(
    samples, changes, failed
):
    assert failing(samples, **changes) == failed


@pytest.mark.parametrize("samples", [50, 100, 1000])
@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"loss": 50.0, "token_error_rate": 0.69, "nearest_target_share": math.nan}, []),
        ({"token_error_rate": 0.7}, ["WER"]),
        ({"entropy_ratio": 0.95}, ["entropy / ln V"]),
        ({"trace": FLAT}, ["loss trend"]),
    ],
)
def test_fifty_samples_and_more_must_fall_steadily_below_seven_tenths_of_errors_and_not_be_uniform(
    samples, changes, failed
):
    assert failing(samples, **changes) == failed


def test_bounds_can_be_tightened():
    assert failing(2, loss=0.5, bounds={"loss": 0.4}) == ["loss"]
    assert failing(10, token_error_rate=0.3, bounds={"wer": 0.25}) == ["WER"]
    assert failing(50, entropy_ratio=0.6, bounds={"entropy / ln V": 0.5}) == ["entropy / ln V"]


def test_a_bound_on_the_loss_also_holds_where_the_scale_has_none():
    assert failing(50, loss=3.0, bounds={"loss": 2.0}) == ["loss"]
    assert failing(50, loss=3.0, bounds={"wer": 0.5, "loss": 2.0}) == ["loss"]


def test_exactness_cannot_be_tightened_and_is_left_alone():
    assert criteria_for(1, {"wer": 0.1}) == criteria_for(1)


@pytest.mark.parametrize(
    ("samples", "name", "bound"),
    [(2, "loss", 1.5), (10, "wer", 0.6), (50, "entropy / ln V", 0.95), (50, "loss trend", 0.0)],
)
def test_a_looser_bound_leaves_the_own_one(samples, name, bound):
    assert criteria_for(samples, {name: bound}) == criteria_for(samples)


def test_a_bound_that_is_no_number_can_hold_nothing_and_is_turned_away():
    with pytest.raises(BadLadder, match="bound wer must be a finite number, got nan"):
        criteria_for(2, {"wer": math.nan})


def test_an_unknown_criterion_is_turned_away_with_those_there_are():
    with pytest.raises(
        BadLadder,
        match=r"no criterion is called 'cer'; there are WER, entropy / ln V, .*nearest target share",
    ):
        criteria_for(2, {"cer": 0.1})


@pytest.mark.parametrize(
    ("rungs", "words"),
    [
        ((), "a ladder needs at least one rung"),
        ((0, 1), "a rung has at least 1 sample, got 0"),
        ((20, 10), "rungs must ascend: 20 comes before 10"),
        ((5, 5), "rungs must ascend: 5 comes before 5"),
    ],
)
def test_rungs_that_make_no_ladder_are_turned_away(rungs, words):
    with pytest.raises(BadLadder, match=words):
        check_rungs(rungs)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_a_healthy_recurrent_network_climbs(samples):
    outcome, _ = climb(of(BiGRU), samples)
    assert outcome.status == "ok"
    assert all(verdict.held for verdict in outcome.deciding[0].verdicts)
    assert outcome.deciding[0].recipe == outcome.attempts[0].recipe


@pytest.mark.parametrize("samples", [1, 2, 5, 10, 20, 50])
def test_a_healthy_convolutional_network_climbs_the_whole_ladder(samples):
    assert climb(of(Convolutions), samples)[0].status == "ok"


def test_training_stops_where_the_criteria_hold_and_says_after_how_many_steps():
    outcome, progress = climb(of(Convolutions), 2)
    (attempt,) = outcome.attempts
    assert attempt.held
    assert (
        attempt.steps
        == outcome.steps
        == len(attempt.trace.losses)
        == attempt.trace.readings[-1].step
        < attempt.recipe.budget
    )
    assert [one.step for one in progress] == list(range(1, attempt.steps))
    assert attempt.ended is None


def test_rungs_do_not_depend_on_which_were_climbed_before():
    def steps(order):
        return {samples: climb(of(Convolutions), samples)[0].steps for samples in order}

    assert steps([5, 2, 1]) == steps([1, 2, 5])


def test_a_rate_far_too_low_is_broken_when_larger_fallbacks_crawl_and_one_beyond_them_holds():
    outcome, _ = climb(
        of(Convolutions), 2, Recipe(lr=1e-5, fallbacks=(0.3, 2.0, 3.0), budget=120), examined=()
    )
    assert outcome.status == "broken"
    crawled, *raced = outcome.attempts
    assert (crawled.ended, crawled.steps < 60) == (Ended.CRAWLED, True)
    assert [attempt.recipe.lr for attempt in raced] == pytest.approx([3e-5, 2e-5])
    assert max(attempt.steps for attempt in raced) == 60, "half of the budget"
    assert not any(attempt.held for attempt in outcome.attempts)
    assert outcome.seeds_held == 0


def test_where_no_rate_beyond_holds_all_are_raced_to_their_end():
    outcome, _ = climb(
        of(Convolutions), 2, Recipe(lr=1e-6, fallbacks=(0.3, 3.0), budget=60), examined=()
    )
    crawled, *raced = outcome.attempts
    assert crawled.ended is Ended.CRAWLED
    assert [attempt.recipe.lr for attempt in raced] == pytest.approx([3e-7, 3e-6])
    assert max(attempt.steps for attempt in raced) >= 60


class Scared(Convolutions):
    """A large step of its head, and it is sure of one wrong token for ever."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("before", self.head.weight.detach().clone())
        self.register_buffer("wrong", torch.zeros(()))

    def forward(self, features, frames):
        log_probs, steps = super().forward(features, frames)
        if self.training:
            step = (self.head.weight.detach() - self.before).square().mean().sqrt()
            self.wrong.add_(1e4 * (step > 0.02))
            self.before.copy_(self.head.weight.detach())
        wrong = self.wrong * (torch.arange(log_probs.shape[-1]) == 1)
        return (log_probs + wrong).log_softmax(-1), steps


def test_a_run_that_runs_away_ends_at_once_and_smaller_rates_are_raced_smallest_first():
    recipe = replace(default_recipe(2), lr=0.5, fallbacks=(0.1, 0.01, 3.0))
    outcome, _ = climb(of(Scared), 2, recipe, examined=())
    away, held = outcome.attempts
    assert (away.ended, away.steps < recipe.budget / 4) == (Ended.RAN_AWAY, True)
    assert away.why.startswith("the loss ran away from ")
    assert (held.held, held.recipe.lr) == (True, pytest.approx(5e-3))
    assert outcome.status == "ok"


@pytest.mark.parametrize("fallbacks", [(), (3.0,)])
def test_without_a_smaller_rate_to_try_a_run_is_not_ended_for_running_away(fallbacks):
    recipe = replace(default_recipe(2), lr=0.5, budget=60, overtime=0.0, fallbacks=fallbacks)
    outcome, _ = climb(of(Scared), 2, recipe, examined=())
    assert outcome.status == "broken"
    assert outcome.attempts[0].ended is not Ended.RAN_AWAY


@pytest.mark.parametrize(("without", "tried"), [(True, [0]), (False, [0, 0, 1, 1])])
def test_where_it_holds_without_a_penalty_that_leaves_the_data_no_say_nothing_else_is_tried(
    without, tried, monkeypatch
):
    if not without:
        monkeypatch.setattr(Rung, "_holds", lambda *_: False)
    smoothed = replace(default_recipe(2), label_smoothing=0.9, budget=210, fallbacks=(0.3,))
    outcome, _ = climb(of(Convolutions), 2, smoothed, seeds=(0, 1, 2), examined=())
    assert (outcome.status, outcome.attempts[0].ended) == ("broken", Ended.STOOD_STILL)
    assert [attempt.seed for attempt in outcome.attempts] == tried


def test_a_rung_without_a_race_is_climbed_at_its_own_rate_alone():
    outcome, _ = climb(
        of(Convolutions), 2, Recipe(lr=1e-5, fallbacks=(3.0,), budget=60), raced=False, examined=()
    )
    (attempt,) = outcome.attempts
    assert (outcome.status, attempt.ended) == ("broken", Ended.CRAWLED)


@pytest.mark.parametrize(
    ("factor", "mends"),
    [(1e36, 1e-36), (1e-4, 1e4)],
    ids=["the weights overflow", "the weights stay where they were"],
)
def test_a_bad_rate_that_a_fallback_mends_is_no_fault_of_the_network(factor, mends):
    plain = replace(default_recipe(2), lr=2e-3, budget=120)
    outcome, _ = climb(
        of(Convolutions), 2, replace(plain, lr=plain.lr * factor, fallbacks=(mends,))
    )
    assert outcome.status == "ok"
    failed, held = outcome.attempts
    assert not failed.held
    assert held.held
    assert held.recipe.lr == pytest.approx(plain.lr)
    assert outcome.deciding == (held,)


def test_a_race_halves_its_field_and_only_the_best_goes_on_to_the_end():
    recipe = Recipe(lr=1e-12, fallbacks=(1.0, 2.0, 4.0, 8.0), budget=40)
    outcome, _ = climb(of(Convolutions), 2, recipe)
    first, *raced = [attempt.steps for attempt in outcome.attempts]
    assert first == 40
    assert sorted(raced) == [10, 10, 20, 40]


def test_of_runs_with_the_same_errors_one_that_stands_still_is_dropped_first():
    def trace(losses, error):
        return Trace(losses=losses, readings=[reading(loss=losses[-1], token_error_rate=error)])

    still, falling = [0.67] * 100, [2.0 - 0.01 * step for step in range(100)]
    assert rank_of(False, trace(falling, 0.75)) < rank_of(False, trace(still, 0.75))
    assert rank_of(False, trace(falling, 2.5)) < rank_of(False, trace(still, 1.0))
    assert (
        rank_of(False, trace(still, 0.5))
        < rank_of(False, trace(falling, 0.75))
        < rank_of(False, Trace())
    )


def test_a_loss_that_still_falls_at_the_end_of_the_budget_is_given_overtime():
    needed = climb(of(Convolutions), 2)[0].steps
    short = Recipe(budget=round(needed * 0.7), fallbacks=())
    in_time, late = (
        climb(of(Convolutions), 2, replace(short, overtime=overtime))[0] for overtime in (0.0, 1.0)
    )
    assert (in_time.status, in_time.steps) == ("broken", short.budget)
    assert late.status == "ok"
    assert short.budget < late.steps <= 2 * short.budget


def test_a_loss_that_stands_still_is_given_no_overtime():
    outcome, _ = climb(of(Convolutions), 2, Recipe(lr=1e-9, fallbacks=(), budget=60, overtime=5.0))
    assert outcome.steps == 60


def test_a_recipe_without_fallbacks_is_tried_alone_and_to_its_end():
    still = Recipe(lr=1e-9, fallbacks=(), budget=230, reduction="sum")
    (attempt,) = climb(of(Convolutions), 2, still)[0].attempts
    assert (attempt.steps, attempt.ended) == (230, None)
    (attempt,) = climb(of(Convolutions), 2, replace(still, reduction="mean"))[0].attempts
    assert (attempt.steps, attempt.ended) == (still.warmup + 50, Ended.STOOD_STILL)


def test_a_loss_that_stands_far_above_blanks_is_waited_for_where_the_rate_changes():
    for change in ({"schedule": "cosine"}, {"warmup": 100}):
        recipe = Recipe(lr=1e-9, fallbacks=(), budget=120, **change)
        assert climb(of(Convolutions), 2, recipe)[0].attempts[0].ended is None


def test_a_loss_that_stands_still_ends_an_attempt_that_has_fallbacks():
    recipe = Recipe(lr=1e-9, fallbacks=(1.0,), budget=400, reduction="sum")
    outcome, _ = climb(of(Convolutions), 2, recipe)
    assert (outcome.attempts[0].ended, outcome.attempts[0].why) == (
        Ended.STOOD_STILL,
        "the loss stood still for 100 steps",
    )
    assert outcome.attempts[0].steps == 200
    assert outcome.attempts[0].verdicts


def test_standing_still_is_a_median_within_two_percent_of_the_window_before():
    assert not stands_still([5.0] * 19, 10)
    assert stands_still([5.0] * 20, 10)
    assert stands_still([5.0] * 10 + [4.95] * 10, 10)
    assert not stands_still([5.0] * 10 + [4.85] * 10, 10)
    assert stands_still([5.0] * 10 + [9.0] * 10, 10)
    assert not stands_still([5.0] * 10 + [9.0] * 4 + [4.0] * 6, 10)
    assert not stands_still([-1.0] * 10 + [-2.0] * 10, 10)
    assert stands_still([-1.0] * 20, 10)


def test_running_away_is_far_above_the_start_for_many_steps_on_end():
    assert ran_away([10.0] * 10 + [16.0] * 20)
    assert not ran_away([10.0] * 10 + [14.0] * 20)
    assert not ran_away([10.0] * 10 + [900.0] * 19)
    assert not ran_away([10.0] * 10 + [900.0] * 10 + [9.0] + [900.0] * 10)
    assert ran_away([-1.0] * 10 + [0.0] * 20)
    assert not ran_away([-1.0] * 40)


def test_crawling_is_a_steady_fall_that_has_not_come_far():
    assert crawls([10.0 - 0.01 * step for step in range(100)])
    assert not crawls([10.0 - 0.08 * step for step in range(100)])
    assert not crawls([10.0 + 0.1 * (step % 2) for step in range(100)])
    assert not crawls([10.0 - min(step, 30) * 0.1 for step in range(100)])
    assert not crawls([10.0 - 0.01 * step for step in range(19)])


class Raw(Convolutions):
    """Raw logits where log-probabilities are declared."""

    offset = 0.0

    def forward(self, features, frames):
        hidden = self.norm(self.first(features.transpose(1, 2))).relu()
        return self.head(hidden).permute(2, 0, 1) + self.offset, frames


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_raw_logits_in_the_loss_hold_on_no_rung_though_their_loss_comes_out_positive(samples):
    outcome, _ = climb(of(Raw), samples, Recipe(budget=120, fallbacks=(0.3,)))
    assert outcome.status == "broken"
    for attempt in outcome.attempts:
        assert "normalisation error" in [
            verdict.name for verdict in attempt.verdicts if not verdict.held
        ]


def test_raw_logits_with_an_offset_have_a_loss_below_zero():
    class Offset(Raw):
        offset = 5.0

    outcome, _ = climb(of(Offset), 2, Recipe(budget=10, fallbacks=()))
    failed = {
        verdict.name: verdict.value for verdict in outcome.deciding[0].verdicts if not verdict.held
    }
    assert failed["loss not negative"] < 0


@pytest.mark.parametrize("samples", [1, 2])
def test_log_softmax_twice_is_no_fault(samples):
    class Twice(Convolutions):
        def forward(self, features, frames):
            output, steps = super().forward(features, frames)
            return output.log_softmax(-1), steps

    assert climb(of(Twice), samples)[0].status == "ok"


class Blind(Convolutions):
    def forward(self, features, frames):
        return super().forward(features * 0, frames)


def test_a_network_that_ignores_its_input_breaks_where_clips_must_be_told_apart():
    short = {"budget": 120, "fallbacks": (0.3,)}
    outcome, _ = climb(of(Blind), 2, Recipe(**short))
    assert outcome.status == "broken"
    assert outcome.deciding[0].trace.readings[-1].nearest_target_share < 1


def test_a_stride_that_leaves_too_few_steps_is_said_without_training():
    outcome, progress = climb(
        of(lambda dim, vocabulary: Convolutions(dim, vocabulary, stride=6)), 10
    )
    assert outcome.status == "broken"
    assert progress == []
    assert outcome.attempts == ()
    assert outcome.parameters > 0
    (finding,) = outcome.findings
    assert (finding.name, finding.status) == ("time_collapse", "confirmed")
    repeated = {clip.name for clip in clips(10) if (clip.target[1:] == clip.target[:-1]).any()}
    assert set(finding.samples)
    assert set(finding.samples) <= repeated


def test_numbers_that_no_rate_makes_finite_end_the_rung_at_once():
    class Overflows(Convolutions):
        def forward(self, features, frames):
            output, steps = super().forward(features, frames)
            return output * math.nan if self.training else output, steps

    outcome, _ = climb(of(Overflows), 2)
    assert outcome.status == "broken"
    assert {(a.ended, a.why) for a in outcome.attempts} == {
        (Ended.NOT_FINITE, "the loss is nan at step 0 (samples c0, c1)")
    }
    assert [attempt.steps for attempt in outcome.attempts] == [0]
    assert [finding.name for finding in outcome.attempts[0].findings] == ["non_finite_output"]
    assert outcome.steps == 0


class Table(nn.Module):
    """Logits of each step of one clip as parameters, or of each of its three parts: two equal
    tokens share the one in the middle, merged.

    The middle is sure of the token but for one blank by chance, at any of its 40 steps: where CTC
    is flat, plain gradient descent stands.
    """

    def __init__(self, tied=False):
        super().__init__()
        edge, middle = torch.tensor([9.0, 0.0, -9.0]), torch.tensor([0.0, math.log(39.0), -9.0])
        parts = [edge, middle, edge] if tied else [edge, *([middle] * 40), edge]
        self.logits = nn.Parameter(torch.stack(parts))
        self.register_buffer(
            "part_of", torch.tensor([0, *([1] * 40), 2]) if tied else torch.arange(42)
        )

    def forward(self, features, frames):
        return self.logits[self.part_of].log_softmax(-1)[:, None].expand(
            -1, len(features), -1
        ), frames


MERGED = Sample(
    name="merged",
    features=torch.randn(42, 3, generator=torch.Generator().manual_seed(0)),
    target=torch.tensor([1, 1]),
)
PLAIN = Recipe(optimizer="sgd", lr=2.0, clip=None, warmup=0, budget=60, fallbacks=(0.5,))


def climb_merged(recipe=PLAIN, *, tied=False, **described):
    build = lambda vocab_size, feature_dim, seed: Table(tied)  # noqa: E731
    accept = {"input_ignored": "a table of logits has no input"}
    subject = of(
        None, build=build, samples=[MERGED], vocabulary=("-", "A", "B"), accept=accept, **described
    )
    return Rung(subject=subject, samples=1, recipe=recipe, criteria=criteria_for(2)).climb()


def test_a_run_that_stands_where_repeats_are_merged_is_led_off_and_holds_by_its_own_loss():
    alone = climb_merged(replace(PLAIN, fallbacks=()))
    assert alone.status == "broken"
    assert alone.telling.level_match.level.name == "repeats merged"
    assert alone.telling.level_match.level.loss == 0.5
    outcome = climb_merged()
    assert outcome.status == "ok"
    (attempt,) = outcome.attempts
    assert attempt.detour.level == alone.telling.level_match.level
    assert attempt.steps >= attempt.detour.step + attempt.detour.path_steps + 20
    assert attempt.steps == len(attempt.trace.losses)


def test_a_network_that_cannot_part_repeats_stays_broken_by_any_detour():
    outcome = climb_merged(tied=True)
    assert outcome.status == "broken"
    assert outcome.attempts[0].detour is not None


def test_what_the_subjects_own_loss_takes_back_after_a_detour_is_no_pass(monkeypatch):
    """A loss that is CTC at the start, and after the detour of the target without its repeat."""
    back = Training.follow_all_paths
    detours = []
    monkeypatch.setattr(
        Training, "follow_all_paths", lambda training: (detours.append(1), back(training))[1]
    )

    def loss(log_probs, steps, targets, lengths):
        merged = bool(detours)
        return nn.functional.ctc_loss(
            log_probs, targets[:, :1] if merged else targets, steps, lengths - int(merged)
        )

    outcome = climb_merged(replace(PLAIN, fallbacks=(1e-6,)), loss=loss)
    assert outcome.attempts[0].detour is not None
    assert outcome.status == "broken"


def test_whether_a_run_stands_still_after_a_detour_is_told_from_what_came_after_it():
    """Along one path the loss goes nowhere: with the plateau before, it would look like a loss that
    stands.
    """
    outcome = climb_merged(replace(PLAIN, budget=210, fallbacks=(0.5,)), tied=True)
    first = outcome.attempts[0]
    assert first.detour.path_steps == 200
    assert first.steps - first.detour.step - first.detour.path_steps >= 200


def test_no_other_failure_takes_a_detour():
    blind = climb(
        of(lambda dim, vocabulary: Blind(dim, vocabulary)), 2, Recipe(budget=60, fallbacks=(0.3,))
    )[0]
    late = climb_merged(decode=lambda log_probs, steps: [[1]] * log_probs.shape[1])
    for outcome in (blind, late):
        assert outcome.status == "broken"
    assert {attempt.detour for attempt in blind.attempts} == {None}


def test_a_run_that_spells_every_clip_and_still_falls_is_given_more_time():
    """The loss of a table that starts near its target falls as one over the step: it needs no luck,
    only steps.
    """
    recipe = replace(PLAIN, lr=0.02, budget=40, fallbacks=())
    sure = Criterion(name="loss", sign="<", bound=0.0, measure=lambda reading, _: reading.loss)

    def steps(spelt):
        target = torch.tensor([1]) if spelt else torch.tensor([2])
        build = lambda vocab_size, feature_dim, seed: Table(tied=True)  # noqa: E731
        subject = of(
            None, build=build, samples=[replace(MERGED, target=target)], vocabulary=("-", "A", "B")
        )
        rung = Rung(subject=subject, samples=1, recipe=recipe, criteria=(sure,), hasty=False)
        return rung.climb().steps  # contracts tell that a table reads nothing

    assert steps(spelt=True) == 160
    assert steps(spelt=False) == 80


def deaf(log_probs, steps):
    """A decoder that says one token whatever it is given."""
    return [[1]] * log_probs.shape[1]


@pytest.mark.parametrize(("hasty", "steps"), [(True, 12), (False, 80)])
def test_a_run_ends_early_where_contracts_tell_what_keeps_it_from_holding(hasty, steps):
    rung = Rung(
        subject=of(Convolutions, decode=deaf),
        samples=2,
        recipe=Recipe(budget=80, overtime=0.0),
        criteria=criteria_for(2),
        hasty=hasty,
    )
    (attempt,) = rung.climb().attempts
    assert (attempt.held, attempt.steps) == (False, steps)
    assert attempt.ended is (Ended.EXPLAINED if hasty else None)
    assert (
        not hasty or attempt.why == f"trained no further, since {rung.violated[0].name} was found"
    )


def without_its_last(log_probs, steps):
    """A decoder that is right but for the last token."""
    return [tokens[:-1] for tokens in greedy_decode(log_probs, steps, blank=0)]


def test_a_run_that_spells_half_is_left_alone_as_long_as_it_spells_more_and_more():
    rung = Rung(
        subject=of(Convolutions, decode=without_its_last),
        samples=1,
        recipe=Recipe(budget=400, overtime=0.0),
        criteria=criteria_for(1),
    )
    (attempt,) = rung.climb().attempts
    assert attempt.trace.readings[-1].token_error_rate == pytest.approx(1 / 3)
    assert (attempt.ended, attempt.steps) == (Ended.EXPLAINED, 100)


def never_met():
    return Criterion(name="loss", sign="<", bound=-1.0, measure=lambda reading, _: reading.loss)


def test_where_nothing_is_violated_a_run_goes_on_to_its_end():
    recipe = Recipe(budget=80, overtime=0.0, fallbacks=())
    rung = Rung(subject=of(Convolutions), samples=2, recipe=recipe, criteria=(never_met(),))
    assert rung.climb().steps == 80


ALWAYS = Record(
    name="always", stage="data", means=".", detected=".", mend=".", no_remedy=".", not_planted="."
)
VIOLATED = Contract(
    name="never held",
    holds="nothing",
    about="data",
    examine=lambda bench: (ALWAYS.finding(headline="it is not held"),),
    finds=(ALWAYS,),
)


def test_a_remedy_is_none_where_the_rung_holds_in_as_many_steps_without_it():
    subject = of(Convolutions, contracts=(VIOLATED,))
    rung = Rung(subject=subject, samples=2, recipe=Recipe(budget=80), criteria=criteria_for(2))
    assert _holds_as_it_is(rung, 80, unwatched)
    assert not _holds_as_it_is(rung, 12, unwatched)  # it was climbed as far
    unmet = replace(rung, criteria=(never_met(),))
    assert not _holds_as_it_is(unmet, 80, unwatched)
    assert not _holds_as_it_is(replace(rung, subject=of(Convolutions)), 80, unwatched)


def with_seeds_that_fail(*failing):
    """Learns nothing but its last bias where it is built with one of these seeds."""

    def build(vocab_size, feature_dim, seed):
        network = Convolutions(feature_dim, vocab_size)
        if seed in failing:
            network.requires_grad_(False)
            for weight in network.parameters():  # as if loaded: what is frozen as drawn is found
                weight.copy_(torch.linspace(-0.1, 0.1, weight.numel()).view_as(weight))
            network.head.bias.requires_grad_(True)
        return network

    return of(None, build=build)


@pytest.mark.parametrize(
    ("failing", "status", "held", "error"),
    [
        ((), "ok", [True], 0.05),
        ((0,), "ok", [False, True, True], 0.05 + 0.95 * 0.05**2),
        ((0, 1), "broken", [False, False], 0.05**2),
        ((0, 2), "broken", [False, True, False], 0.05**2 + 0.95 * 0.05**2),
    ],
)
def test_seeds_are_tried_until_they_come_to_a_verdict(failing, status, held, error):
    outcome, _ = climb(
        with_seeds_that_fail(*failing), 2, Recipe(budget=60, fallbacks=()), seeds=(0, 1, 2)
    )
    assert outcome.status == status
    assert [attempt.held for attempt in outcome.deciding] == held
    assert outcome.seeds_held == sum(held)
    assert outcome.chance_of_error == pytest.approx(error)
    assert outcome.telling.held is (status == "ok")
    assert outcome.steps == max(attempt.steps for attempt in outcome.attempts)


def test_how_sure_a_verdict_must_be_can_be_asked_for():
    outcome, _ = climb(
        with_seeds_that_fail(), 2, Recipe(budget=60, fallbacks=()), seeds=(0, 1, 2), beta=0.01
    )
    assert [attempt.seed for attempt in outcome.deciding] == [0, 1]
    assert outcome.chance_of_error == pytest.approx(0.05**2)
    outcome, _ = climb(
        with_seeds_that_fail(0, 1), 2, Recipe(budget=60, fallbacks=()), seeds=(0, 1, 2), alpha=0.1
    )
    assert [attempt.seed for attempt in outcome.deciding] == [0]


def test_targets_that_do_not_fit_take_no_second_seed():
    outcome, progress = climb(
        of(lambda dim, vocabulary: Convolutions(dim, vocabulary, stride=6)), 10, seeds=(0, 1, 2)
    )
    assert (outcome.status, outcome.attempts, progress, outcome.chance_of_error) == (
        "broken",
        (),
        [],
        None,
    )


def test_the_networks_class_is_found_in_its_file():
    outcome, _ = climb(of(Convolutions), 1)
    path, _, line = outcome.where.rpartition(":")
    assert path.endswith("tests/engine/test_ladder.py")
    with open(__file__, encoding="utf-8") as file:
        assert file.readlines()[int(line) - 1].startswith("class Convolutions")


def test_an_outcome_without_attempts_has_no_steps():
    outcome = Outcome(subject="toy", samples=5, status="not tried", broke_at=2)
    assert (outcome.steps, outcome.seconds, outcome.seeds_held, outcome.deciding) == (0, 0, 0, ())


class Startled(nn.Module):
    """Reads its features until a step moves its weights by more than 0.003 each, rms; ever after
    learned places alone.
    """

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.see = nn.Linear(24, 32)
        self.places = nn.Parameter(torch.randn(76, 32))
        self.head = nn.Linear(32, 25)
        self.register_buffer("before", self.head.weight.detach().clone())
        self.register_buffer("reads", torch.ones(()))

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            step = (self.head.weight.detach() - self.before).square().mean().sqrt()
            self.reads.mul_((step <= 0.003).float())
            self.before.copy_(self.head.weight.detach())
        x = self.reads * self.see(features) + self.places[: features.shape[1]]
        return self.head(x.relu()).log_softmax(-1).transpose(0, 1), frames


@pytest.mark.parametrize(("fallbacks", "status"), [((0.3,), "ok"), ((3.0,), "broken")])
def test_a_network_that_training_made_deaf_is_given_another_rate(fallbacks, status) -> None:
    outcome = Rung(
        subject=replace(bigru(), build=Startled),
        samples=1,
        recipe=replace(default_recipe(1), fallbacks=fallbacks),
        criteria=criteria_for(1),
    ).climb()
    assert outcome.status == status
    deaf, *others = outcome.attempts
    assert [finding.name for finding in deaf.findings] == ["input_ignored"]
    assert [attempt.held for attempt in others] == [status == "ok"]
    if status == "ok":
        assert unread_text(outcome) == (
            "trained at lr 0.005 it no longer read its input; at lr 0.0015 it did"
        )


def test_a_race_goes_on_past_a_pass_that_reads_nothing() -> None:
    outcome = Rung(
        subject=replace(bigru(), build=Startled),
        samples=1,
        recipe=replace(default_recipe(1), fallbacks=(1.0, 0.3)),
        criteria=criteria_for(1),
    ).climb()
    *deaf, honest = outcome.attempts
    assert [[finding.name for finding in one.findings] for one in deaf] == [["input_ignored"]] * 2
    assert (honest.held, honest.second_clip, outcome.status) == (True, None, "ok")


class Placed(nn.Module):
    """Features beside learned places that are ten times as loud: one clip is memorised by places
    alone, two ask for a look at the features.
    """

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.see = nn.Linear(24, 32)
        self.places = nn.Parameter(torch.randn(76, 32))
        self.head = nn.Linear(32, 25)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = 0.1 * self.see(features) + self.places[: features.shape[1]]
        return self.head(x.relu()).log_softmax(-1).transpose(0, 1), frames


@pytest.fixture(scope="module")
def placed() -> Outcome:
    return Rung(
        subject=replace(bigru(), build=Placed),
        samples=1,
        recipe=replace(default_recipe(1), fallbacks=()),
        criteria=criteria_for(1),
    ).climb()


def test_one_clip_that_needs_no_input_is_no_fault_of_a_network_that_reads_two(placed) -> None:
    (attempt,) = placed.attempts
    named = {control.name: control.held for control in attempt.controls}
    assert (placed.status, attempt.held, attempt.findings) == ("ok", True, ())
    assert named["noise"] is False
    assert attempt.second_clip is not None
    assert unread_text(placed) == (
        f"at 1 sample it needs no input; with clip-01 beside it, it reads "
        f"({attempt.second_clip.steps} steps)"
    )


@pytest.mark.parametrize(
    "unfit",
    [
        lambda samples: samples[:1],
        lambda samples: [samples[0], replace(samples[1], target=samples[0].target)],
        lambda samples: [samples[0], replace(samples[1], target=torch.tensor([99]))],
    ],
    ids=["none", "the same target", "one that is unfit"],
)
def test_without_a_second_clip_nothing_excuses_a_pass_that_needs_no_input(unfit) -> None:
    subject = bigru()
    outcome = Rung(
        subject=replace(subject, build=Placed, samples=unfit(subject.samples)),
        samples=1,
        recipe=replace(default_recipe(1), fallbacks=()),
        criteria=criteria_for(1),
    ).climb()
    (attempt,) = outcome.attempts
    assert (outcome.status, attempt.second_clip) == ("broken", None)
    assert [finding.name for finding in attempt.findings] == ["input_ignored"]


@pytest.mark.parametrize(("misread_until", "status"), [(1, "ok"), (math.inf, "broken")])
def test_a_pass_that_hangs_on_padding_is_trained_a_little_longer(
    misread_until, status, monkeypatch
) -> None:
    seen = []

    def controls(subject, network, samples, **_):
        seen.append(network)
        bad = Control(name="clips alone", as_is=0.0, altered=0.5, held=len(seen) > misread_until)
        return (bad,)

    monkeypatch.setattr("pytest_overfit.climb.attempt.run_controls", controls)
    outcome, _ = climb(bigru(), 2, default_recipe(2))
    (attempt,) = outcome.attempts
    assert outcome.status == status
    assert len(seen) > 1
    assert attempt.steps <= default_recipe(2).budget
    assert [one.name for one in attempt.findings] == ["padding_leak"] * (status == "broken")


class Veiled(subjects.BiGRU):
    """A BiGRU that in train mode gives a random number for one token of the first clip, `loud` times
    a normal one: what it says of that token is never trained, all else is.
    """

    def __init__(self, *, feature_dim: int, vocab_size: int, seed: int, loud: float) -> None:
        torch.manual_seed(seed)
        super().__init__(feature_dim, vocab_size, dropout=0.0)
        self.loud, self.veiled = loud, int(bigru().samples[0].target[0])

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, steps = super().forward(features, frames)
        if not self.training:
            return log_probs, steps
        veiled = F.one_hot(torch.tensor(self.veiled), log_probs.shape[-1]).bool()
        others = log_probs.masked_fill(veiled, -1e4).log_softmax(-1)
        noise = self.loud * torch.randn_like(log_probs)
        return torch.where(veiled, noise - 3, others).log_softmax(-1), steps


@pytest.mark.parametrize(("loud", "status"), [(0.3, "ok"), (30.0, "broken")])
def test_what_moderate_randomness_of_train_mode_keeps_one_clip_from_is_climbed_without_it(
    loud: float, status: str
) -> None:
    outcome = Rung(
        subject=replace(bigru(), build=partial(Veiled, loud=loud)),
        samples=1,
        recipe=replace(default_recipe(1), fallbacks=()),
        criteria=criteria_for(1),
        examined=(),
    ).climb()
    assert outcome.status == status
    assert [attempt.quieted is not None for attempt in outcome.attempts] == (
        [False, True] if status == "ok" else [False]
    )
    if status == "ok":
        assert "held without its own masks and dropout" in unread_text(outcome)


def test_two_clips_that_are_one_end_a_run_however_near_it_comes() -> None:
    subject = bigru()
    samples = list(subject.samples)[:5]
    samples[4] = replace(samples[4], features=samples[0].features)
    recipe = replace(default_recipe(5), fallbacks=())
    outcome = Rung(
        subject=replace(subject, samples=samples),
        samples=5,
        recipe=recipe,
        criteria=criteria_for(5),
    ).climb()
    (attempt,) = outcome.attempts
    assert (outcome.status, attempt.ended) == ("broken", Ended.EXPLAINED)
    assert attempt.steps == round(0.15 * recipe.budget)
