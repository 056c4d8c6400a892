"""Runs a training script as `python script.py ARGS` would, in a thread of its own, and leaves the
process as it was.
"""

from __future__ import annotations

import multiprocessing.process
import os
import random
import shlex
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from pytest_overfit.loop.recorder import is_users
from pytest_overfit.subject import BadSubject


class CannotDrive(BadSubject):
    """A script that cannot be run under test; the message says why, in one line."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """A file and the arguments it is run with. module: its name, where it is run as `python -m`."""

    path: Path
    arguments: tuple[str, ...] = ()
    module: str | None = None

    @property
    def name(self) -> str:
        """The name of the file, without its ending."""
        return self.path.stem

    @property
    def folder(self) -> Path:
        """Where it imports from first, as Python has it."""
        return Path.cwd() if self.module else self.path.parent


def read_command(text: str) -> Script:
    """ "train.py --epochs 3" or "-m package.train --epochs 3" -> a Script.

    Raises CannotDrive where there is no such file of Python's.
    """
    words, module = shlex.split(text), None
    if len(words) > 1 and words[0] == "-m":
        module = words[1]
        words = [f"{module.replace('.', os.sep)}.py", *words[2:]]
    if not words:
        raise CannotDrive("--overfit-script needs a file: --overfit-script 'train.py --epochs 3'")
    path = Path(words[0]).absolute()
    if not path.is_file():
        raise CannotDrive(f"--overfit-script: there is no file {words[0]}")
    if path.suffix != ".py":
        raise CannotDrive(f"--overfit-script: {words[0]} is no Python file")
    return Script(path=path, arguments=tuple(words[1:]), module=module)


class Surroundings:
    """What a script may change of its process: entered while it runs, ours outside; the script
    finds again what it had left.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.main = types.ModuleType("__main__")
        package = script.module.rpartition(".")[0] if script.module else None
        self.main.__dict__.update(
            __file__=str(script.path), __builtins__=__builtins__, __package__=package
        )
        self._inside: dict[str, Any] | None = None
        self._imported: set[str] = set()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The script's surroundings until the block ends."""
        outside, known = _kept(), set(sys.modules)
        inside = self._inside or {
            **outside,
            "argv": [str(self.script.path), *self.script.arguments],
            "path": [str(self.script.folder), *sys.path],
            "main": self.main,
            "environment": {**os.environ, "MPLBACKEND": os.environ.get("MPLBACKEND", "Agg")},
        }
        _put(inside)
        try:
            with ExitStack() as stack:
                for one in _PATCHES:
                    stack.enter_context(one())
                yield
        finally:
            self._inside = _kept()
            _put(outside)
            self._imported |= set(sys.modules) - known

    def forget_modules(self) -> None:
        """Take out of `sys.modules` what lies beside the script: the next run imports it afresh."""
        for name in self._imported:
            if self._is_own(sys.modules.get(name)):
                del sys.modules[name]

    def _is_own(self, module: Any) -> bool:
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            return False
        return Path(file).is_relative_to(self.script.folder) and is_users(file)

    def run(self) -> None:
        """The script from its first line to its last; to be called within `entered`.

        An exit without an error is an end.
        """
        code = compile(self.script.path.read_bytes(), str(self.script.path), "exec")
        try:
            with _on_this_machine():
                exec(code, self.main.__dict__)
        except SystemExit as left:
            if left.code not in (None, 0):
                raise CannotDrive(
                    f"{self.script.path.name} leaves with exit code {left.code}"
                ) from left


def _kept() -> dict[str, Any]:
    return {
        "argv": list(sys.argv),
        "path": list(sys.path),
        "main": sys.modules["__main__"],
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "anomaly": torch.is_anomaly_enabled(),
        "random": (random.getstate(), np.random.get_state(), torch.random.get_rng_state()),
    }


def _put(state: dict[str, Any]) -> None:
    sys.argv[:], sys.path[:] = state["argv"], state["path"]
    sys.modules["__main__"] = state["main"]
    os.chdir(state["cwd"])
    if dict(os.environ) != state["environment"]:
        os.environ.clear()
        os.environ.update(state["environment"])
    if torch.get_num_threads() != state["threads"]:
        torch.set_num_threads(state["threads"])
    torch.set_default_dtype(state["dtype"])
    torch.use_deterministic_algorithms(
        state["deterministic"][0], warn_only=state["deterministic"][1]
    )
    torch.autograd.set_detect_anomaly(state["anomaly"])
    random.setstate(state["random"][0])
    np.random.set_state(state["random"][1])
    torch.random.set_rng_state(state["random"][2])


def _nothing_saved(*_: Any, **__: Any) -> None:
    """In the place of torch.save: a few clips learned by heart are no checkpoint."""


def _no_process(process: Any) -> None:
    raise CannotDrive(
        f"{Path(sys.argv[0]).name} cannot be driven: it starts processes of its own, and what they "
        "train cannot be seen: give it arguments for one process"
    )


_PATCHES: tuple[Callable[[], Any], ...] = (
    lambda: patch.object(torch, "save", _nothing_saved),
    lambda: patch.object(multiprocessing.process.BaseProcess, "start", _no_process),
)


class _OnThisMachine(TorchFunctionMode):
    """What is asked of a GPU is done on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        if _is_gpu(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
        if any(map(_is_gpu, args)):
            args = tuple(torch.device("cpu") if _is_gpu(arg) else arg for arg in args)
        return func(*args, **kwargs)


def _is_gpu(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and (value == "cuda" or value.startswith("cuda:"))


@contextmanager
def _on_this_machine() -> Iterator[None]:
    if torch.cuda.is_available():
        yield
        return
    with _OnThisMachine():
        yield
