"""Sums over the processes of one machine through shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from torch.distributed import HashStore

from hmasd import shared_memory
from hmasd.shared_memory import PIECE, SharedMemory, share_memory

SOON = 30.0  # seconds, on a busy machine


def together(world_size: int, work: Callable[[int, SharedMemory], None]) -> None:
    """Every rank, a thread of its own, does its work."""
    store, failed = HashStore(), []
    soon = timedelta(seconds=SOON)

    def act(rank: int) -> None:
        try:
            shared = share_memory(store, "run", rank, world_size, soon, SOON)
            assert shared is not None
            work(rank, shared)
        except BaseException as error:  # shown by the thread that waits
            failed.append(error)

    threads = [threading.Thread(target=act, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def add_up(arrays: list[list[np.ndarray]]) -> None:
    """Each rank replaces its arrays by the sums, one after the other."""

    def work(rank: int, shared: SharedMemory) -> None:
        for x in arrays[rank]:
            shared.add_up(x)

    together(len(arrays), work)


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_thousand_sums_in_a_row(world_size: int) -> None:
    """Who is ahead never writes over what others have yet to read."""
    draw = np.random.default_rng(0)
    numbers = draw.integers(-1000, 1000, (world_size, 1000, 7)).astype(np.float64)
    arrays = [list(numbers[rank].copy()) for rank in range(world_size)]
    add_up(arrays)
    for found in arrays:
        np.testing.assert_array_equal(np.stack(found), numbers.sum(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_arrays_of_any_length_and_type_with_the_same_bits(dtype: type) -> None:
    draw = np.random.default_rng(1)
    most = 2 * PIECE // np.dtype(dtype).itemsize
    sizes = [0, 1, most // 2, most // 2 + 1, most + 3]
    given = [[(100 * draw.normal(size=n)).astype(dtype) for n in sizes] for _ in range(3)]
    arrays = [[x.copy() for x in of_rank] for of_rank in given]
    add_up(arrays)
    for i, n in enumerate(sizes):
        expected = given[0][i] + given[1][i] + given[2][i]
        assert len(expected) == n
        for found in arrays:
            np.testing.assert_array_equal(found[i], expected)


@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (PIECE // 4, 3)])
def test_what_all_ranks_have_is_gathered_in_their_order(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(2)
    given = [draw.normal(size=shape) for _ in range(3)]
    found: dict[tuple[int, bool], np.ndarray] = {}

    def work(rank: int, shared: SharedMemory) -> None:
        for only_first in (True, False):
            found[rank, only_first] = shared.gather(np.array(given[rank]), only_first)

    together(3, work)
    for rank in range(3):
        np.testing.assert_array_equal(found[rank, False], np.stack(given))
        np.testing.assert_array_equal(
            found[rank, True], np.stack(given)[: None if rank == 0 else 0]
        )


def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(SharedMemory.length(2)))
    with path.open("r+b") as file:
        memory = shared_memory.mmap.mmap(file.fileno(), 0)
    processes = [os.getpid(), os.getpid()]
    with pytest.raises(RuntimeError, match=r"ranks \[1\] have not come"):
        SharedMemory(memory, 0, processes, 0.1).add_up(np.ones(3))


def test_a_rank_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    """Unless it had come: rank 1 did to the first sum and ended while rank 2 was on its way."""
    path = tmp_path / "memory"
    path.write_bytes(bytes(SharedMemory.length(3)))
    with path.open("r+b") as file:
        memory = shared_memory.mmap.mmap(file.fileno(), 0)
    me = os.getpid()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        shared = SharedMemory(memory, 0, [me, other.pid, me], SOON)
        late = SharedMemory(memory, 2, [me, other.pid, me], SOON)
        SharedMemory(memory, 1, [me] * 3, SOON)._counts[1] = 1
        other.kill()
        coming = threading.Timer(0.3, late.add_up, (np.ones(3),))
        coming.start()
        shared.add_up(np.ones(3))
        with pytest.raises(RuntimeError, match="the process of rank 1 has ended"):
            shared.add_up(np.ones(3))
        coming.join()


def test_a_file_of_another_process_is_not_even_opened(tmp_path: Path) -> None:
    """On another machine the same number may be a pipe, whose reader would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "descriptor"
    link.symlink_to(pipe)
    assert shared_memory._open(str(link), "name", 64) is None


def test_no_memory_is_shared_unless_all_see_it() -> None:
    """Rank 1 is on another machine, where a file of that name is another one."""
    store, meeting = HashStore(), timedelta(seconds=SOON)
    store.set("run/sees/1", "")
    assert share_memory(store, "run", 0, 2, meeting, SOON) is None
    elsewhere = os.memfd_create("other")
    os.truncate(elsewhere, SharedMemory.length(2))
    store.set("run/memory", f"/proc/{os.getpid()}/fd/{elsewhere}")
    store.set("run/sees/0", "1")
    assert share_memory(store, "run", 1, 2, meeting, SOON) is None
    os.close(elsewhere)


def test_processors_that_reorder_writes_share_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory.platform, "machine", lambda: "aarch64")
    store = HashStore()
    store.set("run/sees/1", "1")
    assert share_memory(store, "run", 0, 2, timedelta(seconds=SOON), SOON) is None
