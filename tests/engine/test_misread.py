"""The worst clip beside its target, and word errors as people are told of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_overfit.climb.misread import word_edits, worst
from pytest_overfit.measures import token_error_rate

VOCABULARY = ("-", "HELLO", "GOOD DAY", "", "X")
TOKENS = st.lists(st.integers(1, 4), max_size=7)


def test_the_worst_clip_stands_below_its_target_with_its_edits() -> None:
    found = worst(["a", "b"], [[1, 2], [4, 4, 1]], [[1, 2], [1, 2, 3, 4, 1]], VOCABULARY)
    assert found is not None
    assert (found.sample, found.clips) == ("b", 2)
    assert (found.wer, found.wer_of_all) == pytest.approx((3 / 5, 3 / 7))
    assert found.lines == (
        "REF: HELLO GOOD␣DAY ␣ X HELLO",
        "HYP:     X ******** * X HELLO",
        "         S        D D",
    )


def test_of_clips_read_equally_badly_the_first_is_shown_and_of_none_none() -> None:
    found = worst(["a", "b"], [[], []], [[1], [2, 1]], VOCABULARY)
    assert found is not None
    assert (found.sample, found.wer) == ("a", 1.0)
    assert worst(["a"], [[1, 2]], [[1, 2]], VOCABULARY) is None


def test_a_token_outside_the_vocabulary_is_shown_by_its_id() -> None:
    found = worst(["a"], [[9, -1]], [[1]], VOCABULARY)
    assert found is not None
    assert "<9>" in found.lines[1]
    assert "<-1>" in found.lines[1]


def test_a_long_alignment_is_told_in_several_blocks() -> None:
    tokens = torch.randint(1, 3, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    found = worst(["a"], [tokens[5:]], [tokens], VOCABULARY)
    assert found is not None
    assert sum(line.startswith("REF:") for line in found.lines) > 1
    assert max(map(len, found.lines)) <= 109


@given(st.lists(st.tuples(TOKENS, TOKENS.filter(bool)), min_size=1, max_size=5))
def test_word_edits_over_words_are_the_token_error_rate_of_the_loop(
    pairs: list[tuple[list[int], list[int]]],
) -> None:
    hypotheses, targets = zip(*pairs, strict=True)
    assert word_edits(hypotheses, targets) / sum(map(len, targets)) == pytest.approx(
        token_error_rate(hypotheses, targets)
    )
