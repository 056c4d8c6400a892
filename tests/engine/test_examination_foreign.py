"""The examinations of sound networks of the field and of kinds of faults, in a short form."""

from __future__ import annotations

from typing import Any

import pytest

from examination.explaining import ratio
from examination.kinds.__main__ import do, right, untruths
from examination.kinds.__main__ import told as told_of_kinds
from examination.kinds.catalogue import KINDS
from examination.sound.__main__ import told
from examination.sound.catalogue import SOUND
from examination.sound.examine import examine
from pytest_overfit.findings.examine import check

CLIMBED = ("depth-separable", "subsampled pre-norm Transformer", "ConvNeXt")
CONTRACTS_ONLY = ("visual alignment", "attention-pooled GRU", "lips")


@pytest.mark.parametrize("name", CLIMBED)
def test_nothing_is_said_to_fail_of_a_sound_network(name: str) -> None:
    row = examine(SOUND[name])
    assert (row.failures, row.error) == ((), None)
    assert list(row.rungs) == ["1", "5"]


@pytest.mark.parametrize("name", CONTRACTS_ONLY)
def test_no_contract_fails_a_sound_network(name: str) -> None:
    subject = SOUND[name].make()
    assert [f.headline for f in check(subject, subject.offered(6)) if f.fails()] == []


def test_a_kind_is_named_first_and_its_remedy_confirmed() -> None:
    row = do("depth-separable", "label padding counted")
    assert right(row)
    assert row["remedy"] == "torch's CTC in the place of the whole loss"
    assert untruths(row) == []


def test_a_third_of_the_kinds_is_held_out() -> None:
    assert sum(kind.held_out for kind in KINDS.values()) == len(KINDS) // 3


def kind_row(**fields: Any) -> dict[str, Any]:
    row = {"network": "toy", "name": "a kind", "expected": "batch_leak", "expected_module": "rnn"}
    said = {"found": ["batch_leak"], "modules": ["rnn"], "right_module": True, "where": "contract"}
    rest = {"trials": [], "no_trial": False, "remedy": None, "detected": True, "error": None}
    return {**row, **said, **rest, "held_out": False, "also": [], **fields}


def test_what_a_trial_confirms_beside_the_planted_fault_is_told_as_untrue() -> None:
    trial = "place_lost / time turned back: held (1.0 s)"
    lines = told_of_kinds([kind_row(trials=[trial]), kind_row(name="another", held_out=True)])
    assert lines[0] == f"toy, a kind: untrue: {trial}"
    assert lines[1].startswith("seen: detected 1 of 1, named right first 1 of 1")
    assert lines[1].endswith("remedy confirmed 0 of 1, untruths 1")
    assert lines[2].startswith("held out: detected 1 of 1")


def test_a_false_failure_is_told_and_none_is_bounded() -> None:
    sound = {"name": "toy", "aside": True, "seed": 0, "rungs": {"1": "ok"}, "error": None}
    good = {**sound, "failures": [], "warnings": ["contracts: it waits"]}
    bad = {**sound, "name": "other", "aside": False, "failures": ["rung 1 is broken"]}
    lines = told([good, {**bad, "warnings": []}])
    assert lines[:2] == [
        "toy, seed 0: warning: contracts: it waits",
        "other, seed 0: failure: rung 1 is broken",
    ]
    assert lines[2] == "seen: 1 networks, 1 rungs: 1 failed, 0 warned of"
    assert "0 failed (rate below 300.00% with 95 % confidence), 1 warned of" in lines[3]


def test_explaining_is_told_as_a_multiple_of_the_sound_climb_of_the_same_rungs() -> None:
    sound = {"rungs": {"1": 1.0, "5": 2.0}, "contracts": 1.0}
    fault = {"rungs": {"1": 3.0}, "contracts": 1.0, "explaining": 2.0, "broke_at": 1}
    row = {"sound": [sound, sound], "fault": fault}
    assert ratio(row, contracts=False) == 5.0
    assert ratio(row, contracts=True) == 3.0
    assert ratio(row, contracts=True, asked=True) == 1.5
    assert ratio({**row, "fault": {**fault, "broke_at": None}}, contracts=True) is None
