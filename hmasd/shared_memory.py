"""What the processes of one machine tell each other, through memory that all of them have.

Two processes that keep two cores busy leave none for the threads of a library that reduces over
sockets: each message waits until the system gives one of them a turn. Here a process writes its
numbers, counts its turn up, watches the others' counts, and reads theirs.
"""

from __future__ import annotations

import mmap
import os
import platform
import select
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import numpy as np

from hmasd import pulse

PIECE = 1 << 20  # bytes that go at once
WATCHED_SECONDS = 0.02  # before a process that waits begins to sleep now and then
NAP_MILLISECONDS = 1
_LINE = 64  # bytes of a cache line; each count has one
_HEAD = 64  # bytes in front, for the name


class Store(pulse.Store, Protocol):
    """What is needed of torch.distributed's stores, which can be waited for."""

    def wait(self, keys: list[str], timeout: timedelta) -> None:
        """Until all of them have been written."""


class SharedMemory:
    """All ranks' arrays, gathered or added up: in the order of ranks, the same bits on each.

    Every rank has two boards, which it uses in turn: who writes on the first one again knows by the
    counts for the second that everybody has read it. A count may be seen no earlier than what was
    written before it, which x86 promises without a fence (Intel SDM 3A, 9.2.2).
    """

    def __init__(
        self, memory: mmap.mmap, rank: int, processes: Sequence[int], timeout: float
    ) -> None:
        """Join the others.

        Args:
            memory: that all ranks have, of `length` bytes.
            rank: this process.
            processes: the numbers of all ranks' processes.
            timeout: seconds to wait for the slowest.

        Raises:
            OSError: a rank's process is not there any more.
        """
        world_size = len(processes)
        words = np.frombuffer(memory, np.uint8)[_HEAD:]
        counts, boards = np.split(words, [_LINE * world_size])
        self._counts = counts.view(np.int64)[:: _LINE // 8]  # [R]
        self._boards = boards.reshape(2, world_size, PIECE)
        self._rank = rank
        self._timeout = timeout
        self._turn = 0
        self._ends = select.poll()
        self._of_descriptor: dict[int, int] = {}  # the rank whose process it is
        for other, process in enumerate(processes):
            if process != os.getpid():
                descriptor = os.pidfd_open(process)
                self._of_descriptor[descriptor] = other
                self._ends.register(descriptor)

    @staticmethod
    def length(world_size: int) -> int:
        """Bytes of memory that so many ranks need."""
        return _HEAD + world_size * (_LINE + 2 * PIECE)

    def add_up(self, x: np.ndarray) -> None:
        """Replace a contiguous array by the sum of all ranks' arrays of this shape.

        Raises:
            RuntimeError: a rank has ended, or has not come within the timeout.
        """
        for piece in _pieces(x):
            self._meet(piece).sum(0, out=piece)

    def gather(self, x: np.ndarray, only_first: bool = False) -> np.ndarray:
        """All ranks' arrays of a shape, [R, *shape]; [0, *shape] where only rank 0 gets them.

        Raises:
            RuntimeError: a rank has ended, or has not come within the timeout.
        """
        here = slice(0 if only_first and self._rank > 0 else None)
        parts = [self._meet(piece)[here].copy() for piece in _pieces(x)]
        joined = np.concatenate(parts, axis=1)
        return joined.reshape(len(joined), *x.shape)

    def _meet(self, x: np.ndarray) -> np.ndarray:
        """All ranks' pieces, [R, n], where they lie until two turns later."""
        boards = self._boards[self._turn % 2, :, : x.nbytes].view(x.dtype)
        boards[self._rank] = x
        self._turn += 1
        self._counts[self._rank] = self._turn
        self._wait()
        return boards

    def _wait(self) -> None:
        began = time.perf_counter()
        while self._counts.min() < self._turn:
            waited = time.perf_counter() - began
            if waited < WATCHED_SECONDS:
                os.sched_yield()
            elif waited < self._timeout:
                self._nap()
            else:
                late = np.flatnonzero(self._counts < self._turn).tolist()
                raise RuntimeError(f"ranks {late} have not come for {self._timeout:.0f} s")

    def _nap(self) -> None:
        """Sleep a moment, unless somebody has ended who will not come any more."""
        for descriptor, _ in self._ends.poll(NAP_MILLISECONDS):
            rank = self._of_descriptor[descriptor]
            if self._counts[rank] < self._turn:
                raise RuntimeError(f"the process of rank {rank} has ended")
            time.sleep(1e-3 * NAP_MILLISECONDS)  # it had come before


def _pieces(x: np.ndarray) -> list[np.ndarray]:
    """Flat views of an array, each of which fits on a board; of none there is one, too."""
    flat, step = x.reshape(-1), PIECE // x.itemsize
    return [flat[start : start + step] for start in range(0, max(1, len(flat)), step)]


def share_memory(
    store: Store, name: str, rank: int, world_size: int, meeting: timedelta, timeout: float
) -> SharedMemory | None:
    """The memory of all ranks; None on each of them unless they are on one machine.

    The memory has no name in any file system, so nothing is left of it, however the ranks end. Rank
    0 makes it and tells where it lies; the others know by its first bytes that it is this one.

    Args:
        store: which all ranks reach.
        name: of this start of the run, and of no other.
        rank: this process.
        world_size: how many there are.
        meeting: how long to wait for the others here.
        timeout: seconds to wait for the slowest, each time.

    Raises:
        RuntimeError: the others do not come.
        OSError: one was there and has ended.
    """
    length, place, kept = SharedMemory.length(world_size), f"{name}/memory", -1
    if rank == 0:
        kept = _make(name, length)
        store.set(place, f"/proc/{os.getpid()}/fd/{kept}")
    store.wait([place], meeting)
    memory = _open(store.get(place).decode(), name, length)
    store.set(f"{name}/sees/{rank}", "" if memory is None else str(os.getpid()))
    answers = [f"{name}/sees/{r}" for r in range(world_size)]
    store.wait(answers, meeting)
    if kept >= 0:
        os.close(kept)
    processes = [store.get(answer).decode() for answer in answers]
    if memory is None or not all(processes):
        return None
    return SharedMemory(memory, rank, [int(process) for process in processes], timeout)


def _make(name: str, length: int) -> int:
    """A descriptor of new memory; -1 where that, or what else is needed, does not exist."""
    linux = hasattr(os, "memfd_create") and hasattr(os, "pidfd_open")
    if not linux or platform.machine() not in ("x86_64", "AMD64"):
        return -1
    try:
        os.close(os.pidfd_open(os.getpid()))
        descriptor = os.memfd_create(f"hmasd-{name}")
        os.truncate(descriptor, length)
        os.pwrite(descriptor, name.encode(), 0)
    except OSError:  # an old kernel, or a container that forbids it
        return -1
    return descriptor


def _open(path: str, name: str, length: int) -> mmap.mmap | None:
    """The memory of this name, if it can be reached from here."""
    try:
        if name not in os.readlink(path):  # another machine's process: opening may wait for ever
            return None
        with open(path, "r+b", buffering=0) as file:
            if file.read(len(name)) != name.encode():
                return None
            return mmap.mmap(file.fileno(), length)
    except (OSError, ValueError):
        return None
