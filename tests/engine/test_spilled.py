"""Samples that are too many for memory: read from a file, and trained on as any others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from weakref import finalize

import pytest
import torch

from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.findings.bench import SOUGHT
from pytest_overfit.findings.catalogue import CONTRACTS
from pytest_overfit.findings.examine import examine
from pytest_overfit.recipe import Recipe
from pytest_overfit.spilled import Spilled, kept
from pytest_overfit.subject import Sample
from pytest_overfit.training import Training
from tests.engine.searched import samples, small


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_samples_are_read_back_as_they_were(dtype: torch.dtype) -> None:
    given = [
        Sample(name=one.name, features=one.features[: 5 + place].to(dtype), target=one.target)
        for place, one in enumerate(samples(4))
    ]
    spilled = Spilled(given)
    for back, was in zip(
        [*spilled, spilled[-1], *spilled[1:3]], [*given, given[-1], *given[1:3]], strict=True
    ):
        assert (back.name, back.frames) == (was.name, was.frames)
        assert torch.equal(back.features, was.features)
        assert back.features.dtype is dtype
        assert torch.equal(back.target, was.target)


def test_few_are_kept_in_memory_and_each_is_made_once() -> None:
    made: list[str] = []

    def one_by_one() -> Iterator[Sample]:
        for sample in samples(6):
            made.append(sample.name)
            yield sample

    size = samples(1)[0].features.nbytes
    assert isinstance(kept(one_by_one(), most_bytes=6 * size), list)
    spilled = kept(one_by_one(), most_bytes=3 * size)
    assert isinstance(spilled, Spilled)
    assert [sample.name for sample in spilled] == [sample.name for sample in samples(6)]
    assert len(made) == 12


def test_an_empty_list_stays_one() -> None:
    assert kept([]) == []


def test_contracts_of_data_hold_few_of_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most, fetch = 0, 0, Spilled.__getitem__

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def counted(self: Spilled, item: int) -> Sample:
        nonlocal alive, most
        sample = fetch(self, item)
        alive += 1
        most = max(most, alive)
        finalize(sample.features, gone)
        return sample

    few = samples(4)
    many = Spilled(replace(few[place % 4], name=f"c{place}") for place in range(3 * SOUGHT))
    monkeypatch.setattr(Spilled, "__getitem__", counted)
    examine(
        replace(small, samples=many),
        many,
        contracts=[contract for contract in CONTRACTS if contract.about == "data"],
    )
    assert SOUGHT / 2 < most < 1.5 * SOUGHT


def test_training_on_them_is_the_same_training() -> None:
    recipe = Recipe(batch=2)
    in_memory = Training(small, samples(5), recipe, seed=0)
    from_file = Training(small, Spilled(samples(5)), recipe, seed=0)
    assert list(in_memory.advance(7)) == pytest.approx(list(from_file.advance(7)), rel=1e-4)
    assert in_memory.read().loss == pytest.approx(from_file.read().loss, rel=1e-3)
    assert in_memory.targets == from_file.targets


def test_a_rung_climbs_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "__defaults__", (1,))
    assert isinstance(small.take(2), Spilled)
    rung = Rung(subject=small, samples=2, recipe=Recipe(), criteria=criteria_for(2), seeds=(0,))
    assert rung.climb().status == "ok"
