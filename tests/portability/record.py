"""A pytest plugin of one variant's run: it leaves out what the results file has, and appends to it
how each test ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Recorder(*_given(config)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    results, variant = _given(config)
    done = read(results)
    items[:] = [item for item in items if (variant, item.nodeid) not in done]


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
