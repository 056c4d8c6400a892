"""The loop that trains for real, under the same test as anybody's."""

from __future__ import annotations

from pathlib import Path

from model.own_loop import trained_for_real
from pytest_overfit import Rung
from pytest_overfit.climb.ladder import criteria_for
from pytest_overfit.loop.contracts import findings_of_loop
from pytest_overfit.loop.training import recipe_of_loop
from pytest_overfit.recipe import default_recipe
from tests.model.training import small


def test_nothing_is_found_of_it_with_everything_switched_on(tmp_path: Path) -> None:
    settings = small(
        tmp_path,
        epochs=20,
        sentences=16,
        batch_size=2,
        dropout=0.3,
        augment=True,
        label_smoothing=0.1,
        accumulation_steps=2,
        schedule="cosine",
        weight_decay=0.01,
    )
    assert [
        finding.headline
        for finding in findings_of_loop(trained_for_real(settings, settings.data()))
    ] == []


def test_it_climbs(tmp_path: Path) -> None:
    settings = small(tmp_path, epochs=100, sentences=16, hidden_dim=64)
    subject = trained_for_real(settings, settings.data())
    assert subject.loop is not None
    rung = Rung(
        subject=subject,
        samples=2,
        recipe=recipe_of_loop(default_recipe(2), subject.loop),
        criteria=criteria_for(2),
    )
    assert rung.climb().status == "ok"
