"""The progress line: plain without a terminal, live with one, restored after errors."""

from __future__ import annotations

import io
import logging
import re
import sys
from pathlib import Path

import pytest

from hmasd.telemetry.console import Progress
from hmasd.telemetry.logs import close_logging, set_up_logging


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


METRICS = {
    "Sync/PolicyVersion": 3.0,
    "rollout/success": 0.25,
    "high/entropy_team": 0.69,
    "high/entropy_agent": 2.08,
    "low/entropy": 1.6,
    "disc/team_accuracy": 0.5,
    "disc/individual_accuracy": 0.123,
}


def test_a_plain_line_has_everything() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress(10_000, stream=out, clock=clock) as progress:
        clock.now += 2
        progress.update(METRICS, 1000, checkpoint="hmasd_sync_enhanced_1000.pth")
    assert out.getvalue() == (
        "update 3 | 1,000/10,000 steps 10.0% | ETA 0:00:18 | 500 steps/s | success 25% | "
        "high entropy 0.69/2.08 | low entropy 1.60 | disc acc 50%/12% | "
        "saved hmasd_sync_enhanced_1000.pth\n"
    )


def test_plain_lines_come_every_ten_seconds_and_at_the_end() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress(100, stream=out, clock=clock) as progress:
        for steps in range(1, 34):
            clock.now += 1
            progress.update({}, steps)
    shown = [int(line.split("|")[1].split("/")[0]) for line in out.getvalue().splitlines()]
    assert shown == [1, 11, 21, 31, 33]
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_the_last_line_is_not_shown_twice_and_nothing_without_updates() -> None:
    out = io.StringIO()
    with Progress(100, stream=out) as progress:
        progress.update({}, 100)
    assert len(out.getvalue().splitlines()) == 1
    with Progress(100, stream=out):
        pass
    assert len(out.getvalue().splitlines()) == 1


def test_missing_values_are_dashes_and_old_ones_stay() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress(100, stream=out, clock=clock, plain_interval=0) as progress:
        progress.update({}, 1)
        progress.update({"rollout/success": 1.0}, 2, update=7, checkpoint="a.pth")
        progress.update({}, 3, update=8)
    first, _, last = out.getvalue().splitlines()
    assert "update - " in first
    assert "success - |" in first
    assert "ETA - | - steps/s" in first
    assert first.endswith("saved -")
    assert "update 8 " in last
    assert "success 100% |" in last
    assert last.endswith("saved a.pth")


def test_speed_leaves_out_the_steps_before_and_looks_back_some_seconds_only() -> None:
    out, clock = io.StringIO(), Clock()
    with Progress(10_000, start_steps=5000, stream=out, clock=clock) as progress:
        clock.now += 10
        progress.update({}, 5100)
        assert "10 steps/s" in progress.line().plain
        for i in range(1, 61):
            clock.now += 1
            progress.update({}, 5100 + 20 * i)
        assert "20 steps/s" in progress.line().plain


@pytest.mark.parametrize("columns", [200, 120, 70])
def test_a_terminal_gets_a_live_line(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    out, clock = Terminal(), Clock()
    with Progress(3_000_000, 1_480_000, stream=out, clock=clock) as progress:
        for steps in range(1_490_000, 1_500_001, 5000):
            clock.now += 1
            progress.update(METRICS, steps, checkpoint="models/hmasd_sync_enhanced_960000.pth")
    text = out.getvalue()
    assert "\x1b[?25l" in text  # the cursor is hidden ...
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # ... and comes back
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split("\r")[-1].strip()
    assert last.count("\n") == (1 if columns == 70 else 0)
    assert last.startswith("update 3 | 1,500,000/" if columns == 200 else "upd 3  1.50M/3.00M")
    assert last.endswith("960000.pth" if columns == 200 else "saved 960000")


def test_an_exception_restores_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, stdout, stderr = Terminal(), sys.stdout, sys.stderr
    with pytest.raises(RuntimeError), Progress(100, stream=out) as progress:
        progress.update({}, 1)
        raise RuntimeError
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")
    assert sys.stdout is stdout
    assert sys.stderr is stderr


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    with Progress(100, stream=out) as progress:
        progress.update({}, 1)
    assert "\x1b" not in out.getvalue()


def test_logs_go_to_the_file_and_warnings_to_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        for _ in range(2):
            logger = set_up_logging(tmp_path, "run", "INFO")
        logger.debug("too fine")
        logging.getLogger("hmasd.training").info("only the file")
        logger.warning("both")
    finally:
        close_logging()
    text = (tmp_path / "logs" / "run.log").read_text()
    assert [text.count(part) for part in ("too fine", "only the file", "both")] == [0, 1, 1]
    assert capsys.readouterr().err.count("both") == 1
    assert logging.getLogger("hmasd").handlers == []


def test_logs_at_debug_and_at_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        set_up_logging(tmp_path, "fine", "DEBUG").debug("fine print")
        set_up_logging(tmp_path, "coarse", "ERROR").warning("not that bad")
    finally:
        close_logging()
    assert "fine print" in (tmp_path / "logs" / "fine.log").read_text()
    assert (tmp_path / "logs" / "coarse.log").read_text() == ""
    assert capsys.readouterr().err == ""


def test_a_log_that_cannot_be_written_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    try:
        logger = set_up_logging(tmp_path, "run")
        with pytest.raises(OSError, match=r"cannot write the log .*run\.log.*--output-dir"):
            set_up_logging(tmp_path / "file", "run")
        assert len(logger.handlers) == 2
    finally:
        close_logging()


def test_a_console_that_is_gone_does_not_end_training(caplog: pytest.LogCaptureFixture) -> None:
    """As in `train_sync_enhanced.py | head -1`: the pipe breaks at the second line."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("Broken pipe")

    clock = Clock()
    with Progress(100, stream=Broken(), clock=clock) as progress:
        for steps in (1, 2, 3):
            clock.now += 60
            progress.update({}, steps)
    assert sum("console is gone" in record.message for record in caplog.records) == 1
