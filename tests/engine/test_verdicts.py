"""The measurement of how stable verdicts are: its jobs, its count, and one run on another machine
that this one stands in for.
"""

import json

import pytest

from examination import verdicts
from examination.results import append_row, job_of


def row(name="bigru", seed=0, machine="avx2 0", detours=0, **rungs):
    statuses = {rung.strip("_"): status for rung, status in rungs.items()} or {"1": "ok", "2": "ok"}
    return {
        "kind": "verdict",
        "network": machine,
        "name": name,
        "seed": seed,
        "rungs": statuses,
        "detours": detours,
        "seconds": 1.0,
    }


def test_every_machine_and_seed_is_a_job_and_a_measurement_cut_short_has_seen_every_subject():
    jobs = verdicts.jobs_of(["bigru", "crnn"], 2, 1, ["avx2", "default"])
    assert len(jobs) == len(set(jobs)) == 2 * 2 * 2 * 2
    assert jobs[:2] == [("verdict", "avx2 0", "bigru", 0), ("verdict", "avx2 0", "crnn", 0)]
    assert {seed for _, _, _, seed in jobs[: len(jobs) // 2]} == {0}
    assert {machine for _, machine, _, _ in jobs} == {"avx2 0", "avx2 1", "default 0", "default 1"}
    with pytest.raises(SystemExit, match="no sound subject is called 'gru'; there are bigru, "):
        verdicts.jobs_of(["gru"], 1, 0, ["avx2"])


def test_every_sound_subject_can_be_made():
    assert set(verdicts.SUBJECTS) <= set(verdicts.sound_subjects())


def test_the_count_states_the_bound_that_it_allows():
    rows = [row(machine=machine, detours=1) for machine in ("avx2 0", "avx2 1", "default 0")]
    assert verdicts.told(rows, 9) == [
        "3 of 9 jobs: 6 verdicts of 1 sound subjects, 1 seeds, 3 machines; 3 by a detour",
        "0 called broken (rate below 50.00% with 95 % confidence)",
        (
            "0 of 2 rungs with a seed were judged otherwise on another machine (rate below 150.00% "
            "with 95 % confidence)"
        ),
    ]


def test_what_was_called_broken_is_named_and_bounds_nothing():
    told = verdicts.told([row(), row(machine="default 0", _1="ok", _2="broken")], 2)
    assert told[1:] == [
        "1 called broken",
        "1 of 2 rungs with a seed were judged otherwise on another machine",
        "bigru, seed 0, default 0: broken at 2",
    ]


def test_jobs_are_climbed_where_they_are_asked_for_and_not_twice(tmp_path, monkeypatch, capsys):
    asked = []

    def climbed(machine, jobs):
        asked.append((machine, list(jobs)))
        return [row(name=name, seed=seed, machine=machine) for _, machine, name, seed in jobs]

    monkeypatch.setattr(verdicts, "climbed", climbed)
    results = tmp_path / "verdicts.jsonl"
    append_row(results, row(name="crnn"))
    arguments = [
        "--subjects=bigru,crnn",
        "--seeds=1",
        "--jitters=1",
        "--capabilities=avx2",
        f"--results={results}",
    ]
    assert verdicts.main(arguments) == 0
    assert [(machine, [job[2] for job in jobs]) for machine, jobs in asked] == [
        ("avx2 0", ["bigru"]),
        ("avx2 1", ["bigru", "crnn"]),
    ]
    assert capsys.readouterr().out.startswith("4 of 4 jobs: 8 verdicts")
    assert (
        len({job_of(json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines()})
        == 4
    )
    append_row(results, row(_1="broken"))
    assert verdicts.main(arguments) == 1
    assert len(asked) == 2


def test_a_machine_is_a_process_of_its_own():
    (told,) = verdicts.climbed("default 2", [("verdict", "default 2", "temporal convolutions", 0)])
    assert (told["name"], told["network"], told["rungs"]) == (
        "temporal convolutions",
        "default 2",
        dict.fromkeys("125", "ok"),
    )
