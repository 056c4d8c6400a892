"""Records which tests train, themselves or by a fixture, so that `python -m tests.portability` can
repeat them as on other processors, and lends them its jitter.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.portability.child import sitecustomize
from tests.portability.record import CACHED, TRAINED, WatchedSteps

LADDER = Path(__file__).with_name("overfit")
CHILD = str(Path(sitecustomize.__file__).parent)
STEPS_FILE = pytest.StashKey[Path]()
sitecustomize.begin()  # before another conftest imports torch
# How long an example takes says how busy the machine is, and nothing of what is tested. The same
# examples each time, so that a change is told of what it broke; OVERFIT_FUZZ=1 draws others.
settings.register_profile(
    "tests", settings(deadline=None, derandomize=os.environ.get("OVERFIT_FUZZ") is None)
)
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Every process of the session counts its optimiser steps, and those of the processes that it
    starts, in a file of its own.
    """
    config.addinivalue_line(
        "markers",
        (
            "exact_weights: compares weights that it set or loaded, so that no jitter of them can "
            "be asked for"
        ),
    )
    handle, name = tempfile.mkstemp(prefix="optimiser-steps-")
    os.close(handle)
    config.stash[STEPS_FILE] = Path(name)
    os.environ[sitecustomize.STEPS] = name
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if CHILD not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in (*paths, CHILD) if path)
    config.pluginmanager.register(WatchedSteps(Path(name)))
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Trained(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The ladder first: its rungs take longest, and at the end one worker would wait for the
    other's.
    """
    items.sort(key=lambda item: not item.path.is_relative_to(LADDER))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Torch has as many threads as the session asks for (OMP_NUM_THREADS, else one), so that runs are
    equal bit by bit and share the machine: a script that the last test called set its own.
    """
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[STEPS_FILE].unlink(missing_ok=True)


class _Trained:
    """Keeps the ids of the tests that took an optimiser step in pytest's cache, over sessions that
    ran some of the tests.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.trained: dict[str, bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self.trained[report.nodeid] = TRAINED in map(tuple, report.user_properties)

    def pytest_sessionfinish(self) -> None:
        if (cache := getattr(self.config, "cache", None)) is not None:
            known = {name for name in cache.get(CACHED, []) if name not in self.trained}
            cache.set(
                CACHED, sorted(known | {name for name, trained in self.trained.items() if trained})
            )
