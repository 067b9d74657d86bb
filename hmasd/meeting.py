"""How the processes of one start of a run find each other in the launcher's key-value store.

The store outlives them: torchrun keeps it when it starts all processes again, with all that the
last ones wrote there (https://github.com/pytorch/pytorch/issues/135712). Who takes an address of
those for one of its own time waits for a process that is dead. Neither a count of restarts helps,
since each machine counts its own, nor a count of arrivals, since a process may die before it
arrives. So the processes agree on a name that only those who live now can know.
"""

from __future__ import annotations

import time
import uuid

from hmasd.pulse import Store

INTERVAL = 0.05  # seconds between two looks at the store


def meet(store: Store, rank: int, world_size: int, timeout: float) -> str:
    """Agree on a name for this start of the run, the same on all ranks and new every time.

    Rank 0 proposes a name; the others answer under it, each with a sign of its own; rank 0 confirms
    it with all signs. A name of earlier is never confirmed with the sign of one who lives now.

    Args:
        store: which all ranks reach.
        rank: this process.
        world_size: how many there are.
        timeout: seconds to wait for all others.

    Raises:
        TimeoutError: somebody does not come, and who.
    """
    end = time.monotonic() + timeout
    if rank == 0:
        return _propose(store, world_size, end)
    return _answer(store, rank, end)


def _propose(store: Store, world_size: int, end: float) -> str:
    """As rank 0: wait for all others' signs."""
    name = uuid.uuid4().hex
    store.set("hmasd/name", name)
    missing = list(range(1, world_size))
    while missing:
        missing = [rank for rank in missing if not store.check([f"hmasd/{name}/sign/{rank}"])]
        if missing:
            _wait(end, f"rank {', '.join(map(str, missing))} did not come")
    signs = [store.get(f"hmasd/{name}/sign/{rank}").decode() for rank in range(1, world_size)]
    store.set(f"hmasd/{name}/confirmed", " ".join(signs))
    return name


def _answer(store: Store, rank: int, end: float) -> str:
    """As another rank: answer to each new name until one is confirmed with this answer."""
    sign = uuid.uuid4().hex
    answered = ""
    while True:
        name = store.get("hmasd/name").decode() if store.check(["hmasd/name"]) else ""
        if name and name != answered:
            store.set(f"hmasd/{name}/sign/{rank}", sign)
            answered = name
        if name and sign in _confirmed(store, name):
            return name
        _wait(end, "rank 0 did not come, or not all others")


def _confirmed(store: Store, name: str) -> list[str]:
    """The signs with which rank 0 has confirmed a name; none as long as it has not."""
    key = f"hmasd/{name}/confirmed"
    return store.get(key).decode().split() if store.check([key]) else []


def _wait(end: float, what: str) -> None:
    """A moment.

    Raises:
        TimeoutError: it is too late.
    """
    if time.monotonic() > end:
        raise TimeoutError(f"{what} in time")
    time.sleep(INTERVAL)
