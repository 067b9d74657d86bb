"""Processes that live now agree on a name, whatever dead ones have left in the store."""

from __future__ import annotations

import threading
import time

import pytest
from torch.distributed import HashStore

from hmasd.meeting import meet

SOON = 30.0  # seconds, on a busy machine


def names_of(store: HashStore, delays: list[float]) -> list[str]:
    """The name that each rank finds, which comes so many seconds late."""
    found = [""] * len(delays)

    def come(rank: int) -> None:
        time.sleep(delays[rank])
        found[rank] = meet(store, rank, len(delays), SOON)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(len(delays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found)
    return found


@pytest.mark.parametrize("delays", [[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, 0.2, 0.4]])
def test_all_find_one_name_and_a_new_one_at_each_start(delays: list[float]) -> None:
    store = HashStore()
    starts = [names_of(store, delays) for _ in range(3)]
    assert all(len(set(names)) == 1 for names in starts)
    assert len({names[0] for names in starts}) == 3


def test_a_name_that_was_never_confirmed_is_passed_over() -> None:
    """Rank 0 died after its proposal, rank 1 after its answer."""
    store = HashStore()
    with pytest.raises(TimeoutError, match="rank 1, 2 did not come"):
        meet(store, 0, 3, 0.0)
    old = store.get("hmasd/name").decode()
    store.set(f"hmasd/{old}/sign/1", "of a dead process")
    names = names_of(store, [0.3, 0.0, 0.0])
    assert len(set(names)) == 1
    assert names[0] != old


def test_a_name_confirmed_for_the_dead_is_not_taken() -> None:
    """All of an earlier start had met; now rank 1 comes and rank 0 does not."""
    store = HashStore()
    names_of(store, [0.0, 0.0])
    with pytest.raises(TimeoutError, match="rank 0 did not come"):
        meet(store, 1, 2, 0.3)
