"""Plain logs, such as `Epoch 25: Train 4.19 | Val 4.90 | Gap +0.71`, with `Target:` and `Pred:`
lines.

Each line stands where the last clock before it says; one within an epoch, such as a progress bar's
`45/100`, is of step level and stands that far into its epoch. Where batches are told before the
first epoch, each epoch is named at its end, and lines belong to the one named next.
A log without any clock is counted. Of what carriage returns overwrote, the last piece counts, as on
a terminal, and each that tells the end of an epoch. A line that holds an object,
JSON or Python's, as fairseq's and Hugging Face's do, is a row of its fields.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from pytest_overfit.health.curves.curve import Where
from pytest_overfit.health.curves.log_builder import NAN, LogBuilder
from pytest_overfit.health.curves.metric_names import clock, known
from pytest_overfit.health.readers.bars import (
    BACK,
    COMPLETE,
    covers,
    heads_training,
    is_at_its_end,
    untold,
)
from pytest_overfit.health.readers.json_logs import curves_in, read_lists
from pytest_overfit.health.readers.plain_line import (
    ESCAPES,
    ParsedLine,
    in_english,
    parsed,
    process_in,
    scope_in,
    split_in,
)
from pytest_overfit.health.readers.python_text import python_object
from pytest_overfit.health.readers.rows import (
    LeftOut,
    Progress,
    TextLines,
    as_number,
    object_row,
    row,
)
from pytest_overfit.health.readers.shown_predictions import ShownPredictions
from pytest_overfit.health.readers.tables import losses_of_splits
from pytest_overfit.health.readers.told_facts import facts_in

SHOWN = re.compile(
    r"(?:^|[\s|\])>])(?:raw )?source\s*:\s+(?=\D*[a-z])(?!.*[:=]\s*[-+]?\.?\d)\S", re.IGNORECASE
)
"""What stands before a sentence that was to be translated: it tells no metric."""
TELLING = re.compile(r"\d|nan|inf", re.IGNORECASE)
USUAL_LENGTH, MOST_CHARACTERS = 1_000, 10_000
"""Characters of a line beyond which its blanks are thinned out, since patterns may take the square
of their number; and how many are read.
"""
CUT_NAME = re.compile(r"(?<=\s)(\w+)…")
CUT_SHORT = (
    "val_accuracy",
    "val_word_accuracy",
    "val_metric",
    "train_loss_epoch",
    "train_loss_step",
)
"""Names of kraken's that a narrow terminal cuts short."""
LISTS = re.compile(r"\{\s*['\"][^{}\[\]]*['\"]\s*:\s*\[")
"""How a dictionary of lists begins."""
OBJECT = re.compile(r"\{\s*['\"].*\}")
MOST_PENDING = 20_000
"""Lines within an epoch that are kept until it is named."""
NEARLY = 0.9
"""Share of the batches of an epoch that a log which tells every so many of them comes to."""
_PendingLine = tuple[Where, ParsedLine, str]
"""Such a line, with the split that was told before it."""
MOST_QUOTED = 80
"""Characters that are quoted of what a trainer says at its end."""
ENDED = re.compile(
    r"^\W*(?:epoch \d+: )?early.?stop(?:ped|ping)?(?: \w+)?\W*$"
    r"|\b(?:early.?stop(?:ped|ping)? (?:@|(?:at|after|triggered|activated)\b)|stop(?:ped|ping) early|training (?:is "
    "|was )?(?:finished|complete[d]?|done|ended|stopped)"
    r"|finished (?:training|optimization)|done training|end of (?:the "
    r")?training|max_(?:epochs|steps)=\d+` reached|reached max)",
    re.IGNORECASE,
)
"""What a trainer says when it ends."""
FIT_OVER = re.compile(r"\bTrainer\.fit` stopped")
"""What Lightning says when no epoch follows: a validation is of the weights that were kept."""
AFTERWARDS = re.compile(
    r"\bevaluat\w+ (?:on|of|with|using) (?:the )?best (?:model|checkpoint|weights)\b", re.IGNORECASE
)
"""What comes before measurements that are no readings of the curves, until an epoch is told."""
BLANKS = re.compile(r"\s{2,}|\t")
BARS = str.maketrans("│┃", "||")
TREE = re.compile(r"^[\s│]*[├└╰]─+\s*")
"""What stands before a line of a tree: `│   ├── ce_loss: 1.63`."""
DATED = re.compile(r"[a-z]\D*(?:\d\d:\d\d|\d{4}-\d\d)", re.IGNORECASE)
"""A time or a date behind a word, which makes a line a remark: `Training started at: 2025-07-16 16:17:57`."""
EMPHASIS = re.compile(r"\*\*|`")
REMARK = re.compile(r"(\S.*?) \((.+)\)")
LOGGED_BEFORE = re.compile(r"^.*(?: : | - |\] )(?=\S)")
"""What a logger writes before the first cell of a line of a table."""


def table_cells(text: str) -> list[str]:
    """The cells of a line of a table: between bars, or apart by two blanks or more."""
    text = text.strip()
    return (
        [cell.strip() for cell in text.strip("|").split("|")]
        if text.startswith("|")
        else BLANKS.split(text)
    )


def _plain_cell(cell: str) -> str:
    """A cell without Markdown's emphasis and without its remark: `**250 (best)**` is 250, and
    `Verlust (Eval Loss)` the metric that it names in brackets.
    """
    cell = EMPHASIS.sub("", cell)
    remark = REMARK.fullmatch(cell)
    if remark is None or known(cell) is not None or clock(cell):
        return cell
    before, within = remark.groups()
    if as_number(before)[0] is not None:
        return before
    return within if known(within.rstrip(" %")) is not None or clock(within) else cell


def _of_validation(name: str, split: str) -> bool:
    return "val" in (split, name[:3].lower())


def read_plain(
    path: Path, builder: LogBuilder, progress: Progress, *, most_lines: int | None = None
) -> None:
    """most_lines: how many to read, of a log that is only to be recognised."""
    lines, reader = TextLines(path=path, progress=progress), PlainLog(builder)
    for number, raw in lines:
        reader.line(Where(path, number), raw)
        if number == most_lines:
            break
    reader.finish()
    if builder.any_clock:
        builder.warnings += reader.unplaced.warning(
            path, "left out: metrics before the first epoch or step"
        )
    builder.warnings += reader.others.warning(path, "of other processes left out")
    builder.warnings += lines.warnings()


class PlainLog:
    """What was said so far, as far as later lines depend on it."""

    def __init__(self, builder: LogBuilder) -> None:
        self.unplaced = LeftOut()
        self.others = LeftOut()
        self._builder = builder
        self._process: int | None = None
        self._epoch: float | None = None
        self._step: float | None = None
        self._split = ""
        self._shown = ShownPredictions()
        self._pending_lines: list[_PendingLine] = []
        self._columns: list[str] = []
        self._shown_last: dict[str, float] = {}
        self._bar: _PendingLine | None = None
        self._named_at_end, self._counted, self._ended = False, False, False
        self._stepped, self._closes, self._fit_over = False, False, False
        self._of_clock, self._split_before = False, ""
        self._validated: float | None = None
        self._cut_names: list[tuple[int, str]] = []

    def line(self, where: Where, raw: str) -> None:
        """Take the next line of the log. where: its place there."""
        raw = BACK.sub("\r", raw) if "\b" in raw else raw
        if "\r" in raw:
            pieces = [piece for piece in raw.split("\r") if piece.strip()] or [""]
            for piece, following in pairwise(pieces):
                if COMPLETE.search(piece) or scope_in(piece) != scope_in(following):
                    self.line(where, piece)
            raw = pieces[-1]
        text = ESCAPES.sub("", raw) if "\x1b" in raw else raw
        if len(text) > USUAL_LENGTH:
            text = " ".join(text.split())[:MOST_CHARACTERS]
        if self._cut_names or "…" in text:
            self._below_cut_names(where, text)
        process, text = process_in(text)
        if process is not None and self._is_of_another(process):
            self.others.add(where.number)
            return
        text = in_english(TREE.sub("", text) if "─" in text else text).translate(BARS)
        if (
            self._history(where, text)
            or self._row(where, text)
            or self._in_table(where, text)
            or self._shown.line(text, self._epoch, self._split)
            or SHOWN.search(text)
        ):
            return
        if ended := ENDED.search(text):
            self._builder.end(
                f"{text[ended.start() :].strip()[:MOST_QUOTED]} ({where})", order=where.number
            )
            self._ended = True
        self._ended = self._ended or AFTERWARDS.search(text) is not None
        self._fit_over = self._fit_over or FIT_OVER.search(text) is not None
        if not TELLING.search(text):
            self._heading(text, ParsedLine())
            return
        if self._epoch is None or "param" in text:
            for name, number in facts_in(text):
                self._builder.facts.setdefault(name, number)
        line = parsed(text)
        if self._fitted_anew(line):
            line.epoch, line.epochs = (self._epoch or 0.0) + 1, None
            self._builder.facts.pop("epochs", None)
        if line.epoch is not None:
            if self._bar is not None and self._bar[1].epoch is None and line.epoch != self._epoch:
                self._end_bar()
            self._begin(line)
        if line.step is not None:
            if self._of_clock and (line.step != self._step or line.values):
                self._split, self._of_clock = self._split_before, False
            self._step, self._stepped = line.step, True
        if line.bar and line.refreshed and line.batch and not line.batch[0]:
            return  # hardly begun, it still shows what was measured before
        if line.values:
            self._values(where, line)
        if not any(known(name) for name, _, _ in line.values):
            self._heading(text, line)

    def _below_cut_names(self, where: Where, text: str) -> None:
        """Take the numbers that stand below names which a bar of kraken's had no room for:
        `val_accura…` and, in the next line at the same column, `0.926`.
        """
        below, self._cut_names = (
            self._cut_names,
            [(match.start(), match[1]) for match in CUT_NAME.finditer(text)],
        )
        for column, name in below:
            value = re.match(r"\S+", text[column:])
            full = next((one for one in CUT_SHORT if one.startswith(name)), None)
            if value and full and as_number(value[0])[0] is not None:
                self.line(where, f"{full}: {value[0]}")

    def _is_of_another(self, process: int) -> bool:
        """Whether a line is of another process than the one that is read: the first that tells
        something, or number 0, which tells most.
        """
        if self._process is None or process == 0:
            self._process = process
        return process != self._process

    def _fitted_anew(self, line: ParsedLine) -> bool:
        """Whether a line is a further heading `Epoch 1/1`: of Keras's `fit`, which is called for
        each epoch of one run.
        """
        bare = not line.values and line.step is None and line.batch is None
        first = bare and line.epoch == line.epochs == 1
        return first and self._epoch is not None

    def _history(self, where: Where, text: str) -> bool:
        """Take a line that is a dictionary of lists, Keras's `history.history`; returns whether it
        was one. Where epochs were told before it, it tells them again.
        """
        content = (python_object(text) if LISTS.match(text) else None) or {}
        if not any(map(known, content)) or not all(isinstance(v, list) for v in content.values()):
            return False
        if self._epoch is None:
            read_lists(where.file, curves_in(content), self._builder)
        return True

    def _row(self, where: Where, text: str) -> bool:
        """Take a line that holds an object of numbers, with a clock in it or before it; returns
        whether it was one.
        """
        match = OBJECT.search(text)
        found = object_row(match[0]) if match else None
        if match is None or found is None or not found.values:
            return False
        if (
            not found.placed
            and not any(known(name) for name, _ in found.values)
            and parsed(text[: match.start()]).values
        ):
            return False
        before = parsed(text[: match.start()])
        split = found.split or split_in(text[: match.start()].replace("]", " ").replace("[", " "))
        found.epoch = (
            before.epoch if found.epoch != found.epoch and before.epoch is not None else found.epoch
        )
        if found.placed or found.of_the_whole_run:
            found.give(self._builder, where, split=split, order=where.number)
        else:
            self._values(
                where, ParsedLine(values=[(name, split, value) for name, value in found.values])
            )
        return True

    def _in_table(self, where: Where, text: str) -> bool:
        """Take a line of a table as Markdown or a notebook prints it; returns whether it was
        one.
        """
        first, *others = map(_plain_cell, table_cells(text))
        cells = [LOGGED_BEFORE.sub("", first), *others]
        metrics = losses_of_splits(cells)
        named = sum(known(cell) is not None for cell in metrics)
        drawn = text.strip().startswith("|")
        if len(cells) > 1 and any(map(clock, cells)) and named > (0 if drawn else 1):
            self._columns = metrics
            return True
        if not self._columns or len(cells) != len(self._columns):
            return False
        found = row(zip(self._columns, cells, strict=True))
        if found.placed:
            found.give(self._builder, where, order=where.number)
        return found.placed or not any(cell.strip(":- ") for cell in cells)

    def _begin(self, line: ParsedLine) -> None:
        epoch = line.epoch
        if self._epoch is None and heads_training(line) and self._evaluated():
            self._take_pending()
        self._named_at_end = self._named_at_end or (
            self._epoch is None and bool(self._pending_lines)
        )
        self._stepped = self._stepped and epoch == self._epoch
        self._closes = self._stepped and line.step is None and line.batch is None
        self._epoch, self._step, self._split, self._split_before = epoch, None, "", ""
        if self._named_at_end:
            self._place_pending(line)
        self._shown.epoch_begins(epoch)
        if line.epochs:
            self._builder.facts["epochs"] = line.epochs

    def _evaluated(self) -> bool:
        """Whether one bar at its end, and perhaps its numbers again, is all that was told: an
        evaluation before training.
        """
        told = [line for _, line, _ in self._pending_lines]
        names = [{name for name, _, _ in line.values} for line in told]
        return (
            bool(told)
            and is_at_its_end(told[0])
            and not any(line.batch for line in told[1:])
            and all(again <= names[0] for again in names)
        )

    def _place_pending(self, named_by: ParsedLine | None = None) -> None:
        """Lines told since the last epoch was named belong to the one that is named now."""
        for where, line, split in self._take_pending():
            self._split = split
            self._add(where, untold(line, named_by) if named_by else line)
        self._split = ""

    def _take_pending(self) -> list[_PendingLine]:
        taken = self._pending_lines
        self._pending_lines = []
        return taken

    def _count_pending(self) -> None:
        """Without any epoch, batches are steps; where they start again when they had come to their
        number, and that is the same, each time is an epoch.
        """
        batches = [line.batch for _, line, _ in self._pending_lines if line.batch]
        ends = [
            a[0] >= NEARLY * a[1] and a[1] == b[1] for a, b in pairwise(batches) if b[0] <= a[0]
        ]
        restarts = sum(ends) > len(ends) / 2
        last = 0
        for where, line, split in self._take_pending():
            far = line.batch[0] if line.batch else last
            if restarts and (self._epoch is None or (line.batch and far <= last)):
                self._epoch = (self._epoch or 0.0) + 1
            last, self._split = far, split
            self._add(where, line)
        self._split, self._counted = "", True

    def _values(self, where: Where, line: ParsedLine) -> None:
        """Take the numbers of a line.

        A bar at its end is drawn again and again, with more each time: of an epoch the last one
        counts.
        """
        if self._bar is not None and (line.epoch is not None or self._bar[1].epoch is None):
            if line.epoch == self._bar[1].epoch and covers(
                self._bar[1], self._bar[2], line, self._split
            ):
                self._bar = None
            else:
                self._end_bar()
        if self._evaluates(line):
            return
        if (
            (line.drawn if line.epoch is not None else self._under_epoch(line))
            and line.batch is not None
            and line.batch[0] == line.batch[1]
        ):
            self._bar = (where, line, self._split)
        else:
            self._take(where, line)

    def _under_epoch(self, line: ParsedLine) -> bool:
        """Whether a bar stands below the epoch that it is of, and tells no validation yet: Keras
        draws it anew with that, under the lines that callbacks print.
        """
        return (
            line.bar
            and self._epoch is not None
            and not (self._split or self._named_at_end or self._stepped)
            and not any(_of_validation(name, split) for name, split, _ in line.values)
        )

    def _evaluates(self, line: ParsedLine) -> bool:
        """Whether a bar of Keras under an epoch that has told its validation is of `evaluate`, which
        is called when training is over, and is no reading of it.
        """
        if not is_at_its_end(line):
            return False
        if any(_of_validation(name, split) for name, split, _ in line.values):
            self._validated = self._epoch
            return False
        plain = line.epoch is None and line.step is None and self._epoch is not None
        return plain and self._validated == self._epoch

    def _end_bar(self) -> None:
        if self._bar is None:
            return
        (where, line, split), self._bar = self._bar, None
        epoch, now, self._split = self._epoch, self._split, split
        self._epoch = epoch if line.epoch is None else line.epoch
        self._take(where, line)
        self._epoch, self._split = epoch, now

    def _take(self, where: Where, line: ParsedLine) -> None:
        again = line.batch is not None and any(
            "train" in (split, name[:5].lower()) for name, split, _ in line.values
        )
        if self._ended and again and self._pending_lines:  # batches of another run, not of an epoch
            self._count_pending()
        clocked = line.epoch is not None or line.step is not None
        self._fit_over = self._fit_over and all(
            _of_validation(name, split) for name, split, _ in line.values
        )
        self._ended = self._ended and (not clocked or self._fit_over) and not again
        if self._ended:  # what is measured after training is no reading of its curves
            return
        waits = (
            line.epoch is None
            and line.step is None
            and (self._epoch is None or self._named_at_end)
            and not self._counted
        )
        if waits and (line.batch is not None or self._pending_lines):
            self._pending_lines.append((where, line, self._split))
            if len(self._pending_lines) == MOST_PENDING:
                self._place_pending() if self._named_at_end else self._count_pending()
            return
        if self._epoch is None and self._step is None and line.batch is None:
            self.unplaced.add(where.number)
        self._add(where, line)

    def _add(self, where: Where, line: ParsedLine) -> None:
        # What an epoch tells of itself after its steps is of all of it.
        part, level = 0.0, "epoch" if self._closes and line.epoch is not None else ""
        if line.batch is not None:
            far, of = line.batch
            if self._epoch is not None and not (line.bar and far == of):
                part, level = max(far - 1, 0) / of, "step"
            elif self._epoch is None and line.step is None:
                self._step = float(far)
                self._builder.planned_steps = of
        epoch = NAN if self._epoch is None else self._epoch
        step = NAN if self._step is None else self._step
        for name, split, value in line.values:
            split = split or self._split
            if line.drawn and self._stale(line, name, split, value, level):
                continue
            if split == "test":
                name, split = f"test {name}", ""
            self._builder.add(
                [(name, value)],
                epoch=epoch,
                part=part,
                step=step,
                split=split,
                level=level,
                where=where,
                order=where.number,
            )

    def _stale(self, line: ParsedLine, name: str, split: str, value: float, level: str) -> bool:
        """Whether a progress bar shows again what it showed before: that of Lightning does so with
        the metrics of an epoch until there are new ones, that of Keras shows them once.
        """
        meaning = known(name)
        if meaning is None or (meaning.split or split) != "val":
            return level == "step" and meaning is not None and meaning.level == "epoch"
        again = self._shown_last.get(name) == value
        self._shown_last[name] = value
        return again and line.refreshed

    def _heading(self, text: str, line: ParsedLine) -> None:
        """`Validation:`, `--- Train samples ---` or `Validation result at step 400` tells the split
        of what follows, up to the next clock.
        """
        text = text.strip(" _=-*#|\t")
        scope = scope_in(text)
        clocked = line.epoch is not None or line.step is not None
        if (
            scope in ("val", "test")
            if clocked
            else not line.values
            and (text.endswith(":") or (len(text.split()) <= 5 and not DATED.search(text)))
        ):
            if clocked and not self._of_clock:
                self._split_before = self._split
            self._split, self._of_clock = self._split if scope in ("", "best") else scope, clocked

    def finish(self) -> None:
        """Place what waited for a clock, and hand the predictions over, each with its epoch."""
        self._end_bar()
        if self._named_at_end and self._epoch is not None:
            self._epoch += 1
            self._place_pending()
        elif self._pending_lines:
            self._count_pending()
        for prediction in self._shown.placed():
            self._builder.predict(prediction)
