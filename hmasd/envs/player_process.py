"""What a process that plays games for its parent does first; the parent's side is `player`.

What travels between them is one message at a time; an answer begins with `DONE`, or with `FAILED`
and then tells what happened. The process ends with its parent, however that comes about.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

from hmasd.envs.messages import Messages
from hmasd.processes import die_with, leave_signals_to_the_parent, tell_where_it_hangs

DONE, FAILED = b"+", b"-"  # the first byte of an answer


def serve(argv: list[str], work: Callable[[Messages, list[str]], None]) -> None:
    """Do the work until the parent closes the connection; what it raises is told to the parent.

    Args:
        argv: the connection, more words for the work, and the parent's process number.
        work: gets the connection and these words.
    """
    connection = Messages.of_descriptor(int(argv[0]))
    tell_where_it_hangs()
    die_with(int(argv[-1]))
    leave_signals_to_the_parent()
    try:
        work(connection, argv[1:-1])
    except (EOFError, ConnectionError):  # the parent is gone
        return
    except Exception as error:
        what = f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
        connection.send(FAILED + what.encode(errors="replace"))
