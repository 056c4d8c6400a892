"""The measures against jiwer, against definitions written out by hand, and at their edges."""

import math
from itertools import pairwise

import jiwer
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_overfit import measures

tokens = st.lists(st.integers(1, 5), max_size=8)
clips = st.lists(st.tuples(tokens, tokens.filter(bool)), min_size=1, max_size=5)


def words(clip):
    return " ".join(map(str, clip))


@given(clips)
def test_the_token_error_rate_is_jiwers_word_error_rate(pairs):
    hypotheses, targets = [list(side) for side in zip(*pairs, strict=True)]
    expected = jiwer.wer(
        [words(target) for target in targets], [words(hypothesis) for hypothesis in hypotheses]
    )
    assert measures.token_error_rate(hypotheses, targets) == pytest.approx(expected)


def test_silence_is_a_rate_of_exactly_one():
    assert measures.token_error_rate([[], []], [[1, 2, 3], [4]]) == 1.0


def test_the_rate_is_not_capped_where_too_much_is_emitted():
    assert measures.token_error_rate([[1, 2, 3, 4]], [[5]]) == 4.0


def test_the_rate_divides_by_the_targets_not_by_the_hypotheses():
    assert measures.token_error_rate([[1]], [[1, 2, 3, 4]]) == 0.75
    assert measures.token_error_rate([[1, 2, 3, 4]], [[1]]) == 3.0


def test_the_rate_sums_over_clips_before_it_divides():
    assert measures.token_error_rate([[], [1] * 9], [[1], [1] * 9]) == pytest.approx(0.1)


def test_a_clip_without_a_hypothesis_is_an_error_of_the_caller():
    with pytest.raises(ValueError, match="longer"):
        measures.token_error_rate([[1]], [[1], [2]])


def test_only_clips_that_are_equal_token_for_token_count_as_exact():
    assert measures.exact_share([[1, 2], (3,), [], [4, 5]], [(1, 2), [3], [6], [5, 4]]) == 0.5


@given(st.lists(tokens.filter(bool), min_size=1, max_size=5))
def test_perfect_hypotheses_tell_all_clips_apart(targets):
    assert measures.nearest_target_share(targets, targets) == 1.0


def test_one_output_for_every_clip_tells_none_apart_but_the_one_it_is():
    targets = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert measures.nearest_target_share([[1, 2, 3]] * 3, targets) == pytest.approx(1 / 3)
    assert measures.nearest_target_share([[]] * 3, targets) == 0.0


def test_swapped_outputs_tell_no_clip_apart():
    targets = [[1, 2, 3], [4, 5, 6]]
    assert measures.nearest_target_share(targets[::-1], targets) == 0.0


def test_an_output_half_way_between_two_targets_tells_nothing():
    assert measures.nearest_target_share([[1, 4], [4, 4]], [[1, 1], [4, 4]]) == 0.5


def test_equal_targets_need_not_be_told_apart_from_each_other():
    assert measures.nearest_target_share([[1, 2], [1, 2], [3, 4]], [[1, 2], [1, 2], [3, 4]]) == 1.0


def test_the_emission_ratio_counts_emitted_over_target_tokens():
    assert measures.emission_ratio([[], []], [[1, 2], [3]]) == 0.0
    assert measures.emission_ratio([[1, 2, 3], [3]], [[1], [3]]) == 2.0


def padded_pair():
    """Two clips, 3 and 5 steps long, whose padding says the opposite of what the clips say."""
    log_probs = torch.full((5, 2, 4), -math.log(4))
    log_probs[3:, 0] = torch.tensor([0.0, -math.inf, -math.inf, -math.inf])
    return log_probs, torch.tensor([3, 5])


def test_padding_counts_in_no_measure_of_the_output():
    log_probs, steps = padded_pair()
    log_probs[:3, 0] = log_probs[:, 1] = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    assert measures.valid_steps(log_probs, steps).shape == (8, 4)
    assert measures.blank_share(log_probs, steps, blank=0) == 0.0
    assert measures.blank_share(log_probs, steps, blank=3) == 1.0


def test_a_uniform_output_has_entropy_one_and_a_certain_one_zero():
    log_probs, steps = padded_pair()
    assert measures.entropy_ratio(log_probs, steps) == pytest.approx(1.0)
    certain = torch.full((2, 1, 3), -math.inf)
    certain[:, :, 1] = 0.0
    assert measures.entropy_ratio(certain, torch.tensor([2])) == 0.0


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6))
def test_the_entropy_ratio_is_shannons_entropy_over_that_of_a_uniform_output(weights):
    shares = [weight / sum(weights) for weight in weights]
    expected = -sum(share * math.log(share) for share in shares) / math.log(len(shares))
    log_probs = torch.tensor(shares).log().expand(3, 1, -1)
    assert measures.entropy_ratio(log_probs, torch.tensor([3])) == pytest.approx(expected, abs=1e-5)


def test_the_blank_share_is_that_of_the_steps_not_of_the_clips():
    log_probs = torch.full((4, 2, 2), -1.0)
    log_probs[:, 0, 0] = log_probs[:, 1, 1] = 0.0
    assert measures.blank_share(log_probs, torch.tensor([1, 4]), blank=0) == pytest.approx(0.2)


def test_the_loss_ratio_compares_the_last_tenth_with_the_first():
    assert measures.loss_ratio([10.0] * 10 + [4.0] * 80 + [1.0] * 10) == pytest.approx(0.1)
    assert measures.loss_ratio([2.0]) == 1.0
    assert measures.loss_ratio([-1.0, -20.0]) == math.inf


def reference_spearman(losses):
    """Pearson's correlation of step with average rank, written out."""
    ranks = [
        sum(other < loss for other in losses) + (sum(other == loss for other in losses) - 1) / 2
        for loss in losses
    ]
    n = len(losses)
    mean = (n - 1) / 2
    covariance = sum((step - mean) * (rank - mean) for step, rank in enumerate(ranks))
    return covariance / math.sqrt(
        sum((step - mean) ** 2 for step in range(n)) * sum((rank - mean) ** 2 for rank in ranks)
    )


@given(
    st.lists(st.integers(0, 6), min_size=3, max_size=40).filter(lambda losses: len(set(losses)) > 1)
)
def test_the_loss_trend_is_spearmans_rank_correlation_ties_included(losses):
    assert measures.loss_trend([float(loss) for loss in losses]) == pytest.approx(
        reference_spearman(losses), abs=1e-9
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=30, unique=True))
def test_the_loss_trend_is_minus_one_exactly_where_every_step_falls(losses):
    trend = measures.loss_trend(losses)
    assert -1.0 - 1e-9 <= trend <= 1.0 + 1e-9
    assert (trend < -1 + 1e-9) == all(left > right for left, right in pairwise(losses))


def test_the_loss_trend_of_nothing_of_a_flat_run_and_of_a_failed_one_is_zero():
    assert (
        measures.loss_trend([3.0, 2.0])
        == measures.loss_trend([5.0] * 50)
        == measures.loss_trend([3.0, 2.0, math.nan])
        == 0.0
    )


def test_log_probabilities_have_no_normalisation_error_and_shifted_ones_have_the_shift():
    log_probs = torch.randn(4, 2, 5).log_softmax(-1)
    steps = torch.tensor([4, 2])
    assert measures.normalisation_error(log_probs, steps) == pytest.approx(0.0, abs=1e-5)
    log_probs[3, 1] += 9.0
    assert measures.normalisation_error(log_probs, steps) == pytest.approx(0.0, abs=1e-5)
    log_probs[1, 1] -= 2.0
    assert measures.normalisation_error(log_probs, steps) == pytest.approx(2.0, abs=1e-5)
