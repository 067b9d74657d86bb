"""The processes of one run, its ranks, and what they add up; with one process it is all identity.

Every rank plays some of the run's envs and has a copy of the networks. Whatever an update does with
the numbers of all samples (gradients, moments, counts, metrics) goes through `Ranks` first, so that
the updates of all ranks, and of one process with all envs, are the same.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.distributed import Store

from hmasd.launch import launched
from hmasd.meeting import meet
from hmasd.pulse import Pulse, open_store
from hmasd.shared_memory import share_memory
from hmasd.types import EnvShare

MEETING_SECONDS = 300.0  # for all processes of a run to come: the slowest machine's imports
WATCHED_SECONDS = 0.01  # of waiting for a reduction on the host, before sleeping


Result = TypeVar("Result")


class RanksError(RuntimeError):
    """The processes of a run have lost each other, or are not alike any more."""


class Ranks:
    """A run of one process."""

    rank = 0
    world_size = 1

    def share(self, num_envs: int) -> EnvShare:
        """The envs of a run that this process plays."""
        size = num_envs // self.world_size
        return EnvShare(self.rank * size, size, num_envs)

    def sum(self, x: Tensor) -> Tensor:
        """All ranks' tensors of one shape added up, numbers that are not bool; by the host."""
        return x

    def sum_all(self, tensors: Sequence[Tensor]) -> None:
        """Add up all ranks' tensors, in place, in one reduction."""

    def largest(self, number: Tensor) -> Tensor:
        """The largest of all ranks' scalars."""
        return number

    def totals(self, *numbers: float) -> list[float]:
        """All ranks' numbers added up, each with its like."""
        return list(numbers)

    def total(self, number: float) -> float:
        """All ranks' numbers added up."""
        return self.totals(number)[0]

    def means(self, *columns: tuple[Tensor, Tensor | None]) -> list[Tensor]:
        """Means over all ranks' entries, a scalar for each column.

        Args:
            columns: numbers, and of the same shape how often each counts, None: all once.
        """
        sums = self.sum(torch.stack([_sums(x, weight) for x, weight in columns]))
        pairs = zip(columns, sums.unbind(), strict=True)
        return [_like(x, total / count) for (x, _), (total, count) in pairs]

    def mean(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean over all ranks' entries, a scalar; see `means`."""
        return self.means((x, weight))[0]

    def gather(self, payload: bytes) -> list[bytes]:
        """All ranks' bytes in the order of ranks, on rank 0; nothing on the others."""
        return [payload]

    def check_alike(self, what: str, tensors: Iterable[Tensor]) -> None:
        """Compare what must be the same on all ranks, to the last bit.

        Args:
            what: its name, for the message.
            tensors: as many on every rank.

        Raises:
            RanksError: on every rank; names the ranks that differ from rank 0.
        """

    def pop_seconds(self) -> dict[str, float]:
        """Seconds spent in reductions since the last call, waiting for others included."""
        return {}

    def note(self, doing: str) -> None:
        """Say what this process does now, for who might have to tell where it was lost."""

    def close(self, reason: str | None = None) -> None:
        """Part from the others, because all is done, or because something failed here."""

    def __enter__(self) -> Ranks:
        """To part from the others at the end, whatever it is."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Say how it ended."""
        self.close(None if error is None else f"{type(error).__name__}: {error}")


def _like(x: Tensor, mean: Tensor) -> Tensor:
    """A mean in the precision of what it is the mean of."""
    return mean.to(x.dtype) if x.is_floating_point() else mean


def _sums(x: Tensor, weight: Tensor | None) -> Tensor:
    """Of what counts, and of how often: [2] float64."""
    counted = x if weight is None else x * weight
    count = x.new_full((), x.numel(), dtype=torch.float64) if weight is None else weight.sum()
    return torch.stack([counted.sum().double(), count.double()])


ALONE = Ranks()


def join(device: str, reduce_timeout: float, rank_timeout: float) -> Ranks:
    """Meet the processes that a launcher such as torchrun started with this one.

    Args:
        device: of the networks; NCCL reduces what lies on GPUs, gloo all else.
        reduce_timeout: seconds that one reduction may take, waiting for the slowest rank included.
        rank_timeout: seconds without a sign of life after which a rank is lost.

    Raises:
        RanksError: the others do not come.
    """
    if launched().world_size == 1:
        return ALONE
    return ProcessGroup(device, reduce_timeout, rank_timeout)


class Host(Protocol):
    """How arrays in the memory of the hosts get to the other ranks."""

    def add_up(self, x: np.ndarray) -> None:
        """Replace a contiguous array by the sum of all ranks' arrays of this shape."""

    def gather(self, x: np.ndarray, only_first: bool = False) -> np.ndarray:
        """All ranks' arrays of a shape, [R, *shape]; [0, *shape] where only rank 0 gets them."""


class Sockets:
    """By gloo, from any machine to any other; see `Host`."""

    def add_up(self, x: np.ndarray) -> None:
        """Wait with open eyes at first: to be woken up can take longer than the sum does."""
        work = torch.distributed.all_reduce(torch.from_numpy(x), async_op=True)
        end = time.perf_counter() + WATCHED_SECONDS
        while not work.is_completed() and time.perf_counter() < end:
            os.sched_yield()
        work.wait()

    def gather(self, x: np.ndarray, only_first: bool = False) -> np.ndarray:
        """To all ranks, or to the first."""
        is_there = torch.distributed.get_rank() == 0 or not only_first
        found = np.empty((torch.distributed.get_world_size() * is_there, *x.shape), x.dtype)
        rows = list(torch.from_numpy(found).unbind())
        if only_first:
            torch.distributed.gather(torch.from_numpy(x), rows or None)
        else:
            torch.distributed.all_gather(rows, torch.from_numpy(x))
        return found


def _take_gpu(local_rank: int) -> None:
    """One GPU for this process alone."""
    found = torch.cuda.device_count()
    if local_rank >= found:
        raise RanksError(
            f"{local_rank + 1} or more processes were started on this machine, which shows {found} "
            f"GPU(s), and each needs one of its own: --nproc-per-node {found}, or --device cpu"
        )
    torch.cuda.set_device(local_rank)


class ProcessGroup(Ranks):
    """A run of several processes, over torch.distributed."""

    def __init__(self, device: str, reduce_timeout: float, rank_timeout: float) -> None:
        self._seconds = 0.0
        on_gpu = torch.device(device).type == "cuda"
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        self.rank, self.world_size, local_rank = launched()
        if on_gpu:
            _take_gpu(local_rank)
        try:
            store = self._meet(rank_timeout, reduce_timeout)
            torch.distributed.init_process_group(
                backend,
                store=store,
                rank=self.rank,
                world_size=self.world_size,
                timeout=timedelta(seconds=reduce_timeout),
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise RanksError(f"the processes of the run do not find each other: {error}") from error

    def _meet(self, rank_timeout: float, reduce_timeout: float) -> Store:
        """The launcher's store for this start of the run alone; signs of life begin here."""
        meeting = timedelta(seconds=MEETING_SECONDS)
        store, *_ = next(torch.distributed.rendezvous("env://", timeout=meeting))
        name = meet(store, self.rank, self.world_size, MEETING_SECONDS)
        pulse = Pulse(open_store(rank_timeout), name, self.rank, self.world_size, rank_timeout)
        pulse.start()
        self._pulse = pulse
        shared = share_memory(store, name, self.rank, self.world_size, meeting, reduce_timeout)
        self._host = shared or Sockets()
        return torch.distributed.PrefixStore(name, store)

    def sum(self, x: Tensor) -> Tensor:
        """All ranks' tensors of one shape added up; see `Ranks`."""
        total = x.detach().cpu().clone(memory_format=torch.contiguous_format)
        self._timed(lambda: self._host.add_up(total.numpy()))
        return total.to(x.device)

    def largest(self, number: Tensor) -> Tensor:
        """The largest of all ranks' scalars."""
        return self._all(number.detach().cpu()).max().to(number.device)

    def sum_all(self, tensors: Sequence[Tensor]) -> None:
        """Add up all ranks' tensors, in place, in one reduction."""
        joined = torch.cat([x.detach().flatten() for x in tensors])
        if joined.is_cuda:  # the device waits, not this process
            self._timed(lambda: torch.distributed.all_reduce(joined))
        else:
            self._timed(lambda: self._host.add_up(joined.numpy()))
        for x, total in zip(tensors, joined.split([x.numel() for x in tensors]), strict=True):
            x.copy_(total.view_as(x))

    def totals(self, *numbers: float) -> list[float]:
        """All ranks' numbers added up, each with its like."""
        return self.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def gather(self, payload: bytes) -> list[bytes]:
        """All ranks' bytes in the order of ranks, on rank 0; nothing on the others."""
        sizes = self._all(torch.tensor(len(payload))).tolist()
        padded = np.zeros(max(sizes), np.uint8)
        padded[: len(payload)] = np.frombuffer(payload, np.uint8)
        found = self._timed(lambda: self._host.gather(padded, only_first=True))
        return [x[:size].tobytes() for x, size in zip(found, sizes, strict=False)]

    def check_alike(self, what: str, tensors: Iterable[Tensor]) -> None:
        """Compare what must be the same on all ranks, to the last bit; see `Ranks`."""
        digest = hashlib.sha256()
        for x in tensors:
            digest.update(x.detach().cpu().numpy().tobytes())
        found = self._all(torch.tensor(list(digest.digest())))
        differing = [rank for rank, x in enumerate(found) if not torch.equal(x, found[0])]
        if differing:
            raise RanksError(
                f"{what} of rank {', '.join(map(str, differing))} differ from those of rank 0, "
                "although they must be the same on all ranks: the run stops. Look for unlike "
                "commands, files, installations or a faulty machine, and go on from the last "
                "checkpoint"
            )

    def pop_seconds(self) -> dict[str, float]:
        """Seconds spent in reductions since the last call, waiting for others included."""
        seconds, self._seconds = self._seconds, 0.0
        return {"time/reduce": seconds}

    def note(self, doing: str) -> None:
        """Say what this process does now."""
        self._pulse.doing = doing

    def close(self, reason: str | None = None) -> None:
        """Part from the others, because all is done, or because something failed here."""
        self._pulse.close(reason)
        if reason is None:
            torch.distributed.destroy_process_group()

    def _all(self, x: Tensor) -> Tensor:
        """All ranks' tensors of one shape in the memory of the host, [R, ...]."""
        return torch.from_numpy(self._timed(lambda: self._host.gather(x.numpy())))

    def _timed(self, reduce: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        try:
            return reduce()
        except RuntimeError as error:
            told = self._pulse.explain() or f"the processes have lost each other: {error}"
            raise RanksError(told) from error
        finally:
            self._seconds += time.perf_counter() - start
