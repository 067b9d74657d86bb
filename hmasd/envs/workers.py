"""Plain Python games in worker processes: a batch whose envs several processes step at once.

Observations, rewards, flags, masks and actions lie in memory that parent and workers share; a step
is one word to every worker and one wait, with a deadline, for all of them. What the envs play does
not depend on who plays them: results are the same, bit for bit, for any number of workers.

The shared memory is a file without a name, the workers die with the parent, and a worker that
raises, dies or hangs becomes an error that says which it was and what it was doing, or is replaced
as often as `WorkerSettings.restarts` allows.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import tempfile
import time
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hmasd.envs.env_slice import BatchArrays, EnvError, GameSizes, rows
from hmasd.envs.player import wait_for_answers
from hmasd.envs.vector import SingleEnvBatch
from hmasd.envs.worker import Worker
from hmasd.envs.worker_process import Job, decode_sizes, map_arrays

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0  # for all envs to close by themselves


class WorkerSettings(NamedTuple):
    """How the envs of a batch are spread over processes."""

    workers: int  # processes; never more than there are envs
    timeout: float  # seconds that a worker may take to start, or for one step of all its envs
    restarts: int  # failed workers that are replaced, in all


class WorkerError(EnvError):
    """A worker raised, died or hangs."""


def make_worker_batch(
    maker: str,
    options: dict[str, Any],
    num_envs: int,
    episode_length: int,
    settings: WorkerSettings,
) -> SingleEnvBatch:
    """A batch whose envs are played by worker processes; `close` ends them.

    Args:
        maker: "package.module:function", which makes one game; the workers import it.
        options: keyword arguments of the function: numbers, strings, bools, None.
        num_envs: E, at least 1.
        episode_length: steps after which an episode is truncated.
        settings: how many workers, and what they may do.

    Raises:
        WorkerError: a worker cannot make or reset its games; says why.
    """
    count = min(settings.workers, num_envs)
    bounds = [num_envs * i // count for i in range(count + 1)]
    jobs = [
        Job(maker, options, first, stop, num_envs, episode_length)
        for first, stop in itertools.pairwise(bounds)
    ]
    runner = WorkerRunner(jobs, settings)
    return SingleEnvBatch(runner.game, episode_length, runner.arrays, runner)


class WorkerRunner:
    """The workers of one batch, as a `hmasd.envs.vector.Runner`."""

    game: GameSizes
    arrays: BatchArrays

    def __init__(self, jobs: Sequence[Job], settings: WorkerSettings) -> None:
        """Start a worker for each job, and wait until all are ready.

        Raises:
            WorkerError: a worker cannot make or reset its games.
        """
        self._settings = settings
        self._restarts = 0
        self._memory = _nameless_file()
        self._workers: list[Worker] = []
        self._end = weakref.finalize(self, _end_all, self._workers, self._memory)
        try:
            for number, job in enumerate(jobs):
                self._workers.append(Worker(number, job, self._memory))
            self._must(wait_for_answers(self._workers, settings.timeout))
            self.game = decode_sizes(self._workers[0].answer)
            size = (jobs[0].num_envs, jobs[0].episode_length)
            self.arrays = map_arrays(self._memory, self.game, *size)
            self._must(self._map(self._workers))
        except BaseException:
            self.close()
            raise

    def reset(self) -> None:
        """Start episode 0 in every env; a worker that fails here is not replaced."""
        self._must(self._ask(self._workers, "reset"))

    def step(self) -> np.ndarray | None:
        """Play one step in all envs.

        Returns:
            [E] bool, the envs whose worker failed: they begin a new episode; None: no env.

        Raises:
            WorkerError: a worker failed and may not be replaced; all workers are ended.
        """
        for worker in self._workers:
            worker.note_progress()
        failures = self._ask(self._workers, "step")
        if not failures:
            return None
        lost = np.zeros(len(self.arrays.clock), dtype=np.bool_)
        for worker, failure in failures.items():
            self._replace(worker, failure)
            lost[worker.job.first : worker.job.stop] = True
        return lost

    def replay(self) -> None:
        """Bring every env to where the arrays say that it was; who fails here is not replaced."""
        self._must(self._ask(self._workers, "replay"))

    def render(self, row: int) -> np.ndarray:
        """Picture of the env of one row: [height, width, 3] uint8."""
        (worker,) = (w for w in self._workers if w.job.first <= row < w.job.stop)
        self._must(self._ask([worker], f"render {row - worker.job.first}"))
        return np.load(io.BytesIO(worker.answer), allow_pickle=False)

    def close(self) -> None:
        """End all workers; nothing happens if they are ended already."""
        self._end()

    def _ask(self, workers: Sequence[Worker], command: str) -> dict[Worker, str]:
        """Let workers do something; returns what happened to those that failed."""
        for worker in workers:
            worker.send(command)
        return wait_for_answers(workers, self._settings.timeout)

    def _must(self, failures: dict[Worker, str]) -> None:
        """End all workers and raise if there is a failure."""
        for worker, failure in failures.items():
            self.close()
            raise WorkerError(f"{worker} {failure}")

    def _map(self, workers: Sequence[Worker]) -> dict[Worker, str]:
        """Let workers that told their sizes map the shared arrays."""
        for worker in workers:
            worker.watch(rows(self.arrays, worker.job.first, worker.job.stop))
            if decode_sizes(worker.answer) != self.game:
                return {
                    worker: f"has a game of other sizes than the first one: {worker.answer!r}, "
                    f"not {self.game}; all copies of a game must have the same"
                }
        return self._ask(workers, "map")

    def _replace(self, worker: Worker, failure: str) -> None:
        """Put a new worker in a failed one's place, and new episodes in place of the lost ones.

        Raises:
            WorkerError: no replacement is left.
        """
        allowed = self._settings.restarts
        while True:
            worker.end(0.0)
            if self._restarts == allowed:
                self._must(
                    {
                        worker: f"{failure}\n\n{self._restarts} of {allowed} replacements are "
                        "used: mend the environment, or let more failed workers be replaced and "
                        "their episodes be lost with --env-restarts"
                    }
                )
            self._restarts += 1
            logger.warning(
                f"{worker} {failure}\n\nIt is replaced ({self._restarts} of {allowed}); this round "
                "of its envs is discarded"
            )
            worker = Worker(worker.number, worker.job, self._memory)
            self._workers[worker.number] = worker
            failures = wait_for_answers([worker], self._settings.timeout) or self._map([worker])
            failures = failures or self._begin_anew(worker)
            if not failures:
                return
            failure = failures[worker]

    def _begin_anew(self, worker: Worker) -> dict[Worker, str]:
        """Start the envs' next episodes, and write the step that ended the lost ones."""
        mine = rows(self.arrays, worker.job.first, worker.job.stop)
        mine.episode[:] += 1
        mine.clock[:] = 0
        failures = self._ask([worker], "replay")
        mine.final_obs[:], mine.final_state[:] = mine.obs, mine.state
        mine.reward[:] = 0
        mine.terminated[:], mine.truncated[:], mine.success[:] = False, True, False
        return failures


def _nameless_file() -> int:
    """Descriptor of an empty file in memory that vanishes with the last process that has it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("hmasd-envs")
    with tempfile.TemporaryFile() as file:  # no Linux: a file on disk that is deleted already
        return os.dup(file.fileno())


def _end_all(workers: list[Worker], memory: int) -> None:
    """End all workers: their envs may close by themselves for a while."""
    for worker in workers:
        worker.connection.close()
    deadline = time.monotonic() + _CLOSE_SECONDS
    for worker in workers:
        worker.end(max(0.0, deadline - time.monotonic()))
    workers.clear()
    os.close(memory)
