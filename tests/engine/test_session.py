"""The session's end: who is shown what, and what is written whole or not at all."""

import sys
from types import SimpleNamespace

import pytest

from pytest_overfit.atomic_files import write_whole
from pytest_overfit.plugin.live import CLEAR, LiveLine
from pytest_overfit.plugin.printed import keep_the_end
from pytest_overfit.plugin.session import watched


@pytest.mark.parametrize(
    ("terminal", "verbosity", "ci", "shown"),
    [
        (True, 0, None, True),
        (True, 1, None, True),
        (True, -1, None, False),
        (True, 0, "true", False),
        (False, 0, None, False),
    ],
)
def test_the_live_line_is_for_people_on_a_terminal(monkeypatch, terminal, verbosity, ci, shown):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: terminal))
    if ci:
        monkeypatch.setenv("CI", ci)
    assert watched(SimpleNamespace(get_verbosity=lambda: verbosity)) is shown


def test_of_what_a_loop_printed_a_failure_shows_the_end(tmp_path):
    long, short = "".join(f"epoch {n}\n" for n in range(40)), "done\n"
    report = SimpleNamespace(
        nodeid="a/test_b.py::test_c[toy-1 sample]",
        sections=[("Captured stdout call", long), ("Captured stderr call", short)],
    )
    keep_the_end(report, tmp_path)
    first, *rest = report.sections[0][1].splitlines()
    assert rest == [f"epoch {n}" for n in range(30, 40)]
    (path,) = tmp_path.rglob("*.txt")
    assert first == f"(the last 10 of 40 lines; all of them: {path})"
    assert path.read_text(encoding="utf-8") == long
    assert report.sections[1] == ("Captured stderr call", short)


class Terminal:
    """A terminal that can be read after it was closed."""

    def __init__(self):
        self.written, self.closed = "", False

    def write(self, text):
        self.written += text

    def flush(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("pytest_overfit.plugin.live.INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr("pytest_overfit.plugin.live.LOG_SECONDS", 0.01)


ROW = '{"subject": "toy", "samples": 10, "step": %d, "budget": 400, "lr": 0.005, "loss": 2.0, "token_error_rate": 0.5}'


@pytest.mark.usefixtures("quick")
def test_the_live_line_shows_each_process_and_is_gone_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    write_whole(tmp_path / "progress-1", ROW % 3)
    write_whole(tmp_path / "progress-2", ROW % 4)
    terminal = Terminal()
    line = LiveLine(tmp_path, terminal)
    line.start()
    while not terminal.written:
        pass
    line.stop()
    assert "step 3/400" in terminal.written
    assert "| toy 10 samples, step 4/400" in terminal.written
    assert terminal.written.endswith(CLEAR)
    assert terminal.closed


@pytest.mark.usefixtures("quick")
def test_a_log_gets_a_line_for_each_progress_and_nothing_is_cleared(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    write_whole(tmp_path / "progress-1", ROW % 3)
    log = Terminal()
    line = LiveLine(tmp_path, log, log=True)
    line.start()
    while not log.written:
        pass
    line.stop()
    text = "toy 10 samples, step 3/400, lr 0.005, loss 2, WER 50 %"
    assert log.written == f"\n{text}\n"
    assert log.closed


@pytest.mark.usefixtures("quick")
def test_a_terminal_without_progress_is_left_alone(tmp_path):
    terminal = Terminal()
    line = LiveLine(tmp_path, terminal)
    line.start()
    line.stop()
    assert terminal.written == CLEAR
