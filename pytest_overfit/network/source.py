"""Where a module is written down: the line of its parent's code that creates it; and the line of
the subject's code that is under way.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
from functools import cache
from pathlib import Path

import torch
from torch import nn

from pytest_overfit.errors import OWN

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
TORCH = str(Path(torch.__file__).parent)


def where(network: nn.Module, name: str) -> str | None:
    """`file:line` that creates module `name`; the line of its class where none assigns it; None
    where there is no source.

    The path is relative to the working directory when inside it. Modules in a container lead to the
    line that fills the container. network: the root that `name`, dotted, starts from.
    """
    parts = name.split(".")
    owners = [
        network,
        *(network.get_submodule(".".join(parts[:depth])) for depth in range(1, len(parts))),
    ]
    depth = max(
        (
            depth
            for depth, owner in enumerate(owners)
            if not isinstance(owner, CONTAINERS) and not _is_torch(type(owner))
        ),
        default=None,
    )
    if depth is not None:
        found = _assignment(type(owners[depth]), tuple(parts[depth:]))
        if found:
            return found
    own = type(network.get_submodule(name))
    definition = None if _is_torch(own) else _definition(own.__module__, own.__qualname__)
    return _place(own.__module__, definition.lineno) if definition else None


def _is_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


@cache
def _file(module: str) -> str:
    path = Path(inspect.getsourcefile(sys.modules[module]) or "").resolve()
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _place(module: str, line: int) -> str:
    return f"{_file(module)}:{line}"


def _assignment(kind: type, path: tuple[str, ...]) -> str | None:
    """Place of the statement `self.<path[0]> = ...` in a class or its bases, or of the entry in it
    that the rest of `path` names.
    """
    for base in inspect.getmro(kind):
        statement = (
            None
            if _is_torch(base)
            else _assignments(base.__module__, base.__qualname__).get(path[0])
        )
        if statement is not None:
            return _place(base.__module__, _entry(statement.value, path[1:]) or statement.lineno)
    return None


@cache
def _assignments(module: str, qualname: str) -> dict[str, ast.Assign | ast.AnnAssign]:
    """Attribute -> the first statement of the class that sets it."""
    definition = _definition(module, qualname)
    statements = (
        [node for node in ast.walk(definition) if isinstance(node, ast.Assign | ast.AnnAssign)]
        if definition
        else []
    )
    return {name: statement for statement in reversed(statements) for name in _assigned(statement)}


def _assigned(statement: ast.Assign | ast.AnnAssign) -> set[str]:
    """Attributes that a statement sets, also several at once."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return {
        node.attr
        for target in targets
        for node in ast.walk(target)
        if isinstance(node, ast.Attribute)
    }


def _entry(value: ast.expr | None, path: tuple[str, ...]) -> int | None:
    """Line of the entry `path` leads to in a literal `Sequential(...)` or `ModuleList([...])`."""
    if not isinstance(value, ast.Call) or not path or not path[0].isdigit():
        return None
    entries = (
        value.args[0].elts
        if len(value.args) == 1 and isinstance(value.args[0], ast.List)
        else value.args
    )
    if int(path[0]) >= len(entries) or any(isinstance(entry, ast.Starred) for entry in entries):
        return None
    entry = entries[int(path[0])]
    return _entry(entry, path[1:]) or entry.lineno


@cache
def _definition(module: str, qualname: str) -> ast.ClassDef | None:
    """The class statement, None where its module has no source file."""
    try:
        file = inspect.getsourcefile(sys.modules[module])
        scope: ast.AST = ast.parse(Path(file).read_text(encoding="utf-8") if file else "")
    except (KeyError, TypeError, OSError):
        return None
    for name in qualname.replace("<locals>.", "").split("."):
        found = next(
            (
                node
                for node in ast.walk(scope)
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
            ),
            None,
        )
        if found is None:
            return None
        scope = found
    return scope if isinstance(scope, ast.ClassDef) else None


def calling_line() -> str | None:
    """`file:line` that called the function which calls this one, torch's own frames left out; None
    where it is this package's own.
    """
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(TORCH):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None or frame.f_code.co_filename.startswith(OWN):
        return None
    file = frame.f_code.co_filename
    return f"{os.path.relpath(file) if Path(file).is_relative_to(Path.cwd()) else file}:{frame.f_lineno}"
