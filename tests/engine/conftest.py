"""Tests of the engine: what they say does not depend on where they run."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # `pytest_plugins` is allowed in a rootdir's conftest only, and no other test needs pytester.
    if not config.pluginmanager.has_plugin("pytester"):
        config.pluginmanager.import_plugin("pytester")


@pytest.fixture(autouse=True)
def nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CI, no worker of an outer session: what a message says must not depend on where these
    tests run.
    """
    for name in (
        "CI",
        "GITHUB_ACTIONS",
        "GITHUB_STEP_SUMMARY",
        "PYTEST_XDIST_WORKER",
        "PYTEST_XDIST_WORKER_COUNT",
        "PYTEST_ADDOPTS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
