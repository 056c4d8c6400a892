"""TensorBoard event files: scalars, record by record, so that a file of any size takes the memory
of one record.

A record is its length (8 bytes), a checksum of that, an `Event` and a checksum of it. The records
are framed here, since TensorBoard's own loader takes a cut-off record for the end and turns each
scalar into a tensor. Source: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from pytest_overfit.finding import counted
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import BLOCK, Progress
from pytest_overfit.health.readers.names import clock
from pytest_overfit.health.run import BadRun, Where

NEEDED = "pip install pytest-overfit[curves]"
HEAD = struct.Struct("<QI")
FIRST_RECORDS = 5
LARGEST = 16 << 20
"""Bytes of a record beyond which it is passed over: it holds pictures or weights."""
NUMBERS = frozenset({1, 2, 3, 4, 5, 6, 9, 14, 17, 19, 22, 23})
"""DataType of floats (32, 64, bfloat16, 16 bits) and of integers.

Source: tensorflow/core/framework/types.proto.
"""


def is_event_file(head: bytes) -> bool:
    """Whether a file that starts with `head` is one: its first record names the version of its
    events.
    """
    return b"brain.Event:" in head[:64]


def read_events(
    files: Sequence[Path], prefixes: Sequence[str], gathering: Gathering, progress: Progress
) -> None:
    """The scalars of the files of one run, in the order of their names, which hold the time each
    was begun. Raises BadRun without tensorboard.

    prefixes: of the tags of each file, "" where there is none.
    """
    if find_spec("tensorboard") is None:
        raise BadRun(f"{files[0]}: to read TensorBoard event files, {NEEDED}")
    ends = _resumed_at(files, prefixes)
    for path, prefix, end in zip(files, prefixes, ends, strict=True):
        order = 0.0
        for time, step, tag, value in _scalars(path, gathering, progress):
            if step >= end:
                continue
            order = max(time, math.nextafter(order, math.inf))
            if clock(tag) == "epoch":
                gathering.epochs.add(value, step)
            else:
                where = Where(path, int(step), "step")
                gathering.add(
                    [(f"{prefix}/{tag}" if prefix else tag, value)],
                    step=step,
                    where=where,
                    order=order,
                )


def _resumed_at(files: Sequence[Path], prefixes: Sequence[str]) -> list[float]:
    """For each file the step from which a later one of the same run tells it again, as TensorBoard
    itself reads a session that starts anew.
    """
    starts = [math.inf, *map(_session_start, files[1:])]
    return [
        min(
            (
                start
                for start, other in zip(starts[i + 1 :], prefixes[i + 1 :], strict=True)
                if other == prefix
            ),
            default=math.inf,
        )
        for i, prefix in enumerate(prefixes)
    ]


def _session_start(path: Path) -> float:
    """The step at which a file says that its session starts; infinite where it says nothing of that
    in its first records.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    unheard = Gathering()
    for _, record in islice(_records(path, unheard, Progress(bytes_total=1)), FIRST_RECORDS):
        try:
            event: Any = Event.FromString(record)
        except DecodeError:
            break
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            return float(event.step)
    return math.inf


def _scalars(
    path: Path, gathering: Gathering, progress: Progress
) -> Iterator[tuple[float, float, str, float]]:
    """Of each scalar the time it was written, its step, its tag and its value."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    for start, record in _records(path, gathering, progress):
        try:
            event: Any = Event.FromString(record)
        except DecodeError:
            gathering.warnings.append(
                f"{path}: the record at byte {start} is no event: the rest is left out"
            )
            return
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield event.wall_time, float(event.step), value.tag, value.simple_value
            elif value.HasField("tensor"):
                number = _of_tensor(value.tensor)
                if number is not None:
                    yield event.wall_time, float(event.step), value.tag, number


def _of_tensor(tensor: Any) -> float | None:
    """The number in a tensor of one; None for any other."""
    if tensor.dtype not in NUMBERS or math.prod(size.size for size in tensor.tensor_shape.dim) != 1:
        return None
    from tensorboard.util.tensor_util import make_ndarray

    return float(make_ndarray(tensor).reshape(-1)[0])


def _records(path: Path, gathering: Gathering, progress: Progress) -> Iterator[tuple[int, bytes]]:
    """Where each record starts, and its content."""
    size, place, told, passed_over = path.stat().st_size, 0, 0, 0
    wrong = ""
    with path.open("rb") as file:
        while place < size:
            head = file.read(HEAD.size)
            length = HEAD.unpack(head)[0] if len(head) == HEAD.size else size
            if len(head) == HEAD.size and HEAD.unpack(head)[1] != _checksum(length):
                wrong = "is damaged: the rest is left out"
            elif place + HEAD.size + length + 4 > size:
                wrong = "is cut off: left out"
            if wrong:
                break
            if length > LARGEST:
                passed_over += 1
                file.seek(length, 1)
            else:
                yield place, file.read(length)
            file.seek(4, 1)
            place += HEAD.size + length + 4
            if place - told > BLOCK:
                progress.advance(place - told)
                told = place
    progress.advance(size - told)
    if wrong:
        gathering.warnings.append(f"{path}: the record at byte {place} {wrong}")
    if passed_over:
        gathering.warnings.append(
            f"{path}: {counted(passed_over, 'record')} of more than {LARGEST >> 20} MiB passed over"
        )


@lru_cache(maxsize=4096)
def _checksum(length: int) -> int:
    """The masked CRC-32C of a record's length.

    That of the content is not compared: in Python it would take longer than all else.
    """
    value = 0xFFFFFFFF
    for byte in struct.pack("<Q", length):
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
