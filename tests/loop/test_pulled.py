"""A training that calls back becomes one that is asked for its next step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager

import pytest

from pytest_overfit.loop.pulled import pulled


def counting(last: int, done: list[int]) -> Callable[[Callable[[float], None]], None]:
    def run(step_done: Callable[[float], None]) -> None:
        for number in range(last):
            done.append(number)
            step_done(float(number))

    return run


def test_a_step_is_taken_only_when_it_is_asked_for() -> None:
    done: list[int] = []
    losses = pulled(counting(3, done))
    assert done == []
    assert next(losses) == 0.0
    assert done == [0]
    assert list(losses) == [1.0, 2.0]
    assert done == [0, 1, 2]


def test_closing_ends_the_training_where_it_stands() -> None:
    done: list[int] = []
    losses = pulled(counting(100, done))
    next(losses)
    losses.close()
    assert done == [0]
    assert not any(thread.name == "training" for thread in threading.enumerate())


def test_a_training_that_catches_everything_is_ended_all_the_same() -> None:
    def stubborn(step_done: Callable[[float], None]) -> None:
        for _ in range(3):
            try:
                step_done(1.0)
            except BaseException:
                continue

    losses = pulled(stubborn)
    next(losses)
    losses.close()
    assert not any(thread.name == "training" for thread in threading.enumerate())


def test_what_the_training_raises_is_raised_to_who_asks() -> None:
    def run(step_done: Callable[[float], None]) -> None:
        step_done(1.0)
        raise ValueError("no such label")

    losses = pulled(run)
    assert next(losses) == 1.0
    with pytest.raises(ValueError, match="no such label"):
        next(losses)


def test_a_training_without_a_step_is_over_at_once() -> None:
    assert list(pulled(lambda step_done: None)) == []


def test_the_surroundings_are_those_of_the_stretch_of_training() -> None:
    entered: list[str] = []

    @contextmanager
    def during():
        entered.append("in")
        yield
        entered.append("out")

    losses = pulled(counting(1, []), during=during)
    next(losses)
    assert entered == ["in", "out"]
    losses.close()
    assert entered == ["in", "out"] * 2
