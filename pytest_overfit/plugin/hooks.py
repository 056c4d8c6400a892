"""The pytest plugin: options, markers, the fixture `overfit_rung`, report sections, the summary and
its files.

Nothing here imports torch before a test asks for a rung: a project that merely has the plugin
installed does not pay for it.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_overfit.plugin.options import (
    DEFAULTS,
    add_options,
    is_worker,
    options_given,
    report_folder,
    run_joined,
    settings,
    subjects,
    worker_input,
)
from pytest_overfit.plugin.session import SessionSummary

if TYPE_CHECKING:
    from pytest_overfit.climb.ladder import Outcome
    from pytest_overfit.health.cases import HealthSession
    from pytest_overfit.plugin.cases import Case, OverfitRung
    from pytest_overfit.plugin.examinations import OverfitContracts, OverfitDiagnosis
    from pytest_overfit.search.cases import OverfitSearch, SearchCase
    from pytest_overfit.search.session import SearchSession
    from pytest_overfit.subject import Subject

STORE = pytest.StashKey[Path]()
REFUSED = pytest.StashKey[str]()
OWN_MODULE, HEALTH, SUMMARY = "overfit", "overfit-health", "overfit-summary"
SEARCH = "overfit-search"
OF_A_SUBJECT = {
    "overfit_contracts": (pytest.mark.overfit, pytest.mark.contracts),
    "overfit_diagnosis": (pytest.mark.diagnose,),
}
"""Fixtures with one case a subject, and the marks of their cases."""


class Hooks:
    """What a conftest.py may define."""

    @pytest.hookspec
    def pytest_overfit_subjects(self, config: pytest.Config) -> Iterable[Subject]:  # type: ignore[empty-body]
        """The subjects of this project."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Ahead of pytest's own wrappers, so that nothing is captured yet."""
    run_joined(early_config)
    yield


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "overfit: a rung of the overfit ladder: a fresh network must memorise a few samples",
        (
            "diagnose: probes and diagnoses of a subject that need not be broken, where they must "
            "be silent"
        ),
        "health: a rule that judges the log of a training run, which --overfit-run names",
        "contracts: what must hold of a subject before any training",
        "overfit_ladder(subjects, rungs): the subjects and rungs of one test",
        "gpu: needs a CUDA device; skipped with its reason where there is none",
    ):
        config.addinivalue_line("markers", line)
    if config.getoption("--overfit-run"):
        from pytest_overfit.health.cases import HealthSession

        config.pluginmanager.register(HealthSession(config), HEALTH)
    if config.getoption("--overfit-search"):
        from pytest_overfit.search.session import SearchSession

        config.pluginmanager.register(SearchSession(config), SEARCH)
    if not is_worker(config):
        config.stash[STORE] = Path(tempfile.mkdtemp(prefix="pytest-overfit-"))
        config.pluginmanager.register(SessionSummary(config, config.stash[STORE]), SUMMARY)
        report_folder(config)
        given = [name for name, default in DEFAULTS.items() if config.getoption(name) != default]
        if set(given) - {"--overfit-seed", "--overfit-size"}:
            settings(config)
        if {"--overfit-against", "--overfit-tolerance", "--overfit-pairs"} & set(given):
            from pytest_overfit.plugin.against import check

            check(config)


def pytest_cmdline_main(config: pytest.Config) -> pytest.ExitCode | None:
    """Explain a finding in the place of a session, where that is asked for."""
    name = config.getoption("--overfit-explain")
    if name is None:
        return None
    from pytest_overfit.findings.book import entries, explained, not_found

    if name not in (known := entries()):
        raise pytest.UsageError(not_found(name))
    sys.stdout.write(f"{explained(known[name])}\n")
    return pytest.ExitCode.OK


def pytest_unconfigure(config: pytest.Config) -> None:
    if STORE in config.stash and not is_worker(config):
        shutil.rmtree(config.stash[STORE], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Under xdist: tell a worker where the session's outcomes are."""
    node.workerinput["overfit_store"] = str(node.config.stash[STORE])


def store_folder(config: pytest.Config) -> Path:
    """Where the processes of this session share what they know."""
    return Path(worker_input(config)["overfit_store"]) if is_worker(config) else config.stash[STORE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    whole = next((name for name in OF_A_SUBJECT if name in metafunc.fixturenames), None)
    if whole is None and "overfit_rung" not in metafunc.fixturenames:
        return
    from pytest_overfit.climb.ladder import RUNGS
    from pytest_overfit.plugin.cases import Case

    marker = metafunc.definition.get_closest_marker("overfit_ladder")
    try:
        own_subjects, own_rungs = (
            (marker.args[0], marker.kwargs.get("rungs"))
            if marker
            else (subjects(metafunc.config), None)
        )
    except pytest.UsageError as error:
        raise pytest.Collector.CollectError(str(error)) from error
    twice = [
        name
        for name, count in Counter(subject.name for subject in own_subjects).items()
        if count > 1
    ]
    if twice:
        raise pytest.Collector.CollectError(
            f"two subjects are called {twice[0]!r}: their verdicts could not be told apart"
        )
    if whole == "overfit_diagnosis":
        own_subjects = [one for one in own_subjects if one.loop is None or not one.loop.outside]
    if whole is not None:
        params = [
            pytest.param(subject, id=subject.name, marks=OF_A_SUBJECT[whole])
            for subject in own_subjects
        ]
        metafunc.parametrize(whole, params, indirect=True)
        return
    asked, search = settings(metafunc.config).rungs or own_rungs, search_session(metafunc.config)
    rungs = asked or RUNGS
    cases: list[Case] | list[SearchCase] = [
        Case(subject, samples) for subject in own_subjects for samples in rungs
    ]
    if search:
        cases = search.cases(own_subjects, asked)
    metafunc.parametrize(
        "overfit_rung",
        [pytest.param(case, id=str(case), marks=pytest.mark.overfit) for case in cases],
        indirect=True,
    )


def search_session(config: pytest.Config) -> SearchSession | None:
    """What searches recipes in the place of rungs, where that is asked for."""
    found: SearchSession | None = config.pluginmanager.get_plugin(SEARCH)
    return found


def case_of(item: pytest.Item) -> Case | None:
    """The rung that a test climbs; None where it climbs none."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or search_session(item.config):
        return None
    case: Case | None = callspec.params.get("overfit_rung")
    return case


def subject_of(item: pytest.Item) -> Subject | None:
    """The subject that an item is about, if it is one of ours."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return None
    case: Case | None = callspec.params.get("overfit_rung")
    whole: Subject | None = next(
        (callspec.params[name] for name in OF_A_SUBJECT if name in callspec.params), None
    )
    return case.subject if case else whole


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    try:
        health: HealthSession | None = config.pluginmanager.get_plugin(HEALTH)
        if health is None:
            refuse_health_without_a_run(config, items)
        else:
            health.add_cases(session, items)
        if health is None or not health.alone:
            select_subject(session, config, items)
    except pytest.UsageError as error:
        if not is_worker(config):
            raise
        # A worker that raises is an internal error to xdist: it hands the words over and has no
        # tests.
        config.workeroutput["overfit_usage_error"] = str(error)  # type: ignore[attr-defined]
        items.clear()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Under xdist: what a worker could not do, its controller says."""
    if message := getattr(node, "workeroutput", {}).get("overfit_usage_error"):
        node.config.stash[REFUSED] = message


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    summary: SessionSummary | None = session.config.pluginmanager.get_plugin(SUMMARY)
    nothing = (
        summary.nothing_climbed() if summary and session.exitstatus == pytest.ExitCode.OK else None
    )
    if message := session.config.stash.get(REFUSED, nothing):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
        sys.stderr.write(f"ERROR: {message}\n")


def select_subject(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave the subject that --overfit-subject names or --overfit-script makes; add its own tests
    where no test file asks for it.
    """
    asked, script = config.getoption("--overfit-subject"), config.getoption("--overfit-script")
    if asked and script:
        raise pytest.UsageError("--overfit-subject and --overfit-script: give one of them")
    if not asked and not script:
        return
    made = script or ":" in asked
    name = subjects(config)[-1].name if made else asked
    about = {item: subject for item in items if (subject := subject_of(item))}
    if made and not any(subject.name == name for subject in about.values()):
        own = "script_test.py" if script else "ladder_test.py"
        module = pytest.Module.from_parent(
            session, path=Path(__file__).with_name(own), nodeid=OWN_MODULE
        )
        added = list(session.genitems(module))
        items.extend(added)
        about |= {item: subject for item in added if (subject := subject_of(item))}
    if not any(subject.name == name for subject in about.values()):
        known = sorted({subject.name for subject in about.values()})
        raise pytest.UsageError(
            f"--overfit-subject: no subject is called {name!r}; there are "
            f"{', '.join(known) or 'none'}"
        )
    dropped = [item for item, subject in about.items() if subject.name != name]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def refuse_health_without_a_run(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Raises pytest.UsageError where health alone is asked for and there is nothing to judge, this
    project's own tests of that mark included.
    """
    if config.option.markexpr.strip() == "health" and not any(
        item.get_closest_marker("health") for item in items
    ):
        raise pytest.UsageError(
            "-m health needs --overfit-run DIR_OR_FILE: the log of the training run to judge, "
            "or its folder"
        )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip(f"needs a CUDA device; torch {torch.__version__} sees none")


@pytest.fixture(scope="session")
def overfit_device(request: pytest.FixtureRequest) -> str:
    """The torch device of this process, as --overfit-device chose it."""
    return settings(request.config).device


@pytest.fixture
def overfit_contracts(request: pytest.FixtureRequest) -> OverfitContracts:
    """The subject whose contracts this case examines."""
    from pytest_overfit.plugin.examinations import OverfitContracts

    return OverfitContracts(subject=request.param, settings=settings(request.config))


@pytest.fixture
def overfit_diagnosis(request: pytest.FixtureRequest) -> OverfitDiagnosis:
    """The subject that this case lets every diagnosis look at."""
    from pytest_overfit.plugin.examinations import OverfitDiagnosis

    return OverfitDiagnosis(subject=request.param, settings=settings(request.config))


@pytest.fixture
def overfit_rung(request: pytest.FixtureRequest) -> OverfitRung | OverfitSearch:
    """The rung that this case climbs, or the search in its place."""
    if search := search_session(request.config):
        return search.search(request, store_folder(request.config))
    from pytest_overfit.plugin.against import versus
    from pytest_overfit.plugin.cases import OverfitRung
    from pytest_overfit.plugin.store import Store

    case: Case = request.param
    function = request.node.nodeid.split("[")[0]
    selected = [
        other.samples
        for item in request.session.items
        if (other := case_of(item))
        and item.nodeid.split("[")[0] == function
        and other.subject is case.subject
    ]
    return OverfitRung(
        case=case,
        selected=tuple(sorted(set(selected))),
        key=f"{function}-{case.subject.name}",
        store=Store(store_folder(request.config)),
        settings=settings(request.config),
        rerun=rerun_line(request),
        versus=versus(request),
    )


def rerun_line(request: pytest.FixtureRequest) -> str:
    """The command that tries this case again, with the options that this session was given."""
    case: Case = request.param
    given = options_given(request.config)
    given.setdefault("--overfit-seed", 0)
    command = f'pytest "{request.node.nodeid}"'
    if request.node.nodeid.startswith(OWN_MODULE):
        command = "pytest -m overfit"
        given["--overfit-rungs"] = case.samples
    words = [
        name if value is True else f"{name}={value}"
        for name, values in given.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    return " ".join([command, *map(shlex.quote, words)])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    result = yield
    if call.when == "call":
        given = getattr(item, "funcargs", {})
        whole = [given[name] for name in OF_A_SUBJECT if name in given]
        notes = [[one.subject.name, note.to_json()] for one in whole for note in one.notes]
        result.overfit_notes = notes  # type: ignore[attr-defined]
        contracts = given.get("overfit_contracts")
        result.overfit_contracts = [contracts.line] if contracts and contracts.line else []  # type: ignore[attr-defined]
        if result.failed:
            subject = subject_of(item)
            if subject is not None and subject.loop is not None:
                from pytest_overfit.plugin.printed import keep_the_end

                keep_the_end(result, report_folder(item.config))
            result.sections += [("overfit", one.body) for one in whole]
    if call.when == "call" and case_of(item):
        rung: OverfitRung = item.funcargs["overfit_rung"]  # type: ignore[attr-defined]
        if known := rung.known():
            attach(result, rung, known)
            attach_comparison(result, rung)
    return result


def attach(result: pytest.TestReport, rung: OverfitRung, known: list[Outcome]) -> None:
    """Put this case's outcome on its report, so that it reaches the process that writes the
    summary, and the body of a failure below it.
    """
    from pytest_overfit.plugin.failure import body
    from pytest_overfit.plugin.store import climbed_to_json

    outcome = next((o for o in known if o.samples == rung.case.samples), None)
    if outcome is None:
        return
    diagnosis = rung.diagnosis() if outcome.status == "broken" else None
    result.overfit = {**climbed_to_json(outcome, diagnosis), "rerun": rung.rerun}  # type: ignore[attr-defined]
    if result.failed and outcome.status == "broken":
        result.sections.append(
            ("overfit", body(outcome, known, rung.selected, rung.rerun, diagnosis))
        )


def attach_comparison(result: pytest.TestReport, rung: OverfitRung) -> None:
    """Put what this case's rung came to against the other side on its report."""
    comparison = rung.versus.known(rung.key, rung.case.samples) if rung.versus else None
    if comparison is None:
        return
    from pytest_overfit.plugin import against_report

    result.overfit_against = comparison.to_json()  # type: ignore[attr-defined]
    if result.failed:
        result.sections.append(("overfit against", against_report.body(comparison)))
