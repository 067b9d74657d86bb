"""One env worker as its parent sees it: its process, what it answers, and what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe

import numpy as np

from hmasd.envs.env_slice import BatchArrays, last_actions, place
from hmasd.envs.worker_process import DONE, STACK_SIGNAL, Job

_KEPT_OUTPUT = 4000  # bytes of what a worker printed last
_LONGEST_POLL = 1.0  # seconds
_READ = 1 << 16  # bytes, a pipe's size
_LAST_WORDS_SECONDS = 0.3  # for a hanging worker to print where it is


class Worker:
    """A worker process, which the parent tells what to do and then waits for.

    What the envs print goes neither to the console, where it would garble the progress line, nor
    to a file, which a chatty env would let grow for days: its end is kept for the failure's text.
    """

    def __init__(self, number: int, job: Job, memory: int) -> None:
        """Start it; its first answer is its game's sizes. memory: the shared file's descriptor."""
        self.number = number
        self.job = job
        self.answer = b""
        self.connection, theirs = Pipe()
        path = [entry or os.getcwd() for entry in sys.path]
        program = (sys.executable, "-m", "hmasd.envs.worker_process")
        self.output, printing = os.pipe()
        os.set_blocking(self.output, False)
        with theirs:
            self._process = subprocess.Popen(
                [*program, *map(str, (theirs.fileno(), memory, os.getpid()))],
                stdin=subprocess.DEVNULL,
                stdout=printing,
                stderr=printing,
                pass_fds=(theirs.fileno(), memory),
                env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(path)},
                start_new_session=True,  # the terminal's Ctrl-C is for the parent
            )
        os.close(printing)
        self._printed = b""
        self._is_over = False
        self._rows: BatchArrays | None = None
        self._before = np.zeros((2, 0), dtype=np.int64)  # episode and clock of its envs
        self.send(json.dumps(job._asdict()))

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

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

    def read_output(self) -> bool:
        """Take some of what it printed; returns whether more can come."""
        if self._is_over:
            return False
        try:
            read = os.read(self.output, _READ)
        except BlockingIOError:
            return True
        self._printed = (self._printed + read)[-_KEPT_OUTPUT:]
        return bool(read)

    def hang(self, timeout: float) -> str:
        """Kill it for giving no answer; returns what happened, with the lines where it hangs."""
        self.read_output()
        self._process.send_signal(STACK_SIGNAL)
        time.sleep(_LAST_WORDS_SECONDS)
        self.read_output()
        self.end(0.0)
        return (
            f"gave no answer within {timeout:g} s and was killed{self._place()}; raise "
            f"--env-timeout if one step of its envs may take that long{self._last_output()}"
        )

    def end(self, seconds: float) -> None:
        """Close the connection, wait for it to end by itself, kill what is left of it."""
        if self._is_over:
            return
        self._is_over = True
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(self.pid, signal.SIGKILL)  # its envs may have started programs
        self._process.wait()
        os.close(self.output)

    def __str__(self) -> str:
        return (
            f"env worker {self.number} (pid {self.pid}, envs {self.job.first}..{self.job.stop - 1})"
        )

    def _death(self) -> str:
        """What is known of its end."""
        self.read_output()
        self.end(_LAST_WORDS_SECONDS)
        code = self._process.returncode
        how = f"exited with code {code}"
        if code < 0:
            how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
        if code == -signal.SIGKILL:
            how += ", which is what the system does when memory runs out,"
        return f"{how}{self._place()}{self._last_output()}"

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

    def _last_output(self) -> str:
        text = self._printed.decode(errors="replace").strip()
        return f"\n\nWhat it printed last:\n{text}" if text else ""


def wait_for_answers(workers: Sequence[Worker], timeout: float) -> dict[Worker, str]:
    """Wait until every worker has answered, but no longer than `timeout` seconds.

    Returns:
        What happened to the workers that failed; they are ended, but for those that could answer.
    """
    waiting = {worker.connection.fileno(): worker for worker in workers}
    printing = {worker.output: worker for worker in workers}
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
