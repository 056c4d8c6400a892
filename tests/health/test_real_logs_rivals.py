"""What others say of a labelled log, understood from their JSON and counted fairly."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from examination.real_logs_rivals import COMMANDS, answer, installed, totals

LABEL = "label.json"
SAYS = """import json, sys
from pathlib import Path
place = Path(sys.argv[1])
if place.is_dir() or place.name != "train.csv":
    sys.exit("cannot read that")
assert not (place.parent / "label.json").exists()
print(json.dumps({"series": {"loss": {"points": 9}}, "findings": [{"check": "overfitting", "severity": "warning", "step": 4}]}))
"""


def run_folder(folder: Path, name: str, *illness: str) -> Path:
    run = folder / name
    run.mkdir()
    (run / "train.csv").write_text("loss\n1\n")
    onset = {"value": 4, "unit": "step"} if illness else None
    label = {
        "train": {"count": 9},
        "valid": None,
        "verdict": ["stop"] if illness else ["healthy"],
        "illness": illness,
        "onset": onset,
    }
    (run / LABEL).write_text(json.dumps(label))
    return run


def test_a_rival_is_given_the_folder_then_its_files_and_never_the_label(tmp_path: Path) -> None:
    rival = tmp_path / "rival.py"
    rival.write_text(SAYS)
    found = answer(
        (sys.executable, str(rival), "{}"), run_folder(tmp_path, "sick", "overfits"), LABEL
    )
    assert found is not None
    assert found.counts == (9,)
    assert [(check.name, check.severity, check.at) for check in found.checks] == [
        ("overfitting", "warning", 4.0)
    ]


def test_what_fits_names_an_illness_and_what_is_said_of_a_sound_run_accuses(tmp_path: Path) -> None:
    rival = tmp_path / "rival.py"
    rival.write_text(SAYS)
    folders = [
        run_folder(tmp_path, "sick", "overfits"),
        run_folder(tmp_path, "sound"),
        run_folder(tmp_path, "other", "never learns"),
    ]
    row = totals(
        folders, LABEL, {"made": (sys.executable, str(rival), "{}")}, lambda _, at: at == 4
    ).splitlines()[-1]
    assert row.split("  ")[0] == "made"
    assert [
        " ".join(part.split())
        for part in (row[21:32], row[32:43], row[43:54], row[54:65], row[65:])
    ] == [
        "3 of 3",
        "1 of 3",
        "1 of 2",
        "1 of 2",
        "1 of 1",
    ]


def test_rivals_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    assert installed(tmp_path) == {}
    command = tmp_path / "losslint"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    assert installed(tmp_path) == {"losslint": (str(command), *COMMANDS["losslint"][1:])}
