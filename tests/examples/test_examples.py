"""Each example goes from its files to a climb, in twenty lines, and has a page in the docs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from examples import material
from pytest_overfit.climb.ladder import Rung, criteria_for
from pytest_overfit.findings.examine import check
from pytest_overfit.plugin.settings import import_subject
from pytest_overfit.recipe import default_recipe
from tests.fixtures.own_folder import refused

ROOT = Path(__file__).parents[2]
EXAMPLES = {"isolated_signs": "signs", "speech": "speech", "text_lines": "lines", "lips": "lips"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_climbs_from_its_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "speech" and shutil.which("espeak-ng") is None:
        pytest.skip(
            "espeak-ng is not installed, which speaks the example: apt-get install espeak-ng"
        )
    monkeypatch.setattr(material, "CLIPS", 12)
    assert material.main([EXAMPLES[name], str(tmp_path)]) == 0
    monkeypatch.setenv("EXAMPLE_DATA", str(tmp_path))
    subject = import_subject(f"examples.{name}:subject")
    assert [
        finding.headline for finding in check(subject, subject.take(12)) if finding.fails()
    ] == []
    for samples in (1, 2):
        outcome = Rung(
            subject=subject,
            samples=samples,
            recipe=default_recipe(samples),
            criteria=criteria_for(samples),
        ).climb()
        assert outcome.status == "ok", outcome


@pytest.mark.parametrize("name", EXAMPLES)
def test_has_twenty_lines_and_a_page(name: str) -> None:
    code = (ROOT / "examples" / f"{name}.py").read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line]) <= 20
    page = (ROOT / "docs" / "examples" / f"{name}.md").read_text()
    assert f"examples.{name}:subject" in page
    assert f"examples.material {EXAMPLES[name]} " in page


def test_speech_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = "espeak-ng is not installed, which speaks the examples: apt-get install espeak-ng"
    assert refused(lambda: material.speech(tmp_path)) == expected
