"""What --overfit-against asks for: both sides' processes, started once a session and process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from pytest_overfit.against.changes import Change, changes, copy_of, put_back
from pytest_overfit.against.checkout import Checkout, check_asked, other_side, own_checkout
from pytest_overfit.against.comparison import (
    Asked,
    Comparison,
    TimedSteps,
    Worse,
    compare,
    taken_together,
)
from pytest_overfit.against.guilty import Guilty, judge, search
from pytest_overfit.against.sides import Side, import_places
from pytest_overfit.against.times import judge_time, timed
from pytest_overfit.against.verdict import PairTest, PairVerdict, scale_of
from pytest_overfit.plugin.options import options_given, settings

SERVE = "pytest_overfit.plugin.serving"
VERSUS = pytest.StashKey["Versus"]()
OF_THIS_SESSION = ("--overfit-against", "--overfit-tolerance", "--overfit-pairs")
EARLY = "ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning"
"""The engine is there before pytest is; its asserts are not rewritten, and no warning is an error.
"""


class LearnsWorse(AssertionError):
    """A change that takes more steps, or more time for a step, than what it departs from."""


# Tracebacks then read "LearnsWorse: ..." without the module path in front of the headline.
LearnsWorse.__module__ = "builtins"


class Versus:
    """The other side of a session, its process and ours."""

    def __init__(self, config: pytest.Config, files: list[Path]) -> None:
        self.config, self.files = config, files
        self._stack = ExitStack()
        config.add_cleanup(self._stack.close)
        self._sides: tuple[Side, Side] | None = None
        self._commit: str | None = None
        self._blamed: set[tuple[str, bool]] = set()
        self._known: dict[tuple[str, int], Comparison] = {}

    def compare(self, *, subject: str, key: str, samples: int) -> Comparison:
        """One rung of one ladder, on both sides."""
        asked = settings(self.config)
        test = PairTest(
            tolerance=self.config.getoption("--overfit-tolerance"),
            alpha=asked.alpha,
            beta=asked.beta,
            most=self.config.getoption("--overfit-pairs"),
            scale=scale_of(samples),
        )
        if self._sides is None:
            self._sides = self._start()
        ours, base = self._sides
        self._known[key, samples] = compare(
            ours,
            base,
            subject=subject,
            key=key,
            samples=samples,
            seeds=count(asked.seeds[0]),
            test=test,
            below=taken_together(
                [
                    one
                    for (ladder, rung), one in sorted(self._known.items())
                    if ladder == key and rung < samples
                ]
            ),
            blame=partial(self._blame, subject, test),
        )
        return self._known[key, samples]

    def known(self, key: str, samples: int) -> Comparison | None:
        """What a rung came to; None while it was not compared."""
        return self._known.get((key, samples))

    def _blame(self, subject: str, test: PairTest, worse: Worse) -> tuple[Guilty, ...]:
        """Changes of ours put back one at a time; once for each subject, at the first rung where it
        is worse, and once where its steps take longer.
        """
        what = subject, worse.slower
        if self._commit is None or what in self._blamed or settings(self.config).trials == "off":
            return ()
        self._blamed.add(what)
        assert self._sides is not None
        base = self._sides[1]
        own = own_checkout(self.config.rootpath)
        with copy_of(own.tree) as tree:

            def trial(change: Change) -> PairVerdict | None:
                with put_back(tree, change), ExitStack() as stack:
                    copy = Checkout(name=f"ours without {change.place}", tree=tree)
                    side = self._side(copy, own, stack)
                    side.ask(do="open", key=worse.key, samples=worse.samples)
                    at = worse.key, worse.samples
                    if not worse.slower:
                        return judge(
                            worse.pairs,
                            test,
                            worse.budget,
                            ratio=worse.ratio,
                            ours=lambda seed: Asked(side, *at, seed),
                            base=lambda seed: Asked(base, *at, seed),
                        )
                    time = timed(
                        lambda course: (
                            TimedSteps(side, *at, course),
                            TimedSteps(base, *at, course),
                        ),
                        chance=test.alpha,
                        tolerance=test.tolerance,
                    )
                    return judge_time(time, test.tolerance)

            return search(changes(own.tree, self._commit, worse.files), trial)

    def _start(self) -> tuple[Side, Side]:
        root = self.config.rootpath
        own = own_checkout(root)
        other = self._stack.enter_context(
            other_side(self.config.getoption("--overfit-against"), root)
        )
        self._commit = other.commit
        return self._side(own, own, self._stack), self._side(other, own, self._stack)

    def _side(self, checkout: Checkout, own: Checkout, stack: ExitStack) -> Side:
        config = self.config

        def there(path: Path) -> Path:
            return checkout.counterpart(path, own)

        root, folder = there(config.rootpath), there(config.invocation_params.dir)
        place = next((one for one in (folder, root) if one.is_dir()), checkout.tree)
        threads = settings(config).threads
        path = import_places(sys.path, there)
        order = {
            "arguments": [*self._arguments(there), str(root if root.is_dir() else place)],
            "files": [str(there(file)) for file in self.files],
            "path": [str(checkout.tree), *path] if checkout.installed else path,
            "tree": str(checkout.tree),
            "foreign": None if checkout == own or checkout.installed else str(own.tree),
            "cache": self._cache_folder(),
            "environment": {"OMP_NUM_THREADS": str(threads)} if threads else {},
        }
        side = Side(checkout.name, place, order, serve=SERVE)
        stack.callback(side.close)
        return side

    def _cache_folder(self) -> str | None:
        """Beside pytest's own; None where the session has no cache (`-p no:cacheprovider`)."""
        cache = getattr(self.config, "cache", None)
        return str(cache.mkdir("overfit-against")) if cache else None

    def _arguments(self, there: Callable[[Path], Path]) -> list[str]:
        """Of the other session: its place, its ini file, and the options that change a verdict."""
        config = self.config
        arguments = ["-p", "overfit", "--quiet", "-W", EARLY, f"--rootdir={there(config.rootpath)}"]
        if config.inipath and there(config.inipath).is_file():
            arguments += ["-c", str(there(config.inipath))]
        arguments += ["-n", "0"] if config.pluginmanager.hasplugin("xdist") else []
        arguments += ["--no-cov"] if config.pluginmanager.hasplugin("_cov") else []
        for name, values in options_given(config).items():
            for value in values if isinstance(values, list) else [values]:
                if name not in OF_THIS_SESSION:
                    arguments.append(name if value is True else f"{name}={self._absolute(value)}")
        return arguments

    def _absolute(self, value: object) -> object:
        """A path that exists here, so that another session finds it too; else the value."""
        here = self.config.invocation_params.dir / str(value)
        return here.resolve() if isinstance(value, str | Path) and here.exists() else value


def check(config: pytest.Config) -> None:
    """Raises pytest.UsageError where one of these options cannot be used."""
    try:
        PairTest(
            tolerance=config.getoption("--overfit-tolerance"),
            most=config.getoption("--overfit-pairs"),
        )
        if asked := config.getoption("--overfit-against"):
            check_asked(asked, config.rootpath)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def versus(request: pytest.FixtureRequest) -> Versus | None:
    """The other side of this session; None where none was asked for."""
    config = request.config
    if not config.getoption("--overfit-against"):
        return None
    if VERSUS not in config.stash:
        from pytest_overfit.plugin.hooks import case_of

        files = {item.path for item in request.session.items if case_of(item)}
        config.stash[VERSUS] = Versus(config, sorted(files))
    return config.stash[VERSUS]
