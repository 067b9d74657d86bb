"""Signs of life between the processes of a run: who is killed, frozen or cut off gets named.

Each rank writes a pulse, with what it is doing, to the launcher's key-value store every second.
Rank 0 watches all others; they watch rank 0 and read whom it has given up. A rank without a pulse
for `timeout` seconds, or without an answer of the store, ends the run: a main thread that waits in
a reduction cannot be woken, so the process is ended from here.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

EXIT_LOST = 1
_INTERVAL = 1.0  # seconds between two pulses; less where the timeout is short
_LAST_WORDS = 5.0  # seconds to say why
_FAREWELL = 10  # intervals in which a rank that has failed should have ended
_DONE, _FAILED = "done", "failed"
_PASSED_ON = f"{_FAILED} RanksError: "  # what a rank says of others, not of itself

logger = logging.getLogger(__name__)


class Store(Protocol):
    """What is needed of torch.distributed's stores."""

    def set(self, key: str, value: str) -> None:
        """Write."""

    def get(self, key: str) -> bytes:
        """Read what has been written."""

    def check(self, keys: list[str]) -> bool:
        """Whether all of them have been written."""


def open_store(timeout: float) -> Store:
    """A connection of its own to the launcher's store: the process group's is busy for long."""
    from torch.distributed import TCPStore

    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout),
    )


def _end(message: str) -> None:
    """End this process, whatever its main thread waits for, and whoever does not read its words."""
    last = threading.Timer(_LAST_WORDS, os._exit, (EXIT_LOST,))
    last.daemon = True
    last.start()
    print(f"error: training failed: {message}", file=sys.stderr, flush=True)
    logger.info(message)
    logging.shutdown()
    os._exit(EXIT_LOST)


class Pulse:
    """This rank's pulse, and its eye on the others'."""

    def __init__(
        self,
        store: Store,
        name: str,
        rank: int,
        world_size: int,
        timeout: float,
        end: Callable[[str], None] = _end,
    ) -> None:
        """Write the first pulse; a rank that never writes its own is lost after `timeout`, too.

        Args:
            store: which all ranks reach.
            name: of this run, in front of the keys.
            rank: this process.
            world_size: how many there are.
            timeout: seconds without a pulse, or without the store, after which the run ends.
            end: what is done then, with the reason.
        """
        self.doing = "starting"
        self._store = store
        self._name = name
        self._rank = rank
        self._watched = [r for r in range(world_size) if r != rank] if rank == 0 else [0]
        self._everybody = [r for r in range(world_size) if r != rank]
        self._timeout = timeout
        self._interval = min(_INTERVAL, timeout / 5)
        self._end = end
        self._count = 0
        self._closed = threading.Event()
        self._contact = time.monotonic()  # when the store answered last
        # pulse of each, and when it changed
        self._last = {rank: ("", self._contact) for rank in self._watched}
        self._writing = threading.Lock()  # nothing is written after the farewell
        self._beat()

    def start(self) -> None:
        """Beat and watch from now on, in threads of their own."""
        for work in (self._beats, self._looks):
            threading.Thread(target=work, daemon=True).start()

    def explain(self) -> str:
        """Who made a reduction fail, as far as can be told within a few seconds; waits for that."""
        before = self._read_all()
        if not self._reason(before):
            time.sleep(4 * self._interval)
        after = self._read_all()
        silent = [r for r, pulse in after.items() if pulse == before.get(r)]
        told = self._reason(after)
        if told or not silent:
            return told
        return "; ".join(self._describe(r, after[r], "gives no sign of life") for r in silent)

    def close(self, reason: str | None = None) -> None:
        """Say good-bye: done, or failed for a reason."""
        word = _DONE if reason is None else f"{_FAILED} {reason}"
        with self._writing:
            self._closed.set()
            try:
                self._store.set(self._key(self._rank), word)
            except RuntimeError as error:  # whoever kept it has gone before: nobody is left to ask
                logger.debug("the store does not answer: %s", error)

    def _key(self, rank: int) -> str:
        return f"{self._name}/{rank}"

    def _beat(self) -> None:
        with self._writing:
            if not self._closed.is_set():
                self._count += 1
                self._store.set(self._key(self._rank), f"{self._count} {self.doing}")

    def _beats(self) -> None:
        """The thread that talks with the store, which may hang or break off with the network."""
        while not self._closed.wait(self._interval):
            try:
                self._beat()
                for rank in self._watched:
                    pulse = self._read(rank)
                    if pulse != self._last[rank][0]:
                        self._last[rank] = pulse, time.monotonic()
                verdict = self._read_key(f"{self._name}/verdict")
            except RuntimeError as error:
                logger.debug("the store does not answer: %s", error)
                continue
            self._contact = time.monotonic()
            if verdict and not self._closed.is_set():
                self._end(verdict)

    def _looks(self) -> None:
        """The thread that looks at the clock, and waits for nothing."""
        looked = time.monotonic()
        while not self._closed.wait(self._interval):
            now = time.monotonic()
            if now - looked > 0.5 * self._timeout:  # stopped itself: the others look late, too
                self._contact = now
                self._last = {rank: (pulse, now) for rank, (pulse, _) in self._last.items()}
            looked = now
            message = self._cut_off(now)
            lost = message or self._lost(now)
            if lost and not self._closed.is_set():
                if not message:
                    self._tell(lost)
                self._end(lost)

    def _cut_off(self, now: float) -> str:
        """Whether this rank is cut off, in words; empty if it is not."""
        if now - self._contact <= self._timeout:
            return ""
        return (
            f"rank {self._rank} is cut off from the other processes: their store at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} has not answered "
            f"for {now - self._contact:.0f} s (rank_timeout); it was {self.doing}"
        )

    def _lost(self, now: float) -> str:
        """Who is lost of those that this rank watches, in words; empty if nobody is."""
        for rank, (pulse, changed) in self._last.items():
            if pulse.startswith(_DONE):
                continue
            if pulse.startswith(_FAILED):  # should have ended, and ended those who wait for it
                if now - changed > _FAREWELL * self._interval:
                    return self._reason({rank: pulse})
            elif now - changed > self._timeout:
                what = f"has given no sign of life for {now - changed:.0f} s (rank_timeout)"
                return self._describe(rank, pulse, what)
        return ""

    def _tell(self, message: str) -> None:
        """Let the others know, if this is rank 0, who is lost, and give them time to read it."""
        if self._rank == 0:
            try:
                self._store.set(f"{self._name}/verdict", message)
                self._closed.wait(3 * self._interval)
            except RuntimeError as error:
                logger.debug("the store does not answer: %s", error)

    def _describe(self, rank: int, pulse: str, what: str) -> str:
        doing = pulse.partition(" ")[2] or "starting"
        return f"rank {rank} {what}: it was killed, is frozen or cut off; it was last {doing}"

    def _read(self, rank: int) -> str:
        return self._read_key(self._key(rank))

    def _read_key(self, key: str) -> str:
        """Empty where nothing was written yet; to get it would wait."""
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _read_all(self) -> dict[int, str]:
        """The pulses of all others; none where the store is gone."""
        try:
            return {rank: self._read(rank) for rank in self._everybody}
        except RuntimeError as error:
            logger.debug("the store does not answer: %s", error)
            return {}

    def _reason(self, pulses: dict[int, str]) -> str:
        """What the ranks say that failed by themselves."""
        failed = {r: p for r, p in pulses.items() if p.startswith(_FAILED)}
        told = {
            p.removeprefix(_PASSED_ON) if p.startswith(_PASSED_ON) else f"rank {r} {p}": r
            for r, p in failed.items()
        }
        return "; ".join(told)
