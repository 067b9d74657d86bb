"""SIGINT, SIGTERM and SIGHUP end training after the step in progress, not in its middle.

Under ``nohup`` a closed terminal ends nothing: what ignores SIGHUP goes on ignoring it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch

from hmasd.distributed import Ranks

EXIT_OFFSET = 128  # shells' convention: exit code = 128 + signal number


class StopRequest:
    """Remembers the first such signal while it is entered; a second one ends at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def agree(self) -> None:
        """Let the processes of the run know of it; alone it holds at once."""

    @property
    def is_wanted(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """0 if no signal came, else 128 + its number: SIGHUP 129, SIGINT 130, SIGTERM 143."""
        return 0 if self.signal is None else EXIT_OFFSET + self.signal

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            outlives_terminal = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            taken = set(self.SIGNALS) - ({signal.SIGHUP} if outlives_terminal else set())
            self._previous = {s: signal.signal(s, self._receive) for s in taken}
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


class AgreedStop(StopRequest):
    """The processes of a run stop together, at the end of a round, if one was asked to.

    Further signals change nothing: a terminal sends Ctrl-C to all processes, and then the launcher
    sends it once more. Launchers kill what does not end in time.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks
        self._received: signal.Signals | None = None

    def agree(self) -> None:
        """Stop where one process was asked to."""
        number = int(self._ranks.largest(torch.tensor(int(self._received or 0))))
        self.signal = signal.Signals(number) if number else None

    @property
    def is_wanted(self) -> bool:
        """Whether this process was asked to stop."""
        return self._received is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)


def make_stop_request(ranks: Ranks) -> StopRequest:
    """Alone, a run stops after its step; with others, after its round."""
    return StopRequest() if ranks.world_size == 1 else AgreedStop(ranks)
