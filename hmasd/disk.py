"""Files that are written whole or not at all, and a disk that has no room for them."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

EXIT_FULL = 4  # of a process that found no room; what was saved before is whole
FULL = (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; at every moment, a power cut included, `path` holds the old one or all of it.

    Raises:
        OSError: It cannot be written; an older file of that name is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # there only if something above failed
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name
    finally:
        os.close(folder)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that there is no room left (or no quota)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
