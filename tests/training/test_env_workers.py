"""Training with env workers: trap 10, failures in the middle of a run, Ctrl-C, the console."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from hmasd import checkpoint, cli
from hmasd.config import Config
from hmasd.telemetry.jsonl import read_lines
from hmasd.telemetry.writers import EVALUATIONS_FILE, METRICS_FILE
from hmasd.training.evaluation import SEED_OFFSET
from tests.helpers.faulty_envs import SEED
from tests.helpers.runs import Cut, Result, assert_same_result, differences, result, resume, run

ROOT = Path(__file__).parents[2]
FAULTY = "tests.helpers.faulty_envs:Faulty"


@pytest.fixture
def walk(config: Config) -> Config:
    """A run of a plain Python game, with evaluations and checkpoints on the way."""
    return dataclasses.replace(
        config, env="tests.helpers.single_envs:Walk", eval_interval=36, checkpoint_interval=30
    )


def play_run(config: Config, folder: Path, workers: int) -> Result:
    """What a run leaves behind."""
    changed = dataclasses.replace(config, output_dir=str(folder), env_workers=workers)
    return result(run(changed))


def test_trap_10_the_number_of_env_workers_changes_nothing(walk: Config, tmp_path: Path) -> None:
    """Every parameter, optimizer state, stored row, metric and evaluated episode is the same."""
    found = [play_run(walk, tmp_path / str(workers), workers) for workers in (0, 1, 2)]
    assert found[0].evaluations and found[0].rows[-1]["rollout/episodes"] > 5
    for other in found[1:]:
        assert_same_result(other, found[0])
    control = play_run(dataclasses.replace(walk, seed=2), tmp_path / "control", 2)
    assert differences(control.content["agent"]["networks"], found[0].content["agent"]["networks"])


@pytest.mark.parametrize(("workers", "resumed"), [(2, 0), (0, 2), (1, 2)])
def test_a_run_goes_on_exactly_with_another_number_of_workers(
    walk: Config, tmp_path: Path, workers: int, resumed: int
) -> None:
    walk = dataclasses.replace(walk, checkpoint_interval=0)
    whole = play_run(walk, tmp_path / "whole", 0)
    stopped = dataclasses.replace(walk, output_dir=str(tmp_path / "stopped"), env_workers=workers)
    run(stopped, Cut(lock_steps=10))
    again = dataclasses.replace(walk, env_workers=resumed)
    trainer = resume(again, tmp_path / "stopped", tmp_path / "resumed")
    assert_same_result(result(trainer), whole)


# --- failures -------------------------------------------------------------------------------------


def faulty(config: Config, fault: str, **changes: Any) -> Config:
    """A run of which env 1 fails in the fourth step of its second episode: lock-step 11."""
    args = yaml.safe_dump({"fault": fault, "env": 1, "episode": 1}, default_flow_style=True)
    return dataclasses.replace(
        config, env=FAULTY, env_args=args.strip(), seed=SEED, env_workers=2, **changes
    )


@pytest.mark.parametrize("fault", ["raise", "exit", "sleep"])
def test_a_run_survives_a_failure_and_discards_that_round_of_the_env(
    config: Config, fault: str
) -> None:
    changes = {"env_timeout": 2.0} if fault == "sleep" else {}
    trainer = run(faulty(config, fault, env_restarts=1, **changes))
    rows = list(read_lines(trainer.run_dir / METRICS_FILE))
    # worker 1 of 2 has envs 1 and 2; lock-step 11 is in the third round of 4
    assert [row["sync/discarded_samples"] for row in rows] == [0, 0, 8, 0, 0, 0]
    assert sum(row["Buffer/SamplesCollected"] for row in rows) == config.total_steps
    log = (Path(config.output_dir) / "logs" / f"{trainer.run_dir.name}.log").read_text()
    assert "env 1, step 4 of episode 1" in log and "replaced (1 of 1)" in log


def test_without_restarts_the_first_failure_ends_the_run_with_its_traceback(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(dataclasses.asdict(faulty(config, "raise"))))
    assert cli.main(["--config", str(settings)]) == 1
    errors = capsys.readouterr().err
    assert re.search(r"error: training failed: WorkerError: env worker 1 \(pid \d+, ", errors)
    assert "env 1, step 4 of episode 1" in errors and "in _melt" in errors
    assert "--env-restarts" in errors


def test_an_evaluation_survives_a_failure_too(config: Config) -> None:
    fails = faulty(config, "exit", env_restarts=2, eval_interval=36, eval_episodes=3)
    args = f"{{fault: exit, env: 1, seed: {SEED + SEED_OFFSET}}}"
    trainer = run(dataclasses.replace(fails, env_args=args))
    rows = list(read_lines(trainer.run_dir / METRICS_FILE))
    assert sum(row["sync/discarded_samples"] for row in rows) == 0, "training never failed"
    evaluated = list(read_lines(trainer.run_dir / EVALUATIONS_FILE))
    assert len(evaluated) == 2 * 2 * 3, "two evaluations in two ways of three episodes"
    log = (Path(config.output_dir) / "logs" / f"{trainer.run_dir.name}.log").read_text()
    assert log.count("replaced (1 of 2)") == 4


def test_a_batched_env_takes_no_workers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--env", "alice_and_bob", "--env-workers", "2"]) == 2
    error = capsys.readouterr().err
    assert "env_workers = 2: alice_and_bob steps all its envs as one batch" in error


# --- the program as it is started -----------------------------------------------------------------


def start(config: Config) -> subprocess.Popen[str]:
    """Start training from the command line, in a foreground group of its own."""
    settings = Path(config.output_dir) / "settings.yaml"
    settings.write_text(yaml.safe_dump(dataclasses.asdict(config)))
    return subprocess.Popen(
        [sys.executable, "train_sync_enhanced.py", "--config", str(settings)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HMASD_KERNELS": "0"},
        start_new_session=True,
    )


def children(pid: int) -> list[int]:
    """The processes that one process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_ctrl_c_saves_and_ends_the_workers_and_the_console_is_the_programs_own(
    config: Config,
) -> None:
    """The envs print all the time; the terminal sends SIGINT to the whole foreground group."""
    chatty = dataclasses.replace(
        config,
        env="tests.helpers.faulty_envs:Chatty",
        env_workers=2,
        total_steps=1_000_000,
        num_envs=2,
        batch_size=8,
    )
    process = start(chatty)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    said = [next(line for line in lines if line.startswith("update"))]
    workers = children(process.pid)
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "chatter" not in rest + errors and all(x.startswith("update") for x in said)
    assert not any(map(is_alive, workers))
    (path,) = (Path(config.output_dir) / "models").iterdir()
    assert checkpoint.load(path)["agent"]["env_steps"] > 0


def test_a_killed_training_leaves_no_worker(config: Config) -> None:
    endless = dataclasses.replace(
        config, env="tests.helpers.faulty_envs:Chatty", env_workers=2, total_steps=1_000_000
    )
    process = start(endless)
    assert process.stdout is not None
    next(line for line in iter(process.stdout.readline, "") if line.startswith("update"))
    workers = children(process.pid)
    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while time.monotonic() < end and any(map(is_alive, workers)):
        time.sleep(0.05)
    assert len(workers) == 2 and not any(map(is_alive, workers))
