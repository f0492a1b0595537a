"""Progress: a bar on a terminal, a line a minute in a log, nothing about short runs."""

import io
import sys

import pytest
from ecg_training import progress
from ecg_training.progress import Progress

from ecg_finetune.batch import run_batch
from ecg_finetune.progress_bar import duration, progress_bar, progress_line


class Clock:
    """A clock that goes on only when told to."""

    def __init__(self):
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_for(minutes: float, steps: int, total: int | None, unit: str = "records") -> None:
    """Work through `steps` steps of 100 items each in so many minutes."""
    clock = Clock()
    with progress_bar(total, unit, clock) as advance:
        for _ in range(steps):
            clock.seconds += 60 * minutes / steps
            advance(100)


def test_a_log_gets_a_line_a_minute(capsys):
    run_for(10, 1200, 120_000)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[0] == "12,000 of 120,000 records, 200 a second, 9 min left"
    assert lines[-1] == "120,000 of 120,000 records, 200 a second, 0 s left"


def test_steps_longer_than_a_minute_get_a_line_each(capsys):
    run_for(6, 3, 400, "segments")
    assert capsys.readouterr().out.splitlines() == [
        "100 of 400 segments, 0.83 a second, 6 min left",
        "200 of 400 segments, 0.83 a second, 4 min left",
        "300 of 400 segments, 0.83 a second, 2 min left",
    ]


def test_nothing_is_said_of_a_short_run(capsys):
    run_for(0.9, 1000, 100_000)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_run_of_unknown_length(capsys):
    run_for(1, 60, None, "files")
    assert capsys.readouterr().out == "6,000 files, 100 a second\n"


def test_a_line_where_nothing_is_done_yet():
    assert progress_line(0, 5, "records", 60) == "0 of 5 records, 0 a second"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59.4, "59 s"), (59.6, "1 min"), (3569, "59 min"), (3571, "1 h 0 min"), (1e6, "277 h 47 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_a_terminal_gets_a_bar_and_no_lines(capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run_for(10, 12, 1200)
    assert "1200/1200" in terminal.getvalue() and " records/s" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_a_closed_stderr_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    run_for(1, 1, 100)
    assert capsys.readouterr().out.startswith("100 of 100 records")


def test_a_batch_shows_its_progress(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(run_batch(len, [[1, 2], [3]], workers=1, total=3, unit="things")) == [2, 1]
    assert "3/3" in terminal.getvalue() and "things/s" in terminal.getvalue()


def test_fine_tuning_tells_of_itself_once_a_minute_too(tmp_path, capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    shown = Progress(tmp_path, segments=600, total=1200)
    shown.start([], 0)
    for _ in range(300):
        clock.seconds += 1
        shown.update(2, 0.5)
    shown.close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0] == "epoch 1/2: loss 0.500, AUROC -, 2.0 segments/s, 9:00 left"
