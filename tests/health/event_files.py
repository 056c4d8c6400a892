"""Event files as TensorBoard itself writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

Scalars = Sequence[tuple[int, Mapping[str, float]]]


def write_events(
    folder: Path,
    rows: Scalars,
    *,
    tensors: bool = False,
    suffix: str = "",
    starts: int | None = None,
) -> Path:
    """One more file in `folder`. rows: (step, values by tag).

    tensors: as tensors rather than simple values. starts: step of its session.
    """
    writer = EventFileWriter(str(folder), filename_suffix=suffix)
    if starts is not None:
        writer.add_event(
            Event(step=starts, wall_time=1e9, session_log=SessionLog(status=SessionLog.START))
        )
    for step, values in rows:
        for tag, number in values.items():
            value = (
                Summary.Value(tag=tag, tensor=make_tensor_proto(number))
                if tensors
                else Summary.Value(tag=tag, simple_value=number)
            )
            writer.add_event(Event(step=step, wall_time=1e9, summary=Summary(value=[value])))
    writer.close()
    return max(
        folder.glob(f"events.out.tfevents.*{suffix}"), key=lambda path: path.stat().st_mtime_ns
    )
