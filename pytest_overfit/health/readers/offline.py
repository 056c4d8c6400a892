"""The history in a `run-ID.wandb` file, which Weights & Biases keeps of each run, offline ones too.

A file is blocks of 32 KiB with records in them, each with a checksum, a length and a kind (whole,
first, middle, last part), as in LevelDB's log; a record is a protobuf message, whose field 2 holds
a row of the history. Sources: wandb/sdk/internal/datastore.py, wandb_internal.proto.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from pytest_overfit.health.readers.fields import flattened, row
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import LeftOut, Progress
from pytest_overfit.health.run import Where

MARK = b":W&B"
BLOCK, FILE_HEAD = 32768, 7
RECORD = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
HISTORY, ITEM, KEY, NESTED_KEY, VALUE_JSON = 2, 1, 1, 2, 16
"""Numbers of protobuf fields."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""


def is_offline_history(head: bytes) -> bool:
    """Whether a file begins as W&B's offline histories do."""
    return head.startswith(MARK)


def read_offline_history(path: Path, gathering: Gathering, progress: Progress) -> None:
    """Rows without a clock of their own stand at `_step`.

    A file that is cut off is read up to there, with a warning.
    """
    unplaced = LeftOut()
    try:
        for number, record in enumerate(_records(path, progress), 1):
            for field, message in _fields(record):
                if field == HISTORY:
                    found = row(flattened(_row(message)))
                    found.give(
                        gathering, Where(path, number, "record")
                    ) if found.placed else unplaced.add(number)
    except (ValueError, IndexError, struct.error):
        gathering.warnings.append(f"{path}: cut off or damaged: read up to there")
    gathering.warnings += (
        text.replace("line", "record")
        for text in unplaced.said(path, "left out: neither epoch nor step")
    )


def _row(message: bytes) -> dict[str, object]:
    said: dict[str, object] = {}
    for field, item in _fields(message):
        if field != ITEM:
            continue
        parts = list(_fields(item))
        names = [
            value.decode("utf-8", "replace") for field, value in parts if field in (KEY, NESTED_KEY)
        ]
        told = next((value for field, value in parts if field == VALUE_JSON), b"null")
        said["/".join(names)] = json.loads(told)
    # Its own counter goes on at every call; where the user counts, that counts.
    steps = [
        name
        for name in said
        if name != "_step" and name.rsplit("/", 1)[-1] in ("step", "global_step")
    ]
    if steps:
        said.pop("_step", None)
    return {
        name: value for name, value in said.items() if not name.startswith("_") or name == "_step"
    }


def _records(path: Path, progress: Progress) -> Iterator[bytes]:
    with path.open("rb") as file:
        block, parts = file.read(BLOCK), b""
        place = FILE_HEAD
        while block:
            while place + RECORD.size <= len(block):
                _, length, kind = RECORD.unpack_from(block, place)
                place += RECORD.size
                data = block[place : place + length]
                if kind and len(data) < length:
                    raise ValueError("a record is cut off")
                place += length
                parts = data if kind in (WHOLE, FIRST) else parts + data
                if kind in (WHOLE, LAST):
                    yield parts
            progress.advance(len(block))
            block, place = file.read(BLOCK), 0


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
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
