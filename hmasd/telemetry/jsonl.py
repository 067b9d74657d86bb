"""Files of JSON lines that survive a crash: one object per line, each with its ``env_steps``."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from hmasd.disk import write_whole

LAST_BYTES = 1 << 16  # more than one line has
LOGGER = logging.getLogger("hmasd.telemetry")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSONL file; a line that a crash cut off is left out."""
    for _, row in _good_lines(Path(path)):
        yield row


def last_line(path: Path) -> dict[str, Any] | None:
    """The last good object at the end of a JSONL file, without reading all; None: there is none."""
    with Path(path).open("rb") as file:
        file.seek(max(0, path.stat().st_size - LAST_BYTES))
        whole, _, _ = file.read().rpartition(b"\n")
    rows = (_row(line) for line in reversed(whole.split(b"\n")))
    return next((row for row in rows if row is not None), None)


def is_never_stale(row: Mapping[str, Any]) -> bool:
    """Of a fresh run no line is stale."""
    return False


def repair(path: Path, is_stale: Callable[[Mapping[str, Any]], bool] = is_never_stale) -> None:
    """Makes a JSONL file ready to be appended to.

    A line that a crash cut off is removed and, when a run goes on from a checkpoint, so are those
    that will be written once more. The file is replaced in one piece, or not touched if it is fine.

    Args:
        path: The file; nothing happens if it does not exist.
        is_stale: Whether the line of an object is dropped.
    """
    if not path.exists():
        return
    kept = [line for line, row in _good_lines(path) if not is_stale(row)]
    data = "".join(line + "\n" for line in kept).encode()
    if data == path.read_bytes():
        return
    write_whole(path, data)


class JsonLines:
    """Appends objects to a JSONL file, each flushed as one whole line."""

    def __init__(
        self, path: Path, is_stale: Callable[[Mapping[str, Any]], bool] = is_never_stale
    ) -> None:
        """Opens `path`, repaired (see `repair`).

        Args:
            path: The file; made if it does not exist.
            is_stale: Whether the line of an object is dropped.
        """
        repair(path, is_stale)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one line; NaN and infinity are refused with ValueError."""
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Forces what was written to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; may be called twice."""
        self._file.close()


def _good_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the whole lines with their objects; says so where the damage is not at the end."""
    lines = path.read_bytes().split(b"\n")
    for number, raw in enumerate(lines, start=1):
        if not raw:
            continue
        row = _row(raw)
        if row is not None:
            yield raw.decode("utf-8"), row
        elif number < len(lines):  # a crash leaves only its last line unfinished
            LOGGER.warning("%s line %d is damaged and left out", path, number)


def _row(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None if it is damaged."""
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
