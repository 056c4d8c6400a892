"""The jitter is small, equal for equal networks and leaves torch's generator alone; the tests that
train are run, and no others; one that varies is named with where it fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.portability.__main__ import drawn, told, variants
from tests.portability.child import sitecustomize
from tests.portability.lowest import lowest
from tests.portability.record import TRAINED, WatchedSteps, read

ROOT = Path(__file__).parents[2]
BUILDS = """
import json, torch
from pytest_overfit import Subject
subject = Subject(name="one", build=lambda vocab_size, feature_dim, seed: torch.nn.Linear(feature_dim, vocab_size), samples=[], vocabulary="-ABC")
built = subject.fresh(feature_dim=64, seed=0)
drawn = torch.rand(()).item()
first = built.weight.tolist()
optimizer = torch.optim.SGD(built.parameters(), lr=0.1)
torch.manual_seed(0)
by_hand = torch.nn.Linear(64, 4)
torch.optim.SGD(by_hand.parameters(), lr=0.1)
built(torch.ones(64)).sum().backward()
optimizer.step()
print(json.dumps({"first": first, "by_hand": by_hand.weight.tolist(), "drawn": drawn}))
"""


def built(tmp_path: Path, jitter: str) -> tuple[dict[str, object], int]:
    """What a child process builds, and the optimiser steps that it noted."""
    steps = tmp_path / f"steps{jitter}"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(sitecustomize.__file__).parent}",
        sitecustomize.STEPS: str(steps),
    }
    environment.pop(sitecustomize.JITTER, None)
    if jitter:
        environment[sitecustomize.JITTER] = jitter
    done = subprocess.run(
        [sys.executable, "-c", BUILDS], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout), steps.stat().st_size


def test_a_jitter_moves_each_weight_by_parts_in_a_million_and_equal_networks_alike(
    tmp_path: Path,
) -> None:
    plain, steps = built(tmp_path, "")
    assert steps == 1
    assert plain["first"] == plain["by_hand"]
    runs = [built(tmp_path, seed)[0] for seed in ("1", "2")]
    for run in runs:
        assert run["first"] == run["by_hand"] != plain["first"]
        assert run["first"] == [pytest.approx(row, rel=6e-6, abs=0) for row in plain["first"]]  # type: ignore[attr-defined]
        assert run["drawn"] == plain["drawn"]
    assert runs[0]["first"] != runs[1]["first"]


def test_the_variants_are_three_jitters_and_each_capability_with_one_and_with_two_threads() -> None:
    given = variants()
    assert [name for name in given if name.startswith("jitter")] == [
        "jitter-1",
        "jitter-2",
        "jitter-3",
    ]
    assert {"default-1", "default-2"} <= set(given)
    assert {variables["OMP_NUM_THREADS"] for variables in given.values()} == {"1", "2"}


SHARED = """
import pytest

def step():
    open({steps!r}, "ab").write(b".")

@pytest.fixture(scope="session")
def whole_session():
    step()

@pytest.fixture(scope="module")
def trained(whole_session):
    return 1

@pytest.fixture(scope="module")
def untrained():
    return 1

def test_first(trained): pass
def test_second(trained): pass
def test_itself(untrained): step()
def test_neither(untrained): pass
"""


def test_a_test_trains_where_it_or_any_fixture_of_it_takes_a_step(
    pytester: pytest.Pytester,
) -> None:
    steps = pytester.path / "steps"
    steps.touch()
    pytester.makepyfile(test_shared=SHARED.format(steps=str(steps)))
    session = pytester.inline_run("-p", "no:cacheprovider", plugins=[WatchedSteps(steps)])
    reports = session.getreports("pytest_runtest_logreport")
    assert [
        one.head_line
        for one in reports
        if one.when == "teardown" and TRAINED in one.user_properties
    ] == [
        "test_first",
        "test_second",
        "test_itself",
    ]


def test_the_tests_that_train_are_run_and_those_that_a_results_file_has_are_not(
    pytester: pytest.Pytester,
) -> None:
    names = ["test_a", "test_b", "test_c"]
    pytester.makepyfile(test_file="\n".join(f"def {name}(): pass" for name in names))
    listed, results = pytester.path / "listed.json", pytester.path / "results.jsonl"
    listed.write_text(json.dumps(["test_file.py::test_a", "test_file.py::test_b", "gone.py::test"]))
    results.write_text('{"variant": "one", "test": "test_file.py::test_a", "outcome": "passed"}\n')
    given = ["-p", "tests.portability.record", "-p", "no:cacheprovider"]
    given += ["--portability-results", str(results), "--portability-variant", "one"]
    pytester.inline_run(*given, "--portability-tests", str(listed))
    assert [test for _, test in read(results)] == ["test_file.py::test_a", "test_file.py::test_b"]
    pytester.inline_run(*given)
    assert {test for _, test in read(results)} == {f"test_file.py::{name}" for name in names}


def test_a_test_that_varies_is_told_with_the_variants_in_which_it_fails(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    ended = {"default-1": ("passed", "failed", "failed"), "avx2-1": ("passed", "passed", "failed")}
    rows = [
        {"variant": v, "test": t, "outcome": o}
        for v, all_ in ended.items()
        for t, o in zip("abc", all_, strict=True)
    ]
    results.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"variant": "cut o')
    lines = told(read(results), list(ended))
    assert lines[:2] == ["default-1    2 failed, 1 passed", "avx2-1       1 failed, 2 passed"]
    assert lines[2:] == ["VARIES b: fails in default-1", "FAILS c: fails in default-1, avx2-1"]


def test_the_lowest_versions_are_those_declared_and_each_has_one() -> None:
    project = {
        "name": "own",
        "dependencies": ["torch>=2.4", "numpy>=1.26,<3"],
        "optional-dependencies": {
            "a": ["own[b]", "pinned==1.2", "old>=1; python_version < '3'"],
            "b": ["free"],
        },
    }
    assert lowest(project, ["a"]) == ["numpy==1.26", "pinned==1.2", "torch==2.4"]
    with pytest.raises(ValueError, match="free must have one lowest version"):
        lowest(project, ["b"])


def test_the_lowest_versions_are_tested_with_every_extra_but_what_checks_the_source() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (all_of_it,) = declared["project"]["optional-dependencies"]["dev"]
    extras = re.search(r"\[(.+)\]", all_of_it)
    listed = re.search(r"^EXTRAS := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert extras is not None
    assert listed is not None
    assert {*listed[1].split(","), "check"} == set(extras[1].split(","))


def test_each_state_of_the_sources_draws_other_tests() -> None:
    tests = [f"tests/test_some.py::test_{number}" for number in range(400)]
    one, other = (drawn(tests, 2, key) for key in ("one", "other"))
    assert drawn(tests, 1, "one") == tests
    assert 150 < len(one) < 250
    assert one == drawn(tests, 2, "one") != other
