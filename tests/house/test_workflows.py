"""The workflows: valid, least permissions, pinned, and no GPU runner that a fork can start."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EVENTS_A_FORK_CAN_CAUSE = {
    "pull_request",
    "pull_request_target",
    "issue_comment",
    "issues",
    "fork",
    "watch",
    "workflow_run",
    "discussion",
}


def tool(name: str) -> str | None:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def load(path: Path) -> dict[str, object]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["on"] = document.pop(True)  # YAML 1.1 reads the key `on` as a boolean
    return document


def test_workflows_follow_githubs_schema() -> None:
    run(
        tool("check-jsonschema"),
        "--builtin-schema",
        "vendor.github-workflows",
        *map(str, WORKFLOWS),
    )


def test_workflows_pass_a_security_audit() -> None:
    run(tool("zizmor"), "--offline", "--no-progress", *map(str, WORKFLOWS))


@pytest.mark.skipif(
    tool("actionlint") is None,
    reason="actionlint is not installed: its package fetches a binary when it is built",
)
def test_workflows_pass_actionlint() -> None:
    run(tool("actionlint"), *map(str, WORKFLOWS))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_hash(path: Path) -> None:
    uses = re.findall(r"uses:\s*(\S+)", path.read_text(encoding="utf-8"))
    assert uses
    assert [action for action in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_workflow_may_write_to_the_repository(path: Path) -> None:
    document = load(path)
    assert document["permissions"] == {}
    for job in document["jobs"].values():
        rights = dict(job["permissions"])
        trusted = rights.pop(
            "id-token", None
        )  # a token for the package index, which trusted publishing asks for
        assert trusted in (None, "write")
        assert trusted is None or list(document["on"]) == ["push"]
        assert set(rights.values()) <= {"read"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_fork_cannot_start_a_self_hosted_runner(path: Path) -> None:
    document = load(path)
    hosted = any("self-hosted" in str(job["runs-on"]) for job in document["jobs"].values())
    assert not (hosted and EVENTS_A_FORK_CAN_CAUSE & set(document["on"]))


def test_the_gpu_ladder_has_a_self_hosted_runner() -> None:
    assert any("self-hosted" in path.read_text(encoding="utf-8") for path in WORKFLOWS)
