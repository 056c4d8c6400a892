"""The examination's own machinery, and a short form of it: a few faults of each kind through the
whole of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from examination.__main__ import do, jobs_of
from examination.hosts import HOSTS, import_clips
from examination.matrix import matrix
from examination.planted import faults_for
from examination.plants import Averaged, Inserted, Pinched
from examination.results import append_row, forget, read_rows
from examination.trial_of_faults import Row, examine_fault, is_at
from examination.trial_of_sound import SOUND_SUBJECTS, examine_sound
from pytest_overfit.subject import collate


def result(**fields: Any) -> dict[str, Any]:
    return {**Row(kind="fault", network="bigru", name="net-detach").to_json(), **fields}


GOOD = {
    "detected": True,
    "where": "contract",
    "expected": "detached_branch",
    "found": ["detached_branch"],
    "modules": ["rnn"],
    "right_first": True,
    "right_any": True,
    "right_scale": True,
    "expected_module": "rnn",
    "right_module": True,
    "remedy": "no .detach()",
}


@pytest.mark.parametrize("fault", ["net-detach", "data-nan", "head-relu"])
def test_a_planted_fault_is_detected_named_and_located(fault: str) -> None:
    row = examine_fault("bigru", fault)
    assert (row.where, row.right_first, row.right_scale) == ("contract", True, True)
    assert row.right_module is not False
    assert row.error is None


def test_a_sound_subject_raises_no_alarm() -> None:
    row = examine_sound("bigru, as it is", seed=1)
    assert (row.alarms, row.runs) == ([], 4)


def test_what_the_tool_raises_is_a_row() -> None:
    row = do(("fault", "bigru", "no such fault", 0))
    assert "StopIteration" in row["error"]
    assert not row["detected"]


@pytest.mark.parametrize("host", HOSTS)
def test_every_fault_has_a_name_of_its_own_in_every_host(host: str) -> None:
    names = [fault.name for fault in faults_for(HOSTS[host])]
    assert len(set(names)) == len(names) > 55


def test_jobs_are_every_fault_and_every_sound_subject_over_seeds() -> None:
    assert len(jobs_of(["sound"], None, 3)) == 3 * len(SOUND_SUBJECTS)
    assert jobs_of(["bigru", "sound"], ["net-detach"], 3) == [("fault", "bigru", "net-detach", 0)]


def test_results_are_read_back_the_newest_row_of_a_job_last(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    append_row(path, result(where="R1"))
    append_row(path, result(where="contract"))
    append_row(path, result(name="net-vanish"))
    rows = read_rows(path)
    assert [row["where"] for row in rows.values()] == ["contract", ""]
    forget(path, [("fault", "bigru", "net-detach", 0)])
    assert [name for _, _, name, _ in read_rows(path)] == ["net-vanish"]


def test_a_line_that_was_cut_off_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, result())
    with path.open("a") as file:
        file.write(json.dumps(result(name="net-vanish"))[:40])
    append_row(path, result(name="net-explode"))
    assert [name for _, _, name, _ in read_rows(path)] == ["net-detach", "net-explode"]


def test_a_module_is_right_where_it_is_the_planted_one_or_a_part_of_it() -> None:
    assert is_at("conv", "conv")
    assert is_at("conv.norm", "conv")
    assert not is_at("convolution", "conv")
    assert not is_at("conv", "conv.norm")
    assert not is_at(None, "conv")


def test_the_matrix(snapshot: Any) -> None:
    sound = {**Row(kind="sound", network="sound", name="crnn").to_json(), "runs": 4}
    rows = [
        result(**GOOD),
        result(
            name="net-vanish",
            network="mobilenetv3",
            expected="vanishing_gradient",
            expected_where="R2",
            expected_module="blocks",
        ),
        result(
            **{
                **GOOD,
                "name": "head-relu",
                "found": ["dead_units"],
                "right_first": False,
                "remedy": None,
                "where": "R2",
                "right_scale": False,
                "expected_where": "contract",
                "right_module": False,
                "expected_module": "head",
            }
        ),
        result(name="data-shuffled", expected="-"),
        sound,
        {**sound, "seed": 1, "alarms": ["rung 1 is broken"]},
    ]
    assert matrix(rows) == snapshot


@pytest.mark.parametrize("inner", [Averaged(8), Pinched(8, 4), torch.nn.Linear(8, 8)])
def test_what_is_inserted_never_reads_or_fills_padding(inner: torch.nn.Module) -> None:
    plant = Inserted(inner)
    x = torch.randn(2, 12, 8)
    plant.frames = torch.tensor([12, 7])
    together = plant(x)
    plant.frames = torch.tensor([7])
    assert torch.allclose(together[1, :7], plant(x[1:, :7])[0], atol=1e-5)
    assert not together[1, 7:].any()


def test_clips_are_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fixtures
    from examination.hosts import export_clips
    from tests.engine.subjects import VOCABULARY, clips

    made = clips(3)
    monkeypatch.setattr(fixtures, "default_samples", lambda n: made)
    monkeypatch.setattr(fixtures, "default_vocabulary", lambda: VOCABULARY)
    export_clips(tmp_path / "clips.npz", 3)
    samples, vocabulary = import_clips(tmp_path / "clips.npz")
    assert vocabulary == VOCABULARY
    assert [sample.name for sample in samples] == [sample.name for sample in made]
    assert torch.equal(collate(samples).targets, collate(made).targets)
    assert torch.allclose(collate(samples).features, collate(made).features, atol=1e-2)
