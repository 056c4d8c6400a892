"""Steps that may hang, or take their process down with them, as torch's CTC does on labels outside
the vocabulary: each is done in another process.

One process does all of the steps, one after another. Where a step ends it, or outlasts its limit, a
new one goes on with the next.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["examination.rivals_trial"])
DONE = ""
START = 300.0
"""Seconds a process has until its first word, and from its last word to its end: importing torch
may take long on a busy machine.
"""


@dataclass(frozen=True)
class Begun:
    """A step that is under way."""


@dataclass(frozen=True)
class Died:
    """A step that ended its process. code: what the process ended with, below 0 for a signal."""

    code: int | None


@dataclass(frozen=True)
class Hung:
    """A step that outlasted its limit."""


def watched(work: Callable[..., None], *arguments: Any, limit: float) -> Iterator[tuple[str, Any]]:
    """Name and answer of each step, in order; an answer is Died or Hung where there was none within
    `limit` seconds.

    work: (connection, steps to skip, *arguments): sends (name, Begun()) and (name, answer) for each
    step, then (DONE, None). Raises RuntimeError where a process ends between steps.
    """
    answered = 0
    while True:
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=work, args=(theirs, answered, *arguments))
        process.start()
        theirs.close()
        under_way = None
        try:
            for name, answer in received(ours, limit):
                under_way = name
                if name == DONE:
                    process.join(START)
                    return
                if answer != Begun():
                    answered += 1
                    under_way = None
                    yield name, answer
        except EOFError:
            process.join()
            end: Died | Hung = Died(process.exitcode)
        else:
            end = Hung()
        finally:
            process.kill()
            process.join()
            ours.close()
        if under_way is None:
            raise RuntimeError(f"the process for {arguments} ended between steps: {end}")
        answered += 1
        yield under_way, end


def received(connection: Connection, limit: float) -> Iterator[tuple[str, Any]]:
    """What comes, until nothing does for `limit` seconds after the first.

    Raises EOFError where the other end is closed.
    """
    if connection.poll(START):
        yield connection.recv()
        while connection.poll(limit):
            yield connection.recv()
