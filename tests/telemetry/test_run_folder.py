"""The folder of a run says what was run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from hmasd.config import Config
from hmasd.telemetry import run_folder
from hmasd.telemetry.run_folder import (
    RunFolderError,
    make_run_folder,
    open_run_folder,
    version_files,
)
from hmasd.telemetry.timers import Timers

NOW = datetime(2026, 1, 2, 3, 4, 5)


def test_the_folder_holds_configuration_and_versions(tmp_path: Path) -> None:
    config = Config(output_dir=str(tmp_path), seed=7)
    folder = make_run_folder(config, NOW)
    assert folder == tmp_path / "runs" / "alice_and_bob_7_20260102-030405"
    assert json.loads((folder / "config.json").read_text()) == dataclasses.asdict(config)
    versions = json.loads((folder / "versions.json").read_text())
    of_git = {"git_commit", "git_has_changes"}
    assert set(versions) == {"python", "torch", "numpy", "platform", "machine"} | of_git
    assert make_run_folder(config, NOW).name == "alice_and_bob_7_20260102-030405-2"
    assert make_run_folder(config, NOW).name == "alice_and_bob_7_20260102-030405-3"


def test_names_of_envs_cannot_leave_the_folder(tmp_path: Path) -> None:
    config = Config(output_dir=str(tmp_path), env="../mpe2/simple spread:v3")
    assert make_run_folder(config, NOW).name == "mpe2_simple_spread_v3_1_20260102-030405"


def test_no_git_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    versions = run_folder.versions()
    assert versions["git_commit"] is None and versions["git_has_changes"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_changes_to_the_package_since_the_commit_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "hmasd"
    (package / "telemetry").mkdir(parents=True)
    for path in (package / "__init__.py", package / "agent.py", tmp_path / "notes.md"):
        path.write_text("as committed")
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "."), (*name, "commit", "-qm", "all")):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    monkeypatch.setattr(run_folder, "__file__", str(package / "telemetry" / "run_folder.py"))

    (tmp_path / "notes.md").write_text("changed")  # outside of the package
    (package / "scratch.py").write_text("of nobody")
    clean = run_folder.versions()
    assert clean["git_has_changes"] is False
    (package / "agent.py").write_text("changed")
    changed = run_folder.versions()
    assert changed["git_has_changes"] is True
    assert changed["git_commit"] == clean["git_commit"] is not None


def test_a_run_that_goes_on_keeps_what_it_started_with(tmp_path: Path) -> None:
    folder = make_run_folder(Config(output_dir=str(tmp_path), total_steps=1), NOW)
    config = Config(output_dir=str(tmp_path), total_steps=2)
    assert open_run_folder(config, folder.name, 64) == folder
    assert json.loads((folder / "config.json").read_text())["total_steps"] == 1
    assert json.loads((folder / "config_64.json").read_text())["total_steps"] == 2
    gone = open_run_folder(config, "gone", 64)
    assert json.loads((gone / "config.json").read_text())["total_steps"] == 2


def test_every_version_that_worked_on_a_run_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(output_dir=str(tmp_path))
    folder = make_run_folder(config, NOW)
    start = (folder / "versions.json").read_bytes()
    for env_steps, commit in ((64, "a"), (512, "b"), (64, "c")):
        monkeypatch.setattr(run_folder, "versions", lambda commit=commit: {"git_commit": commit})
        open_run_folder(config, folder.name, env_steps)
    first, *later = version_files(folder)
    assert first.read_bytes() == start
    assert [path.name for path in later] == ["versions_64.json", "versions_512.json"]
    found = [json.loads(path.read_text())["git_commit"] for path in later]
    assert found == ["c", "b"]  # of two that went on from 64 the first one's work is gone


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
