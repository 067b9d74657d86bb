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

    def check(self, keys: list[str]) -> bool:
        if self.broken:
            raise RuntimeError("connection reset")
        return all(key in self.values for key in keys)

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


def test_what_a_rank_says_of_another_is_passed_on_once(made: list[Team]) -> None:
    made.append(team := Team(4))
    for rank in (1, 2):
        team.pulses[rank].close("RanksError: rank 3 gives no sign of life")
    assert team.pulses[0].explain() == "rank 3 gives no sign of life"


def test_a_rank_that_failed_and_does_not_end_ends_the_others(made: list[Team]) -> None:
    """Its envs may keep it from ending, while others wait for it."""
    made.append(team := Team(3))
    team.pulses[2].close("EnvError: env 7 raised")
    wait_for(lambda: team.said[0] and team.said[1])
    assert team.said[0][0] == team.said[1][0] == "rank 2 failed EnvError: env 7 raised"


def test_a_rank_that_never_begins_is_lost(made: list[Team]) -> None:
    shelf, said = Shelf(), list[str]()
    pulse = Pulse(shelf, "run", 0, 2, 1.0, said.append)
    pulse.start()
    wait_for(lambda: said)
    pulse.close()
    assert "rank 1 has given no sign of life" in said[0]
    assert "it was last starting" in said[0]


class SlowShelf(Shelf):
    """A store that takes a while to write."""

    def set(self, key: str, value: str) -> None:
        threading.Event().wait(0.3)
        super().set(key, value)


def test_no_pulse_comes_after_the_farewell() -> None:
    shelf = SlowShelf()
    pulse = Pulse(shelf, "run", 1, 2, 1.0)
    beat = threading.Thread(target=pulse._beat)
    beat.start()
    threading.Event().wait(0.1)  # the beat is under way
    pulse.close()
    beat.join()
    pulse._beat()
    assert shelf.get("run/1") == b"done"


def test_a_store_that_has_gone_does_not_spoil_the_end() -> None:
    pulse = Pulse(shelf := Shelf(), "run", 1, 2, 1.0)
    shelf.broken = True
    pulse.close("the reason that the process has to give")
