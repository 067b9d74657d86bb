"""A disk without room is told apart from other failures, however deep it lies."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hmasd import checkpoint
from hmasd.disk import is_full, write_whole


@pytest.mark.parametrize(
    ("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)]
)
def test_a_full_disk_is_known_by_what_an_error_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, full: bool
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(checkpoint.CheckpointError) as found:
        checkpoint.save(tmp_path / "x.pth", {"x": 1})
    assert is_full(found.value) is full
    assert list(tmp_path.iterdir()) == []
    assert not is_full(None)


def test_a_file_that_cannot_be_replaced_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_whole(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "refused")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", refuse)
        with pytest.raises(OSError, match="refused"):
            write_whole(path, b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
    write_whole(path, b"new")  # control
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]
