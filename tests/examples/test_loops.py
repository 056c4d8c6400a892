"""Each example of a loop goes from its files through its own training to a climb, and costs its
user at most ten lines.
"""

from __future__ import annotations

import inspect
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from examples import material
from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.loop.contracts import findings_of_loop
from pytest_overfit.loop.training import recipe_of_loop
from pytest_overfit.plugin.settings import import_subject
from pytest_overfit.recipe import default_recipe

ROOT = Path(__file__).parents[2]
EXAMPLES = {"wav2vec2": "speech", "crnn": "lines", "auxiliary": "speech"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_climbs_with_its_own_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if EXAMPLES[name] == "speech" and shutil.which("espeak-ng") is None:
        pytest.skip(
            "espeak-ng is not installed, which speaks the example: apt-get install espeak-ng"
        )
    monkeypatch.setattr(material, "CLIPS", 8)
    assert material.main([EXAMPLES[name], str(tmp_path)]) == 0
    monkeypatch.setenv("EXAMPLE_DATA", str(tmp_path))
    subject = import_subject(f"examples.{name}:subject")
    assert [finding.headline for finding in findings_of_loop(subject) if finding.fails()] == []
    recipe = recipe_of_loop(default_recipe(1), subject.loop)
    outcome = Rung(subject=subject, samples=1, recipe=recipe, criteria=criteria_for(1)).climb()
    assert outcome.status == "ok", outcome


@pytest.mark.parametrize("name", EXAMPLES)
def test_has_at_most_ten_lines_for_its_user_and_a_page(name: str) -> None:
    lines = inspect.getsource(import_module(f"examples.{name}").subject).strip().splitlines()
    assert len([line for line in lines[1:] if line.strip(" )")]) <= 10
    page = (ROOT / "docs" / "examples" / "loops.md").read_text(encoding="utf-8")
    assert f"examples.{name}:subject" in page
    assert f"examples.material {EXAMPLES[name]} " in page
