"""How training goes, in one line: live on a terminal, now and then as plain text elsewhere."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NamedTuple, TextIO

from rich.text import Text

from hmasd.telemetry.live_line import LiveLine

SPEED_WINDOW = 30.0  # seconds that speed and ETA look back

_SHORT_NAME = re.compile(r".*_(?=\w+\.pth)|\.pth")  # of a checkpoint's name what is not its steps


class _Part(NamedTuple):
    """One part of the line: what it is called, and the metrics that it shows."""

    label: str
    short: str  # where the terminal is too narrow for the label
    tags: tuple[str, ...]
    style: str
    percent: bool = False


_PARTS = (
    _Part("success", "succ", ("rollout/success",), "bold green", percent=True),
    _Part("high entropy", "high H", ("high/entropy_team", "high/entropy_agent"), "magenta"),
    _Part("low entropy", "low H", ("low/entropy",), "magenta"),
    _Part(
        "disc acc",
        "disc",
        ("disc/team_accuracy", "disc/individual_accuracy"),
        "yellow",
        percent=True,
    ),
)


class Progress:
    """The progress line, on stdout; a context manager that restores the terminal on any exit.

    Values that a round does not have keep those of the round before.
    """

    def __init__(
        self,
        total_steps: int,
        start_steps: int = 0,
        plain_interval: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the line; nothing is shown before the first `update`.

        Args:
            total_steps: Env steps at which training ends.
            start_steps: Env steps at which this run goes on; they do not count for the speed.
            plain_interval: Seconds between two lines where there is no terminal.
            stream: Where to; None: stdout.
            clock: Returns seconds; only differences count.
        """
        self._total = total_steps
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque([(clock(), start_steps)])
        self._steps = start_steps
        self._update: int | None = None
        self._checkpoint: str | None = None
        self._metrics: dict[str, float] = {}
        self._live = LiveLine(plain_interval, stream, clock)

    def update(
        self,
        metrics: Mapping[str, float],
        env_steps: int,
        update: int | None = None,
        checkpoint: str | None = None,
    ) -> None:
        """Shows where training is.

        Args:
            metrics: The metrics of the round (`docs/metrics.md`).
            env_steps: Env steps trained so far.
            update: Updates so far; None: ``Sync/PolicyVersion`` of the metrics, if it is there.
            checkpoint: Name of the last checkpoint; None: the one given before.
        """
        self._metrics.update(metrics)
        self._steps = env_steps
        version = self._metrics.get("Sync/PolicyVersion")
        self._update = update if update is not None or version is None else int(version)
        self._checkpoint = self._checkpoint if checkpoint is None else checkpoint
        self._mark(env_steps)
        self._live.offer(self.line)

    def line(self, width: int | None = None) -> Text:
        """Returns the line as it is now.

        Args:
            width: Columns that there are; None: any number. If the line does not fit, its words
                are shortened; if that is not enough, it will wrap.
        """
        line = self._join(is_short=False)
        return line if width is None or len(line.plain) <= width else self._join(is_short=True)

    def __enter__(self) -> Progress:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.close()

    def _join(self, is_short: bool) -> Text:
        """Puts the line together from its parts."""
        count = short_number if is_short else "{:,}".format
        speed = self._speed()
        unit = "/s" if is_short else " steps/s"
        steps = "" if is_short else " steps"
        number = "-" if self._update is None else self._update
        name = self._checkpoint or "-"
        parts = [
            Text(f"{'upd' if is_short else 'update'} {number}", "bold"),
            Text(
                f"{count(self._steps)}/{count(self._total)}{steps} {self._percent():.1f}%", "cyan"
            ),
            Text(f"ETA {self._eta(speed)}", "cyan"),
            Text(f"{speed:,.0f}{unit}" if speed else f"-{unit}", "cyan"),
            *(
                Text(f"{part.short if is_short else part.label} {self._values(part)}", part.style)
                for part in _PARTS
            ),
            Text(f"saved {_SHORT_NAME.sub('', name) if is_short else name}", "blue"),
        ]
        separator = "  " if is_short else " | "
        line = Text()
        for part in parts:
            line.append(separator if line else "", style="dim").append_text(part)
        return line

    def _mark(self, env_steps: int) -> None:
        """Remembers when the steps were reached, for as long as the speed looks back."""
        now = self._clock()
        self._marks.append((now, env_steps))
        while len(self._marks) > 2 and now - self._marks[1][0] >= SPEED_WINDOW:
            self._marks.popleft()

    def _speed(self) -> float:
        """Returns env steps per second over the last seconds, evaluations included; 0: unknown."""
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - start) if end > start else 0.0

    def _percent(self) -> float:
        """Returns how much of the training is done."""
        return min(100.0 * self._steps / max(self._total, 1), 100.0)

    def _eta(self, speed: float) -> str:
        """Returns the time that is left as h:mm:ss."""
        left = max(self._total - self._steps, 0)
        return str(timedelta(seconds=round(left / speed))) if speed else "-"

    def _values(self, part: _Part) -> str:
        """Returns the values of a part, e.g. ``0.69/1.20`` or ``85%``."""
        form = "{:.0%}" if part.percent else "{:.2f}"
        values = [self._metrics.get(tag) for tag in part.tags]
        return "/".join("-" if value is None else form.format(value) for value in values)


def short_number(number: int) -> str:
    """Returns e.g. ``1.50M`` or ``320k``."""
    if number >= 1_000_000:
        return f"{number / 1_000_000:.2f}M"
    return f"{number / 1000:.0f}k" if number >= 1000 else str(number)
