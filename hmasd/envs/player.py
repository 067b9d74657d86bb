"""A process that plays other people's games, as its parent sees it: it may die, hang or flood.

The process's own side is `hmasd.envs.player_process`.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from typing import TypeVar

from hmasd.envs.messages import Messages
from hmasd.envs.player_process import DONE
from hmasd.processes import Child

_LONGEST_POLL = 1.0  # seconds


class Player:
    """A process which the parent tells what to do and then waits for."""

    remedy: str
    """What to do if it was killed for being slow alone, in words."""

    def __init__(self, module: str, *descriptors: int) -> None:
        """Start a module of this package; it inherits the descriptors."""
        self.answer = b""
        ours, theirs = socket.socketpair()
        self.connection = Messages(ours)
        with theirs:
            self.child = Child(module, theirs.fileno(), *descriptors)

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.child.pid

    def send(self, text: str) -> None:
        """Tell it what to do; that a dead one does not hear is found when its answer is due."""
        try:
            self.connection.send(text.encode())
        except OSError:
            return

    def receive(self) -> str | None:
        """Take its answer; returns what happened if it is a failure."""
        try:
            answer = self.connection.receive()
        except (EOFError, OSError):
            self.connection.close()
            return f"{self.child.how_it_ended()}{self.place()}{self.child.last_output()}"
        self.answer = answer[1:]
        return None if answer[:1] == DONE else f"failed: {self.answer.decode()}"

    def hang(self, timeout: float) -> str:
        """Kill it for giving no answer; returns what happened, with the lines where it hangs."""
        self.child.kill_hanging()
        self.end(0.0)
        return (
            f"gave no answer within {timeout:g} s and was killed{self.place()}; {self.remedy}"
            f"{self.child.last_output()}"
        )

    def end(self, seconds: float) -> None:
        """Close the connection, wait for it to end by itself, kill what is left of it."""
        self.connection.close()
        self.child.end(seconds)

    def place(self) -> str:
        """Where in the game it is, in words that follow what happened."""
        raise NotImplementedError


AnyPlayer = TypeVar("AnyPlayer", bound=Player)


def wait_for_answers(players: Sequence[AnyPlayer], timeout: float) -> dict[AnyPlayer, str]:
    """Wait until every player has answered, but no longer than `timeout` seconds.

    Returns:
        What happened to those that failed; they are ended, but for those that could answer.
    """
    failures: dict[AnyPlayer, str] = {}
    waiting = {player.connection.fileno(): player for player in players}
    printing = {player.child.output: player.child for player in players}
    poll = select.poll()
    for descriptor in (*waiting, *printing):
        poll.register(descriptor, select.POLLIN)
    ready = [descriptor for descriptor, player in waiting.items() if player.connection.has_begun]
    left = timeout
    while waiting:
        if not ready and left <= 0:
            return failures | {player: player.hang(timeout) for player in waiting.values()}
        start = time.monotonic()
        ready = ready or [
            descriptor for descriptor, _ in poll.poll(1000 * min(left, _LONGEST_POLL))
        ]
        # A parent that was stopped for an hour, by Ctrl-Z say, must not count that as waiting.
        left -= min(time.monotonic() - start, _LONGEST_POLL)
        for descriptor in ready:
            if descriptor in printing:
                if not printing[descriptor].read_output():
                    poll.unregister(descriptor)
                continue
            poll.unregister(descriptor)
            player = waiting.pop(descriptor)
            failure = player.receive()
            if failure is not None:
                failures[player] = failure
        ready = []
    return failures
