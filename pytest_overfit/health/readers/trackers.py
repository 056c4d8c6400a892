"""Files that experiment trackers keep.

    TensorBoard         event files, and the csv or JSON that it exports of each tag
    Weights & Biases    the history in `run-ID.wandb`, offline runs too
    MLflow              `mlruns/0/RUN/metrics/val_loss`, a file for each metric

An event record is its length (8 bytes), a checksum of that, an `Event` and a checksum of it. The
records are framed here, so that a file of any size takes the memory of one record: TensorBoard's
own loader takes a cut-off record for the end and turns each scalar into a tensor. Source:
tensorflow/core/lib/io/record_writer.h.

A .wandb file is blocks of 32 KiB with records in them, each with a checksum, a length and a kind
(whole, first, middle, last part), as in LevelDB's log; a record is a protobuf message, whose field
2 holds a row of the history. Sources: wandb/sdk/internal/datastore.py, wandb_internal.proto.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from pytest_overfit.finding import counted
from pytest_overfit.health.curves.curve import Where
from pytest_overfit.health.curves.log_builder import LogBuilder
from pytest_overfit.health.curves.metric_names import clock
from pytest_overfit.health.readers.rows import (
    BLOCK,
    LeftOut,
    Progress,
    TextLines,
    as_number,
    flattened,
    json_in,
    row,
    shortened,
    split_cells,
)
from pytest_overfit.health.run import BadRun

NEEDED = "pip install pytest-overfit[curves]"
RECORD_HEAD = struct.Struct("<QI")
FIRST_RECORDS = 5
LARGEST_RECORD = 16 << 20
"""Bytes of a record beyond which it is passed over: it holds pictures or weights."""
NUMBER_TYPES = frozenset({1, 2, 3, 4, 5, 6, 9, 14, 17, 19, 22, 23})
"""DataType of floats (32, 64, bfloat16, 16 bits) and of integers.

Source: tensorflow/core/framework/types.proto.
"""


def is_event_file(head: bytes) -> bool:
    """Whether a file that starts with `head` is one: its first record names the version of its
    events, or holds at least what each begins with, the time (field 1, a double).

    A record is its length (8 bytes, the lowest first), a checksum of that (4), and the event.
    """
    length, event = int.from_bytes(head[:8], "little"), head[12:21]
    timed = 9 <= length <= LARGEST_RECORD and len(event) == 9 and event[0] == 1 << 3 | 1
    return b"brain.Event:" in head[:64] or timed


def read_events(
    files: Sequence[Path], prefixes: Sequence[str], builder: LogBuilder, progress: Progress
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
        for time, step, tag, value in _scalars(path, builder, progress):
            if step >= end:
                continue
            order = max(time, math.nextafter(order, math.inf))
            if clock(tag) == "epoch":
                builder.epochs.add(value, step)
            else:
                where = Where(path, int(step), "step")
                builder.add(
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

    discarded = LogBuilder()
    for _, record in islice(
        _event_records(path, discarded, Progress(bytes_total=1)), FIRST_RECORDS
    ):
        try:
            event: Any = Event.FromString(record)
        except DecodeError:
            break
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            return float(event.step)
    return math.inf


def _scalars(
    path: Path, builder: LogBuilder, progress: Progress
) -> Iterator[tuple[float, float, str, float]]:
    """Of each scalar the time it was written, its step, its tag and its value."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    for start, record in _event_records(path, builder, progress):
        try:
            event: Any = Event.FromString(record)
        except DecodeError:
            builder.warnings.append(
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
    if (
        tensor.dtype not in NUMBER_TYPES
        or math.prod(size.size for size in tensor.tensor_shape.dim) != 1
    ):
        return None
    from tensorboard.util.tensor_util import make_ndarray

    return float(make_ndarray(tensor).reshape(-1)[0])


def _event_records(
    path: Path, builder: LogBuilder, progress: Progress
) -> Iterator[tuple[int, bytes]]:
    """Where each record starts, and its content."""
    size, place, reported, passed_over = path.stat().st_size, 0, 0, 0
    wrong = ""
    with path.open("rb") as file:
        while place < size:
            head = file.read(RECORD_HEAD.size)
            length = RECORD_HEAD.unpack(head)[0] if len(head) == RECORD_HEAD.size else size
            if len(head) == RECORD_HEAD.size and RECORD_HEAD.unpack(head)[1] != _checksum(length):
                wrong = "is damaged: the rest is left out"
            elif place + RECORD_HEAD.size + length + 4 > size:
                wrong = "is cut off: left out"
            if wrong:
                break
            if length > LARGEST_RECORD:
                passed_over += 1
                file.seek(length, 1)
            else:
                yield place, file.read(length)
            file.seek(4, 1)
            place += RECORD_HEAD.size + length + 4
            if place - reported > BLOCK:
                progress.advance(place - reported)
                reported = place
    progress.advance(size - reported)
    if wrong:
        builder.warnings.append(f"{path}: the record at byte {place} {wrong}")
    if passed_over:
        builder.warnings.append(
            f"{path}: {counted(passed_over, 'record')} of more than {LARGEST_RECORD >> 20} MiB passed over"
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


WANDB_MARK = b":W&B"
WANDB_BLOCK, WANDB_HEAD = 32768, 7
WANDB_RECORD = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
HISTORY, ITEM, KEY, NESTED_KEY, VALUE_JSON = 2, 1, 1, 2, 16
"""Numbers of protobuf fields."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""


def is_offline_history(head: bytes) -> bool:
    """Whether a file begins as W&B's offline histories do."""
    return head.startswith(WANDB_MARK)


def read_offline_history(path: Path, builder: LogBuilder, progress: Progress) -> None:
    """Rows without a clock of their own stand at `_step`.

    A file that is cut off is read up to there, with a warning.
    """
    unplaced = LeftOut()
    try:
        for number, record in enumerate(_wandb_records(path, progress), 1):
            for field, message in _protobuf_fields(record):
                if field == HISTORY:
                    found = row(flattened(_history_row(message)))
                    found.give(
                        builder, Where(path, number, "record")
                    ) if found.placed else unplaced.add(number)
    except (ValueError, IndexError, struct.error):
        builder.warnings.append(f"{path}: cut off or damaged: read up to there")
    builder.warnings += (
        text.replace("line", "record")
        for text in unplaced.warning(path, "left out: neither epoch nor step")
    )


def _history_row(message: bytes) -> dict[str, object]:
    fields: dict[str, object] = {}
    for field, item in _protobuf_fields(message):
        if field != ITEM:
            continue
        parts = list(_protobuf_fields(item))
        names = [
            value.decode("utf-8", "replace") for field, value in parts if field in (KEY, NESTED_KEY)
        ]
        value_json = next((value for field, value in parts if field == VALUE_JSON), b"null")
        fields["/".join(names)] = json.loads(value_json)
    # Its own counter goes on at every call; where the user counts, that counts.
    steps = [
        name
        for name in fields
        if name != "_step" and name.rsplit("/", 1)[-1] in ("step", "global_step")
    ]
    if steps:
        fields.pop("_step", None)
    return {
        name: value for name, value in fields.items() if not name.startswith("_") or name == "_step"
    }


def _wandb_records(path: Path, progress: Progress) -> Iterator[bytes]:
    with path.open("rb") as file:
        block, parts = file.read(WANDB_BLOCK), b""
        place = WANDB_HEAD
        while block:
            while place + WANDB_RECORD.size <= len(block):
                _, length, kind = WANDB_RECORD.unpack_from(block, place)
                place += WANDB_RECORD.size
                data = block[place : place + length]
                if kind and len(data) < length:
                    raise ValueError("a record is cut off")
                place += length
                parts = data if kind in (WHOLE, FIRST) else parts + data
                if kind in (WHOLE, LAST):
                    yield parts
            progress.advance(len(block))
            block, place = file.read(WANDB_BLOCK), 0


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protobuf message that hold bytes, by their number."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire = key & 7
        if wire == VARINT:
            _, place = _varint(message, place)
        elif wire in (FIXED64, FIXED32):
            place += 8 if wire == FIXED64 else 4
        elif wire == BYTES:
            length, place = _varint(message, place)
            if place + length > len(message):
                raise ValueError("a field is cut off")
            yield key >> 3, message[place : place + length]
            place += length
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


MLFLOW_METRICS = "metrics"
MLFLOW_LINE = re.compile(r"(\d{10,16}) (\S+) (-?\d{1,15})\s*")
"""Milliseconds since 1970, value, step. Source: mlflow/store/tracking/file_store.py."""
EXPORT_COLUMNS = ["wall time", "step", "value"]
TAG = re.compile(r"(?:^|[-_])tag[-_](.+)$")
EXPORTED_LIST = re.compile(r"\[\s*\[\s*\d{10}(?:\.\d*)?\s*,\s*\d+\s*,")


def is_metric_file(path: Path, text: str) -> bool:
    """Whether it is a metric of MLflow's: below a folder `metrics`, of lines with a time, a value
    and a step.
    """
    return (
        MLFLOW_METRICS in path.parent.parts
        and MLFLOW_LINE.fullmatch(text.split("\n", 1)[0]) is not None
    )


def read_metric_files(
    paths: Sequence[Path], prefixes: Sequence[str], builder: LogBuilder, progress: Progress
) -> None:
    """The name of a metric is the path of its file below `metrics`; its times say in which order
    metrics were logged.
    """
    for path in paths:
        parts = path.parts
        below = len(parts) - 1 - parts[::-1].index(MLFLOW_METRICS)
        name = "/".join(parts[below + 1 :])
        lines, malformed = TextLines(path=path, progress=progress), LeftOut()
        for number, text in lines:
            match = MLFLOW_LINE.fullmatch(text)
            value = as_number(match[2])[0] if match else None
            if match is None or value is None:
                malformed.add(number, shortened(text))
            else:
                builder.add(
                    [(name, value)],
                    step=float(match[3]),
                    where=Where(path, number),
                    order=float(match[1]),
                )
        builder.warnings += malformed.warning(path, "left out: no time, value and step")


def is_scalar_export(text: str) -> bool:
    """Whether a table has the header of TensorBoard's own export, or a list is one: [[time, step,
    value], ...].
    """
    header = [cell.lower() for cell in split_cells(text.split("\n", 1)[0], ",")]
    return header == EXPORT_COLUMNS or EXPORTED_LIST.match(text) is not None


def read_scalar_exports(
    paths: Sequence[Path], prefixes: Sequence[str], builder: LogBuilder, progress: Progress
) -> None:
    """The name of a metric is what stands behind `tag-` in the name of its file, else that name."""
    for path in paths:
        tag = TAG.search(path.stem)
        name = tag[1] if tag else path.stem
        malformed = LeftOut()
        for number, values in _exported(path, progress):
            cells = [as_number(cell)[0] for cell in values]
            if len(cells) == len(EXPORT_COLUMNS) and None not in cells:
                time, step, value = cells
                where = Where(path, number)
                builder.add([(name, value or 0.0)], step=step or 0.0, where=where, order=time)
            else:
                malformed.add(number, shortened(str(values)))
        builder.warnings += malformed.warning(path, "left out: no time, step and value")


def _exported(path: Path, progress: Progress) -> Iterator[tuple[int, list[Any]]]:
    """The rows of an export, each with its number."""
    lines = list(TextLines(path=path, progress=progress))
    if lines and lines[0][1].startswith("["):
        yield from enumerate(json_in("\n".join(text for _, text in lines)) or (), 1)
        return
    for number, text in lines[1:]:
        if text.strip():
            yield number, split_cells(text, ",")
