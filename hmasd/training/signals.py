"""SIGINT, SIGTERM and SIGHUP end training after the step in progress, not in its middle."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

EXIT_OFFSET = 128  # shells' convention: exit code = 128 + signal number


class StopRequest:
    """Remembers the first such signal while it is entered; a second one ends at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """0 if no signal came, else 128 + its number: SIGHUP 129, SIGINT 130, SIGTERM 143."""
        return 0 if self.signal is None else EXIT_OFFSET + self.signal

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._receive) for s in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
