"""A session with `--overfit-search`: its cases, and what it prints at its end."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_overfit.plugin.options import report_folder, settings, worker_input
from pytest_overfit.search.errors import BadSearch, require_optuna
from pytest_overfit.subject import Subject

if TYPE_CHECKING:
    from pytest_overfit.search.cases import OverfitSearch, SearchCase


class SearchSession:
    """Puts searches in the place of rungs. Raises pytest.UsageError where none can be made."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.asked: str = config.getoption("--overfit-search")
        self.results: dict[str, str] = {}
        try:
            require_optuna()
            from pytest_overfit.search.space import load_grid

            if not self.asked.isdecimal():
                load_grid(self.asked)
            elif not int(self.asked):
                raise BadSearch("a search needs at least 1 trial")
        except BadSearch as error:
            raise pytest.UsageError(f"--overfit-search: {error}") from error

    def cases(self, subjects: Sequence[Subject], rungs: Sequence[int] | None) -> list[SearchCase]:
        """A case for each subject and process of this session: all of a subject share its trials."""
        from pytest_overfit.search.cases import SearchCase

        parts = int(worker_input(self.config).get("workercount", 1))
        asked = tuple(rungs) if rungs else None
        return [
            SearchCase(subject, asked, part + 1, parts)
            for part in range(parts)
            for subject in subjects
        ]

    def search(self, request: pytest.FixtureRequest, store: Path) -> OverfitSearch:
        """What the fixture of a case gives."""
        from pytest_overfit.plugin.store import Store
        from pytest_overfit.search.asking import folder_of
        from pytest_overfit.search.cases import OverfitSearch

        return OverfitSearch(
            case=request.param,
            asked=self.asked,
            storage=self.config.getoption("--overfit-search-storage"),
            folder=folder_of(request.param.subject.name, report_folder(self.config)),
            store=Store(store),
            settings=settings(self.config),
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what a search found on its report, so that it reaches the process that prints it."""
        result = yield
        search = getattr(item, "funcargs", {}).get("overfit_rung")
        if call.when == "call" and search is not None and search.body:
            result.overfit_search = [search.case.subject.name, search.body]  # type: ignore[attr-defined]
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep one result for each subject: its processes found the same."""
        if found := getattr(report, "overfit_search", None):
            self.results[found[0]] = found[1]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the results."""
        if self.results:
            terminalreporter.section("overfit search")
        for text in self.results.values():
            for line in text.splitlines():
                terminalreporter.write_line(line)
