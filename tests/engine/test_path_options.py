"""A path after a space means what it means after `=`, wherever it lies and wherever pytest is
started.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_overfit.plugin.options import join_paths
from tests.inner_sessions import WITHOUT

ROOT = Path(__file__).parents[2]
CONFTEST = """
def pytest_addoption(parser):
    parser.addoption("--overfit-features")
    parser.addoption("--overfit-flag", action="store_true")
"""
TEST = """
def test_says(request):
    config = request.config
    print(f"root {config.rootpath} ini {config.inipath} args {config.args}")
    for name in ("features", "report", "run", "recipe"):
        value = config.getoption("--overfit-" + name)
        print(f"--overfit-{name} {value[0] if isinstance(value, list) else value}")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's checkout, with an ini file and a conftest that must be found."""
    project = tmp_path / "check out"
    (project / "tests").mkdir(parents=True)
    (project / "pytest.ini").write_text(
        f"[pytest]\ntestpaths = tests\naddopts = --strict-markers -p no:cacheprovider {WITHOUT}\n"
    )
    (project / "conftest.py").write_text(CONFTEST)
    (project / "tests" / "test_says.py").write_text(TEST)
    return project


def run(started_in: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-s", "-q", *arguments]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    given = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command, cwd=started_in, env=given, capture_output=True, text=True, timeout=120, check=False
    )


def material(option: str, folder: Path) -> Path:
    """An existing path that `option` takes."""
    folder.mkdir(parents=True)
    if option == "--overfit-recipe":
        (folder / "fast.toml").write_text("lr = 0.01\n")
        return folder / "fast.toml"
    if option == "--overfit-run":
        (folder / "log.csv").write_text("epoch,train_loss,val_loss\n1,3.0,3.1\n2,2.0,2.2\n")
    return folder


@pytest.mark.parametrize(
    "option", ["--overfit-features", "--overfit-report", "--overfit-run", "--overfit-recipe"]
)
@pytest.mark.parametrize("place", ["inside", "outside"])
def test_an_existing_path_after_a_space_moves_nothing(
    project: Path, tmp_path: Path, option: str, place: str
) -> None:
    path = material(option, project / "my data" if place == "inside" else tmp_path / "my data")
    done = run(project, option, str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"root {project} ini {project / 'pytest.ini'} args ['tests']" in done.stdout
    assert f"{option} {path}" in done.stdout
    assert done.stdout.count("--overfit-features") == 1


def test_a_relative_path_is_of_where_pytest_is_started(project: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = run(tmp_path, "--overfit-flag", str(project / "tests"), "--overfit-features", "data")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"root {project} " in done.stdout
    assert "--overfit-features data\n" in done.stdout


def test_a_path_that_the_environment_gives_is_joined_too(project: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = run(project, PYTEST_ADDOPTS=f"--overfit-report '{tmp_path / 'data'}'")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"root {project} ini" in done.stdout
    assert f"--overfit-report {tmp_path / 'data'}\n" in done.stdout


def test_the_exit_code_of_the_session_is_kept(project: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (project / "tests" / "test_says.py").write_text("def test_fails():\n    assert False\n")
    assert (
        run(project, "--overfit-features", str(tmp_path / "data")).returncode
        == pytest.ExitCode.TESTS_FAILED
    )
    assert (
        run(project, "--overfit-features", str(tmp_path / "data"), "-k", "nothing").returncode
        == pytest.ExitCode.NO_TESTS_COLLECTED
    )


def test_workers_get_the_path(project: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    test = (
        "def test_it(request):\n    assert request.config.getoption('--overfit-features') == "
        f"{str(tmp_path / 'data')!r}\n"
    )
    (project / "tests" / "test_says.py").write_text(test)
    done = run(project, "-n", "1", "--overfit-features", str(tmp_path / "data"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_only_existing_paths_after_our_options_are_joined(tmp_path: Path) -> None:
    here = str(tmp_path)
    for same in (
        ["-m", "overfit", here],
        ["--overfit-report=x", here],
        ["--overfit-rungs", "1,2"],
        [here, "--overfit-run", f"{here}/no"],
        [here],
    ):
        assert join_paths(same) == same
    assert join_paths(["--overfit-flag", here], {"--overfit-flag"}) == ["--overfit-flag", here]
    assert join_paths(["--overfit-run", here, here]) == [f"--overfit-run={here}", here]
