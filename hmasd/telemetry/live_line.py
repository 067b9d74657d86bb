"""A line that is live on a terminal, and comes now and then as plain text elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

_LOG = logging.getLogger(__name__)

LIVE_INTERVAL = 0.1  # seconds between two redraws

Line = Callable[[int | None], Text]  # of the columns that there are; None: any number


class LiveLine:
    """Shows a line on a stream; a context manager that restores the terminal on any exit."""

    def __init__(
        self, plain_interval: float, stream: TextIO | None, clock: Callable[[], float]
    ) -> None:
        """Prepares the line; nothing is shown before the first `offer`.

        Args:
            plain_interval: Seconds between two lines where there is no terminal.
            stream: Where to; None: stdout.
            clock: Returns seconds; only differences count.
        """
        self._stream = sys.stdout if stream is None else stream
        self._clock = clock
        self._shown_at = float("-inf")
        self._waiting: Line | None = None
        self._is_gone = False
        self._live = self._make_live() if _is_terminal(self._stream) else None
        self._interval = plain_interval if self._live is None else LIVE_INTERVAL

    def offer(self, line: Line) -> None:
        """Shows the line if the last one is long enough ago; else when closed, if none follows."""
        self._waiting = line
        if self._clock() - self._shown_at >= self._interval:
            self._show()

    def close(self) -> None:
        """Shows the last line, if it is not shown yet, and gives the terminal back."""
        try:
            self._show()
        finally:
            if self._live is not None:
                self._live.stop()

    def __enter__(self) -> LiveLine:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _make_live(self) -> Live:
        """Returns rich's live display; it redraws only when told: there is no second thread."""
        return Live(
            console=Console(file=self._stream, force_terminal=True),
            auto_refresh=False,
            redirect_stdout=self._stream is sys.stdout,
            redirect_stderr=_is_terminal(sys.stderr),  # not where it goes into a file
        )

    def _show(self) -> None:
        """Writes the line; a console that is gone (a closed pipe) must not end the work."""
        line, self._waiting = self._waiting, None
        self._shown_at = self._clock()
        if self._is_gone or line is None:
            return
        try:
            self._write(line)
        except OSError as error:
            self._is_gone = True
            _LOG.warning("no progress line any more, the console is gone (%s)", error)

    def _write(self, line: Line) -> None:
        if self._live is None:
            self._stream.write(line(None).plain + "\n")
            self._stream.flush()
        else:
            self._live.update(line(self._live.console.width), refresh=True)


def _is_terminal(stream: TextIO) -> bool:
    """Says whether a stream understands escape codes."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
