"""The built wheel: what it holds, and that a project which has nothing of this checkout climbs with
it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pytest_overfit")
FOREIGN = '''
import torch
from torch import nn
from pytest_overfit import Sample, Subject


class Tones(nn.Module):
    """Each frame is told by itself: a linear layer spells the clip."""

    def __init__(self, dim, vocabulary):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, 32), nn.ReLU(), nn.Linear(32, vocabulary))

    def forward(self, features, frames):
        return self.layers(features).log_softmax(-1).transpose(0, 1), frames


def clips():
    marks = torch.eye(4)
    return [Sample(name=f"clip{i}", features=marks[[0, 1, 0, 2 + i, 0]].repeat_interleave(2, 0), target=torch.tensor([1, 2 + i])) for i in range(2)]


subject = Subject(name="tones", build=lambda vocab_size, feature_dim, seed: Tones(feature_dim, vocab_size), samples=clips(), vocabulary="-ABC")
'''


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: building writes beside them."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, source / name)
    build = (
        "import setuptools.build_meta as build; build.build_wheel('dist'); "
        "build.build_sdist('dist')"
    )
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entries,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        assert archive.read(entries).decode().split() == [
            "[pytest11]",
            "overfit",
            "=",
            "pytest_overfit.plugin.hooks",
        ]
    files = (
        path
        for path in (ROOT / "pytest_overfit").rglob("*")
        if path.suffix in (".py", ".j2", ".json") or path.name == "py.typed"
    )
    assert {name for name in names if ".dist-info/" not in name} == {
        path.relative_to(ROOT).as_posix() for path in files
    }
    assert any(name.endswith("LICENSE") for name in names)


def test_an_index_would_take_it(wheel: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "twine",
        "check",
        "--strict",
        *map(str, wheel.parent.iterdir()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_installed_in_an_environment_of_its_own_it_climbs_with_a_foreign_network(
    wheel: Path, tmp_path: Path
) -> None:
    """Dependencies are those of this environment, by a path file, which brings no package that is
    installed as a link to its sources.
    """
    venv.create(tmp_path / "empty", with_pip=False)
    python = tmp_path / "empty" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    (site,) = (tmp_path / "empty").glob("[lL]ib/**/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    project = tmp_path / "project"
    project.mkdir()
    (project / "foreign.py").write_text(FOREIGN, encoding="utf-8")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER")
    }
    ask = (
        "import pytest_overfit, sys; sys.exit(not pytest_overfit.__file__.startswith(sys.argv[1]))"
    )
    assert (
        subprocess.run(
            [python, "-c", ask, str(site)], cwd=project, env=environment, check=False
        ).returncode
        == 0
    )
    command = [
        python,
        "-m",
        "pytest",
        "-m",
        "overfit",
        "--overfit-subject",
        "foreign:subject",
        "--overfit-rungs",
        "1,2",
        "-W",
        "error",
    ]
    done = subprocess.run(
        command,
        cwd=project,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tones" in done.stdout
    assert " passed" in done.stdout
