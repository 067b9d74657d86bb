"""Checkpoints come back bit for bit, survive a kill, and damage never goes unseen."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hmasd import checkpoint
from hmasd.checkpoint import CheckpointError, checkpoint_path, load, load_module, newest_good, save
from hmasd.config import Config


def content() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    return {
        "floats": torch.randn(3, 4, generator=generator),
        "doubles": torch.randn(5, generator=generator, dtype=torch.float64),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "longs": torch.tensor([-(2**62), 7]),
        "bools": torch.tensor([[True], [False]]),
        "bytes": generator.get_state(),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(2.5),
        "nothing": {},
        "nested": {"list": [1, 2.5, "x", True, None, [], {"t": torch.zeros(2)}], 7: (0.9, 0.999)},
        "pcg64": np.random.default_rng(1).bit_generator.state,  # holds integers of 128 bits
    }


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and left.shape == right.shape
        assert left.numpy().tobytes() == right.numpy().tobytes()
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path / "models", 1024)
    save(path, content())
    assert_same(load(path), content())
    assert [p.name for p in path.parent.iterdir()] == ["hmasd_sync_enhanced_1024.pth"]


def test_optimizer_state_round_trip(tmp_path: Path) -> None:
    net = nn.GRU(3, 4)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 1, 3))[0].sum().backward()
    optimizer.step()
    state = {"net": dict(net.state_dict()), "optimizer": optimizer.state_dict()}
    save(tmp_path / "a.pth", state)
    assert_same(load(tmp_path / "a.pth"), state)


def test_plain_torch_load_reads_it_too(tmp_path: Path) -> None:
    save(tmp_path / "a.pth", {"x": 1})
    assert torch.load(tmp_path / "a.pth", weights_only=True)["content"] == {"x": 1}


def test_a_view_is_saved_without_the_storage_behind_it(tmp_path: Path) -> None:
    whole = torch.arange(100_000.0)
    save(tmp_path / "a.pth", {"part": whole[10:12], "turned": whole[:6].view(2, 3).T})
    assert (tmp_path / "a.pth").stat().st_size < 10_000
    loaded = load(tmp_path / "a.pth")
    assert loaded["part"].tolist() == [10, 11]
    assert loaded["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_file_names() -> None:
    assert checkpoint_path(Path("models"), 320000).name == "hmasd_sync_enhanced_320000.pth"
    assert checkpoint_path(Path("models"), None).name == "hmasd_sync_enhanced_final.pth"


@pytest.mark.parametrize("value", [np.zeros(2), np.float64(1), object(), {1, 2}, b"x"])
def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, value: Any) -> None:
    save(tmp_path / "a.pth", {"x": 1})
    with pytest.raises(TypeError, match=r"content\['a'\]\[1\]\['b'\]"):
        save(tmp_path / "a.pth", {"a": [0, {"b": value}]})
    assert load(tmp_path / "a.pth") == {"x": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_the_order_is_write_fsync_rename_fsync_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    replace, fsync = os.replace, os.fsync

    def recording_fsync(descriptor: int) -> None:
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append("fsync folder" if target.is_dir() else f"fsync {target.stat().st_size > 500}")
        fsync(descriptor)

    def recording_replace(source: Path, target: Path) -> None:
        assert Path(source).parent == Path(target).parent
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    save(tmp_path / "a.pth", {"x": 1})
    assert calls == ["fsync True", "replace", "fsync folder"]  # True: all was written before


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    save(tmp_path / "a.pth", {"x": "old"})

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, where, fail)
    with pytest.raises(CheckpointError, match=r"a\.pth: No space left.*free space"):
        save(tmp_path / "a.pth", {"x": "new"})
    assert load(tmp_path / "a.pth") == {"x": "old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interrupt_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "a.pth", {"x": "new"})
    assert list(tmp_path.iterdir()) == []


def python(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=Path(__file__).parents[1])


EXIT_BEFORE_RENAME = """
import os, sys, torch
from pathlib import Path
from hmasd.checkpoint import save
os.replace = lambda *_: os._exit(9)
save(Path(sys.argv[1]), {"x": "new", "big": torch.zeros(1000)})
"""

SAVE_FOR_EVER = """
import sys, torch
from pathlib import Path
from hmasd.checkpoint import save
i = 0
while True:
    i += 1
    save(Path(sys.argv[1]), {"x": i, "big": torch.full((300_000,), i)})
"""


def test_death_between_write_and_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 1)
    save(path, {"x": "old"})
    assert python(EXIT_BEFORE_RENAME, str(path)).wait(60) == 9
    assert load(path) == {"x": "old"}
    assert newest_good(tmp_path) == path  # the dead one's temporary file is no candidate


def test_sigkill_while_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 1)
    process = python(SAVE_FOR_EVER, str(path))
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(20):  # read while it is being replaced
        loaded = load(path)
        assert loaded["big"].eq(loaded["x"]).all()
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    loaded = load(path)
    assert loaded["big"].eq(loaded["x"]).all()


def damage(path: Path, change: Callable[[bytearray], bytes]) -> None:
    path.write_bytes(change(bytearray(path.read_bytes())))


def flip(position: int, bit: int = 0) -> Callable[[bytearray], bytes]:
    def change(data: bytearray) -> bytes:
        data[position] ^= 1 << bit
        return bytes(data)

    return change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three checkpoints; the last one is for the test to damage."""
    for steps in (1000, 3000, 20000):
        save(checkpoint_path(tmp_path, steps), {"steps": steps, "x": torch.ones(40)})
    return tmp_path


def assert_refused(path: Path, what: str, good: Path | None) -> None:
    with pytest.raises(CheckpointError, match=what) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert (f"--model-path {good}" if good else "There is no good checkpoint") in str(caught.value)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99, -1, -70])
def test_a_truncated_file_is_refused(folder: Path, share: float) -> None:
    path = checkpoint_path(folder, 20000)
    keep = int(share * path.stat().st_size) if share > 0 else int(share)
    damage(path, lambda data: bytes(data[:keep]))
    assert_refused(path, "damaged", checkpoint_path(folder, 3000))


def test_every_flipped_bit_is_seen(folder: Path) -> None:
    path = checkpoint_path(folder, 20000)
    whole = path.read_bytes()
    for position in [*range(0, len(whole), 11), *range(len(whole) - 110, len(whole))]:
        path.write_bytes(flip(position, position % 8)(bytearray(whole)))
        with pytest.raises(checkpoint._UnusableError):
            checkpoint._read(path)
    path.write_bytes(whole)
    assert load(path)["steps"] == 20000


def test_a_flipped_bit_names_the_newest_good_one(folder: Path) -> None:
    path = checkpoint_path(folder, 20000)
    damage(path, flip(path.stat().st_size // 2))
    damage(checkpoint_path(folder, 3000), flip(900))
    assert_refused(path, "damaged", checkpoint_path(folder, 1000))


def test_an_empty_and_a_missing_file_are_refused(folder: Path) -> None:
    path = checkpoint_path(folder, 20000)
    path.write_bytes(b"")
    assert_refused(path, "0 bytes", checkpoint_path(folder, 3000))
    path.unlink()
    assert_refused(path, "no such file", checkpoint_path(folder, 3000))
    assert_refused(folder / "none" / "a.pth", "no such file", None)


def test_without_a_good_one_the_message_says_so(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, None)
    path.write_text("nonsense")
    assert_refused(path, "not a whole zip", None)


def sealed(whole: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    return checkpoint._sealed(buffer.getvalue())


def test_foreign_files_are_refused(folder: Path) -> None:
    path = checkpoint_path(folder, 20000)
    good = checkpoint_path(folder, 3000)
    torch.save({"x": 1}, path)
    assert_refused(path, "no seal", good)
    path.write_bytes(sealed({"x": 1}))
    assert_refused(path, "format tag", good)
    path.write_bytes(sealed({"format": "hmasd-checkpoint", "version": 99, "content": {}}))
    assert_refused(path, "version 99", good)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("kind", ["pickle", "torch", "sealed"])
def test_code_in_a_file_never_runs(folder: Path, kind: str) -> None:
    trace = folder / "executed"
    payload = {"format": "hmasd-checkpoint", "version": 1, "content": Evil(trace)}
    path = checkpoint_path(folder, 20000)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(payload))
    elif kind == "torch":
        torch.save(payload, path)
    else:
        path.write_bytes(sealed(payload))
    assert_refused(
        path,
        {"pickle": "zip", "torch": "seal", "sealed": "refused"}[kind],
        checkpoint_path(folder, 3000),
    )
    assert not trace.exists()
    if kind == "sealed":  # the control: the payload is a real one
        torch.load(path, weights_only=False)
        assert trace.exists()


def test_newest_is_the_last_written_then_the_most_steps(tmp_path: Path) -> None:
    for steps in (None, 100, 9000):
        save(checkpoint_path(tmp_path, steps), {})
        os.utime(checkpoint_path(tmp_path, steps), (1000, 1000))
    assert newest_good(tmp_path) == checkpoint_path(tmp_path, None)
    but = checkpoint_path(tmp_path, None)
    assert newest_good(tmp_path, but=but) == checkpoint_path(tmp_path, 9000)
    os.utime(checkpoint_path(tmp_path, 100), (2000, 2000))
    assert newest_good(tmp_path) == checkpoint_path(tmp_path, 100)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*--output-dir"):
        save(checkpoint_path(tmp_path / "models", 1), {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="Permission denied"):
        save(checkpoint_path(tmp_path, 1), {})


def test_load_module_checks_everything_before_it_changes_anything() -> None:
    saved = nn.Linear(3, 4).state_dict()
    module = nn.Linear(3, 5)
    before = module.weight.detach().clone()
    with pytest.raises(CheckpointError) as caught:
        load_module("actor", module, saved, {"hidden_size": 4, "env": "a"}, {"hidden_size": 5})
    message = str(caught.value)
    assert "'actor'" in message
    assert "weight: [4, 3] float32 in the file, [5, 3] float32 here" in message
    assert "hidden_size (in the file 4, here 5)" in message
    assert torch.equal(before, module.weight)


def test_load_module_names_missing_foreign_and_wrongly_typed_tensors() -> None:
    saved = nn.Linear(3, 4, bias=False).double().state_dict()
    with pytest.raises(CheckpointError) as caught:
        load_module("actor", nn.Linear(3, 4), {**saved, "extra": torch.zeros(1)})
    message = str(caught.value)
    assert "bias: missing in the file" in message
    assert "extra: in the file, but not here" in message
    assert "[4, 3] float64 in the file, [4, 3] float32 here" in message
    assert "Settings to look at: env, num_team_skills" in message


def test_the_settings_to_look_at_exist() -> None:
    assert set(checkpoint.SHAPE_SETTINGS) <= {field.name for field in dataclasses.fields(Config)}


def test_load_module_loads() -> None:
    source, target = nn.GRU(3, 4), nn.GRU(3, 4)
    load_module("actor", target, source.state_dict())
    assert_same(dict(source.state_dict()), dict(target.state_dict()))
