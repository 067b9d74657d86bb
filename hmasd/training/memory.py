"""How the process treats memory that tensors give back."""

from __future__ import annotations

import ctypes
import sys

# glibc's names and numbers for mallopt (malloc.h)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc refuses more
NEVER = 2**31 - 1  # bytes


def keep_freed_memory() -> None:
    """Let the process keep freed blocks for the next tensors instead of returning them at once.

    Every update allocates the same megabyte-sized tensors again and again. By default glibc hands
    such blocks back to the kernel, and each new one begins with page faults: about a tenth of the
    update's time. Without glibc nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, NEVER)
