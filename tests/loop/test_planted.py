"""The faults and the sound changes of loops fit their texts, and the page counts them as it
says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from examination.loops import page
from examination.loops.catalogue import changes, faults, sound_changes
from examination.loops.planting import KINDS, TEAMS, Kind, fault
from examination.loops.subjects import subject
from pytest_overfit.findings.examine import examine as examine_network
from pytest_overfit.loop.loop import PARTS


@pytest.mark.parametrize("kind", KINDS)
def test_every_change_fits_its_text(kind: Kind) -> None:
    text = (TEAMS / f"{kind}.py").read_text(encoding="utf-8")
    changed = [change.text(text) for change in changes(kind)]
    for change, after in zip(changes(kind), changed, strict=True):
        compile(after, change.name, "exec")
    assert len(set(changed)) == len(changed)


def test_an_edit_that_does_not_fit_once_is_refused() -> None:
    twice = fault("twice", "loss", ("a", "b"))
    with pytest.raises(ValueError, match=r"^twice: 'a' stands 2 times in the text$"):
        twice.text("a + a")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_faults_of_every_part_and_a_third_is_held_out(kind: Kind) -> None:
    planted, sound = faults(kind), sound_changes(kind)
    assert len({change.name for change in changes(kind)}) == len(changes(kind))
    assert len(planted) >= 25
    assert len(sound) >= 10
    assert {change.part for change in planted} == set(PARTS)
    assert 0.3 < sum(change.lot == "held out" for change in planted) / len(planted) < 0.4


def row(
    name: str, *said: tuple[str, str | None, bool], expected: tuple[str, ...] = (), **changed: Any
) -> dict[str, Any]:
    words = [
        {"name": one, "part": part, "headline": "", "warning": warning}
        for one, part, warning in said
    ]
    return {
        "kind": "generator",
        "name": name,
        "lot": "seen",
        "expected": expected,
        "said": words,
        "broke_at": None,
        "error": None,
        **changed,
    }


def test_the_first_finding_names_the_part_and_a_warning_is_no_alarm() -> None:
    rows = [
        row("right", ("rate_dies", "scheduler", False), expected=("scheduler",)),
        row(
            "second",
            ("other_output", "loss", False),
            ("rate_dies", "scheduler", False),
            expected=("scheduler",),
        ),
        row("by the rung", expected=("scheduler",), broke_at=5),
        row("missed", expected=("scheduler",)),
        row("apart", ("rate_dies", "scheduler", False), expected=("scheduler",), lot="held out"),
        row("odd", expected=("scheduler",), lot="unseen kind"),
        row("quiet"),
        row("warned", ("summed_parts", "accumulation", True)),
        row("accused", ("rate_dies", "scheduler", False)),
        row("crashed", error="Traceback"),
    ]
    figures = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in page.summary(rows)[2:]
    }
    expected = {
        "faults seen: detected": "3 of 4",
        "faults seen: part named": "1 of 4",
        "faults held out: detected": "1 of 1",
        "faults held out: part named": "1 of 1",
        "unseen kinds, mended since: detected": "0 of 1",
        "unseen kinds, mended since: part named": "0 of 1",
        "reported kinds, aside: detected": "0 of 0",
        "all faults: detected": "4 of 6",
        "all faults: part named": "2 of 6",
        "sound changes: false alarms": "2 of 4",
        "sound changes: warnings": "1 of 4",
    }
    assert expected.items() <= figures.items()


def test_a_rival_is_counted_by_what_it_says_beyond_the_sound_text() -> None:
    rows = [
        row("as_it_is"),
        row("other"),
        row("fault", expected=("loss",)),
        row("another", expected=("loss",)),
    ]
    said = {
        "as_it_is": ["TA200"],
        "other": ["TA200"],
        "fault": ["TA200", "TA305"],
        "another": ["TA200"],
    }
    rivals = [
        {
            "rival": "torch-audit",
            "version": "0.3.0",
            "kind": "generator",
            "name": name,
            "said": words,
        }
        for name, words in said.items()
    ]
    assert (
        page.rivals_table(rows, rivals)[-1]
        == "| torch-audit 0.3.0 | 1 of 2 | - | - | 1 of 2 | 0 of 2 |"
    )


def test_the_page_has_a_row_for_each_change(tmp_path: Path) -> None:
    rows = [
        row("as_it_is"),
        row("fault", ("rate_dies", "scheduler", False), expected=("loss",), broke_at=2),
    ]
    text = page.page(rows)
    assert "| fault | loss |  | `rate_dies` | **scheduler** | R2 |" in text
    assert "| as_it_is |  | nothing |" in text
    assert "not examined" not in text
    assert "**3 more changes were not examined yet.**" in page.page(rows, 3)


def test_the_sound_networks_are_not_accused_by_their_own_contracts(tmp_path: Path) -> None:
    """They turn to float32 before log_softmax, which a difference in double precision dies of."""
    made = subject("generator", next(iter(sound_changes("generator"))), tmp_path)
    checked = examine_network(made, made.take(3))
    assert [finding.name for one in checked for finding in one.findings if finding.fails()] == []
