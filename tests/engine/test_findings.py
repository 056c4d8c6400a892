"""The records of findings: each is explained, planted and answered, and no finding is made by
anything else.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import traceback
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fixtures
import pytest_overfit
from examination.hosts import HOSTS
from examination.planted import faults_for
from fixtures import layout_findings
from pytest_overfit import errors
from pytest_overfit.findings.__main__ import PAGE, page, records
from pytest_overfit.findings.book import STAGES, entries, explained, nearest
from pytest_overfit.findings.catalogue import CONTRACTS, DETECTORS, RECORDS
from pytest_overfit.findings.examine import check, examine, stale_acceptances
from pytest_overfit.findings.record import BadRecord, Record
from pytest_overfit.findings.running import raised
from pytest_overfit.health.checkpoint import not_finite
from tests.engine.dishonest import DISHONEST, HELD_OUT
from tests.engine.faults import FAULTS
from tests.engine.rare_faults import RARE
from tests.engine.subjects import bigru, clips
from tests.health.made_runs import SICK
from tests.loop.planted import BY_EXCHANGE, FINDING_OF

ROOT = Path(__file__).parents[2]
EVERY = records()
BY_NAME = {fault.name: fault for fault in RARE}


def planted() -> dict[str, set[str]]:
    """Finding -> names of the faults that are planted to prove it."""
    found: dict[str, set[str]] = defaultdict(set)
    for fault in (
        *FAULTS,
        *DISHONEST,
        *HELD_OUT,
        *RARE,
        *(fault for host in HOSTS.values() for fault in faults_for(host)),
    ):
        found[fault.finding].add(fault.name)
    for kind, (_, names) in SICK.items():
        for name in names:
            found[name].add(kind)
    for fault, finding in (FINDING_OF | BY_EXCHANGE).items():
        found[finding].add(fault)
    return found


PLANTED = planted()


@pytest.mark.parametrize("name", EVERY)
def test_a_finding_is_explained_planted_and_answered(name: str) -> None:
    record = EVERY[name]
    assert record.name == name
    assert record.stage in STAGES
    assert all(len(text.split()) >= 3 for text in (record.means, record.detected, record.mend)), (
        name
    )
    assert all(
        text.rstrip().endswith((".", "?")) for text in (record.means, record.detected, record.mend)
    ), name
    assert bool(record.remedies) != bool(record.no_remedy)
    assert set(record.planted) <= PLANTED[name], (
        f"{set(record.planted) - PLANTED[name]} are no faults of {name}"
    )
    assert record.planted or record.not_planted
    assert set(record.follows) <= set(EVERY) - {name}


def test_every_planted_fault_is_of_a_finding_that_has_a_record() -> None:
    assert set(PLANTED) - {"-"} <= set(EVERY)


def test_every_record_of_a_contract_or_a_detector_is_in_the_book() -> None:
    looked_for = {record.name for contract in CONTRACTS for record in contract.finds} | {
        detector.record.name for detector in DETECTORS
    }
    assert looked_for <= set(RECORDS) <= set(EVERY)
    assert all(EVERY[name] is record for name, record in RECORDS.items())


def calls_of(path: Path, function: str) -> list[int]:
    """Lines at which a module calls a function by its bare name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == function
    ]


def test_only_a_record_makes_a_finding() -> None:
    """And `store`, which reads one back from its file."""
    sources = [
        path
        for package in (pytest_overfit, fixtures)
        for path in Path(str(package.__file__)).parent.rglob("*.py")
    ]
    making = {path.relative_to(ROOT).as_posix() for path in sources if calls_of(path, "Finding")}
    assert {Path(path).name for path in making} == {"record.py", "store.py"}, making


def test_the_findings_of_fixtures_are_proved_by_tests_of_theirs() -> None:
    """Their records are no part of the engine: a subject's own contracts bring them."""
    known = {
        name
        for path in (ROOT / "tests/fixtures").glob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    records = [value for value in vars(layout_findings).values() if isinstance(value, Record)]
    assert records
    assert {name for record in records for name in record.planted} <= known
    assert not {record.name for record in records} & set(EVERY)


@pytest.mark.parametrize("missing", ["means", "remedies", "planted"])
def test_a_record_that_leaves_something_unsaid_is_refused(missing: str) -> None:
    given = {
        "means": "It is bad.",
        "detected": "By looking.",
        "mend": "Mend it.",
        "no_remedy": "none",
        "planted": ("one",),
    }
    without = {"means": {"means": ""}, "remedies": {"no_remedy": ""}, "planted": {"planted": ()}}[
        missing
    ]
    with pytest.raises(BadRecord, match="record bad_thing: "):
        Record(name="bad_thing", stage="data", **{**given, **without})  # type: ignore[arg-type]


def test_what_is_printed_is_what_the_records_say() -> None:
    for name, entry in entries().items():
        record = EVERY[name]
        assert (entry.means, entry.detected, entry.mend, entry.stage) == (
            record.means,
            record.detected,
            record.mend,
            record.stage,
        )
        assert all(
            title in explained(entry)
            for title in ("How it was found", "How to mend it", "How to accept it")
        )


def test_the_page_of_findings_is_up_to_date() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(), (
        "write it anew: python -m pytest_overfit.findings"
    )


@pytest.mark.parametrize(
    ("asked", "first"),
    [("time-colapse", "time_collapse"), ("Dead units", "dead_units"), ("padding", "padding_leak")],
)
def test_a_name_that_is_not_there_gets_the_nearest(asked: str, first: str) -> None:
    assert nearest(asked, [*entries()])[0] == first
    assert nearest("zzz", [*entries()]) == []


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys, pytest; code = pytest.main(sys.argv[1:]); print('torch' in sys.modules); "
        "sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_explaining_runs_nothing_and_imports_no_torch(tmp_path: Path) -> None:
    done = run(
        "--rootdir",
        str(tmp_path),
        "-c",
        "/dev/null",
        "--overfit-explain",
        "time_collapse",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "time_collapse: the network, before any training\n\nThe network leaves fewer steps "
        "than a target needs"
    )
    assert done.stdout.endswith("False\n")


def test_explaining_what_is_not_there_is_a_usage_error() -> None:
    done = run("--overfit-explain", "time_colapse")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "there is no finding 'time_colapse'; did you mean time_collapse?" in done.stderr


# -- errors keep their place


def test_what_is_accepted_and_no_longer_found_is_told() -> None:
    subject = BY_NAME["accept-nothing"].plant(bigru())
    (finding,) = stale_acceptances(subject, examine(subject, clips(4)))
    assert (finding.name, finding.severity) == ("stale_acceptance", "warning")


def test_weights_that_are_not_finite_are_told() -> None:
    found = not_finite(
        BY_NAME["checkpoint-not-finite"].plant(bigru()).fresh(feature_dim=24, seed=0)
    )
    assert found is not None
    assert found.name == "weights_not_finite"
    assert not_finite(bigru().fresh(feature_dim=24, seed=0)) is None


def test_an_error_of_this_tool_is_told_as_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its traceback, beside what the other contracts find, and not as a fault of the
    subject.
    """
    monkeypatch.setattr("pytest_overfit.findings.place._correlation", None)
    (finding,) = check(bigru(), clips(10))
    assert finding.name == "tool_fails"
    assert finding.headline.startswith(
        "pytest-overfit itself failed, `own place` cannot be examined: TypeError: 'NoneType'"
    )
    assert any("place.py" in line for line in finding.evidence)
    assert finding.fails()


def error_of(call: object, *arguments: object) -> Exception:
    try:
        call(*arguments)  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("it did not raise")


def test_an_error_inside_torchs_own_modules_is_the_subjects() -> None:
    """A network made of them alone has no line of the subject's in its traceback."""

    class Misfit(torch.nn.Bilinear):  # called as (features, frames), which it cannot multiply
        pass

    subject = replace(
        bigru(), build=lambda vocab_size, feature_dim, seed: Misfit(feature_dim, 1, vocab_size)
    )
    error = error_of(
        subject.log_probs,
        subject.fresh(feature_dim=24, seed=0),
        torch.zeros(1, 5, 24),
        torch.tensor([5]),
    )
    assert "torch" in str(traceback.extract_tb(error.__traceback__)[-1].filename)
    assert not errors.is_ours(error)
    assert raised("network", "it fails", error).name == "network_fails"


@pytest.mark.gpu
def test_a_loss_that_differs_on_the_gpu_is_named() -> None:
    subject = BY_NAME["gpu-loss-differs"].plant(bigru())
    assert "device_mismatch" in [
        finding.name for finding in check(subject, clips(4), device="cuda:0")
    ]
    assert check(bigru(), clips(4), device="cuda:0") == ()
