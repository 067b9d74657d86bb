"""Messages between a process and the children that play its games, over a pair of sockets."""

from __future__ import annotations

import socket

_READ = 1 << 16  # bytes
_LENGTH = 4  # bytes before each message that tell its length


class Messages:
    """One end; whole messages of bytes go in and come out.

    `multiprocessing.Connection` does the same with twice the system calls, and in Python code that
    takes longer than all the rest of a lock-step.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._read = b""

    @classmethod
    def of_descriptor(cls, descriptor: int) -> Messages:
        """The end that was inherited under this number."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """The descriptor, to wait for."""
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """Send one message.

        Raises:
            OSError: the other end is closed.
        """
        self._socket.sendall(len(message).to_bytes(_LENGTH, "little") + message)

    def receive(self) -> bytes:
        """Wait for one message.

        Raises:
            EOFError: the other end is closed.
            OSError: so it is, with messages to it that nobody read.
        """
        read = self._read or self._more()
        while len(read) < _LENGTH:
            read += self._more()
        end = _LENGTH + int.from_bytes(read[:_LENGTH], "little")
        if len(read) < end:
            read = self._rest(read, end)
        self._read = read[end:]
        return read[_LENGTH:end]

    @property
    def has_begun(self) -> bool:
        """Whether part of the next message was read with the last one, so that none need come."""
        return bool(self._read)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _more(self) -> bytes:
        read = self._socket.recv(_READ)
        if not read:
            raise EOFError("the other end is closed")
        return read

    def _rest(self, read: bytes, end: int) -> bytes:
        """What was read, up to `end` bytes or more."""
        parts, length = [read], len(read)
        while length < end:
            parts.append(self._more())
            length += len(parts[-1])
        return b"".join(parts)
