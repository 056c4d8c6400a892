"""A ratio's noise: an interval of order statistics, and a bound that is broken beyond it alone."""

from __future__ import annotations

import pytest

from tests.benchmarks.pairs import ratio_of


def test_the_interval_is_the_order_statistic_that_a_sign_test_gives() -> None:
    nine = ratio_of([1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 5.0])
    assert (nine.value, nine.low, nine.high, nine.pairs) == (5.0, 2.0, 8.0, 9)
    six = ratio_of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (six.value, six.low, six.high) == (3.5, 1.0, 6.0)
    with pytest.raises(
        ValueError, match="a median of 5 ratios has no 95 % interval: measure at least 6"
    ):
        ratio_of([1.0] * 5)


def test_a_bound_is_broken_beyond_the_noise_alone() -> None:
    noisy = ratio_of([0.9, 1.0, 1.1, 1.2, 1.3, 1.4])
    assert not noisy.above(1.05)
    assert noisy.above(0.85)
    assert not noisy.below(1.35)
    assert noisy.below(1.45)
