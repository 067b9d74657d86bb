"""Where the seconds of a round go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Timers:
    """Adds up wall seconds per name: ``with timers("collect"): ...``."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Starts with no names.

        Args:
            clock: Returns seconds; only differences count.
        """
        self._clock = clock
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside the block to `name`, also if it raises."""
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._clock() - start

    def pop(self) -> dict[str, float]:
        """Returns the seconds per name since the last call, and starts anew."""
        seconds, self._seconds = self._seconds, {}
        return seconds
