"""A process that plays other people's games, as its parent sees it: it may die, hang or flood.

The child's side is `hmasd.envs.child_process`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TypeVar

from hmasd.envs.child_process import DONE, STACK_SIGNAL
from hmasd.envs.messages import Messages

_KEPT_OUTPUT = 4000  # bytes of what a child printed last
_LONGEST_POLL = 1.0  # seconds
_READ = 1 << 16  # bytes, a pipe's size
_LAST_WORDS_SECONDS = 0.3  # for a hanging child to print where it is


class Child:
    """A child process, which the parent tells what to do and then waits for.

    What the envs print goes neither to the console, where it would garble the progress line, nor
    to a file, which a chatty env would let grow for days: its end is kept for the failure's text.
    """

    def __init__(self, module: str, *arguments: int, descriptors: Sequence[int] = ()) -> None:
        """Start `python -m module CONNECTION PARENT ARGUMENTS...`, which inherits descriptors."""
        self.answer = b""
        ours, theirs = socket.socketpair()
        self.connection = Messages(ours)
        path = [entry or os.getcwd() for entry in sys.path]
        self.output, printing = os.pipe()
        os.set_blocking(self.output, False)
        words = (theirs.fileno(), os.getpid(), *arguments)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=printing,
                stderr=printing,
                pass_fds=(theirs.fileno(), *descriptors),
                env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(path)},
                start_new_session=True,  # the terminal's Ctrl-C is for the parent
            )
        os.close(printing)
        self._printed = b""
        self._is_over = False

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

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
            return self._death()
        self.answer = answer[1:]
        return None if answer[:1] == DONE else f"failed: {self.answer.decode()}"

    def read_output(self) -> bool:
        """Take some of what it printed; returns whether more can come."""
        if self._is_over:
            return False
        try:
            read = os.read(self.output, _READ)
        except BlockingIOError:
            return True
        self._printed = (self._printed + read)[-_KEPT_OUTPUT:]
        return bool(read)

    def hang(self, timeout: float) -> str:
        """Kill it for giving no answer; returns what happened, with the lines where it hangs."""
        self.read_output()
        self._process.send_signal(STACK_SIGNAL)
        time.sleep(_LAST_WORDS_SECONDS)
        self.read_output()
        self.end(0.0)
        return (
            f"gave no answer within {timeout:g} s and was killed{self.place()}; {self.remedy}"
            f"{self._last_output()}"
        )

    def end(self, seconds: float) -> None:
        """Close the connection, wait for it to end by itself, kill what is left of it."""
        if self._is_over:
            return
        self._is_over = True
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(self.pid, signal.SIGKILL)  # its envs may have started programs
        self._process.wait()
        os.close(self.output)

    @property
    def remedy(self) -> str:
        """What to do if it was killed for being slow alone, in words."""
        raise NotImplementedError

    def place(self) -> str:
        """Where in the game it was, in words that follow what happened."""
        raise NotImplementedError

    def _death(self) -> str:
        """What is known of its end."""
        self.read_output()
        self.end(_LAST_WORDS_SECONDS)
        code = self._process.returncode
        how = f"exited with code {code}"
        if code < 0:
            how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
        if code == -signal.SIGKILL:
            how += ", which is what the system does when memory runs out,"
        return f"{how}{self.place()}{self._last_output()}"

    def _last_output(self) -> str:
        text = self._printed.decode(errors="replace").strip()
        return f"\n\nWhat it printed last:\n{text}" if text else ""


AnyChild = TypeVar("AnyChild", bound=Child)


def wait_for_answers(children: Sequence[AnyChild], timeout: float) -> dict[AnyChild, str]:
    """Wait until every child has answered, but no longer than `timeout` seconds.

    Returns:
        What happened to those that failed; they are ended, but for those that could answer.
    """
    failures: dict[AnyChild, str] = {}
    waiting = {child.connection.fileno(): child for child in children}
    printing = {child.output: child for child in children}
    poll = select.poll()
    for descriptor in (*waiting, *printing):
        poll.register(descriptor, select.POLLIN)
    ready = [descriptor for descriptor, child in waiting.items() if child.connection.has_begun]
    left = timeout
    while waiting:
        if not ready and left <= 0:
            return failures | {child: child.hang(timeout) for child in waiting.values()}
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
            child = waiting.pop(descriptor)
            failure = child.receive()
            if failure is not None:
                failures[child] = failure
        ready = []
    return failures
