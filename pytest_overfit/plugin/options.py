"""The command line's wishes: the options, and what they come to: settings, subjects, the folder of
the reports.

Nothing here imports torch before a wish is asked for.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Container, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_overfit.against import MOST_PAIRS, TOLERANCE
from pytest_overfit.climb.seeds import ALPHA, BETA, MOST
from pytest_overfit.host import cores, own_randomness

if TYPE_CHECKING:
    from pytest_overfit.plugin.settings import Settings
    from pytest_overfit.subject import Subject

SETTINGS = pytest.StashKey["Settings"]()
SUBJECTS = pytest.StashKey["list[Subject]"]()
DEFAULTS: dict[str, Any] = {
    "--overfit-subject": None,
    "--overfit-script": None,
    "--overfit-rungs": None,
    "--overfit-recipe": "default",
    "--overfit-set": [],
    "--overfit-bound": [],
    "--overfit-seed": 0,
    "--overfit-seeds": MOST,
    "--overfit-alpha": ALPHA,
    "--overfit-beta": BETA,
    "--overfit-device": "auto",
    "--overfit-size": None,
    "--overfit-trials": "auto",
    "--overfit-strict": False,
    "--overfit-search": None,
    "--overfit-search-storage": None,
    "--overfit-against": None,
    "--overfit-tolerance": TOLERANCE,
    "--overfit-pairs": MOST_PAIRS,
}
"""The options that change a verdict: a rerun needs them."""
OF_A_SESSION = ("--overfit-run", "--overfit-report", "--overfit-explain")


def add_options(parser: pytest.Parser) -> None:
    """Declare every option of the plugin."""
    group = parser.getgroup("overfit", "overfit ladder")

    def add(name: str, metavar: str, text: str, **keywords: Any) -> None:
        group.addoption(name, metavar=metavar, default=DEFAULTS[name], help=text, **keywords)

    add(
        "--overfit-subject",
        "NAME",
        "climb only this subject: its name, or package.module:attribute to import it",
    )
    add(
        "--overfit-script",
        "COMMAND",
        "climb by a training script as it is: 'train.py --epochs 3', or train.py -- --epochs 3",
    )
    add("--overfit-rungs", "N,N", "the rungs to climb, ascending (default 1,2,5,10,20,50)")
    add("--overfit-recipe", "NAME|FILE", "default, notes, or a TOML file of recipe fields")
    add(
        "--overfit-set",
        "FIELD=VALUE",
        "set one recipe field, e.g. lr=0.01; repeatable",
        action="append",
    )
    add(
        "--overfit-bound",
        "NAME=BOUND",
        "tighten a criterion, e.g. wer=0.1; repeatable",
        action="append",
    )
    add("--overfit-seed", "S", "seed of network, order and dropout (default 0)", type=int)
    add(
        "--overfit-seeds",
        "N",
        (
            f"try at most N seeds for a verdict (default {MOST}); one that holds, or two that "
            "fail, decide"
        ),
        type=int,
    )
    add(
        "--overfit-alpha",
        "P",
        (
            "largest chance of calling a network broken that climbs with 19 of 20 seeds (default "
            f"{ALPHA})"
        ),
        type=float,
    )
    add(
        "--overfit-beta",
        "P",
        f"largest chance of calling a network ok that climbs with 1 of 20 seeds (default {BETA})",
        type=float,
    )
    add("--overfit-device", "DEVICE", "auto, cpu or cuda:N (default auto)")
    add("--overfit-size", "SIZE", "size of the subjects' networks, e.g. full")
    add(
        "--overfit-trials",
        "WHICH",
        "remedies to try on a broken rung: off, auto (until one holds) or all",
        choices=("off", "auto", "all"),
    )
    add(
        "--overfit-search",
        "N|GRID",
        "search recipes instead: N of them, or every one of a grid: notes, or a TOML file of lists",
    )
    add(
        "--overfit-search-storage",
        "FILE|URL",
        "journal or database that several processes and machines search with",
    )
    group.addoption(
        "--overfit-strict",
        action="store_true",
        help="let warnings fail too: what is told and usually fails nothing",
    )
    add(
        "--overfit-against",
        "COMMIT|DIR",
        "climb in turn with another side, and fail where this one learns worse: a commit, tag or "
        "branch (from where this one departs), another checkout, a folder of installed packages",
    )
    add(
        "--overfit-tolerance",
        "RATIO",
        f"steps, or time of a step, over the other side's that are not worse (default {TOLERANCE})",
        type=float,
    )
    add(
        "--overfit-pairs",
        "N",
        "climb at most N pairs with the other side on a rung, while nothing is decided (default "
        f"{MOST_PAIRS})",
        type=int,
    )
    group.addoption(
        "--overfit-run",
        metavar="DIR|FILE",
        action="append",
        help="the log of a training run, or its folder, for -m health; several are compared",
    )
    group.addoption(
        "--overfit-metric",
        metavar="METRIC=NAME",
        action="append",
        default=[],
        help="what a log calls a metric, e.g. val_loss=my_column; repeatable",
    )
    group.addoption(
        "--overfit-explain",
        metavar="NAME",
        help="explain a finding and run nothing: what it means, how to mend or accept it",
    )
    group.addoption(
        "--overfit-report",
        metavar="DIR",
        help="where the report files and logs/ go (default: the rootdir)",
    )


def options_given(config: pytest.Config) -> dict[str, Any]:
    """The options that a rerun needs: those that change a verdict, those of the project's own
    conftest files among them.
    """
    named = {
        f"--{name.replace('_', '-')}": value
        for name, value in vars(config.option).items()
        if name.startswith("overfit_")
    }
    wanted = {
        name: value
        for name, value in named.items()
        if name not in OF_A_SESSION and value not in (None, False)
    }
    return {name: value for name, value in wanted.items() if value != DEFAULTS.get(name)}


def run_joined(config: pytest.Config) -> None:
    """Run the session anew with `--overfit-NAME=PATH` for every `--overfit-NAME PATH`, and what
    stands behind `--` given to the script of `--overfit-script`, and leave with its exit code.

    pytest looks for its rootdir before any plugin is loaded, so it takes an existing path after an
    option it does not know yet for a test to run, and moves the rootdir there. Which root, ini file
    and conftest files are right can then only be found by beginning again.
    """
    given = [os.fspath(argument) for argument in config.invocation_params.args]
    variable = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    flags = {
        f"--{name.replace('_', '-')}"
        for name, value in vars(config.known_args_namespace).items()
        if isinstance(value, bool)
    }
    joined, joined_variable = join_script(join_paths(given, flags)), join_paths(variable, flags)
    if (joined, joined_variable) == (given, variable):
        return
    if variable:
        os.environ["PYTEST_ADDOPTS"] = shlex.join(joined_variable)
    raise SystemExit(pytest.main(joined, plugins=config.invocation_params.plugins))


def join_script(arguments: Sequence[str]) -> list[str]:
    """`--overfit-script=train.py -- ARGS` as one option; others are left as they are."""
    name = "--overfit-script"
    if "--" not in arguments:
        return list(arguments)
    own, behind = list(arguments[: arguments.index("--")]), arguments[arguments.index("--") + 1 :]
    for place, argument in enumerate(own):
        if argument == name and place + 1 < len(own):
            return [
                *own[:place],
                f"{name}={own[place + 1]} {shlex.join(behind)}",
                *own[place + 2 :],
            ]
        if argument.startswith(f"{name}="):
            return [*own[:place], f"{argument} {shlex.join(behind)}", *own[place + 1 :]]
    return list(arguments)


def join_paths(arguments: Iterable[str], flags: Container[str] = ()) -> list[str]:
    """`arguments` with every option of the form `--overfit-NAME` joined to the existing path that
    follows it. flags: options without a value.

    What stands behind an option of somebody's conftest, which may be a flag, is left alone where it
    looks like tests.
    """
    joined: list[str] = []
    for argument in arguments:
        before = joined[-1] if joined else ""
        takes_it = before.startswith("--overfit-") and "=" not in before and before not in flags
        if (
            takes_it
            and not argument.startswith("-")
            and os.path.exists(argument)
            and (before in (*DEFAULTS, *OF_A_SESSION) or not _looks_like_tests(argument))
        ):
            joined[-1] = f"{before}={argument}"
        else:
            joined.append(argument)
    return joined


def _looks_like_tests(path: str) -> bool:
    place = Path(path)
    named = ("test_*.py", "*_test.py", "conftest.py")
    return place.suffix == ".py" or (
        place.is_dir() and any(next(place.glob(name), None) for name in named)
    )


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of xdist."""
    return hasattr(config, "workerinput")


def worker_input(config: pytest.Config) -> dict[str, Any]:
    """What the controller has told this worker; empty elsewhere."""
    return getattr(config, "workerinput", {})


def report_folder(config: pytest.Config) -> Path:
    """Where the session's reports go. Raises pytest.UsageError where a file is in its place."""
    folder = Path(config.getoption("--overfit-report") or config.rootpath)
    if folder.exists() and not folder.is_dir():
        raise pytest.UsageError(f"--overfit-report: {folder} is a file, expected a folder")
    return folder


def settings(config: pytest.Config) -> Settings:
    """The command line's wishes, checked once. Raises pytest.UsageError where one cannot be met."""
    if SETTINGS not in config.stash:
        config.stash[SETTINGS] = read_settings(config)
    return config.stash[SETTINGS]


def read_settings(config: pytest.Config) -> Settings:
    """The settings that the options ask for. Raises pytest.UsageError where one cannot be met."""
    from pytest_overfit.plugin.settings import Settings, choose_device, parse_bounds, parse_rungs
    from pytest_overfit.recipe import parse_assignments

    option = config.getoption
    if option("--overfit-seeds") < 1:
        raise pytest.UsageError(
            f"--overfit-seeds must be at least 1, got {option('--overfit-seeds')}"
        )
    try:
        if ":" in (option("--overfit-subject") or ""):
            imported(config)
        return Settings(
            rungs=parse_rungs(option("--overfit-rungs")) if option("--overfit-rungs") else None,
            recipe_source=option("--overfit-recipe"),
            changes=parse_assignments(option("--overfit-set")),
            bounds=parse_bounds(option("--overfit-bound")),
            seeds=tuple(
                range(
                    option("--overfit-seed"), option("--overfit-seed") + option("--overfit-seeds")
                )
            ),
            alpha=option("--overfit-alpha"),
            beta=option("--overfit-beta"),
            device=choose_device(
                option("--overfit-device"), int(worker_input(config).get("workerid", "gw0")[2:])
            ),
            size=option("--overfit-size"),
            trials=option("--overfit-trials"),
            strict=option("--overfit-strict"),
            threads=None
            if "OMP_NUM_THREADS" in os.environ
            else max(cores() // int(worker_input(config).get("workercount", 1)), 1),
        ).check()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def rungs_asked(config: pytest.Config) -> tuple[int, ...]:
    """The rungs of --overfit-rungs, else the default ones.

    Raises pytest.UsageError where they are none.
    """
    from pytest_overfit.climb.ladder import RUNGS

    return settings(config).rungs or RUNGS


def run_asked(config: pytest.Config) -> Path | None:
    """What --overfit-run names, the first of several."""
    asked = config.getoption("--overfit-run")
    return Path(asked[0]) if asked else None


def imported(config: pytest.Config) -> Subject:
    """The subject that --overfit-subject imports.

    What that puts on sys.path goes with the session: until then it may import more.
    """
    from pytest_overfit.plugin.settings import import_subject

    before = set(sys.path)
    try:
        return import_subject(config.getoption("--overfit-subject"), run_asked(config))
    finally:
        for place in set(sys.path) - before:
            config.add_cleanup(partial(_forget, place))


def _forget(place: str) -> None:
    if place in sys.path:
        sys.path.remove(place)


def scripted(config: pytest.Config) -> Subject:
    """The subject that is made of the script of --overfit-script."""
    from pytest_overfit.loop.script.subject import subject_of

    asked = settings(config)
    with own_randomness("cpu"):
        return subject_of(
            config.getoption("--overfit-script"),
            clips=max(rungs_asked(config)),
            seed=asked.seeds[0],
        )


def subjects(config: pytest.Config) -> list[Subject]:
    """This project's subjects: those of its conftest files and the one that --overfit-subject
    imports or --overfit-script makes.
    """
    if SUBJECTS not in config.stash:
        try:
            found = [
                subject
                for group in config.hook.pytest_overfit_subjects(config=config)
                for subject in group
            ]
            asked = config.getoption("--overfit-subject") or ""
            if ":" in asked:
                own = imported(config)
                found = [*(subject for subject in found if subject.name != own.name), own]
            if config.getoption("--overfit-script"):
                own = scripted(config)
                found = [*(subject for subject in found if subject.name != own.name), own]
            config.stash[SUBJECTS] = found
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[SUBJECTS]
