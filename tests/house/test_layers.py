"""The engine is written in data-flow order, and stays light for those who only have it installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "pytest_overfit"


def imports(path: Path) -> set[str]:
    """Engine modules that `path` imports when it is imported, type checking aside."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pytest_overfit"):
            inner = node.module.split(".")[1:]
            found |= {inner[0]} if inner else {alias.name for alias in node.names}
    return found


def test_engine_modules_import_in_one_direction() -> None:
    graph = {path.stem: imports(path) for path in ENGINE.glob("*.py") if path.stem != "__init__"}
    done: set[str] = set()
    while graph:
        free = {name for name, needed in graph.items() if needed & set(graph) <= {name}}
        assert free, f"these import each other in a circle: {sorted(graph)}"
        done |= free
        graph = {name: needed for name, needed in graph.items() if name not in free}


@pytest.mark.parametrize("module", ["pytest_overfit", "pytest_overfit.plugin", "pytest_overfit.summary", "pytest_overfit.live", "fixtures"])
def test_importing_it_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ENGINE.parent, check=False).returncode == 0


def test_the_engine_knows_nothing_of_signs() -> None:
    for path in ENGINE.rglob("*.py"):
        text = path.read_text(encoding="utf-8").lower()
        assert "mediapipe" not in text, path
        assert "landmark" not in text, path


def test_the_engine_has_one_training_loop() -> None:
    def steps(path: Path) -> bool:
        """Whether it calls `optimizer.step()`; what is said of it in a text is no call."""
        calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        return any(isinstance(call, ast.Attribute) and call.attr == "step" and "optimizer" in ast.unparse(call.value) for call in calls)

    assert [path.name for path in ENGINE.rglob("*.py") if steps(path)] == ["train.py"]
