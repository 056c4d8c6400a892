"""The tests that train, as on other processors: `python -m tests.portability`, after a session that
noted which tests those are.

A variant is this machine with other instructions (`ATEN_CPU_CAPABILITY`), another number of
threads, or a jitter of one part in a million on every fresh network's weights. A test trains where
it or a fixture of it takes an optimiser step. Results are kept by variant and test under
.cache/portability, in a file named after the sources, so that a run that was cut off goes on. Exit
status 1: a test failed somewhere.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from tests.portability.child.sitecustomize import JITTER
from tests.portability.record import CACHED, read

ROOT = Path(__file__).parents[2]
CACHE = Path(".cache/portability")
SOURCES = ("conftest.py", "pytest.ini", "pytest_overfit", "model", "fixtures", "tests")
CAPABILITIES = ("default", "avx2", "avx512")
LIBRARIES = {
    "default": {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {},
}
"""torch's own kernels are chosen by its capability, those of the libraries that it calls by theirs.
"""


def capabilities() -> tuple[str, ...]:
    """Every capability up to the machine's own."""
    own = torch.backends.cpu.get_cpu_capability().lower()
    return CAPABILITIES[: CAPABILITIES.index(own) + 1] if own in CAPABILITIES else (own,)


def variants() -> dict[str, dict[str, str]]:
    """Name -> variables.

    Every capability with one thread and with two, and three jitters.
    """
    jitters = {f"jitter-{seed}": {JITTER: str(seed), "OMP_NUM_THREADS": "1"} for seed in (1, 2, 3)}
    named = {
        f"{capability}-{threads}": {
            "ATEN_CPU_CAPABILITY": capability,
            **LIBRARIES.get(capability, {}),
            "OMP_NUM_THREADS": str(threads),
        }
        for threads in (1, 2)
        for capability in reversed(capabilities())
    }
    return {**jitters, **named}


def trained_tests() -> list[str]:
    """The ids of the tests that took an optimiser step, or used what a fixture had trained, when
    they ran last.
    """
    listed = ROOT / ".pytest_cache" / "v" / CACHED
    if not listed.exists():
        raise SystemExit(
            f"{listed} is not there: run `make overfit test` first, which notes the tests that train"
        )
    tests = json.loads(listed.read_text(encoding="utf-8"))
    return [
        test for test in tests if (ROOT / file_of(test)).exists() and "/benchmarks/" not in test
    ]


def file_of(test: str) -> str:
    """The file of a test by its id."""
    return test.partition("::")[0]


def drawn(tests: Sequence[str], of: int, key: str) -> list[str]:
    """One test of so many, others for another key."""
    return [
        test
        for test in tests
        if int(hashlib.sha256(f"{key}{test}".encode()).hexdigest(), 16) % of == 0
    ]


def those_that_train(listed: Path, of: int = 1) -> list[str]:
    """Arguments of a session that runs the tests that train and no others of their files; one of so
    many, others for each state of the sources.

    listed: a file for their ids, which are too many for a command line.
    """
    tests = drawn(trained_tests(), of, sources_hash())
    listed.write_text(json.dumps(tests), encoding="utf-8")
    return ["--portability-tests", str(listed), *sorted(set(map(file_of, tests)))]


def sources_hash() -> str:
    files = sorted(
        file
        for source in SOURCES
        for file in [ROOT / source, *(ROOT / source).rglob("*.py")]
        if file.is_file()
    )
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def run(
    name: str, variables: Mapping[str, str], arguments: Sequence[str], results: Path, workers: int
) -> None:
    """Run what the results file does not have of one variant.

    Two threads have both cores: one worker. Which tests train is not noted anew: one that fails may
    not have come to it.
    """
    workers = 0 if variables["OMP_NUM_THREADS"] != "1" else workers
    # Weights that a test sets itself, or loads, are jittered too: what compares them digit by digit
    # would fail by that alone.
    marks = "not benchmark and not exact_weights" if JITTER in variables else "not benchmark"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        str(workers),
        "-m",
        marks,
        "--tb=short",
        "-p",
        "tests.portability.record",
        "-p",
        "no:cacheprovider",
    ]
    command += ["--portability-results", str(results), "--portability-variant", name, *arguments]
    print(
        f"== {name}: {' '.join(f'{key}={value}' for key, value in variables.items())}", flush=True
    )
    subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False)


def told(outcomes: Mapping[tuple[str, str], str], names: Sequence[str]) -> list[str]:
    """One line a variant with its counts, then one a test that fails in some variant."""
    lines = []
    for name in names:
        counts = Counter(outcome for (variant, _), outcome in outcomes.items() if variant == name)
        lines.append(
            f"{name:12} "
            f"{', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items())) or 'nothing ran'}"
        )
    failing = sorted(
        {
            test
            for (variant, test), outcome in outcomes.items()
            if variant in names and outcome == "failed"
        }
    )
    for test in failing:
        failed_in = [name for name in names if outcomes.get((name, test)) == "failed"]
        lines.append(
            f"{'FAILS' if len(failed_in) == len(names) else 'VARIES'} {test}: fails in "
            f"{', '.join(failed_in)}"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.portability", description=__doc__)
    parser.add_argument(
        "--variants",
        default=",".join(variants()),
        help="some of them, by comma (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--of",
        type=int,
        default=1,
        help="run one test of so many, others for each state of the sources (default: all)",
    )
    parser.add_argument("--rungs", help="of the ladder, by comma (default: all that ran)")
    parser.add_argument(
        "--results",
        type=Path,
        default=CACHE / f"{sources_hash()}.jsonl",
        help="default: %(default)s",
    )
    parser.add_argument(
        "files", nargs="*", help="test files, all their tests (default: the tests that train)"
    )
    given = parser.parse_args()
    names = given.variants.split(",")
    if unknown := sorted(set(names) - set(variants())):
        parser.error(
            f"no variant is called {unknown[0]!r}; this machine has {', '.join(variants())}"
        )
    given.results.parent.mkdir(parents=True, exist_ok=True)
    arguments = given.files or those_that_train(given.results.with_suffix(".tests.json"), given.of)
    if given.rungs:
        arguments = ["--overfit-rungs", given.rungs, *arguments]
    for name in names:
        run(name, variants()[name], arguments, given.results, given.workers)
    outcomes = read(given.results)
    print("\n".join(told(outcomes, names)))
    ran = {variant for variant, _ in outcomes}
    return int(
        any(name not in ran for name in names)
        or any(v in names and outcome == "failed" for (v, _), outcome in outcomes.items())
    )


if __name__ == "__main__":
    raise SystemExit(main())
