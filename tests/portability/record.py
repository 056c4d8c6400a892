"""How the tests that train are noted; and a pytest plugin of one variant's run, which leaves out what
the results file has and what is not asked for, and appends to that file how each test ended.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

CACHED = "overfit/trained"
"""Where pytest's cache keeps the ids of the tests that took an optimiser step."""
TRAINED = ("trained", "yes")
"""A property of such a test's report."""


def read(results: Path) -> dict[tuple[str, str], str]:
    """(variant, test) -> how it ended last. A last line that was cut off is left out."""
    return {(row["variant"], row["test"]): row["outcome"] for row in _rows(results)}


def _rows(results: Path) -> Iterator[dict[str, str]]:
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--portability-results", type=Path)
    parser.addoption("--portability-variant")
    parser.addoption("--portability-tests", type=Path, help="a JSON list of ids; all without it")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(*_given(config)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    results, variant = _given(config)
    listed = config.getoption("--portability-tests")
    asked = json.loads(listed.read_text(encoding="utf-8")) if listed else None
    items[:] = left(items, variant, read(results), asked)


def left(
    items: Sequence[pytest.Item],
    variant: str,
    done: Container[tuple[str, str]],
    asked: Collection[str] | None,
) -> list[pytest.Item]:
    """The tests still to run of one variant. asked: their ids; None for every test."""
    asked = None if asked is None else set(asked)
    return [
        item
        for item in items
        if (variant, item.nodeid) not in done and (asked is None or item.nodeid in asked)
    ]


def _given(config: pytest.Config) -> tuple[Path, str]:
    return config.getoption("--portability-results"), config.getoption("--portability-variant")


class _Recorder:
    def __init__(self, results: Path, variant: str) -> None:
        self.results, self.variant = results, variant
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test is `failed` where any of its phases fails, `skipped` where one is skipped."""
        if self.outcomes.get(report.nodeid) != "failed" and (
            report.outcome != "passed" or report.nodeid not in self.outcomes
        ):
            self.outcomes[report.nodeid] = report.outcome
        if report.when == "teardown" or report.failed:
            row = {
                "variant": self.variant,
                "test": report.nodeid,
                "outcome": self.outcomes[report.nodeid],
            }
            with self.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


class WatchedSteps:
    """A plugin of every process: tells which tests took an optimiser step, themselves or by a
    fixture, from a file that gets a byte for each.

    A conftest's own hooks would not be called for fixtures of a whole session.
    """

    def __init__(self, steps: Path) -> None:
        self.steps = steps
        self.fixtures: set[tuple[str, str]] = set()
        """Where each fixture that took a step is defined, and its name."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        """Note that a fixture took a step: only the first of the tests that share it is there."""
        before = self.steps.stat().st_size
        try:
            return (yield)
        finally:
            if self.steps.stat().st_size > before:
                self.fixtures.add((fixturedef.baseid, fixturedef.argname))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Note on the report, which travels from xdist's workers to their controller, that the test
        or a fixture of it took a step.
        """
        took = self.steps.stat().st_size > 0
        self.steps.write_bytes(b"")
        if (took or self._shares(item)) and TRAINED not in item.user_properties:
            item.user_properties.append(TRAINED)
        return (yield)

    def _shares(self, item: pytest.Item) -> bool:
        return any(
            name in getattr(item, "fixturenames", ()) and item.nodeid.startswith(defined)
            for defined, name in self.fixtures
        )
