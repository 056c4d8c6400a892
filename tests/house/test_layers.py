"""The engine is written in data-flow order, and stays light for those who only have it
installed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

import pytest_overfit

ENGINE = Path(__file__).parents[2] / "pytest_overfit"


def dotted(path: Path) -> str:
    """`levels` of levels.py, `network` of network/__init__.py, `network.layout` of
    network/layout.py.
    """
    return ".".join(path.relative_to(ENGINE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Dotted names below the engine that `path` imports when it is imported, type checking aside;
    what is imported from a module too.
    """
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "pytest_overfit"
        ):
            inner = node.module.split(".")[1:]
            found |= {".".join([*inner, alias.name]) for alias in node.names} | {".".join(inner)}
    return found


def in_a_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Names that are left when those that need nothing are taken away, again and again."""
    left = {name: needed & set(graph) - {name} for name, needed in graph.items()}
    while free := {name for name, needed in left.items() if not needed}:
        left = {name: needed - free for name, needed in left.items() if name not in free}
    return sorted(left)


FILES = {dotted(path): path for path in ENGINE.rglob("*.py") if path != ENGINE / "__init__.py"}


def test_engine_modules_import_in_one_direction() -> None:
    assert in_a_circle({name: imports(path) for name, path in FILES.items()}) == []


def test_rooms_and_the_modules_beside_them_import_in_one_direction() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in FILES.items():
        graph.setdefault(name.split(".")[0], set()).update(
            needed.split(".")[0] for needed in imports(path)
        )
    assert in_a_circle(graph) == []


def test_a_circle_is_seen() -> None:
    assert in_a_circle({"a": {"b"}, "b": {"a.x", "a"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "name",
    [name for name in pytest_overfit.__all__ if name != "HealthCallback" or find_spec("lightning")],
)
def test_public_names_are_imported_on_first_use(name: str) -> None:
    assert getattr(pytest_overfit, name).__name__ == name


def undocumented(node: ast.Module | ast.ClassDef) -> list[str]:
    """Public functions and classes without a docstring; those whose meaning somebody else's
    interface sets are left out.
    """
    found = []
    for one in node.body:
        if isinstance(one, ast.FunctionDef | ast.ClassDef) and not one.name.startswith(
            ("_", "pytest_", "on_")
        ):
            found += [] if ast.get_docstring(one) or one.name in INTERFACES else [one.name]
            found += undocumented(one) if isinstance(one, ast.ClassDef) else []
    return found


INTERFACES = {
    *("forward", "state_dict", "load_state_dict"),
    *("training_step", "validation_step", "configure_optimizers", "configure_gradient_clipping"),
    *("setup", "train_dataloader", "val_dataloader", "transfer_batch_to_device"),
    *("experiment", "save_checkpoint", "load_checkpoint"),
    *("during", "on_event", "version", "landmarks", "remark"),
}
"""Of torch, Lightning, `loop.loop.Exchanged` and `fixtures.extraction.Backend`.

pytest's hooks and a trainer's callbacks are told by the beginning of their names.
"""


def test_every_public_function_says_what_it_does() -> None:
    others = [
        path for room in ("model", "fixtures") for path in (ENGINE.parent / room).rglob("*.py")
    ]
    paths = {str(path.relative_to(ENGINE.parent)): path for path in (*FILES.values(), *others)}
    missing = {
        name: found
        for name, path in paths.items()
        if (found := undocumented(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert missing == {}


@pytest.mark.parametrize(
    "module",
    [
        "pytest_overfit",
        "pytest_overfit.plugin.hooks",
        "pytest_overfit.plugin.session",
        "pytest_overfit.plugin.live",
        "fixtures",
    ],
)
def test_importing_it_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ENGINE.parent, check=False).returncode == 0
    )


def test_the_commands_of_the_fixtures_start_without_torch() -> None:
    """Each process that extracts videos would wait for it."""
    code = "import sys, fixtures.__main__, fixtures.harvest; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ENGINE.parent, check=False).returncode == 0
    )


def test_the_engine_knows_nothing_of_signs() -> None:
    for path in ENGINE.rglob("*.py"):
        text = path.read_text(encoding="utf-8").lower()
        assert "mediapipe" not in text, path
        assert "landmark" not in text, path


def test_the_engine_has_one_training_loop() -> None:
    def steps(path: Path) -> bool:
        """Whether it calls `optimizer.step()`; what is said of it in a text is no call."""
        calls = [
            node.func
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        ]
        return any(
            isinstance(call, ast.Attribute)
            and call.attr == "step"
            and "optimizer" in ast.unparse(call.value)
            for call in calls
        )

    # The second has no loop: it steps in the place of the optimiser of the user's own.
    assert {path.name for path in ENGINE.rglob("*.py") if steps(path)} == {
        "training.py",
        "parts.py",
    }
