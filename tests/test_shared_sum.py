"""Sums over the processes of one machine through shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from torch.distributed import HashStore

from hmasd import shared_sum
from hmasd.shared_sum import PIECE, SharedSum, share_memory

SOON = 30.0  # seconds, on a busy machine


def together(world_size: int, arrays: list[list[np.ndarray]]) -> None:
    """Each rank, a thread of its own, replaces its arrays by the sums, one after the other."""
    store, failed = HashStore(), []

    def work(rank: int) -> None:
        try:
            sums = share_memory(store, "run", rank, world_size, timedelta(seconds=SOON), SOON)
            assert sums is not None
            for x in arrays[rank]:
                sums.add_up(x)
        except BaseException as error:  # shown by the thread that waits
            failed.append(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_thousand_sums_in_a_row(world_size: int) -> None:
    """Who is ahead never writes over what others have yet to read."""
    draw = np.random.default_rng(0)
    numbers = draw.integers(-1000, 1000, (world_size, 1000, 7)).astype(np.float64)
    arrays = [list(numbers[rank].copy()) for rank in range(world_size)]
    together(world_size, arrays)
    for found in arrays:
        np.testing.assert_array_equal(np.stack(found), numbers.sum(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_arrays_of_any_length_and_type_with_the_same_bits(dtype: type) -> None:
    draw = np.random.default_rng(1)
    most = 2 * PIECE // np.dtype(dtype).itemsize
    sizes = [0, 1, most // 2, most // 2 + 1, most + 3]
    given = [[(100 * draw.normal(size=n)).astype(dtype) for n in sizes] for _ in range(3)]
    arrays = [[x.copy() for x in of_rank] for of_rank in given]
    together(3, arrays)
    for i, n in enumerate(sizes):
        expected = given[0][i] + given[1][i] + given[2][i]
        assert len(expected) == n
        for found in arrays:
            np.testing.assert_array_equal(found[i], expected)


def test_a_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(SharedSum.length(2)))
    with path.open("r+b") as file:
        memory = shared_sum.mmap.mmap(file.fileno(), 0)
    processes = [os.getpid(), os.getpid()]
    with pytest.raises(RuntimeError, match=r"of the ranks \[1\] one has not come"):
        SharedSum(memory, 0, processes, 0.1).add_up(np.ones(3))


def test_a_rank_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    """Unless it has come before, which the second board of the first sum shows."""
    path = tmp_path / "memory"
    path.write_bytes(bytes(SharedSum.length(2)))
    with path.open("r+b") as file:
        memory = shared_sum.mmap.mmap(file.fileno(), 0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        sums = SharedSum(memory, 0, [os.getpid(), other.pid], 1000.0)
        SharedSum(memory, 1, [os.getpid()] * 2, 0.0)._counts[1] = 1  # has come to the first sum
        other.kill()
        sums.add_up(np.ones(3))
        with pytest.raises(RuntimeError, match=r"of the ranks \[1\] one has ended"):
            sums.add_up(np.ones(3))


def test_no_memory_is_shared_unless_all_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 is on another machine, where a file of that name is another one."""
    store, meeting = HashStore(), timedelta(seconds=SOON)
    store.set("run/sees/1", "")
    assert share_memory(store, "run", 0, 2, meeting, SOON) is None
    elsewhere = os.memfd_create("other")
    os.truncate(elsewhere, SharedSum.length(2))
    store.set("run/memory", f"/proc/{os.getpid()}/fd/{elsewhere}")
    store.set("run/sees/0", "1")
    assert share_memory(store, "run", 1, 2, meeting, SOON) is None
    os.close(elsewhere)


def test_processors_that_reorder_writes_share_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_sum.platform, "machine", lambda: "aarch64")
    store = HashStore()
    store.set("run/sees/1", "1")
    assert share_memory(store, "run", 0, 2, timedelta(seconds=SOON), SOON) is None
