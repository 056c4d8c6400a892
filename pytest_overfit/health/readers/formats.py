"""Every kind of log that is read, as one record each: how it is told from the others, by its
content, for endings lie; and what reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pytest_overfit.health.curves.log_builder import LogBuilder
from pytest_overfit.health.curves.metric import metric
from pytest_overfit.health.curves.metric_names import clock, known
from pytest_overfit.health.readers.json_logs import (
    LARGEST_OBJECT,
    curves_in,
    read_jsonl,
    read_object,
    read_trainer_state,
    rows_in,
    whole_object,
)
from pytest_overfit.health.readers.notebook import is_page, read_notebook, read_page
from pytest_overfit.health.readers.plain_line import FOREIGN as FOREIGN_WORDS
from pytest_overfit.health.readers.plain_log import read_plain
from pytest_overfit.health.readers.python_text import OPENED
from pytest_overfit.health.readers.rows import (
    Progress,
    as_number,
    decoded,
    flattened,
    json_row,
    split_cells,
)
from pytest_overfit.health.readers.tables import (
    header,
    is_epoch_file,
    is_header,
    is_kaldi,
    is_numbers_file,
    read_csv,
    read_epoch_files,
    read_kaldi,
    read_numbers_files,
)
from pytest_overfit.health.readers.trackers import (
    is_event_file,
    is_metric_file,
    is_offline_history,
    is_scalar_export,
    read_events,
    read_metric_files,
    read_offline_history,
    read_scalar_exports,
)
from pytest_overfit.health.run import BadRun

PREDICTIONS = "predictions.jsonl"
"""File of predictions beside a log, which is none itself."""
HEAD = 1 << 16
"""Bytes of a file by which its format is known."""
LINES_LOOKED_AT = 2_000
"""Lines of a plain text within which a metric must stand for it to be a log."""
OFTEN = 3
"""Readings that make what is not understood worth telling."""
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
        whole = self.raw[: self.raw.rfind(b"\n") + 1] or self.raw
        text, encoding = decoded(whole)
        if encoding == "gb18030":
            return text.lstrip()
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
        """What a file holds that is one object; None where it is not, or too large."""
        an_object_a_line = len(self.lines) > 1 and json_row(self.lines[0]) is not None
        if (
            OPENED.match(self.text) is None
            or an_object_a_line
            or self.path.stat().st_size > LARGEST_OBJECT
        ):
            return None
        return whole_object(self.path.read_text(encoding="utf-8", errors="replace"))


def _always(head: Head) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of log. matches: whether a file is one. holds_a_run: whether it has what a run's log
    has; in a folder much else is csv and JSON.

    read: takes the files of one run and the prefixes of their metrics' names, "" where there is
    none. together: whether several files of this kind in one place are one run. binary: it is no text.
    """

    name: str
    matches: Callable[[Head], bool]
    read: Callable[[Sequence[Path], Sequence[str], LogBuilder, Progress], None]
    holds_a_run: Callable[[Head], bool] = _always
    together: bool = False
    binary: bool = False


def head_of(path: Path) -> Head:
    """The beginning of a file."""
    with path.open("rb") as file:
        return Head(path=path, raw=file.read(HEAD))


def format_of(head: Head) -> Format:
    """What a file is. Raises BadRun for one that is empty, binary, or JSON of no run."""
    if not head.raw.strip():
        raise BadRun(f"{head.path}: empty; give the log of a run that has logged an epoch")
    found = next((one for one in FORMATS if one.binary and one.matches(head)), None)
    if found is not None:
        return found
    for start, (what, advice) in FOREIGN.items():
        if head.raw.startswith(start):
            raise BadRun(f"{head.path}: {what}; {advice}")
    if head.binary:
        raise BadRun(f"{head.path}: binary, and no TensorBoard event file; give a log")
    found = next(one for one in FORMATS if not one.binary and one.matches(head))
    if found.name == "plain log" and re.match(r"\{\s*(?:\n|$)", head.text):
        raise BadRun(f"{head.path}: {JSON_WITHOUT_ROWS}")
    return found


def _alone(
    read: Callable[[Path, LogBuilder, Progress], None],
) -> Callable[[Sequence[Path], Sequence[str], LogBuilder, Progress], None]:
    """A reader of one file as one of the files of a run."""

    def read_first(
        paths: Sequence[Path], prefixes: Sequence[str], builder: LogBuilder, progress: Progress
    ) -> None:
        read(paths[0], builder, progress)

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
    delimiter, columns = header(head.lines[0].strip())
    if len(columns) < 2:
        return False
    return (
        is_header(columns)
        or all(map(known, columns))
        or (any(map(known, columns)) and _numbers_below(head, delimiter, len(columns)))
        or head.path.suffix in (".csv", ".tsv")
    )


def _numbers_below(head: Head, delimiter: str, columns: int) -> bool:
    """Whether the lines below the first hold a number for each of its columns."""
    rows = [split_cells(line.strip(), delimiter) for line in head.lines[1 : 1 + OFTEN]]
    return len(rows) == OFTEN and all(
        len(cells) == columns and all(as_number(cell)[0] is not None for cell in cells)
        for cells in rows
    )


def _csv_holds_a_run(head: Head) -> bool:
    columns = header(head.text.split("\n", 1)[0].strip())[1]
    return any(map(clock, columns)) or any(map(known, columns))


def _list_holds_a_run(head: Head) -> bool:
    return (
        '"log_history"' in head.text
        or re.search(r'"(?:epoch|step|global_step|iteration)"', head.text) is not None
    )


def _object_holds_a_run(head: Head) -> bool:
    names = [name.rsplit("/", 1)[-1] for name in curves_in(head.whole)] or [
        name.rsplit("/", 1)[-1] for _, one in rows_in(head.whole) for name, _ in flattened(one)
    ]
    return any(map(known, names))


def _lines_holds_a_run(head: Head) -> bool:
    rows = [found for line in head.lines if (found := json_row(line)) is not None]
    return any(
        found.values and (found.placed or any(known(name) for name, _ in found.values))
        for found in rows
    )


def _notebook_holds_a_run(head: Head) -> bool:
    builder = LogBuilder()
    read_notebook(head.path, builder, Progress(bytes_total=1))
    return _has_losses_or_rates(builder)


def _page_holds_a_run(head: Head) -> bool:
    builder = LogBuilder()
    read_page(head.path, builder, Progress(bytes_total=1))
    return _has_losses_or_rates(builder)


def _has_losses_or_rates(builder: LogBuilder) -> bool:
    return _any_loss_or_rate(builder.contents().curves)


def _any_loss_or_rate(names: Iterable[str]) -> bool:
    return any(
        (told := metric(name)) is not None and told.kind in ("loss", "error rate", "score")
        for name in names
    )


def _plain_holds_a_run(head: Head) -> bool:
    if head.path.name == PREDICTIONS or (
        TELLS.search(head.text) is None and FOREIGN_WORDS.search(head.text) is None
    ):
        return False
    builder = LogBuilder()
    read_plain(head.path, builder, Progress(bytes_total=1), most_lines=LINES_LOOKED_AT)
    return _has_losses_or_rates(builder)


def names_not_understood(path: Path) -> list[str]:
    """What a text tells at its epochs or steps, again and again, of which no name is understood."""
    builder = LogBuilder()
    read_plain(path, builder, Progress(bytes_total=1), most_lines=LINES_LOOKED_AT)
    curves = builder.contents().curves
    if not builder.any_clock or _any_loss_or_rate(curves):
        return []
    return [name for name, curve in curves.items() if len(curve) >= OFTEN]


FORMATS = (
    Format(
        name="TensorBoard events",
        matches=lambda head: is_event_file(head.raw),
        read=read_events,
        together=True,
        binary=True,
    ),
    Format(
        name="Weights & Biases history",
        matches=lambda head: is_offline_history(head.raw),
        read=_alone(read_offline_history),
        binary=True,
    ),
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
        name="a file for each metric",
        matches=lambda head: is_numbers_file(head.path, head.text),
        read=read_numbers_files,
        together=True,
    ),
    Format(
        name="page",
        matches=lambda head: is_page(head.path, head.text),
        read=_alone(read_page),
        holds_a_run=_page_holds_a_run,
    ),
    Format(
        name="notebook",
        matches=_is_notebook,
        read=_alone(read_notebook),
        holds_a_run=_notebook_holds_a_run,
    ),
    Format(
        name="JSON list",
        matches=_is_json_list,
        read=_alone(read_trainer_state),
        holds_a_run=_list_holds_a_run,
    ),
    Format(
        name="JSON object",
        matches=_is_object,
        read=_alone(read_object),
        holds_a_run=_object_holds_a_run,
    ),
    Format(
        name="JSON lines",
        matches=_is_json_lines,
        read=_alone(read_jsonl),
        holds_a_run=_lines_holds_a_run,
    ),
    Format(name="csv", matches=_is_csv, read=_alone(read_csv), holds_a_run=_csv_holds_a_run),
    Format(
        name="plain log", matches=_always, read=_alone(read_plain), holds_a_run=_plain_holds_a_run
    ),
)
"""Every format; the first that matches reads."""
