"""What all readers share: lines of a text file in bounded memory, and rows of fields -> clock, split,
prediction and numbers.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_overfit.health.curves.curve import Where
from pytest_overfit.health.curves.log_builder import NAN, LogBuilder
from pytest_overfit.health.curves.metric_names import SPLITS, clock, words
from pytest_overfit.health.run import Prediction

BLOCK = 1 << 20
LONGEST = 1 << 20
"""Bytes of a line beyond which it is left out."""
NUMBER = r"[-+]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
ARRAY = re.compile(
    rf"(?:\btensor|\btf\.Tensor|\b(?:np|numpy|jnp)\.\w+|\b\w*[aA]rray)\(\[?\s*({NUMBER})\s*\]?(?:,(?:[^()]|\([^()]*\))*)?\)|<tf\.Tensor:[^>]*numpy=({NUMBER})>"
)
"""A number as torch, NumPy 2, JAX or TensorFlow print it."""
SPLIT_FIELDS = frozenset({"split", "phase", "mode", "stage", "subset", "set", "name"})
METRIC_FIELDS = frozenset({"metric", "metric_name", "key", "tag"})
TARGET_FIELDS = frozenset({"target", "ref", "reference", "truth", "ground truth", "gt"})
PREDICTION_FIELDS = frozenset({"prediction", "pred", "predicted", "hyp", "hypothesis"})
EMPTY = frozenset({"", "<empty>", "(empty)", "[]", "none", "<none>"})
OF_THE_WHOLE_RUN = "train_runtime"
"""Names the last row of a run that Hugging Face's trainer finished, whose `train_loss` is the mean
over all of it.
"""
NUMBERED = re.compile(r"(?:epoch|step|iter(?:ation)?)\W{0,3}(\d{1,12})", re.IGNORECASE)
"""A cell that says what it counts: `Epoch 3`."""
DEEPEST = 5
"""Levels of nested objects that are flattened."""
NOT_A_NUMBER = re.compile(r"\b(?:nan|inf(?:inity)?)\b")


CHINESE = re.compile("[\u4e00-\u9fff]{2}")
"""A word of Chinese."""


@dataclass(kw_only=True)
class LeftOut:
    """Lines that could not be used: how many, and the first by number, with what was wrong with
    it.
    """

    count: int = 0
    first: int = 0
    why: str = ""

    def add(self, number: int, why: str = "") -> None:
        """Count one more, and keep where the first stands and why."""
        if not self.count:
            self.first, self.why = number, why
        self.count += 1

    def warning(self, path: Path, what: str) -> tuple[str, ...]:
        """One warning, or none. what: such as "left out: not JSON"."""
        if not self.count:
            return ()
        first = f"line {self.first}" + (f": {self.why}" if self.why else "")
        return (
            (
                f"{path}: {self.count} line{'s' * (self.count > 1)} {what} "
                f"({'the first is ' * (self.count > 1)}{first})"
            ),
        )


@dataclass(kw_only=True)
class Progress:
    """Share of all bytes read so far, told to `heard`. bytes_total: of every file to be read."""

    bytes_total: int
    on_progress: Callable[[float], None] | None = None
    _read: int = field(default=0, init=False)

    def advance(self, count: int) -> None:
        """So many bytes more are read."""
        self._read += count
        if self.on_progress is not None:
            self.on_progress(min(self._read / max(self.bytes_total, 1), 1.0))


@dataclass(kw_only=True)
class TextLines:
    """The lines of a file, each with its number, without their ends. Bytes that are not UTF-8 are read
    as GB 18030, where that makes words of them, else replaced; either is counted.

    cut: whether the last line lacks its end. Where a progress bar wrote a line of many carriage
    returns, each of its pieces is a line.
    """

    path: Path
    progress: Progress
    not_utf8: LeftOut = field(default_factory=LeftOut, init=False)
    gb18030: LeftOut = field(default_factory=LeftOut, init=False)
    too_long: LeftOut = field(default_factory=LeftOut, init=False)
    cut: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        number, pending, skipping = 1, b"", False
        with self.path.open("rb") as file:
            while block := file.read(BLOCK):
                self.progress.advance(len(block))
                *ready, pending = (pending + block).split(b"\n")
                for raw in ready:
                    if not skipping:
                        yield number, self._text(number, raw)
                    number, skipping = number + 1, False
                if len(pending) > LONGEST and not skipping:
                    *pieces, pending = pending.split(b"\r")
                    yield from ((number, self._text(number, piece)) for piece in pieces)
                if len(pending) > LONGEST and not skipping:
                    self.too_long.add(number)
                    skipping = True
                pending = b"" if skipping else pending
        self.cut = bool(pending)
        if pending:
            yield number, self._text(number, pending)

    def _text(self, number: int, raw: bytes) -> str:
        text, encoding = decoded(raw)
        if encoding != "utf-8":
            (self.gb18030 if encoding else self.not_utf8).add(number)
        return text.removeprefix("\ufeff") if number == 1 else text

    def warnings(self) -> tuple[str, ...]:
        """What could not be read as it stands."""
        return (
            *self.not_utf8.warning(
                self.path, "not UTF-8: what could not be read there was replaced"
            ),
            *self.gb18030.warning(self.path, "not UTF-8: read as GB 18030"),
            *self.too_long.warning(self.path, f"left out: longer than {LONGEST >> 20} MiB"),
        )


def decoded(raw: bytes) -> tuple[str, str | None]:
    """Text and its encoding: UTF-8, else China's own, GB 18030, where the bytes hold a word of it, since
    letters of other encodings come one at a time or make none; else None, and what is no UTF-8 is
    replaced.
    """
    for encoding in ("utf-8", "gb18030"):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8" or CHINESE.search(text):
            return text, encoding
    return raw.decode("utf-8", errors="replace"), None


def unwrapped(text: str) -> str:
    """A text with bare numbers in the place of arrays that hold one."""
    return (
        ARRAY.sub(lambda match: match[1] or match[2], text)
        if "(" in text or "<tf." in text
        else text
    )


@dataclass(kw_only=True)
class Row:
    """epoch, step: NaN where the row does not tell.

    values: (name, value); a name ends in " %" where the value had that sign.
    """

    epoch: float = NAN
    step: float = NAN
    split: str = ""
    values: list[tuple[str, float]] = field(default_factory=list)
    texts: dict[str, object] = field(default_factory=dict)

    @property
    def placed(self) -> bool:
        """Whether it says at which epoch or step it stands."""
        return math.isfinite(self.epoch) or math.isfinite(self.step)

    @property
    def of_the_whole_run(self) -> bool:
        """Whether it sums the run up at its end."""
        return any(name == OF_THE_WHOLE_RUN for name, _ in self.values)

    def give(
        self,
        builder: LogBuilder,
        where: Where | None,
        *,
        split: str = "",
        order: float | None = None,
    ) -> None:
        """where: its place in the log. split: that of a row which does not say its own.

        order: as `LogBuilder.add` takes it.
        """
        if self.of_the_whole_run:
            builder.end(
                "its trainer came to the end" + (f" ({where})" if where else ""), order=order
            )
            return
        builder.add(
            self.values,
            epoch=self.epoch,
            step=self.step,
            split=self.split or split,
            where=where,
            order=order,
        )
        found = self.prediction()
        if found is not None:
            builder.predict(found)

    def prediction(self) -> Prediction | None:
        """The target and prediction that the row tells, if it does."""
        target = next((self.texts[name] for name in self.texts if name in TARGET_FIELDS), None)
        predicted = next(
            (self.texts[name] for name in self.texts if name in PREDICTION_FIELDS), None
        )
        if target is None or predicted is None:
            return None
        at = self.epoch if math.isfinite(self.epoch) else self.step
        return Prediction(
            at=at if math.isfinite(at) else None,
            split=self.split,
            target=tokens(target),
            prediction=tokens(predicted),
        )


def row(fields: Iterable[tuple[str, object]]) -> Row:
    """Sort the fields of a row. What is neither number nor known text is left out.

    A metric and a value may stand in fields of these names.
    """
    found = Row()
    fields = list(fields)
    named = next(
        (str(value) for name, value in fields if name.strip().lower() in METRIC_FIELDS), None
    )
    for name, value in fields:
        if named is not None and name.strip().lower() == "value":
            name = named
        if isinstance(value, list):
            found.texts[" ".join(words(name))] = value
            continue
        counts = clock(name)
        number, percent = as_number(value)
        if (
            counts
            and number is None
            and isinstance(value, str)
            and (numbered := NUMBERED.fullmatch(value.strip()))
        ):
            number = float(numbered[1])
        if number is None:
            if isinstance(value, str):
                _text(found, " ".join(words(name)), value)
        elif counts == "epoch":
            found.epoch = number
        elif counts == "step":
            # Beside another clock a total may be how many are planned.
            if "total" not in words(name) or math.isnan(found.step):
                found.step = number
        else:
            found.values.append((f"{name} %" if percent else name, number))
    return found


def _text(found: Row, name: str, value: str) -> None:
    if name in SPLIT_FIELDS and value.strip().lower() in SPLITS:
        found.split = SPLITS[value.strip().lower()]
    elif name in TARGET_FIELDS or name in PREDICTION_FIELDS:
        found.texts[name] = value


def flattened(
    content: Mapping[Any, object], prefix: str = "", depth: int = 0
) -> list[tuple[str, object]]:
    """Nested objects as one level: {"val": {"loss": 4.9, 0: 1}} is [("val/loss", 4.9), ("val/0", 1)]."""
    fields: list[tuple[str, object]] = []
    for name, value in content.items():
        if isinstance(value, dict):
            fields += flattened(value, f"{prefix}{name}/", depth + 1) if depth < DEEPEST else []
        else:
            fields.append((f"{prefix}{name}", value))
    return fields


def as_number(value: object) -> tuple[float | None, bool]:
    """The number that `value` is or reads as, and whether it has a percent sign: "91.2%" -> (91.2,
    True). Not for truth values.
    """
    if isinstance(value, str):
        text = unwrapped(value.strip())
        try:
            return float(text.removesuffix("%")), text.endswith("%")
        except ValueError:
            return None, False
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, False
    try:
        return float(value), False
    except OverflowError:
        return math.inf if value > 0 else -math.inf, False


def tokens(words: object) -> tuple[str, ...]:
    """Words of a target or prediction: of a list its items, of text its words, with brackets,
    quotes and commas around them taken off.
    """
    if isinstance(words, list):
        return tuple(str(item) for item in words)
    text = str(words).strip()
    if text.lower() in EMPTY:
        return ()
    if text[:1] in "[(" and text[-1:] in "])":
        return tuple(
            word for part in text[1:-1].split(",") for word in part.strip().strip("'\"").split()
        )
    if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]:
        return tokens(text[1:-1])
    return tuple(text.split())


def split_cells(text: str, delimiter: str) -> list[str]:
    """The cells of one line, quoted ones unquoted."""
    try:
        cells = (
            next(csv.reader([text.rstrip("\r")], delimiter=delimiter), [])
            if '"' in text
            else text.split(delimiter)
        )
    except csv.Error:
        cells = text.split(delimiter)
    return [cell.strip() for cell in cells]


def json_row(text: str) -> Row | None:
    """The row of a line that holds one JSON object; None where it holds something else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return row(flattened(content)) if isinstance(content, dict) else None


def object_row(text: str) -> Row | None:
    """The row of an object as JSON or as Python prints it; None where it is neither."""
    found = json_row(text)
    if found is not None:
        return found
    try:
        content = ast.literal_eval(
            NOT_A_NUMBER.sub(lambda match: f"'{match[0]}'", text)
            if "nan" in text or "inf" in text
            else text
        )
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return (
        row(flattened(content))
        if isinstance(content, dict) and all(isinstance(name, str) for name in content)
        else None
    )


def shortened(text: str, most: int = 40) -> str:
    """The start of a line, printable, for a message."""
    text = "".join(
        character if character.isprintable() else "?" for character in text.strip()[: most + 1]
    )
    return repr(text[:most] + ("..." if len(text) > most else ""))


def warn_left_out(
    builder: LogBuilder,
    lines: TextLines,
    malformed: LeftOut,
    unplaced: LeftOut,
    what: str,
    *,
    cut: bool,
    number: int,
) -> None:
    """Warn of the lines of a log that could not be used. malformed: those that are not what the log
    consists of, `what` says how. cut: whether the last line, of this number, is cut off.
    """
    if cut:
        malformed.count -= 1
        builder.warnings.append(f"{lines.path}: the last line, {number}, is cut off: left out")
    builder.warnings += malformed.warning(lines.path, f"left out: {what}")
    builder.warnings += unplaced.warning(lines.path, "left out: neither epoch nor step")
    builder.warnings += lines.warnings()


def json_in(text: str) -> Any:
    """What a text holds that is JSON; None where it is not."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
