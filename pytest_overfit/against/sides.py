"""A process that climbs with one side's code: it is asked in lines of JSON over a socket, and
answers in lines of JSON.

Both sides are run by this package as it is installed here, whatever the other side's own version or
copy of it: the ruler is the same.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from sysconfig import get_path
from typing import Any

ENGINE = Path(__file__).parents[1]
LAST_LINES = 12
"""Of what a process printed before it died."""
START = """
import importlib.util, json, sys
order = json.loads(sys.argv[1])
order["at_start"] = list(sys.modules)
spec = importlib.util.spec_from_file_location("pytest_overfit", order["engine"] + "/__init__.py", submodule_search_locations=[order["engine"]])
module = sys.modules["pytest_overfit"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.path[:] = order["path"]
sys.dont_write_bytecode = True
from importlib import import_module
import_module(order["serve"]).main(order)
"""
"""This engine first, so that no other of that name is found; then the side's own places. Without
bytecode: of a file put back within a second it would be the old one.
"""

Request = dict[str, Any]
Answer = dict[str, Any]


class SideFailed(RuntimeError):
    """A side could not do what it was asked; the message says what it raised."""


class Side:
    """A running process. Raises SideFailed where it cannot be started."""

    def __init__(self, name: str, folder: Path, order: Request, *, serve: str) -> None:
        if os.name != "posix":
            raise SideFailed(
                "--overfit-against hands a socket to a process of its own, which this system cannot"
            )
        self.name = name
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed by close)
        mine, theirs = socket.socketpair()
        whole = {**order, "engine": str(ENGINE), "serve": serve, "socket": theirs.fileno()}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, json.dumps(whole)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C is for the session, which ends its sides itself
        )
        theirs.close()
        self._stream = mine.makefile("rw", encoding="utf-8")
        mine.close()

    def ask(self, **request: Any) -> Answer:
        """The answer to a request. Raises SideFailed where the side raised, or is gone."""
        try:
            self._stream.write(json.dumps(request) + "\n")
            self._stream.flush()
            line = self._stream.readline()
        except OSError:
            line = ""
        if not line:
            raise SideFailed(f"the process of {self.name} ended: {self._log_tail()}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise SideFailed(answer["error"])
        return answer

    def _log_tail(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = [line.rstrip() for line in self._log if line.strip()]
        return (
            "\n".join(lines[-LAST_LINES:])
            or f"exit code {self._process.returncode}, and nothing was printed"
        )

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):  # it may be gone already
            self._stream.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def serve(connection: int, answer: Callable[[Request], Answer]) -> None:
    """Answer requests until the other end is closed.

    What `answer` raises is told; the requests after it are answered all the same.
    """
    with (
        socket.socket(fileno=connection) as channel,
        channel.makefile("rw", encoding="utf-8") as stream,
    ):
        for line in stream:
            try:
                reply = answer(json.loads(line))
            except Exception as error:  # whatever the code under test raises
                reply = {"error": in_one_line(error)}
            try:
                stream.write(json.dumps(reply) + "\n")
                stream.flush()
            except BrokenPipeError:
                return


def in_one_line(error: Exception) -> str:
    """An exception in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def import_places(places: Sequence[str], counterpart: Callable[[Path], Path]) -> list[str]:
    """Where a side looks for modules: `places` of ours and the parents of editable installs, each
    at its counterpart; those of the environment as they are.
    """
    environment = Path(sys.prefix).resolve()
    editable = [str(Path(where).parent) for where in _editable_installs()]
    moved = []
    for place in [*places, *editable]:
        path = Path(place or os.getcwd()).resolve()
        moved.append(place if path.is_relative_to(environment) else str(counterpart(path)))
    return list(dict.fromkeys(moved))


def _editable_installs() -> Iterable[str]:
    """The packages that setuptools' editable installs lead to."""
    for finder in sys.meta_path:
        mapping = getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", None)
        yield from mapping.values() if isinstance(mapping, dict) else ()


def imported_from(tree: Path, but: Collection[str] = ()) -> dict[str, Path]:
    """Modules of this process whose files lie in `tree`, this package's own and those of an
    environment inside it left out, and those named `but`.
    """
    return {name: path for name, path in own_modules(but).items() if path.is_relative_to(tree)}


def own_modules(but: Collection[str] = ()) -> dict[str, Path]:
    """Modules of this process, but for this package's, Python's, the environment's, and those named
    `but`.
    """
    others = [Path(sys.prefix).resolve(), Path(get_path("stdlib")).resolve(), ENGINE]
    found = {}
    for name, module in list(sys.modules.items()):
        file = None if name in but else getattr(module, "__file__", None)
        path = Path(file).resolve() if file else None
        if path and not any(path.is_relative_to(other) for other in others):
            found[name] = path
    return found
