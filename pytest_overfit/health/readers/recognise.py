"""What a file is: by its content, for endings lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pytest_overfit.health.readers.events import is_event_file
from pytest_overfit.health.readers.gather import Gathering
from pytest_overfit.health.readers.lines import Progress
from pytest_overfit.health.readers.names import clock
from pytest_overfit.health.readers.plain import read_plain
from pytest_overfit.health.readers.tables import header, is_header, json_row
from pytest_overfit.health.run import BadRun

Kind = Literal["TensorBoard events", "csv", "JSON lines", "JSON list", "plain log"]
HEAD = 1 << 16
LINES_LOOKED_AT = 2_000
"""Lines of a plain text within which a metric must stand for it to be a log."""
FOREIGN = {
    b"PK\x03\x04": ("a checkpoint or archive, which holds no curves", "give the log of the run, or the folder that has both"),
    b"\x80": ("a pickle, which is not opened here since that runs what is in it", "give the log of the run"),
    b"\x1f\x8b": ("compressed", "unpack it first"),
    b"\xff\xfe": ("text in UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "save it as UTF-8"),
}
"""How files start that are no logs: what they are, and what to do."""
UNREADABLE = 0.1
"""Share of a text's head that may be no UTF-8."""
JSON_WITHOUT_ROWS = "JSON without a log_history; give a trainer_state.json, or one object a line with an epoch or a step"


def kind_of(path: Path) -> Kind:
    """What a file is. Raises BadRun for one that is empty, binary, or JSON of no run."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.strip():
        raise BadRun(f"{path}: empty; give the log of a run that has logged an epoch")
    if is_event_file(head):
        return "TensorBoard events"
    for start, (what, advice) in FOREIGN.items():
        if head.startswith(start):
            raise BadRun(f"{path}: {what}; {advice}")
    text = _text(head)
    if b"\0" in head or text.count("\ufffd") > UNREADABLE * len(text):
        raise BadRun(f"{path}: binary, and no TensorBoard event file; give a log")
    return _kind_of_text(path, text)


def _text(head: bytes) -> str:
    return head.decode("utf-8", errors="replace").removeprefix("\ufeff").lstrip()


def _kind_of_text(path: Path, text: str) -> Kind:
    lines = [line for line in text.split("\n") if line.strip()]
    if (text.startswith("{") and '"log_history"' in text) or re.match(r"\[\s*[{\]]", text):
        return "JSON list"
    if sum(json_row(line) is not None for line in lines) > (len(lines) - 1) / 2 or (text.startswith("{") and len(lines) == 1):
        return "JSON lines"
    if re.match(r"\{\s*(?:\n|$)", text):
        raise BadRun(f"{path}: {JSON_WITHOUT_ROWS}")
    columns = header(lines[0].strip())[1]
    return "csv" if is_header(columns) or (path.suffix in (".csv", ".tsv") and len(columns) > 1) else "plain log"


def tells_a_run(path: Path, kind: Kind) -> bool:
    """Whether a file of this kind has what a run's log has, as its head shows: in a folder, much else is text, csv and JSON."""
    if kind == "TensorBoard events":
        return True
    with path.open("rb") as file:
        text = _text(file.read(HEAD))
    if kind == "csv":
        return any(map(clock, header(text.split("\n", 1)[0].strip())[1]))
    if kind == "JSON list":
        return '"log_history"' in text or re.search(r'"(?:epoch|step|global_step)"', text) is not None
    if kind == "JSON lines":
        rows = [found for line in text.split("\n") if (found := json_row(line)) is not None]
        return any(found.placed and found.values for found in rows)
    if not re.search(r"epoch|step|iter", text, re.IGNORECASE):
        return False
    gathering = Gathering()
    read_plain(path, gathering, Progress(bytes_total=1), most_lines=LINES_LOOKED_AT)
    return any(name.endswith(("_loss", "_wer")) for name in gathering.reading().curves)
