"""Tables: csv (Lightning's `metrics.csv` among them), streamed line by line, and folders in which each
file holds the row of one epoch: AllenNLP's `metrics_epoch_3.json`, WeNet's `3.yaml`, Kaldi's
`compute_prob_valid.12.log`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_overfit.finding import naming
from pytest_overfit.health.curves.curve import Where
from pytest_overfit.health.curves.log_builder import LogBuilder
from pytest_overfit.health.curves.metric import MEASURED
from pytest_overfit.health.curves.metric_names import NOT_OF_NOW, SPLITS, clock, known, words
from pytest_overfit.health.readers.rows import (
    LeftOut,
    Progress,
    Row,
    TextLines,
    as_number,
    flattened,
    json_in,
    row,
    shortened,
    split_cells,
    unwrapped,
    warn_left_out,
)
from pytest_overfit.health.run import BadRun

DELIMITERS = ",;\t|"
LEAST = 3
"""Rows that each of several runs in one table has."""
NAMES_A_RUN = frozenset(
    [
        "run",
        "model",
        "config",
        "configuration",
        "experiment",
        "exp",
        "trial",
        "fold",
        "seed",
        "version",
        "variant",
        "id",
        "name",
    ]
)
"""Words of a column that names runs: `Model_Name`, `run_id`, `fold`."""
MOST_RUNS = 200
UNNAMED = ("", "unnamed: 0", "index")
"""Names of the first column where a table was written with the numbers of its rows."""
COMMA = re.compile(r"[-+]?\d+,\d+%?")
"""A number with a decimal comma."""
OF_SEVERAL = ("__MIN", "__MAX")
"""Ends of columns that Weights & Biases exports beside each metric."""
READING = re.compile(
    r"(?:(?P<epoch>\d{1,9})\s*[_,;:\s]\s*)?(?P<value>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|-?inf)",
    re.IGNORECASE,
)
LIST = re.compile(r"\s*\[\s*[-+.\dni]")
"""How a list of numbers begins."""
HEADING = re.compile(r"epoch\W{0,3}(?P<epoch>\d{1,6})\W*", re.IGNORECASE)
"""What stands above the readings of an epoch's batches."""
OF_FILES = frozenset({"log", "logs", "history", "curve", "values"})
"""Words in the name of a file of numbers that change nothing of what they are."""
BATCHES = 10
"""Times as many readings as of epochs that tell of batches."""
EPOCH_FILES = (".json", ".yaml", ".yml")
NUMBERED = re.compile(r"(?:^|\D)(\d{1,6})$")
YAML = re.compile(r"^(\w[\w./-]*):[ \t]+(\S+)[ \t]*$", re.MULTILINE)
"""A field of plain YAML; what is nested is passed over."""
KALDI_FILE = re.compile(r"compute_prob_(train|valid)\.(\d+)\.log")
PROBABILITY = re.compile(
    r"Overall (?:log-(?:probability|likelihood)|objective)(?: per frame)? for '?output'? is "
    r"(-?[\d.]+(?:e-?\d+)?)",
    re.IGNORECASE,
)
ACCURACY = re.compile(r"Overall accuracy for '?output'? is ([\d.]+)", re.IGNORECASE)


def _rows_of(lines: TextLines) -> Iterator[tuple[int, str]]:
    """The lines of a csv, also of one whose lines end in carriage returns alone."""
    for number, text in lines:
        pieces = [piece for piece in text.split("\r") if piece.strip()]
        if len(pieces) < 2 or '"' in text:
            yield number, text
        else:
            yield from enumerate(pieces, number)


def read_csv(path: Path, builder: LogBuilder, progress: Progress) -> None:
    """Rows may be sparse. A header that comes again, as where logs were appended, starts the
    columns anew.

    Of a csv that counts nothing each row is one count. Raises BadRun where it has no known metric
    either.
    """
    lines, malformed, unplaced, longer = (
        TextLines(path=path, progress=progress),
        LeftOut(),
        LeftOut(),
        LeftOut(),
    )
    columns: list[str] = []
    naming_run = _columns_of_runs(path)
    delimiter, counts = ",", True
    number, text, whole, before = 0, "", True, Row()
    for number, text in _rows_of(lines):
        if not text.strip():
            continue
        if not columns:
            delimiter, columns = header(text)
            columns = _trimmed(losses_of_splits(columns), 0)
            if columns[0].lower() in UNNAMED and not any(map(clock, columns)):
                columns[0] = "epoch"
            counts = any(map(clock, columns))
            if not counts and not any(map(known, columns)):
                raise BadRun(
                    f"{path}: a csv with the columns {naming(columns, 10)}: none counts epochs or "
                    "steps, and none is a known metric; name one epoch "
                    "or step, and say what the others are with --overfit-metric val_loss=COLUMN"
                )
            continue
        cells = split_cells(unwrapped(text), delimiter)
        if delimiter == ";":
            cells = [cell.replace(",", ".") if COMMA.fullmatch(cell) else cell for cell in cells]
        cells = _trimmed(cells, len(columns))
        if delimiter == "\t" and not lines.cut:  # what a row does not tell at its end is left away
            cells += [""] * (len(columns) - len(cells))
        if len(cells) == len(columns):
            found = row(
                (name, cell)
                for name, cell in zip(columns, cells, strict=True)
                if cell and name and not name.endswith(OF_SEVERAL)
            )
            whole = True
        elif is_header(cells):
            columns = cells
            continue
        elif _columns_added(columns, cells):
            found, whole = (
                row(
                    (name, cell)
                    for name, cell in zip(columns, cells, strict=False)
                    if cell and name
                ),
                True,
            )
            longer.add(number)
        else:
            malformed.add(number, f"{len(cells)} fields where the header has {len(columns)}")
            whole = False
            continue
        if counts and not found.placed and _completes(found, before):
            found.epoch, found.step = before.epoch, before.step
        if found.placed:
            before = found
        if found.placed or (found.values and not counts):
            run = " ".join(cells[column] for column in naming_run if column < len(cells))
            found.give(builder.of_run(run) if run else builder, Where(path, number))
        elif is_header(cells):
            columns = cells
        else:
            unplaced.add(number)
    builder.warnings += longer.warning(
        path, "with more cells than the header names: read as far as it does"
    )
    warn_left_out(
        builder,
        lines,
        malformed,
        unplaced,
        "not a row of this csv",
        cut=not whole and lines.cut,
        number=number,
    )


def _completes(found: Row, before: Row) -> bool:
    """Whether a row without a clock tells what the one before it, which has one, left open: of
    OpenAI's loggers, training and then validation.
    """
    told = {name for name, _ in before.values}
    return before.placed and bool(found.values) and told.isdisjoint(n for n, _ in found.values)


def _trimmed(cells: list[str], least: int) -> list[str]:
    """Cells without empty ones at the end, as far as there are more than `least`."""
    while len(cells) > max(least, 1) and not cells[-1]:
        cells = cells[:-1]
    return cells


def _columns_added(columns: list[str], cells: list[str]) -> bool:
    """Whether a row goes on behind the columns of the header, as where a trainer was taught to log
    more: its clock, its metrics and what it has more are numbers, so that no stray delimiter has
    moved them.
    """
    of_numbers = [
        cell for name, cell in zip(columns, cells, strict=False) if clock(name) or known(name)
    ] + cells[len(columns) :]
    return (
        len(cells) > len(columns)
        and any(map(clock, columns))
        and all(not cell or as_number(cell)[0] is not None for cell in of_numbers)
    )


def _columns_of_runs(path: Path) -> tuple[int, ...]:
    """The columns of a csv that name one of several runs in it: their cells stay the same for as
    many rows as a run has, and the clock starts anew with each.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        delimiter, columns = header(file.readline())
        naming_run = tuple(
            i
            for i, column in enumerate(columns)
            if NAMES_A_RUN.issuperset(words(column)) and not clock(column)
        )
        place = next((i for i, column in enumerate(columns) if clock(column)), None)
        if not naming_run or place is None:
            return ()
        rows: dict[tuple[str, ...], list[float]] = {}
        for text in file:
            cells = split_cells(text, delimiter)
            at = as_number(cells[place])[0] if len(cells) >= len(columns) else None
            if at is not None:
                rows.setdefault(tuple(cells[i] for i in naming_run), []).append(at)
            if len(rows) > MOST_RUNS:
                return ()
    firsts = [places[0] for places in rows.values()]
    several = (
        len(rows) > 1 and max(firsts) - min(firsts) <= 1 and min(map(len, rows.values())) >= LEAST
    )
    return naming_run if several else ()


def header(text: str) -> tuple[str, list[str]]:
    """The delimiter and the columns of a csv by its first line: those with a clock among them, then
    the most.
    """
    text = text.lstrip("%# ")
    found = [(delimiter, split_cells(text, delimiter)) for delimiter in DELIMITERS]
    return max(
        found,
        key=lambda one: (
            any(map(clock, one[1])),
            any(map(known, one[1])) and len(one[1]) > 1,
            len(one[1]),
        ),
    )


def losses_of_splits(columns: list[str]) -> list[str]:
    """Columns, where those of a split alone are its loss if training and validation have one
    each.
    """
    alone = {SPLITS[column.lower()] for column in columns if column.lower() in SPLITS}
    return [
        f"{column} loss" if len(alone) > 1 and column.lower() in SPLITS else column
        for column in columns
    ]


def is_header(cells: list[str]) -> bool:
    """Whether cells name columns, one of them a clock."""
    return (
        len(cells) > 1
        and any(map(clock, cells))
        and not any(cell and words(cell)[:1] and words(cell)[0].isdigit() for cell in cells)
    )


def is_epoch_file(path: Path, text: str) -> bool:
    """Whether it holds what was measured at one epoch alone: an object with a loss or an error rate,
    in a file that ends with a number.
    """
    if path.suffix not in EPOCH_FILES or NUMBERED.search(path.stem) is None:
        return False
    found = _epoch_row(path, text)
    measured = [meaning.metric for name, _ in found.values if (meaning := known(name))]
    return any(MEASURED[name].better for name in measured)


def read_epoch_files(
    paths: Sequence[Path], prefixes: Sequence[str], builder: LogBuilder, progress: Progress
) -> None:
    """In the order of their epochs, whatever that of the files' names."""
    rows = [(_epoch_row(path, _whole(path, progress)), path) for path in paths]
    for found, path in sorted(rows, key=lambda one: one[0].epoch):
        found.give(builder, Where(path, 1), order=found.epoch)


def _whole(path: Path, progress: Progress) -> str:
    return "\n".join(text for _, text in TextLines(path=path, progress=progress))


def _epoch_row(path: Path, text: str) -> Row:
    """What a file tells of its epoch, which is the number at the end of its name where it has none."""
    content = json_in(text) if path.suffix == ".json" else dict(YAML.findall(text))
    found = row(flattened(content)) if isinstance(content, dict) else Row()
    number = NUMBERED.search(path.stem)
    if found.epoch != found.epoch and number:
        found.epoch = float(number[1])
    return found


def is_numbers_file(path: Path, text: str) -> bool:
    """Whether a file named after a metric holds nothing but its readings: a line each, with or
    without their numbers, `train_loss.txt` of `1_1.8459`, or under the epochs that they are of; or a
    list as Python prints it.
    """
    if _metric_of_file(path) is None:
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not HEADING.fullmatch(line.strip())]
    listed = LIST.match(text) is not None
    items = [item for line in lines for item in _items(line, listed=listed)]
    return len(items) >= LEAST and all(
        READING.fullmatch(item.strip()) for item in items[: -1 if len(items) > LEAST else None]
    )


def _items(line: str, *, listed: bool) -> list[str]:
    """The readings of a line: one, or, of a list that may go on over several lines, its own."""
    items = line.strip().strip("[],").split(",") if listed else [line]
    return [item for item in items if item.strip()]


def _metric_of_file(path: Path) -> str | None:
    """The metric that a file of numbers is named after, with or without words before it; a split alone
    stands for its loss.
    """
    name = path.stem
    left = [word for word in words(name) if word not in OF_FILES]
    if len(left) == 1 and left[0] in SPLITS:
        return f"{left[0]}_loss"
    # What is told of tests again and again may be all that there is of validation.
    for one in (name, " ".join(left)):
        if known(one) or known(one.lower().replace("test", "val")):
            return one
    ends = (left[at:] for at in range(1, len(left)) if left[at - 1] not in NOT_OF_NOW)
    return next((end for rest in ends if known(end := " ".join(rest))), None)


def read_numbers_files(
    paths: Sequence[Path], prefixes: Sequence[str], builder: LogBuilder, progress: Progress
) -> None:
    """Each reading is an epoch, by its number or by its place. Of files some of which have ten times
    as many readings as others, those tell of batches, and are spread over the epochs.
    """
    told = {path: _readings_of(path, builder, progress) for path in paths}
    epochs = min((len(readings) for readings in told.values() if readings), default=0)
    for path, readings in told.items():
        batches = len(readings) >= BATCHES * epochs
        of_epoch = Counter(epoch for _, _, epoch in readings if epoch)
        so_far = Counter[str]()
        for place, (where, found, epoch) in enumerate(readings, 1):
            at = place * epochs / len(readings) if batches else float(found["epoch"] or place)
            if epoch:
                at = float(epoch) + so_far[epoch] / of_epoch[epoch]
                so_far[epoch] += 1
            name = _metric_of_file(path) or path.stem
            builder.add([(name, float(found["value"]))], epoch=at, where=where)


def _readings_of(
    path: Path, builder: LogBuilder, progress: Progress
) -> list[tuple[Where, re.Match[str], str]]:
    """Each with its place and the epoch that stands above it, "" without one."""
    malformed, readings, epoch, listed = LeftOut(), [], "", False
    for number, text in TextLines(path=path, progress=progress):
        listed = listed or text.lstrip().startswith("[")
        for item in _items(text, listed=listed):
            found, heading = READING.fullmatch(item.strip()), HEADING.fullmatch(item.strip())
            if heading is not None:
                epoch = heading["epoch"]
            elif found is not None:
                readings.append((Where(path, number), found, epoch))
            elif item.strip():
                malformed.add(number, shortened(item))
    builder.warnings += malformed.warning(path, "left out: no number")
    return readings


def is_kaldi(path: Path) -> bool:
    """Whether a file is named as Kaldi names its progress logs."""
    return KALDI_FILE.fullmatch(path.name) is not None


def read_kaldi(
    paths: Sequence[Path], prefixes: Sequence[str], builder: LogBuilder, progress: Progress
) -> None:
    """The loss is the log-probability with its sign turned.

    Iterations are steps, in their order, whatever that of the files' names.
    """
    numbered = sorted(
        (int(match[2]), path) for path in paths if (match := KALDI_FILE.fullmatch(path.name))
    )
    for iteration, path in numbered:
        split = "train" if "_train." in path.name else "val"
        for number, text in TextLines(path=path, progress=progress):
            for name, pattern in (("log_probability", PROBABILITY), ("accuracy", ACCURACY)):
                if match := pattern.search(text):
                    builder.add(
                        [(name, float(match[1]))],
                        step=iteration,
                        split=split,
                        where=Where(path, number),
                        order=iteration,
                    )
