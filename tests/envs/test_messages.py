"""Messages arrive whole and in order, however the sockets cut them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from hmasd.envs.messages import Messages


@pytest.fixture
def ends() -> Iterator[tuple[Messages, Messages]]:
    """Both ends of one line."""
    ours, theirs = (Messages(end) for end in socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def test_several_messages_in_one_read_come_one_after_the_other(ends) -> None:
    ours, theirs = ends
    for message in (b"one", b"", b"three"):
        ours.send(message)
    assert not theirs.has_begun
    assert theirs.receive() == b"one" and theirs.has_begun
    assert theirs.receive() == b"" and theirs.receive() == b"three"
    assert not theirs.has_begun


def test_a_message_larger_than_any_buffer_arrives_whole(ends) -> None:
    ours, theirs = ends
    picture = bytes(range(256)) * 20_000  # 5 MB
    sender = threading.Thread(target=lambda: (ours.send(picture), ours.send(b"next")))
    sender.start()
    assert theirs.receive() == picture and theirs.receive() == b"next"
    sender.join()


def test_a_length_that_comes_in_pieces() -> None:
    raw, end = socket.socketpair()
    with raw:
        sender = threading.Thread(
            target=lambda: [raw.sendall(x) for x in (b"\x02\0", b"\0\0a", b"b")]
        )
        sender.start()
        line = Messages(end)
        assert line.receive() == b"ab"
        sender.join()
        line.close()


def test_a_closed_end_is_told(ends) -> None:
    ours, theirs = ends
    ours.send(b"last")
    ours.close()
    assert theirs.receive() == b"last"
    with pytest.raises(EOFError):
        theirs.receive()
    with pytest.raises(OSError):
        theirs.send(b"anybody?")
