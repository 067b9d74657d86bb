"""Who is lost gets named: a store in memory, clocks that are short, and no process harmed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from hmasd.pulse import Pulse

SOON = 30.0  # seconds, on a busy machine


class Shelf:
    """A store in memory; broken, it answers nobody."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.broken = False

    def set(self, key: str, value: str) -> None:
        if self.broken:
            raise RuntimeError("connection reset")
        self.values[key] = value

    def get(self, key: str) -> bytes:
        if self.broken:
            raise RuntimeError("connection reset")
        return self.values[key].encode()


class Team:
    """Pulses of some ranks in one process; those of `silent` never beat."""

    def __init__(self, world_size: int, silent: tuple[int, ...] = ()) -> None:
        self.shelf = Shelf()
        self.said: dict[int, list[str]] = {rank: [] for rank in range(world_size)}
        self.pulses = [
            Pulse(self.shelf, "run", rank, world_size, 1.0, self.said[rank].append)
            for rank in range(world_size)
        ]
        for rank, pulse in enumerate(self.pulses):
            pulse.doing = f"collecting as {rank}"
            pulse._beat()
            if rank not in silent:
                pulse.start()

    def close(self) -> None:
        for pulse in self.pulses:
            pulse._closed.set()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


@pytest.fixture
def made() -> list[Team]:
    teams: list[Team] = []
    yield teams
    for team in teams:
        team.close()


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_all_others_name_a_rank_that_falls_silent(lost: int, made: list[Team]) -> None:
    made.append(team := Team(3, silent=(lost,)))
    others = [rank for rank in range(3) if rank != lost]
    wait_for(lambda: all(team.said[rank] for rank in others))
    for rank in others:
        assert f"rank {lost} has given no sign of life" in team.said[rank][0]
        assert f"it was last collecting as {lost}" in team.said[rank][0]


def test_nobody_is_named_while_all_live(made: list[Team]) -> None:
    """Control, for three times as long as silence is allowed to last."""
    made.append(team := Team(3))
    threading.Event().wait(3.0)
    assert team.said == {0: [], 1: [], 2: []}


def test_a_rank_that_is_done_is_not_missed(made: list[Team]) -> None:
    made.append(team := Team(2))
    team.pulses[1].close()
    threading.Event().wait(3.0)
    assert team.said[0] == []


def test_who_cannot_reach_the_store_ends_itself(made: list[Team]) -> None:
    made.append(team := Team(2))
    team.shelf.broken = True
    wait_for(lambda: all(team.said.values()))
    assert "rank 0 is cut off" in team.said[0][0]
    assert "rank 1 is cut off" in team.said[1][0]


def test_a_failed_reduction_is_explained(made: list[Team]) -> None:
    """By what a rank said when it failed, or by who does not beat any more."""
    made.append(failed := Team(3))
    failed.pulses[2].close("EnvError: env 7 raised")
    assert failed.pulses[0].explain() == "rank 2 failed EnvError: env 7 raised"
    made.append(killed := Team(3, silent=(1,)))
    assert "rank 1 gives no sign of life" in killed.pulses[2].explain()
    assert "rank 0" not in killed.pulses[2].explain()
