"""One env worker as its parent sees it: its process, what it answers, and what became of it."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Sequence
from multiprocessing import Pipe

import numpy as np

from hmasd.envs.env_slice import BatchArrays, last_actions, place
from hmasd.envs.worker_process import DONE, Job
from hmasd.processes import Child

_LONGEST_POLL = 1.0  # seconds


class Worker:
    """A worker process, which the parent tells what to do and then waits for."""

    def __init__(self, number: int, job: Job, memory: int) -> None:
        """Start it; its first answer is its game's sizes. memory: the shared file's descriptor."""
        self.number = number
        self.job = job
        self.answer = b""
        self.connection, theirs = Pipe()
        with theirs:
            self.child = Child("hmasd.envs.worker_process", theirs.fileno(), memory)
        self._rows: BatchArrays | None = None
        self._before = np.zeros((2, 0), dtype=np.int64)  # episode and clock of its envs
        self.send(json.dumps(job._asdict()))

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.child.pid

    def watch(self, rows: BatchArrays) -> None:
        """Know its rows of the shared arrays."""
        self._rows = rows
        self._before = np.zeros((2, len(rows.clock)), dtype=np.int64)

    def note_progress(self) -> None:
        """Remember where its envs are, to see later how far a step came."""
        assert self._rows is not None, "a worker that plays is watched"
        self._before[0], self._before[1] = self._rows.episode, self._rows.clock

    def send(self, text: str) -> None:
        """Tell it what to do; that a dead one does not hear is found when its answer is due."""
        try:
            self.connection.send_bytes(text.encode())
        except OSError:
            return

    def receive(self) -> str | None:
        """Take its answer; returns what happened if it is a failure."""
        try:
            answer = self.connection.recv_bytes()
        except (EOFError, OSError):
            return self._death()
        self.answer = answer[1:]
        return None if answer[:1] == DONE else f"failed: {self.answer.decode()}"

    def hang(self, timeout: float) -> str:
        """Kill it for giving no answer; returns what happened, with the lines where it hangs."""
        self.child.kill_hanging()
        self.end(0.0)
        return (
            f"gave no answer within {timeout:g} s and was killed{self._place()}; raise "
            f"--env-timeout if one step of its envs may take that long{self.child.last_output()}"
        )

    def end(self, seconds: float) -> None:
        """Close the connection, wait for it to end by itself, kill what is left of it."""
        self.connection.close()
        self.child.end(seconds)

    def __str__(self) -> str:
        return (
            f"env worker {self.number} (pid {self.pid}, envs {self.job.first}..{self.job.stop - 1})"
        )

    def _death(self) -> str:
        """What is known of its end."""
        self.connection.close()
        return f"{self.child.how_it_ended()}{self._place()}{self.child.last_output()}"

    def _place(self) -> str:
        """Which env it was playing, and the actions, as far as the shared arrays tell."""
        if self._rows is None:
            return " while it started"
        now = np.stack([self._rows.episode, self._rows.clock])
        moved = np.flatnonzero((now != self._before).any(axis=0))
        if len(moved) == 0:
            return " between two steps"
        row = int(moved[-1])
        return f" at {place(self._rows, row, self.job.first)}{last_actions(self._rows, row)}"


def wait_for_answers(workers: Sequence[Worker], timeout: float) -> dict[Worker, str]:
    """Wait until every worker has answered, but no longer than `timeout` seconds.

    Returns:
        What happened to the workers that failed; they are ended, but for those that could answer.
    """
    waiting = {worker.connection.fileno(): worker for worker in workers}
    printing = {worker.child.output: worker.child for worker in workers}
    poll = select.poll()
    for descriptor in (*waiting, *printing):
        poll.register(descriptor, select.POLLIN)
    left = timeout
    failures: dict[Worker, str] = {}
    while waiting:
        if left <= 0:
            return failures | {worker: worker.hang(timeout) for worker in waiting.values()}
        start = time.monotonic()
        ready = poll.poll(1000 * min(left, _LONGEST_POLL))
        # A parent that was stopped for an hour, by Ctrl-Z say, must not count that as waiting.
        left -= min(time.monotonic() - start, _LONGEST_POLL)
        for descriptor, _ in ready:
            if descriptor in printing:
                if not printing[descriptor].read_output():
                    poll.unregister(descriptor)
                continue
            poll.unregister(descriptor)
            worker = waiting.pop(descriptor)
            failure = worker.receive()
            if failure is not None:
                failures[worker] = failure
    return failures
