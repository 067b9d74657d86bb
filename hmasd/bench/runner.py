"""Works through the runs of a comparison, as many at a time as there are cores."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hmasd.bench import files
from hmasd.bench.job import Job
from hmasd.bench.progress import BenchProgress
from hmasd.bench.spec import Spec, config_of, run_keys
from hmasd.disk import is_full
from hmasd.settings import ConfigError
from hmasd.training.signals import StopRequest

POLL = 0.1  # seconds
STOP_PATIENCE = 120.0  # seconds that a training may take to save


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_jobs(spec: Spec, out: Path) -> list[Job]:
    """All runs of a comparison below `out`.

    Raises:
        ConfigError: A folder holds a run of other settings.
    """
    out = out.resolve()
    jobs = [
        Job(
            key,
            config_of(spec, key, out / files.RUNS / key.folder),
            spec.absolute_factor * spec.eval_episodes,
        )
        for key in run_keys(spec)
    ]
    check_settings(jobs)
    return jobs


def check_settings(jobs: Sequence[Job]) -> None:
    """Refuse folders that hold runs of other settings.

    Raises:
        ConfigError: One of them does.
    """
    for job in jobs:
        job.check_settings()


def run_jobs(jobs: Sequence[Job], at_a_time: int, retry: bool = False) -> int:
    """Run what is not finished; returns 0, or the exit code of the signal that stopped it.

    A run that cannot be started (another process works in its folder, its checkpoints cannot be
    read, its folder cannot be written) is left as it is, and told of at the end.

    Args:
        jobs: Runs; finished ones are kept as they are.
        at_a_time: Processes that work side by side.
        retry: Also go on with runs that failed.

    Raises:
        OSError: The disk is full.
    """
    refused: list[str] = []
    if retry:
        for job in jobs:
            _can(job.forget_failure, job, refused)
    waiting = [job for job in jobs if job.has_more]
    working: list[Job] = []
    with StopRequest() as stop, BenchProgress(jobs) as progress:
        try:
            while (waiting or working) and not stop.signal:
                while waiting and len(working) < at_a_time and not stop.signal:
                    job = waiting.pop(0)
                    working += [job] if _can(job.start, job, refused) else []
                working = [job for job in working if not job.poll() or _goes_on(job, refused)]
                progress.update(working)
                time.sleep(POLL)
        finally:
            _stop_all(working)
    for words in refused:
        print(f"error: {words}", file=sys.stderr)
    return stop.exit_code


def _can(step: Callable[[], None], job: Job, refused: list[str]) -> bool:
    """Take a step of a run; why it cannot be taken is added to `refused`."""
    try:
        step()
    except ConfigError as error:
        refused.append(str(error))
        return False
    except OSError as error:
        if is_full(error):
            raise
        refused.append(
            f"{job.folder} cannot be used: {error}; mend that, and the same command goes on"
        )
        return False
    return True


def _goes_on(job: Job, refused: list[str]) -> bool:
    """Start the next step of a run whose process is over, if there is one.

    Raises:
        OSError: The disk is full.
    """
    if job.found_no_room:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(job.folder))
    return not job.was_stopped and job.has_more and _can(job.start, job, refused)


def _stop_all(working: Sequence[Job]) -> None:
    """Ask all to save and end, and wait until they have."""
    for job in working:
        job.stop()
    deadline = time.monotonic() + STOP_PATIENCE
    for job in working:
        while not job.poll():
            if time.monotonic() > deadline:
                job.stop(at_once=True)
            time.sleep(POLL)
