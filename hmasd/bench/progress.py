"""How a comparison goes, in one line: runs done and failed, env steps, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TextIO

from rich.text import Text

from hmasd.bench.job import Job
from hmasd.telemetry.console import short_number
from hmasd.telemetry.live_line import LiveLine

LOOK_INTERVAL = 1.0  # seconds between two looks at the runs' logs


class BenchProgress:
    """The progress line of a comparison; a context manager."""

    def __init__(
        self,
        jobs: Sequence[Job],
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`jobs`: all runs, those that are finished too."""
        self._jobs = jobs
        self._clock = clock
        self._live = LiveLine(10.0, stream, clock)
        self._total = sum(job.config.total_steps for job in jobs)
        self._started_at = clock()
        self._started_with: int | None = None
        self._looked_at = float("-inf")
        self._steps: dict[int, int] = {}  # index of the job -> env steps
        self._working: Sequence[Job] = ()

    def update(self, working: Sequence[Job]) -> None:
        """Shows where the runs are; `working`: those with a process."""
        self._working = working
        if self._clock() - self._looked_at < LOOK_INTERVAL:
            return
        self._looked_at = self._clock()
        for index, job in enumerate(self._jobs):
            if index not in self._steps or job in working:
                self._steps[index] = _done(job)
        if self._started_with is None:
            self._started_with = self._done_steps()
        self._live.offer(self.line)

    def line(self, width: int | None = None) -> Text:
        """Returns the line as it is now; shortened where `width` columns do not hold it."""
        states = [job.state for job in self._jobs]
        failed = states.count("failed")
        done = self._done_steps()
        parts = [
            Text(f"{states.count('finished')}/{len(states)} runs", "bold"),
            Text(f"{failed} failed", "bold red" if failed else "dim"),
            Text(f"{short_number(done)}/{short_number(self._total)} steps", "cyan"),
            Text(f"ETA {self._eta(done)}", "cyan"),
            *(Text(self._name(job), "green") for job in self._working),
        ]
        line = Text(" | ").join(parts)
        if width is not None:
            line.truncate(width, overflow="ellipsis")
        return line

    def __enter__(self) -> BenchProgress:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._looked_at = float("-inf")
        self.update(())
        self._live.close()

    def _done_steps(self) -> int:
        return sum(self._steps.values())

    def _eta(self, done: int) -> str:
        """Returns the time that is left as h:mm:ss, by the speed since the start."""
        gained = done - (self._started_with or 0)
        if gained <= 0:
            return "-"
        seconds = (self._total - done) * (self._clock() - self._started_at) / gained
        return str(timedelta(seconds=round(seconds)))

    def _name(self, job: Job) -> str:
        share = self._steps.get(self._jobs.index(job), 0) / job.config.total_steps
        return f"{job.key.task}/{job.key.algorithm}/{job.key.seed} {share:.0%}"


def _done(job: Job) -> int:
    """Env steps that need not be done any more; a failed run needs none."""
    return job.env_steps if job.state == "unfinished" else job.config.total_steps
