"""Levels: the plateaus of the loss, and which of them a run has come down to."""

from __future__ import annotations

import math

import pytest
import torch

from pytest_overfit import ctc
from pytest_overfit.levels import Level, ladder_of_levels, level_by_chance, match_level
from pytest_overfit.trend import still_descending

TARGETS = [[1, 2, 3, 4], [5, 6, 7, 7, 8], [2, 9, 1], [4, 4, 3, 2, 1, 6]]
STEPS = [60, 70, 64, 80]
LADDER = ladder_of_levels(targets=TARGETS, steps=STEPS, vocabulary=200)


def loss_of(rows: list[torch.Tensor]) -> float:
    """Nats a token of one constant row of probabilities a clip."""
    losses = [
        float(
            ctc.nats_per_token(
                row.log().expand(steps, 1, -1),
                torch.tensor([steps]),
                torch.tensor([target]),
                torch.tensor([len(target)]),
                blank=0,
            )
        )
        for row, target, steps in zip(rows, TARGETS, STEPS, strict=True)
    ]
    return sum(losses) / len(losses)


def constant(labels: list[int], tokens: int, steps: int) -> torch.Tensor:
    """The best constant output that knows how often labels occur: 1 - L/T blank, the rest by their
    share.
    """
    row = torch.full((200,), 1e-9, dtype=torch.float64)
    row[0] = 1 - tokens / steps
    for label in labels:
        row[label] += tokens / steps / len(labels)
    return row.float()


def test_levels_stand_in_order_and_end_aligned() -> None:
    assert [level.name for level in LADDER] == [
        "uniform",
        "blank",
        "unigram",
        "bag of clip",
        "aligned",
    ]
    assert [level.loss for level in LADDER] == sorted(
        (level.loss for level in LADDER), reverse=True
    )


def test_outputs_that_know_so_much_stand_on_their_level() -> None:
    everything = [token for target in TARGETS for token in target]
    uniform = [torch.full((200,), 1 / 200) for _ in TARGETS]
    blank = [constant(list(range(1, 200)), len(t), s) for t, s in zip(TARGETS, STEPS, strict=True)]
    unigram = [constant(everything, len(t), s) for t, s in zip(TARGETS, STEPS, strict=True)]
    bag = [constant(t, len(t), s) for t, s in zip(TARGETS, STEPS, strict=True)]
    for name, rows in (
        ("uniform", uniform),
        ("blank", blank),
        ("unigram", unigram),
        ("bag of clip", bag),
    ):
        found = match_level(loss_of(rows), LADDER)
        assert found.level.name == name
        assert found.measured == pytest.approx(found.level.loss, rel=0.15)


@pytest.mark.parametrize(
    ("measured", "name"),
    [(0.0, "aligned"), (0.3, "aligned"), (500.0, "above uniform"), (math.nan, "above uniform")],
)
def test_losses_off_the_plateaus_are_named_too(measured: float, name: str) -> None:
    assert match_level(measured, LADDER).level.name == name


def test_one_clip_has_no_unigram_level_of_its_own() -> None:
    assert "unigram" not in [
        level.name for level in ladder_of_levels(targets=[[1, 2, 3]], steps=[60], vocabulary=200)
    ]


def test_a_clip_of_one_token_has_no_order_to_learn() -> None:
    ladder = ladder_of_levels(targets=[[7]], steps=[40], vocabulary=200)
    assert [level.name for level in ladder] == ["uniform", "blank", "aligned"]
    assert match_level(0.01, ladder).level.name == "aligned"


def test_clips_that_do_not_fit_are_left_out() -> None:
    with_one_more = ladder_of_levels(
        targets=[*TARGETS, [1] * 9], steps=[*STEPS, 10], vocabulary=200
    )
    assert with_one_more == LADDER
    with pytest.raises(ValueError, match="no target fits"):
        ladder_of_levels(targets=[[1, 1, 1]], steps=[4], vocabulary=200)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([30 * 0.99**i for i in range(100)], True),
        ([5.5 + 25 * 0.8**i for i in range(100)], False),
        ([5.5 + 0.3 * math.sin(9 * i) for i in range(100)], False),
        ([8 - 0.04 * i + 0.3 * math.sin(9 * i) for i in range(100)], True),
        ([3.0, 2.0], False),
        ([math.nan] * 50, False),
    ],
)
def test_a_run_that_still_falls_is_told_from_one_that_stands(
    losses: list[float], expected: bool
) -> None:
    assert still_descending(losses) is expected


def test_without_a_trace_it_is_not_said_whether_the_loss_still_falls() -> None:
    assert match_level(2.0, LADDER).descending is None
    assert match_level(2.0, LADDER, [2.0] * 30).descending is False


@pytest.mark.parametrize(
    ("hypotheses", "level"),
    [
        ([[1, 2, 3], [4, 5]], Level(name="repeats merged", loss=(0 + 1 / 3) / 2)),
        ([[1, 2], [4, 5]], Level(name="tokens by chance", loss=(1 / 3 + 1 / 3) / 2)),
        ([[1, 2, 3], [4, 4]], Level(name="tokens by chance", loss=(0 + 1 / 3) / 2)),
        ([[1, 2, 3], [4, 4, 5]], None),
        ([[1, 2, 3], [5, 4]], None),
        ([[1, 2, 2, 3], [4, 5]], None),
    ],
)
def test_what_an_output_lacks_predicts_its_level(
    hypotheses: list[list[int]], level: Level | None
) -> None:
    found = level_by_chance(hypotheses, [[1, 2, 3], [4, 4, 5]])
    assert found == level or (
        found and level and (found.name, found.loss) == (level.name, pytest.approx(level.loss))
    )


@pytest.mark.parametrize(
    ("measured", "name"),
    [
        (0.09, "repeats merged"),
        (0.1, "repeats merged"),
        (0.12, "repeats merged"),
        (0.03, "aligned"),
        (1.9, "bag of clip"),
    ],
)
def test_a_loss_stands_by_chance_only_near_what_the_output_predicts(
    measured: float, name: str
) -> None:
    assert (
        match_level(measured, LADDER, by_chance=Level(name="repeats merged", loss=0.1)).level.name
        == name
    )
