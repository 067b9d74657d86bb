"""The folder of a run says what was run."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path

import pytest

from hmasd.config import Config
from hmasd.telemetry import run_folder
from hmasd.telemetry.run_folder import RunFolderError, make_run_folder, open_run_folder
from hmasd.telemetry.timers import Timers

NOW = datetime(2026, 1, 2, 3, 4, 5)


def test_the_folder_holds_configuration_and_versions(tmp_path: Path) -> None:
    config = Config(output_dir=str(tmp_path), seed=7)
    folder = make_run_folder(config, NOW)
    assert folder == tmp_path / "runs" / "alice_and_bob_7_20260102-030405"
    assert json.loads((folder / "config.json").read_text()) == dataclasses.asdict(config)
    versions = json.loads((folder / "versions.json").read_text())
    assert set(versions) == {"python", "torch", "numpy", "platform", "machine", "git_commit"}
    assert make_run_folder(config, NOW).name == "alice_and_bob_7_20260102-030405-2"
    assert make_run_folder(config, NOW).name == "alice_and_bob_7_20260102-030405-3"


def test_names_of_envs_cannot_leave_the_folder(tmp_path: Path) -> None:
    config = Config(output_dir=str(tmp_path), env="../mpe2/simple spread:v3")
    assert make_run_folder(config, NOW).name == "mpe2_simple_spread_v3_1_20260102-030405"


def test_no_git_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert run_folder.versions()["git_commit"] is None


def test_a_run_that_goes_on_keeps_what_it_started_with(tmp_path: Path) -> None:
    folder = make_run_folder(Config(output_dir=str(tmp_path), total_steps=1), NOW)
    config = Config(output_dir=str(tmp_path), total_steps=2)
    assert open_run_folder(config, folder.name, 64) == folder
    assert json.loads((folder / "config.json").read_text())["total_steps"] == 1
    assert json.loads((folder / "config_64.json").read_text())["total_steps"] == 2
    gone = open_run_folder(config, "gone", 64)
    assert json.loads((gone / "config.json").read_text())["total_steps"] == 2


@pytest.mark.parametrize("name", ["file", "parent"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    if name == "file":  # output_dir is a file
        output = tmp_path / "file"
        output.write_text("")
    else:  # output_dir/runs is a file
        output = tmp_path
        (output / "runs").write_text("")
    config = Config(output_dir=str(output))
    for attempt in (lambda: make_run_folder(config), lambda: open_run_folder(config, "a", 64)):
        with pytest.raises(RunFolderError, match=r"cannot write .*runs.*--output-dir") as caught:
            attempt()
        assert str(output) in str(caught.value)


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunFolderError, match="Permission denied"):
        make_run_folder(Config(output_dir=str(tmp_path)))


def test_timers_add_up_also_through_errors() -> None:
    now = 0.0
    timers = Timers(clock=lambda: now)
    for seconds in (1.0, 2.5):
        with timers("collect"):
            now += seconds
    with pytest.raises(KeyError), timers("update"):
        now += 4.0
        raise KeyError
    assert timers.pop() == {"collect": 3.5, "update": 4.0}
    assert timers.pop() == {}
