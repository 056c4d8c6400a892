"""A small repository of a team's own: a network, its clips, the test that climbs it, one commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.inner_sessions import WITHOUT

NETWORK = '''
from torch import nn


class Net(nn.Module):
    """Each frame is told by itself."""

    def __init__(self, dim, vocabulary, width=32):
        super().__init__()
        self.hidden = nn.Linear(dim, width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, features, frames):
        x = self.hidden(features).relu()
        return self.head(x).log_softmax(-1).transpose(0, 1), frames
'''
TESTS = """
import torch

from network import Net
from pytest_overfit import Sample, Subject, parametrize_with_rungs


def clips():
    marks = torch.eye(4)
    return [
        Sample(
            name=f"clip{i}",
            features=marks[[0, 1, 0, 2 + i, 0]].repeat_interleave(2, 0),
            target=torch.tensor([1, 2 + i]),
        )
        for i in range(2)
    ]


def build(vocab_size, feature_dim, seed):
    return Net(feature_dim, vocab_size)


tones = Subject(name="tones", build=build, samples=clips(), vocabulary="-ABC")


@parametrize_with_rungs([tones], rungs=[2])
def test_overfits(overfit_rung):
    overfit_rung.climb()
"""
FAINT = NETWORK.replace(".relu()", ".relu() * 0.1")
"""A change after which the head sees little of its input, and learns late."""

SLOW = NETWORK.replace(
    "        return self.head",
    "        for _ in range(300):\n            self.hidden(features.detach())\n        return self.head",
)
"""A change that does the same work many times and throws it away: each step is the same, and takes
far longer.
"""


def commit(folder: Path, message: str) -> str:
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", message)
    return git(folder, "rev-parse", "HEAD")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def make_repository(folder: Path) -> str:
    """Returns its only commit, on the branch `main`."""
    folder.mkdir(exist_ok=True)
    (folder / "network.py").write_text(NETWORK, encoding="utf-8")
    (folder / "test_learns.py").write_text(TESTS, encoding="utf-8")
    (folder / "conftest.py").touch()
    # The session runs in the test's own process, where the package is imported already.
    imported = "ignore:Module already imported so cannot be rewritten. pytest_overfit"
    filters = f"error\n    {imported}:pytest.PytestAssertRewriteWarning"
    (folder / "pytest.ini").write_text(
        f"[pytest]\naddopts = {WITHOUT}\nfilterwarnings =\n    {filters}\n"
    )
    (folder / ".gitignore").write_text("__pycache__\nlogs\noverfitting_*\ndata\n", encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch=main")
    return commit(folder, "begin")
