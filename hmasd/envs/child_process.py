"""What a process that plays games for its parent does first; the parent's side is `child`.

What travels between them is one message at a time; an answer begins with `DONE`, or with `FAILED`
and then tells what happened. The child ends with its parent, however that comes about.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable

from hmasd.envs.messages import Messages

DONE, FAILED = b"+", b"-"  # the first byte of an answer
STACK_SIGNAL = signal.SIGUSR1  # makes a child print where it is
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(argv: list[str], work: Callable[[Messages, list[str]], None]) -> None:
    """Do the work until the parent closes the connection; what it raises is told to the parent.

    Args:
        argv: the connection, the parent's process number, and more words for the work.
        work: gets the connection and these words.
    """
    connection = Messages.of_descriptor(int(argv[0]))
    faulthandler.enable()
    faulthandler.register(STACK_SIGNAL)
    _die_with(int(argv[1]))
    _leave_signals_to_the_parent()
    try:
        work(connection, argv[2:])
    except (EOFError, ConnectionError):  # the parent is gone
        return
    except Exception as error:
        what = f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
        connection.send(FAILED + what.encode(errors="replace"))


def _die_with(parent: int) -> None:
    """Be killed when the parent dies, even inside an env that hangs (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(0)


def _leave_signals_to_the_parent() -> None:
    """Go on at Ctrl-C and at a scheduler's SIGTERM: the parent saves first and then ends this.

    A handler that does nothing, because programs started by an env inherit ignored signals.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
