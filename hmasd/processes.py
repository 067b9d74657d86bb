"""Programs of this package in processes of their own: started, heard, ended, never orphaned.

The parent holds a `Child`; the program calls `die_with` and `leave_signals_to_the_parent` first. A
program is not a fork or a `multiprocessing` child: it imports nothing that it does not need.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import time

LAST_WORDS_SECONDS = 0.3  # for a hanging program to print where it is
_DYING_SECONDS = 5.0  # for a program that does not answer any more to end by itself
_KEPT_OUTPUT = 4000  # bytes of what a program printed last
_READ = 1 << 16  # bytes, a pipe's size
_STACK_SIGNAL = signal.SIGUSR1  # makes a program print where it is
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Child:
    """A process that runs a module of this package, and dies with this process.

    What it prints goes neither to the console, where it would garble the progress line, nor to a
    file, which a chatty env would let grow for days: its end is kept for a failure's text.
    """

    def __init__(self, module: str, *descriptors: int) -> None:
        """Start it; it inherits the descriptors, and is told them and this process's number.

        Raises:
            OSError: No process can be started.
        """
        path = [entry or os.getcwd() for entry in sys.path]
        self.output, printing = os.pipe()
        os.set_blocking(self.output, False)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, (*descriptors, os.getpid()))],
                stdin=subprocess.DEVNULL,
                stdout=printing,
                stderr=printing,
                pass_fds=descriptors,
                env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(path)},
                start_new_session=True,  # the terminal's Ctrl-C is for the parent
            )
        except OSError:
            os.close(self.output)
            raise
        finally:
            os.close(printing)
        self._printed = b""
        self._is_over = False
        self._ended_by_itself = False

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

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

    def kill_hanging(self) -> None:
        """Let it print where it is, and kill it."""
        self.read_output()
        self._process.send_signal(_STACK_SIGNAL)
        time.sleep(LAST_WORDS_SECONDS)
        self.read_output()
        self.end(0.0)

    def how_it_ended(self) -> str:
        """What is known of the end of a process that died."""
        self.read_output()
        if not self.end(_DYING_SECONDS):
            return f"did not end within {_DYING_SECONDS:.0f} s and was killed"
        code = self._process.returncode
        how = f"exited with code {code}"
        if code < 0:
            how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
        if code == -signal.SIGKILL:
            how += ", which is what the system does when memory runs out,"
        return how

    def last_output(self) -> str:
        """What it printed last, as the end of a failure's text; empty if it printed nothing."""
        text = self._printed.decode(errors="replace").strip()
        return f"\n\nWhat it printed last:\n{text}" if text else ""

    def end(self, seconds: float) -> bool:
        """Wait for it to end, kill what is left of it; may be called twice.

        Returns:
            Whether it ended by itself.
        """
        if self._is_over:
            return self._ended_by_itself
        self._is_over = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self._ended_by_itself = self._process.poll() is not None
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(self.pid, signal.SIGKILL)  # it may have started programs
        self._process.wait()
        os.close(self.output)
        return self._ended_by_itself


# --- what the program itself does first -----------------------------------------------------------


def die_with(parent: int) -> None:
    """Be killed when the parent dies, even inside code that hangs (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(0)


def tell_where_it_hangs() -> None:
    """Print every thread's place in the code when `Child.kill_hanging` asks, and at a crash."""
    faulthandler.enable()
    faulthandler.register(_STACK_SIGNAL)


def leave_signals_to_the_parent() -> None:
    """Go on at Ctrl-C and at a scheduler's SIGTERM: the parent saves first and then ends this.

    A handler that does nothing, because programs started by an env inherit ignored signals.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
