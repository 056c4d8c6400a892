"""One test case a rule and run: the runs that --overfit-run names, read and judged once a process,
and what a session says of them at its end.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_overfit.atomic_files import write_whole
from pytest_overfit.health import comparison, page, report
from pytest_overfit.health.checkpoint import CheckpointReading, examine_checkpoint
from pytest_overfit.health.checkup import Checkup, check_up
from pytest_overfit.health.curves.metric import MEASURED, WITHOUT_SPLIT, metric
from pytest_overfit.health.readers import read_runs
from pytest_overfit.health.run import BadRun
from pytest_overfit.plugin.live import CLEAR
from pytest_overfit.plugin.options import is_worker, report_folder, settings, subjects, worker_input
from pytest_overfit.plugin.session import watched
from pytest_overfit.subject import BadSample, BadSubject, Subject

REPORT = "overfitting_health_report"
NAMED = "overfit_named"
TERMINAL = Path("/dev/tty")
MODULE = "health"
"""What the ids of these cases begin with."""


class RunSick(AssertionError):
    """A training run in which a rule found what it looks for."""


RunSick.__module__ = "builtins"


@dataclass(kw_only=True, repr=False)
class OverfitHealth:
    """What the fixture `overfit_health` gives: the run, judged. subject: the network that a
    checkpoint is loaded into.

    body: what stands below the headline of this case, should it fail. measured: what the
    checkpoint's network does, in words.
    """

    checkup: Checkup
    subject: Callable[[], Subject | None] = field(default=lambda: None)
    device: str = "cpu"
    body: str = ""
    measured: str = ""

    def __repr__(self) -> str:
        return f"<health of {self.checkup.run.name}>"

    def check(self, rule: str) -> None:
        """Raises RunSick where the rule found something; skips, with the reason, where the log
        lacks what it judges by.
        """
        __tracebackhide__ = True
        if reason := dict(self.checkup.not_judged).get(rule):
            pytest.skip(f"not judged: {reason}")
        if finding := self.checkup.finding(rule):
            self.body = report.finding_body(self.checkup.run, finding)
            raise RunSick(report.headline(self.checkup.run, finding))

    def check_checkpoint(self) -> CheckpointReading:
        """Load the newest checkpoint and measure it.

        Raises RunSick where probes find something; skips where there is nothing to load or into.
        """
        __tracebackhide__ = True
        run = self.checkup.run
        if run.checkpoint is None:
            pytest.skip("not judged: needs a checkpoint beside the log")
        subject = self.subject()
        if subject is None:
            pytest.skip(
                "not judged: needs --overfit-subject, the network to load "
                f"{run.checkpoint.name} into"
            )
        try:
            reading = examine_checkpoint(run, subject, device=self.device)
        except (BadRun, BadSample, BadSubject) as error:
            pytest.fail(str(error), pytrace=False)
        self.measured = self.body = report.checkpoint_text(reading)
        if reading.findings:
            raise RunSick(f"{run.name}: {reading.checkpoint.name}: {reading.findings[0].headline}")
        return reading


class HealthSession:
    """The part of the plugin that is there where --overfit-run is given."""

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.paths = config, tuple(map(Path, config.getoption("--overfit-run")))
        self.meanings = read_meanings(config.getoption("--overfit-metric"))
        self.judged: tuple[Checkup, ...] = ()
        self.reports: dict[int, dict[str, str]] = {}
        for path in self.paths:
            if not path.exists():
                raise pytest.UsageError(
                    f"--overfit-run: {path} does not exist; give the log of a training run or "
                    "its folder"
                )

    def checkups(self) -> tuple[Checkup, ...]:
        """The runs, judged. Raises pytest.UsageError where one cannot be read."""
        if not self.judged:
            try:
                with progress_line(self.config, self.paths[0]) as progress:
                    self.judged = tuple(
                        map(
                            check_up,
                            read_runs(self.paths, progress=progress, meanings=self.meanings),
                        )
                    )
            except BadRun as error:
                raise pytest.UsageError(f"--overfit-run: {error}") from error
        return self.judged

    def subject(self) -> Subject | None:
        """The subject that --overfit-subject names or imports."""
        asked = self.config.getoption("--overfit-subject")
        if not asked:
            return None
        known = subjects(self.config)
        return (
            known[-1]
            if ":" in asked
            else next((subject for subject in known if subject.name == asked), None)
        )

    @property
    def alone(self) -> bool:
        """Whether nothing but the health of a run is asked for: no test file need be collected."""
        named = self.config.args_source is pytest.Config.ArgsSource.ARGS
        # A worker is given by name whatever its controller was to collect.
        named = worker_input(self.config).get(NAMED, named)
        return self.config.option.markexpr.strip() == "health" and not named

    def add_cases(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add a case a rule. Raises pytest.UsageError where the run cannot be read."""
        self.checkups()
        items.extend(
            session.genitems(
                pytest.Module.from_parent(
                    session, path=Path(__file__).with_name("health_test.py"), nodeid=MODULE
                )
            )
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Under xdist: tell a worker whether test files were named."""
        node.workerinput[NAMED] = self.config.args_source is pytest.Config.ArgsSource.ARGS

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Of several runs each has its own cases."""
        if "overfit_health" in metafunc.fixturenames and len(self.checkups()) > 1:
            names = [checkup.run.name for checkup in self.checkups()]
            metafunc.parametrize("overfit_health", range(len(names)), ids=names, indirect=True)

    def pytest_report_header(self) -> str:
        return f"overfit run: {', '.join(map(str, self.paths))}" + (
            "; test files are left out, name them to run them too" if self.alone else ""
        )

    def pytest_ignore_collect(self) -> bool | None:
        return True if self.alone else None

    @pytest.fixture
    def overfit_health(self, request: pytest.FixtureRequest) -> OverfitHealth:
        """A run that --overfit-run names, judged."""
        return OverfitHealth(
            checkup=self.checkups()[getattr(request, "param", 0)],
            subject=self.subject,
            device=settings(request.config).device,
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the whole report, and what a checkpoint showed, on a case's report, so that they
        reach the process that prints them.
        """
        result = yield
        health: OverfitHealth | None = getattr(item, "funcargs", {}).get("overfit_health")
        if call.when == "call" and health is not None:
            if result.failed and health.body:
                result.sections.append(("overfit health", health.body))
            reports = {"text": report.text(health.checkup), "json": report.to_json(health.checkup)}
            reports |= {"checkpoint": health.measured} if health.measured else {}
            result.overfit_health = (self.checkups().index(health.checkup), reports)  # type: ignore[attr-defined]
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        number, reports = getattr(report, "overfit_health", (0, {}))
        self.reports[number] = self.reports.get(number, {}) | reports

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        reports = [self.reports[number] for number in sorted(self.reports) if self.reports[number]]
        if not reports or is_worker(self.config):
            return
        folder = report_folder(self.config)
        folder.mkdir(parents=True, exist_ok=True)
        each = [
            "\n\n".join(part for part in (one["text"], one.get("checkpoint")) if part)
            for one in reports
        ]
        several = len(self.checkups()) > 1
        shown = comparison.text(self.checkups()) if several else each[0]
        write_whole(
            folder / f"{REPORT}.txt", "\n\n\n".join([shown, *each] if several else each) + "\n"
        )
        write_whole(
            folder / f"{REPORT}.json",
            comparison.to_json(self.checkups()) if several else reports[0]["json"],
        )
        write_whole(
            folder / f"{REPORT}.html",
            page.page(self.checkups(), compared=shown if several else None),
        )
        terminalreporter.section("overfit health")
        terminalreporter.write_line(shown)
        terminalreporter.write_line(
            f"\nreport: {folder / REPORT}.txt, .json, .html{self._pictures(folder)}"
        )

    def _pictures(self, folder: Path) -> str:
        """Draw the runs beside their report.

        Returns the endings to tell of, or how to get pictures.
        """
        if importlib.util.find_spec("matplotlib") is None:
            return "; for pictures: pip install pytest-overfit[pictures]"
        from pytest_overfit.health.comparison_picture import save_comparison
        from pytest_overfit.health.pictures import save_pictures

        first, *others = self.checkups()
        saved = (
            save_comparison(self.checkups(), folder, name=REPORT)
            if others
            else save_pictures(first.run, first, folder, name=REPORT)
        )
        return "".join(f", {path.suffix}" for path in saved)


def read_meanings(given: Sequence[str]) -> dict[str, str]:
    """The names of --overfit-metric METRIC=NAME -> the metrics that they stand for.

    Raises pytest.UsageError where one is none.
    """
    meanings = {}
    for one in given:
        canonical_name, equals, name = one.partition("=")
        if not equals or not name.strip() or metric(canonical_name.strip()) is None:
            known = ", ".join(f"val_{known}" for known in MEASURED if known not in WITHOUT_SPLIT)
            raise pytest.UsageError(
                f"--overfit-metric: {one!r} is not METRIC=NAME, such as val_loss=my_column; "
                f"metrics are {known}, train_..., lr, grad_norm"
            )
        meanings[name.strip()] = canonical_name.strip()
    return meanings


@contextmanager
def progress_line(config: pytest.Config, path: Path) -> Iterator[Callable[[float], None] | None]:
    """Shows on the terminal how much of a long log is read, where somebody watches."""
    if not watched(config):
        yield None
        return
    shown: list[Any] = [None]
    with open(TERMINAL, "w", encoding="utf-8") as terminal:

        def show(share: float) -> None:
            if (percent := int(100 * share)) != shown[0]:
                shown[0] = percent
                terminal.write(f"{CLEAR}reading {path.name}: {percent} %")
                terminal.flush()

        yield show
        terminal.write(CLEAR)
