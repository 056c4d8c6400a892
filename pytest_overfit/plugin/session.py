"""What a session says and writes at its end, in the one process that sees every report."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_overfit.against.comparison import Comparison
    from pytest_overfit.plugin.live import LiveLine
    from pytest_overfit.plugin.page import Notes
    from pytest_overfit.plugin.store import Climbed

REPORT = "overfitting_test_report"
CURVES = Path("logs", "overfitting_tests")


class SessionSummary:
    """Gathers the outcomes that reports carry; shows the live line; at the end prints the summary
    and writes its files.
    """

    def __init__(self, config: pytest.Config, store: Path) -> None:
        self.config, self.store = config, store
        self.rows: list[dict[str, Any]] = []
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.contracts: list[str] = []
        self.comparisons: list[dict[str, Any]] = []
        self.live: LiveLine | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Starts the live line.

        Under xdist only the workers collect, so that there may be rungs is all that is known here.
        """
        distributed = bool(session.config.getoption("numprocesses", None))
        climbs = distributed or any(item.get_closest_marker("overfit") for item in session.items)
        config = session.config
        if config.getoption("--collect-only") or not climbs or config.get_verbosity() < 0:
            return
        from pytest_overfit.plugin.live import LiveLine

        # Tests run with their output captured: a copy of ours is not.
        log = not watched(config)
        self.live = LiveLine(
            self.store,
            open(os.dup(1) if log else "/dev/tty", "w", encoding="utf-8"),  # noqa: SIM115  (closed by stop)
            log=log,
        )
        self.live.start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if row := getattr(report, "overfit", None):
            self.rows.append(row)
        self.notes += getattr(report, "overfit_notes", [])
        self.contracts += getattr(report, "overfit_contracts", [])
        if row := getattr(report, "overfit_against", None):
            self.comparisons.append(row)

    def pytest_sessionfinish(self) -> None:
        if self.live:
            self.live.stop()

    def nothing_climbed(self) -> str | None:
        """A sentence on the first subject that has too few samples for all of its rungs: nothing
        was shown of it, which is no pass.
        """
        if not self.rows:
            return None
        from pytest_overfit.finding import counted

        outcomes = [row["outcome"] for row in self.rows]
        for subject in dict.fromkeys(outcome["subject"] for outcome in outcomes):
            own = [outcome for outcome in outcomes if outcome["subject"] == subject]
            if all(outcome["available"] is not None for outcome in own):
                lowest = min(own, key=lambda outcome: outcome["samples"])
                held = counted(lowest["available"], "clip")
                return (
                    f"{subject}: nothing was climbed: the lowest rung is {lowest['samples']}, and "
                    f"the corpus has {held}"
                )
        return None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.rows and not self.notes and not self.contracts:
            return
        from pytest_overfit.against.comparison import comparison_from_json
        from pytest_overfit.plugin import against_report, github
        from pytest_overfit.plugin.findings_text import note_line
        from pytest_overfit.plugin.store import climbed_from_json, finding_from_json

        climbed = [climbed_from_json(row) for row in self.rows]
        notes = [(subject, finding_from_json(finding)) for subject, finding in self.notes]
        notes += [
            (o.subject, finding)
            for o, _ in climbed
            if o.status == "ok"
            for one in o.deciding
            for finding in one.findings
        ]
        annotations = [
            github.annotation(outcome, diagnosis)
            for outcome, diagnosis in climbed
            if outcome.status == "broken"
        ]
        annotations += [
            github.note_annotation(subject, finding)
            for subject, finding in notes
            if not finding.accepted
        ]
        comparisons = [comparison_from_json(row) for row in self.comparisons]
        annotations += [
            against_report.annotation(one) for one in comparisons if one.fails or not one.verdict
        ]
        noted = [*self.contracts, *(note_line(subject, finding) for subject, finding in notes)]
        if comparisons:
            noted.append(against_report.summary(comparisons))
        terminalreporter.ensure_newline()
        terminalreporter.section("overfit")
        for line in self._write_files(climbed, noted, notes, comparisons) if climbed else noted:
            terminalreporter.write_line(line)
        for line in annotations if os.environ.get("GITHUB_ACTIONS") == "true" else ():
            terminalreporter.write_line(line)

    def _write_files(
        self, climbed: list[Climbed], noted: list[str], notes: Notes, comparisons: list[Comparison]
    ) -> list[str]:
        """Write the report and the curves; returns what is to be printed: the summary, the notes, a
        line on each file.
        """
        from pytest_overfit.atomic_files import write_whole
        from pytest_overfit.plugin import against_report, curves, github, page, report_json
        from pytest_overfit.plugin.failure import headline
        from pytest_overfit.plugin.summary import summary

        folder = Path(self.config.getoption("--overfit-report") or self.config.rootpath)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = [outcome for outcome, _ in climbed]
        headlines = [
            headline(outcome, diagnosis)
            for outcome, diagnosis in climbed
            if outcome.status == "broken"
        ]
        headlines += against_report.since(comparisons)
        summed = [summary(outcomes), *noted]
        write_whole(folder / f"{REPORT}.txt", "\n".join([*summed, *headlines]) + "\n")
        write_whole(folder / f"{REPORT}.json", report_json.to_json(climbed, comparisons))
        reruns = {
            (row["outcome"]["subject"], row["outcome"]["samples"]): row["rerun"]
            for row in self.rows
            if "rerun" in row
        }
        whole = page.page(climbed, notes=notes, reruns=reruns, comparisons=comparisons)
        write_whole(folder / f"{REPORT}.html", whole)
        lines = [*summed, f"report: {folder / REPORT}.txt, .json, .html"]
        if curves.available():
            lines.append(
                f"curves: {curves.write_curves(outcomes, folder / CURVES)} in "
                f"{folder / CURVES} (tensorboard --logdir)"
            )
        else:
            lines.append(
                "curves: none, tensorboard is not installed (pip install pytest-overfit[curves])"
            )
        if step_summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(step_summary, "a", encoding="utf-8") as file:
                file.write(github.markdown(climbed))
                file.write(against_report.markdown(comparisons) if comparisons else "")
        return lines


def watched(config: pytest.Config) -> bool:
    """Whether somebody watches: a terminal, no -q, no CI."""
    return (
        sys.stdout.isatty()
        and config.get_verbosity() >= 0
        and not os.environ.get("CI")
        and Path("/dev/tty").exists()
    )
