"""Progress while rungs are climbed, in this process or in its workers: a line that people watch, or
now and then a line of a log.
"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any, TextIO

from pytest_overfit.finding import counted

INTERVAL_SECONDS, LOG_SECONDS = 0.5, 60.0
CLEAR = "\r\x1b[2K"


class LiveLine:
    """Shows the newest progress of every process at work, on one line of a terminal, until stopped.

    log: what is written to is kept, as a CI log is: a new line each minute.
    """

    def __init__(self, folder: Path, terminal: TextIO, *, log: bool = False) -> None:
        self.folder, self.terminal, self.log = folder, terminal, log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="overfit live line", daemon=True)

    def start(self) -> None:
        """Begin to watch, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, clear the line and close the terminal."""
        self._stop.set()
        self._thread.join()
        if not self.log:
            self.terminal.write(CLEAR)
        self.terminal.close()

    def _run(self) -> None:
        shown = ""
        while not self._stop.wait(LOG_SECONDS if self.log else INTERVAL_SECONDS):
            line = " | ".join(progress_text(row) for row in read_progress(self.folder))
            if line and line != shown:
                # pytest's dots stand on the line that a log has begun.
                cut = line[: shutil.get_terminal_size().columns - 1]
                self.terminal.write(f"\n{line}\n" if self.log else f"{CLEAR}{cut}")
                self.terminal.flush()
                shown = line


def read_progress(folder: Path) -> list[dict[str, Any]]:
    """What each process last left word of."""
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("progress-*"))
    ]


def progress_text(row: dict[str, Any]) -> str:
    """ "mobilenetv3 10 samples, step 35/400, lr 0.005, loss 1.23, WER 45 %"."""
    rate = row["token_error_rate"]
    wer = "not read yet" if rate != rate else f"{100 * rate:.3g} %"
    over = row["step"] > row["budget"]
    far = f"{row['step']}, in overtime" if over else f"{row['step']}/{row['budget']}"
    return (
        f"{row['subject']} {counted(row['samples'], 'sample')}, step {far}, lr {row['lr']:.3g}, "
        f"loss {row['loss']:.3g}, WER {wer}"
    )
