"""Whose error it is: the subject's code runs inside ours, and what either raises must be told as
its own.

The innermost frame decides that is neither a library's nor that of a function which torch calls in
the place of its own, and which calls it. In `subject.py` ours ends: it only hands on to the
subject's functions, so what is raised there is the subject's, a network of torch's own modules
included.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path
from typing import Literal

Part = Literal["data", "loss", "decoder", "network", "loop"]
ENGINE = Path(__file__).parent
OWN = f"{ENGINE}{os.sep}"
BOUNDARY = str(ENGINE / "subject.py")
LIBRARIES = tuple(
    dict.fromkeys(
        sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
    )
)
PARTS: dict[str, Part] = {
    "own_loss": "loss",
    "decoded": "decoder",
    "log_probs": "network",
    "fresh": "network",
}
"""Functions of `subject.py` -> what of the subject they call."""


GRAPH_KEPT = (
    "the network keeps the graph of an earlier call, as with a state that is not detached: start "
    "every call from a state of its own"
)


def of_kept_graph(error: BaseException) -> bool:
    """Whether torch refuses to go back through the graph of an earlier call: the network reaches into
    it, whoever calls backward.
    """
    return "backward through the graph a second time" in str(error)


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by this package's own code, and not by what the subject is made
    of.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        own = frame.filename.startswith(OWN)
        hook = frame.name == "__torch_function__" and "func(" in (frame.line or "")
        if hook or (not own and frame.filename.startswith((*LIBRARIES, "<"))):
            continue
        return own and frame.filename != BOUNDARY
    return False


def part_of(error: BaseException, *, otherwise: Part) -> Part:
    """Which of the subject's parts raised an error: the one that was called last; `otherwise` where
    it was not called through `Subject`.
    """
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next(
        (
            PARTS[frame.name]
            for frame in frames
            if frame.filename == BOUNDARY and frame.name in PARTS
        ),
        otherwise,
    )


def place_of(error: BaseException) -> str:
    """`file:line` where the subject's code raised an error; of one that is a library's, the
    innermost line.
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith((OWN, *LIBRARIES, "<"))]
    place = (theirs or frames)[-1]
    return f"{place.filename}:{place.lineno}"


def first_line(error: BaseException) -> str:
    """The message in one line, or the kind of error where it says nothing."""
    return str(error).splitlines()[0][:400] if str(error) else type(error).__name__


def whole(error: BaseException) -> str:
    """The error with all of its traceback."""
    return "".join(traceback.format_exception(error)).rstrip()


def in_words(error: Exception) -> str:
    """The error in one line, and below it where the subject's code raised it; one of ours whole."""
    if is_ours(error):
        own = f"pytest-overfit itself failed: {type(error).__name__}: {first_line(error)}"
        return f"{own}\n{whole(error)}"
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(OWN)
    ]
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return "".join([f"{text}\n", *traceback.format_list(frames)]).rstrip()
