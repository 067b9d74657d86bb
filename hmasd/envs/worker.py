"""One env worker as its parent sees it: a process with rows of the shared arrays."""

from __future__ import annotations

import json

import numpy as np

from hmasd.envs import worker_process
from hmasd.envs.env_slice import BatchArrays, last_actions, place
from hmasd.envs.player import Player
from hmasd.envs.worker_process import Job


class Worker(Player):
    """A process that plays some of a batch's envs."""

    remedy = "raise --env-timeout if one step of its envs may take that long"

    def __init__(self, number: int, job: Job, memory: int) -> None:
        """Start it; its first answer is its game's sizes. memory: the shared file's descriptor."""
        super().__init__(worker_process.__name__, memory)
        self.number = number
        self.job = job
        self._rows: BatchArrays | None = None
        self._before = np.zeros((2, 0), dtype=np.int64)  # episode and clock of its envs
        self.send(json.dumps(job._asdict()))

    def watch(self, rows: BatchArrays) -> None:
        """Know its rows of the shared arrays."""
        self._rows = rows
        self._before = np.zeros((2, len(rows.clock)), dtype=np.int64)

    def note_progress(self) -> None:
        """Remember where its envs are, to see later how far a step came."""
        assert self._rows is not None, "a worker that plays is watched"
        self._before[0], self._before[1] = self._rows.episode, self._rows.clock

    def place(self) -> str:
        """Which env it was playing, and the actions, as far as the shared arrays tell."""
        if self._rows is None:
            return " while it started"
        restarted, moved = np.stack([self._rows.episode, self._rows.clock]) != self._before
        if not (restarted | moved).any():
            return " between two steps"
        # All envs are stepped, and then those that ended are restarted, both in order.
        row = int(np.flatnonzero(restarted if restarted.any() else moved)[-1])
        return f" at {place(self._rows, row)}{last_actions(self._rows, row)}"

    def __str__(self) -> str:
        return (
            f"env worker {self.number} (pid {self.pid}, envs {self.job.first}..{self.job.stop - 1})"
        )
