"""Every kind of log that is read, as one record each: how it is told from the others, by its
content, for endings lie; and what reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pytest_overfit.health.readers.beside import PREDICTIONS
from pytest_overfit.health.readers.events import is_event_file, read_events
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import Progress
from pytest_overfit.health.readers.many_files import (
    is_epoch_file,
    is_kaldi,
    is_metric_file,
    is_scalar_export,
    read_epoch_files,
    read_kaldi,
    read_metric_files,
    read_scalar_exports,
)
from pytest_overfit.health.readers.names import clock, known
from pytest_overfit.health.readers.notebook import is_page, read_notebook, read_page
from pytest_overfit.health.readers.objects import LARGEST, curves_in, read_object, rows_in
from pytest_overfit.health.readers.offline import is_offline_history, read_offline_history
from pytest_overfit.health.readers.plain import read_plain
from pytest_overfit.health.readers.tables import header, is_header, json_row, read_csv, read_jsonl
from pytest_overfit.health.readers.tongues import FOREIGN as FOREIGN_WORDS
from pytest_overfit.health.readers.trainer_state import read_trainer_state
from pytest_overfit.health.run import BadRun

HEAD = 1 << 16
LINES_LOOKED_AT = 2_000
"""Lines of a plain text within which a metric must stand for it to be a log."""
UNREADABLE = 0.1
"""Share of a text's head that may be no UTF-8."""
FOREIGN = {
    b"PK\x03\x04": (
        "a checkpoint or archive, which holds no curves",
        "give the log of the run, or the folder that has both",
    ),
    b"\x80": (
        "a pickle, which is not opened here since that runs what is in it",
        "give the log of the run",
    ),
    b"\x1f\x8b": ("compressed", "unpack it first"),
    b"\xff\xfe": ("text in UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "save it as UTF-8"),
}
"""How files start that are no logs: what they are, and what to do."""
TELLS = re.compile(
    r"epoch|\bep\.|step|iter|loss|cost|wer|cer|accura|stage|\[\d+/\d+\]", re.IGNORECASE
)
"""What one word at least of a log is like."""
JSON_WITHOUT_ROWS = (
    "JSON without a log_history; give a trainer_state.json, lists of readings, or one object a "
    "line with an epoch or a step"
)


@dataclass(frozen=True, kw_only=True)
class Head:
    """How a file starts."""

    path: Path
    raw: bytes

    @cached_property
    def text(self) -> str:
        """What was read of it, decoded."""
        return self.raw.decode("utf-8", errors="replace").removeprefix("\ufeff").lstrip()

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not empty."""
        return [line for line in self.text.split("\n") if line.strip()]

    @cached_property
    def binary(self) -> bool:
        """Whether it is no text."""
        return b"\0" in self.raw or self.text.count("\ufffd") > UNREADABLE * len(self.text)

    @cached_property
    def whole(self) -> object:
        """What a file holds that is one JSON object; None where it is not, or too large."""
        an_object_a_line = len(self.lines) > 1 and json_row(self.lines[0]) is not None
        if (
            re.match(r'\{\s*"', self.text) is None
            or an_object_a_line
            or self.path.stat().st_size > LARGEST
        ):
            return None
        try:
            return json.loads(self.path.read_text(encoding="utf-8", errors="replace"))
        except (ValueError, RecursionError):
            return None


def _always(head: Head) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of log. matches: whether a file is one. tells_a_run: whether it has what a run's log
    has; in a folder much else is csv and JSON.

    read: takes the files of one run and the prefixes of their metrics' names, "" where there is
    none. together: whether several files of this kind in one place are one run.
    """

    name: str
    matches: Callable[[Head], bool]
    read: Callable[[Sequence[Path], Sequence[str], Gathering, Progress], None]
    tells_a_run: Callable[[Head], bool] = _always
    together: bool = False


def head_of(path: Path) -> Head:
    """The beginning of a file."""
    with path.open("rb") as file:
        return Head(path=path, raw=file.read(HEAD))


def format_of(head: Head) -> Format:
    """What a file is. Raises BadRun for one that is empty, binary, or JSON of no run."""
    if not head.raw.strip():
        raise BadRun(f"{head.path}: empty; give the log of a run that has logged an epoch")
    found = next((one for one in BINARY if one.matches(head)), None)
    if found is not None:
        return found
    for start, (what, advice) in FOREIGN.items():
        if head.raw.startswith(start):
            raise BadRun(f"{head.path}: {what}; {advice}")
    if head.binary:
        raise BadRun(f"{head.path}: binary, and no TensorBoard event file; give a log")
    found = next(one for one in TEXT if one.matches(head))
    if found.name == "plain log" and re.match(r"\{\s*(?:\n|$)", head.text):
        raise BadRun(f"{head.path}: {JSON_WITHOUT_ROWS}")
    return found


def _alone(
    read: Callable[[Path, Gathering, Progress], None],
) -> Callable[[Sequence[Path], Sequence[str], Gathering, Progress], None]:
    """A reader of one file as one of the files of a run."""

    def read_first(
        paths: Sequence[Path], prefixes: Sequence[str], gathering: Gathering, progress: Progress
    ) -> None:
        read(paths[0], gathering, progress)

    return read_first


def _is_notebook(head: Head) -> bool:
    return head.path.suffix == ".ipynb" and re.match(r'\{\s*"', head.text) is not None


def _is_json_list(head: Head) -> bool:
    return (head.text.startswith("{") and '"log_history"' in head.text) or re.match(
        r"\[\s*[{\]]", head.text
    ) is not None


def _is_object(head: Head) -> bool:
    return bool(curves_in(head.whole) or rows_in(head.whole))


def _is_json_lines(head: Head) -> bool:
    most = sum(json_row(line) is not None for line in head.lines) > (len(head.lines) - 1) / 2
    return most or (head.text.startswith("{") and len(head.lines) == 1)


def _is_csv(head: Head) -> bool:
    columns = header(head.lines[0].strip())[1]
    counts = is_header(columns) or (len(columns) > 1 and all(known(column) for column in columns))
    return counts or (head.path.suffix in (".csv", ".tsv") and len(columns) > 1)


def _csv_tells(head: Head) -> bool:
    columns = header(head.text.split("\n", 1)[0].strip())[1]
    return any(map(clock, columns)) or any(map(known, columns))


def _list_tells(head: Head) -> bool:
    return (
        '"log_history"' in head.text
        or re.search(r'"(?:epoch|step|global_step|iteration)"', head.text) is not None
    )


def _object_tells(head: Head) -> bool:
    names = [name.rsplit("/", 1)[-1] for name in curves_in(head.whole)] or [
        name for _, one in rows_in(head.whole) for name in one
    ]
    return any(map(known, names))


def _lines_tell(head: Head) -> bool:
    rows = [found for line in head.lines if (found := json_row(line)) is not None]
    return any(
        found.values and (found.placed or any(known(name) for name, _ in found.values))
        for found in rows
    )


def _notebook_tells(head: Head) -> bool:
    gathering = Gathering()
    read_notebook(head.path, gathering, Progress(bytes_total=1))
    return _has_losses_or_rates(gathering)


def _page_tells(head: Head) -> bool:
    gathering = Gathering()
    read_page(head.path, gathering, Progress(bytes_total=1))
    return _has_losses_or_rates(gathering)


def _has_losses_or_rates(gathering: Gathering) -> bool:
    return any(
        name.endswith(("_loss", "er", "_accuracy")) and name.startswith(("train_", "val_"))
        for name in gathering.reading().curves
    )


def _plain_tells(head: Head) -> bool:
    if head.path.name == PREDICTIONS or (
        TELLS.search(head.text) is None and FOREIGN_WORDS.search(head.text) is None
    ):
        return False
    gathering = Gathering()
    read_plain(head.path, gathering, Progress(bytes_total=1), most_lines=LINES_LOOKED_AT)
    return _has_losses_or_rates(gathering)


BINARY = (
    Format(
        name="TensorBoard events",
        matches=lambda head: is_event_file(head.raw),
        read=read_events,
        together=True,
    ),
    Format(
        name="Weights & Biases history",
        matches=lambda head: is_offline_history(head.raw),
        read=_alone(read_offline_history),
    ),
)
TEXT = (
    Format(
        name="MLflow metrics",
        matches=lambda head: is_metric_file(head.path, head.text),
        read=read_metric_files,
        together=True,
    ),
    Format(
        name="Kaldi nnet3 logs",
        matches=lambda head: is_kaldi(head.path),
        read=read_kaldi,
        together=True,
    ),
    Format(
        name="TensorBoard csv",
        matches=lambda head: is_scalar_export(head.text),
        read=read_scalar_exports,
        together=True,
    ),
    Format(
        name="a file for each epoch",
        matches=lambda head: is_epoch_file(head.path, head.text),
        read=read_epoch_files,
        together=True,
    ),
    Format(
        name="page",
        matches=lambda head: is_page(head.path, head.text),
        read=_alone(read_page),
        tells_a_run=_page_tells,
    ),
    Format(
        name="notebook",
        matches=_is_notebook,
        read=_alone(read_notebook),
        tells_a_run=_notebook_tells,
    ),
    Format(
        name="JSON list",
        matches=_is_json_list,
        read=_alone(read_trainer_state),
        tells_a_run=_list_tells,
    ),
    Format(
        name="JSON object", matches=_is_object, read=_alone(read_object), tells_a_run=_object_tells
    ),
    Format(
        name="JSON lines", matches=_is_json_lines, read=_alone(read_jsonl), tells_a_run=_lines_tell
    ),
    Format(name="csv", matches=_is_csv, read=_alone(read_csv), tells_a_run=_csv_tells),
    Format(name="plain log", matches=_always, read=_alone(read_plain), tells_a_run=_plain_tells),
)
FORMATS = (*BINARY, *TEXT)
