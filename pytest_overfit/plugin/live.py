"""The line that people watch while rungs are climbed, in this process or in its workers."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import TextIO

INTERVAL_SECONDS = 0.5
CLEAR = "\r\x1b[2K"


class LiveLine:
    """Shows the newest progress of every process at work, on one line of a terminal, until
    stopped.
    """

    def __init__(self, folder: Path, terminal: TextIO) -> None:
        self.folder, self.terminal = folder, terminal
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="overfit live line", daemon=True)

    def start(self) -> None:
        """Begin to watch, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, clear the line and close the terminal."""
        self._stop.set()
        self._thread.join()
        self.terminal.write(CLEAR)
        self.terminal.close()

    def _run(self) -> None:
        shown = ""
        while not self._stop.wait(INTERVAL_SECONDS):
            line = " | ".join(progress_text(row) for row in read_progress(self.folder))
            if line and line != shown:
                self.terminal.write(f"{CLEAR}{line[: shutil.get_terminal_size().columns - 1]}")
                self.terminal.flush()
                shown = line


def read_progress(folder: Path) -> list[dict[str, object]]:
    """What each process last left word of."""
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("progress-*"))
    ]


def progress_text(row: dict[str, object]) -> str:
    """ "mobilenetv3 10 samples, step 35/400, lr 0.005, loss 1.23, token error rate 0.45"."""
    return (
        f"{row['subject']} {row['samples']} samples, step {row['step']}/{row['budget']}, lr "
        f"{row['lr']:g}, "
        f"loss {row['loss']:.3g}, token error rate {row['token_error_rate']:.2f}"
    )
