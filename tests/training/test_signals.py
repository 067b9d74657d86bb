"""SIGINT and SIGTERM to a real training: the step is finished, saved, and gone on from exactly."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmasd import checkpoint
from hmasd.config import Config
from hmasd.training.signals import StopRequest
from tests.helpers.runs import assert_same_result, result, resume, run

# Trains with the settings of its first argument. In lock-step 6 the env says so and waits inside
# its step, until the signal has come or, with a second argument, for ever.
PROGRAM = """
import json, sys, time, torch
from hmasd.config import Config
from hmasd.envs import registry
from hmasd.training import loop
from tests.helpers.runs import SMALL_ENVS

torch.set_num_threads(1)
registry._MAKERS.update(SMALL_ENVS)
trainer = loop.Trainer(Config(**json.loads(sys.argv[1])))
play, steps = trainer.env.step, iter(range(1, 1000))

def step(action):
    if next(steps) == 6:
        print("in step 6", flush=True)
        while trainer.stop.signal is None or len(sys.argv) > 2:
            time.sleep(0.01)
    return play(action)

trainer.env.step = step
sys.exit(trainer.run())
"""
ROOT = Path(__file__).parents[2]


def start(config: Config, *more: str) -> subprocess.Popen[str]:
    """Start training; returns when it is inside lock-step 6."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(dataclasses.asdict(config)), *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HMASD_KERNELS": "0"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("in step 6"):
            return process
    raise AssertionError(process.communicate())


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process under test runs without compiled kernels: so must what it is compared with."""
    try:
        from hmasd.kernels import build
    except ImportError:
        yield
        return
    monkeypatch.setattr(build._switch, "enabled", False)
    yield


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_after_the_step_and_resume_ends_as_if_it_never_came(
    config: Config, tmp_path: Path, eager: None, number: signal.Signals, code: int
) -> None:
    stopped = dataclasses.replace(config, output_dir=str(tmp_path / "stopped"))
    process = start(stopped)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    (path,) = (tmp_path / "stopped" / "models").iterdir()
    assert path.name == "hmasd_sync_enhanced_18.pth", "step 6 of 3 envs was finished, no more"
    assert checkpoint.load(path)["agent"]["env_steps"] == 18
    trainer = resume(config, tmp_path / "stopped", tmp_path / "resumed")
    whole = run(dataclasses.replace(config, output_dir=str(tmp_path / "whole")))
    assert_same_result(result(trainer), result(whole))


def test_a_second_signal_ends_at_once(config: Config, tmp_path: Path) -> None:
    """Else a step that hangs could only be ended by SIGKILL."""
    process = start(dataclasses.replace(config, checkpoint_interval=15), "for ever")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None, "the first signal lets the step finish"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM
    (path,) = (Path(config.output_dir) / "models").iterdir()
    assert path.name == "hmasd_sync_enhanced_15.pth"
    assert checkpoint.load(path)["agent"]["env_steps"] == 15


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_request_remembers_the_signal_and_gives_the_handlers_back(
    number: signal.Signals, code: int
) -> None:
    before = {s: signal.getsignal(s) for s in StopRequest.SIGNALS}
    with StopRequest() as request:
        assert request.signal is None and request.exit_code == 0
        assert {s: signal.getsignal(s) for s in StopRequest.SIGNALS} != before
        os.kill(os.getpid(), number)
        assert request.signal == number and request.exit_code == code
        assert {s: signal.getsignal(s) for s in StopRequest.SIGNALS} == before
    assert {s: signal.getsignal(s) for s in StopRequest.SIGNALS} == before


@pytest.mark.parametrize(("handler", "code"), [(signal.SIG_IGN, 0), (signal.SIG_DFL, 129)])
def test_under_nohup_a_closed_terminal_ends_nothing(handler: signal.Handlers, code: int) -> None:
    """``nohup`` starts a program with SIGHUP ignored; without it SIGHUP is taken."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.exit_code == code
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_without_a_signal_the_handlers_come_back_too() -> None:
    before = {s: signal.getsignal(s) for s in StopRequest.SIGNALS}
    with pytest.raises(KeyError), StopRequest() as request:
        raise KeyError
    assert request.exit_code == 0
    assert {s: signal.getsignal(s) for s in StopRequest.SIGNALS} == before


def test_control_a_signal_that_is_not_taken_kills_the_run(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the handler the run dies in the step and nothing is saved."""
    program = PROGRAM.replace(
        "trainer.env.step = step", "type(trainer.stop).SIGNALS = ()\ntrainer.env.step = step"
    )
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", program)
    process = start(config)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM
    assert not (Path(config.output_dir) / "models").exists()
