"""The measurement of how stable verdicts are: its jobs, its count, and one run on another machine
that this one stands in for.
"""

import json

import pytest

from examination import verdicts
from examination.results import append_row, job_of


def row(name="bigru", seed=0, machine="avx2 0", samples=1, status="ok", detour=False):
    return {
        "kind": f"rung {samples}",
        "network": machine,
        "name": name,
        "seed": seed,
        "status": status,
        "detour": detour,
        "steps": 40,
        "seconds": 1.0,
    }


def test_every_machine_seed_and_rung_is_a_job_and_a_measurement_cut_short_has_seen_every_subject():
    jobs = verdicts.jobs_of(["bigru", "crnn"], [1, 5], 2, 1, ["avx2", "default"])
    assert len(jobs) == len(set(jobs)) == 2 * 2 * 2 * 2 * 2
    assert jobs[:3] == [
        ("rung 1", "avx2 0", "bigru", 0),
        ("rung 1", "avx2 0", "crnn", 0),
        ("rung 5", "avx2 0", "bigru", 0),
    ]
    assert {seed for _, _, _, seed in jobs[: len(jobs) // 2]} == {0}
    assert {machine for _, machine, _, _ in jobs} == {"avx2 0", "avx2 1", "default 0", "default 1"}
    with pytest.raises(SystemExit, match="no sound subject is called 'gru'; there are bigru, "):
        verdicts.jobs_of(["gru"], [1], 1, 0, ["avx2"])


def test_networks_that_take_minutes_are_climbed_at_one_sample():
    (job,) = verdicts.jobs_of(["3 x 128 bilstm"], [1, 2, 5], 1, 0, ["avx2"])
    assert job[0] == "rung 1"


def test_every_sound_subject_goes_by_its_name_or_is_foreign():
    for name, make in verdicts.sound_subjects().items():
        assert make().name == name.removeprefix("foreign ")


def test_the_count_states_the_bound_that_it_allows():
    machines = ("avx2 0", "avx2 1", "default 0")
    rows = [row(machine=one, samples=n, detour=n == 1) for one in machines for n in (1, 2)]
    assert verdicts.told(rows, 9) == [
        "6 of 9 verdicts: 1 sound subjects, 1 seeds, 3 machines; 3 by a detour; "
        "0 whose own rate ran away or crawled",
        "0 called broken (rate below 50.00% with 95 % confidence)",
        (
            "0 of 2 rungs with a seed were judged otherwise on another machine (rate below 150.00% "
            "with 95 % confidence)"
        ),
    ]


def test_what_was_called_broken_is_named_and_bounds_nothing():
    told = verdicts.told([row(), row(machine="default 0", status="broken")], 2)
    assert told[1:] == [
        "1 called broken",
        "1 of 1 rungs with a seed were judged otherwise on another machine",
        "bigru, seed 0, default 0: broken at rung 1",
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
        "--rungs=1",
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
    assert capsys.readouterr().out.startswith("4 of 4 verdicts")
    assert (
        len({job_of(json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines()})
        == 4
    )
    append_row(results, row(status="broken"))
    assert verdicts.main(arguments) == 1
    assert len(asked) == 2


def test_a_machine_is_a_process_of_its_own():
    (told,) = verdicts.climbed("default 2", [("rung 1", "default 2", "temporal convolutions", 0)])
    assert (told["name"], told["network"], told["status"]) == (
        "temporal convolutions",
        "default 2",
        "ok",
    )
