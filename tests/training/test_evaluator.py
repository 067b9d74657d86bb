"""A process evaluates beside training: same numbers, in order, and no harm whatever befalls it."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hmasd import checkpoint
from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.description import describe
from hmasd.telemetry.jsonl import read_lines
from hmasd.telemetry.writers import EVALUATIONS_FILE, METRICS_FILE, MetricsLog
from hmasd.training.evaluation import SEED_OFFSET, evaluate
from hmasd.training.evaluator import ProcessEvaluator, waiting_policies
from hmasd.training.loop import Trainer
from tests.helpers.faulty_envs import SEED
from tests.helpers.runs import Cut, Result, differences, make_agent, result, resume, run
from tests.training.test_env_workers import children, is_alive, start

PATIENCE = 90.0  # seconds; a process needs several to import torch on a busy machine

# Whole runs, whose evaluators each import torch first.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hmasd.training.evaluator.PROGRAM", "tests.helpers.eager_evaluation")


@pytest.fixture
def walk(config: Config) -> Config:
    """A run of a game that another process can make, with three evaluations."""
    return dataclasses.replace(
        config, env="tests.helpers.single_envs:Walk", eval_interval=24, eval_mode="process"
    )


# --- whole runs -----------------------------------------------------------------------------------


def rounds(found: Result) -> list[dict[str, Any]]:
    """What training logged, without what evaluations told."""
    return [
        {tag: x for tag, x in row.items() if not tag.startswith("eval/")}
        for row in found.rows
        if "Sync/BatchSize" in row
    ]


def measured(found: Result) -> list[tuple[int, dict[str, float]]]:
    """What evaluations told, each with its env steps, in the order of the log."""
    return [
        (row["env_steps"], {tag: x for tag, x in row.items() if tag.startswith("eval/")})
        for row in found.rows
        if "eval/greedy_return" in row
    ]


def trained(config: Config, folder: Path, **changes: Any) -> Result:
    return result(run(dataclasses.replace(config, output_dir=str(folder), **changes)))


def test_training_and_results_are_the_same_to_the_bit(walk: Config, tmp_path: Path) -> None:
    beside = trained(walk, tmp_path / "process")
    inline = trained(walk, tmp_path / "inline", eval_mode="inline")
    never = trained(walk, tmp_path / "never", eval_interval=0)
    assert differences(beside.content, inline.content) == []
    assert differences(beside.content, never.content) == []
    assert rounds(beside) == rounds(inline) == rounds(never)
    assert [steps for steps, _ in measured(beside)] == [24, 48, 72]
    assert measured(beside) == measured(inline)
    assert beside.evaluations == inline.evaluations and len(beside.evaluations) == 18
    other = trained(walk, tmp_path / "control", seed=2)
    assert differences(other.content, never.content) and measured(other) != measured(inline)


def log_of(trainer: Trainer) -> str:
    folder = Path(trainer.config.output_dir)
    return (folder / "logs" / f"{trainer.run_dir.name}.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fault", "words"),
    [("raise", "the reactor melted"), ("kill", r"was ended by signal 9 (Killed)")],
)
def test_an_evaluation_that_fails_is_told_and_changes_nothing(
    config: Config, tmp_path: Path, fault: str, words: str
) -> None:
    """The game fails in evaluations only, which have another seed."""
    args = f"{{fault: {fault}, env: 1, seed: {SEED + SEED_OFFSET}}}"
    faulty = dataclasses.replace(
        config, env="tests.helpers.faulty_envs:Faulty", env_args=args, seed=SEED
    )
    changes = {"eval_interval": 36, "eval_mode": "process"}
    trainer = run(dataclasses.replace(faulty, output_dir=str(tmp_path / "fails"), **changes))
    never = trained(faulty, tmp_path / "never")
    fails = result(trainer)
    assert differences(fails.content, never.content) == []
    assert rounds(fails) == rounds(never)
    assert fails.evaluations == [] and measured(fails) == []
    log = log_of(trainer)
    assert log.count("the evaluation at ") == 2 and log.count(words) >= 2
    assert not (trainer.run_dir / "pending").exists()


def test_what_a_stop_leaves_is_evaluated_when_the_run_goes_on(walk: Config, tmp_path: Path) -> None:
    """At the stop two policies wait; a program that was killed had begun to write the first."""
    inline = trained(walk, tmp_path / "inline", eval_mode="inline")
    stopped = tmp_path / "stopped"
    trainer = run(dataclasses.replace(walk, output_dir=str(stopped)), Cut(16, after_update=True))
    assert waiting_policies(trainer.run_dir, 48) == [24, 48]
    with (trainer.run_dir / EVALUATIONS_FILE).open("a", encoding="utf-8") as file:
        file.write('{"env_steps": 24, "mode": "greedy"}\n')
    resumed = result(resume(walk, stopped, tmp_path / "resumed"))
    assert differences(resumed.content, inline.content) == []
    assert rounds(resumed) == rounds(inline)
    assert measured(resumed) == measured(inline)
    assert resumed.evaluations == inline.evaluations


def test_policies_that_training_will_make_again_do_not_wait(tmp_path: Path) -> None:
    for steps in (24, 48, 72):
        checkpoint.save(checkpoint.policy_path(tmp_path / "pending", steps), {})
    assert waiting_policies(tmp_path, 48) == [24, 48]
    assert not checkpoint.policy_path(tmp_path / "pending", 72).exists()


def test_a_run_that_goes_on_inline_says_what_was_never_evaluated(
    walk: Config, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"
    run(dataclasses.replace(walk, output_dir=str(stopped)), Cut(16, after_update=True))
    inline = dataclasses.replace(walk, eval_mode="inline")
    trainer = resume(inline, stopped, tmp_path / "resumed")
    assert log_of(trainer).count("was never evaluated: go on with --eval-mode process") == 2
    assert [steps for steps, _ in measured(result(trainer))] == [72]


# --- one evaluator --------------------------------------------------------------------------------


class Played:
    """An agent that pretends to train, and its evaluator."""

    def __init__(self, config: Config, folder: Path, timeout: float = 600.0) -> None:
        self.folder = folder
        self.agent, self.env, _ = make_agent(config)
        self.log = MetricsLog(folder, folder / "board")
        self.evaluator = ProcessEvaluator(folder / "pending", self.log, (), timeout)
        self.last: dict[str, float] = {}

    @property
    def pid(self) -> int:
        assert self.evaluator._player is not None
        return self.evaluator._player.pid

    def train(self) -> HMASDAgent:
        """Twelve more steps, and other parameters."""
        self.agent.env_steps += 12
        with torch.no_grad():
            for parameter in self.agent.played.parameters():
                parameter.mul_(1.5)
        return self.agent

    def look(self) -> None:
        self.last = self.evaluator.look(self.agent.env_steps)

    def look_until(self, is_true: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not is_true():
            assert time.monotonic() < end, self.last
            self.look()
            time.sleep(0.02)

    @property
    def evaluated(self) -> list[int]:
        """Env steps of the results, in the order in which they were written."""
        return [row["env_steps"] for row in read_lines(self.folder / METRICS_FILE)]


@pytest.fixture
def played(walk: Config, tmp_path: Path) -> Iterator[Played]:
    made = Played(walk, tmp_path / "run")
    yield made
    made.evaluator.close()
    made.log.close()


def test_a_result_is_that_of_the_policy_as_it_was_frozen(played: Played) -> None:
    expected, rows = evaluate(played.train())
    played.evaluator.begin(played.agent)
    control, _ = evaluate(played.train())
    played.look_until(lambda: played.evaluated == [12])
    (row,) = read_lines(played.folder / METRICS_FILE)
    assert {tag: row[tag] for tag in expected} == expected != control
    assert row["time/evaluation_lag_steps"] == 12 and row["time/evaluation_seconds"] > 0
    told = list(read_lines(played.folder / EVALUATIONS_FILE))
    assert told == [{"env_steps": 12} | row for row in rows]
    assert list((played.folder / "pending").iterdir()) == []


def test_the_process_gives_way_to_others() -> None:
    """In its session, and its session among those of the machine."""
    program = (
        "import os; from pathlib import Path\n"
        "from hmasd.training.evaluation_process import give_way\n"
        "give_way()\n"
        "group = Path('/proc/self/autogroup')\n"
        "print(os.nice(0), group.read_text().split()[-1] if group.exists() else 10)"
    )
    before = os.nice(0)
    told = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        start_new_session=True,
        check=True,
    )
    assert told.stdout.split() == [str(min(before + 10, 19)), "10"]


def test_a_stopped_evaluator_holds_nothing_up_and_drops_the_oldest(
    played: Played, caplog: pytest.LogCaptureFixture
) -> None:
    played.evaluator.begin(played.train())
    played.look()
    os.kill(played.pid, signal.SIGSTOP)
    for _ in range(5):
        played.evaluator.begin(played.train())
        played.look()
    assert played.last == {"time/evaluations_waiting": 3, "time/evaluations_lost": 3}
    assert "the evaluation at 24 env steps is dropped: 2 newer policies wait" in caplog.text
    os.kill(played.pid, signal.SIGCONT)
    played.look_until(lambda: len(played.evaluated) == 3)
    assert played.evaluated == [12, 60, 72]


def test_a_killed_evaluator_is_replaced(played: Played, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        played.evaluator.begin(played.train())
    played.look()
    first = played.pid
    os.kill(first, signal.SIGKILL)
    played.look_until(lambda: played.evaluated == [24])
    assert played.pid != first and not is_alive(first)
    assert f"at 12 env steps is lost: its process {first} was ended by signal 9" in caplog.text


def test_an_evaluator_killed_while_it_plays_nothing_loses_nothing(
    played: Played, caplog: pytest.LogCaptureFixture
) -> None:
    played.look()
    first = played.pid
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    played.evaluator.begin(played.train())
    played.look_until(lambda: played.evaluated == [12])
    assert played.last["time/evaluations_lost"] == 0
    assert f"playing nothing: process {first} was ended by signal 9" in caplog.text


def test_an_evaluator_that_hangs_is_killed(
    walk: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    played = Played(walk, tmp_path / "run", timeout=0.0)
    played.evaluator.begin(played.train())
    played.look()
    hanging = played.pid
    os.kill(hanging, signal.SIGSTOP)
    played.look()
    assert played.last == {"time/evaluations_waiting": 0, "time/evaluations_lost": 1}
    assert not is_alive(hanging) and "raise --eval-timeout" in caplog.text
    played.evaluator.close()
    played.log.close()


def test_a_stop_does_not_wait_for_a_stopped_evaluator(
    played: Played, caplog: pytest.LogCaptureFixture
) -> None:
    played.evaluator.begin(played.train())
    played.look()
    os.kill(played.pid, signal.SIGSTOP)
    asked = iter([False, False, True, True])
    played.evaluator.finish(12, lambda: next(asked))
    assert "1 evaluation(s) are left for when the run goes on" in caplog.text
    played.evaluator.close()
    assert not is_alive(played.pid)
    assert waiting_policies(played.folder, 12) == [12]
    played.evaluator._player = None  # the fixture closes, too


def test_a_machine_that_starts_no_process_loses_the_evaluation(
    played: Played, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*words: Any, **settings: Any) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr("hmasd.processes.subprocess.Popen", refuse)
    before = len(os.listdir("/proc/self/fd"))
    played.evaluator.begin(played.train())
    played.look()
    assert played.last == {"time/evaluations_waiting": 0, "time/evaluations_lost": 1}
    assert "no process can be started for it: Cannot allocate memory" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == before


# --- the program as it is started -----------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_evaluator_outlives_its_training(
    walk: Config, number: signal.Signals, code: int
) -> None:
    """The terminal sends SIGINT to the whole foreground group; SIGKILL leaves no time to end it."""
    endless = dataclasses.replace(walk, total_steps=10_000_000, eval_episodes=3000)
    process = start(endless)
    assert process.stdout is not None
    next(line for line in iter(process.stdout.readline, "") if line.startswith("update"))
    (evaluator,) = children(process.pid)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, errors
    end = time.monotonic() + 10
    while time.monotonic() < end and is_alive(evaluator):
        time.sleep(0.05)
    assert not is_alive(evaluator)


def test_a_machine_without_a_core_to_spare_is_told() -> None:
    cores = os.cpu_count() or 1
    beside = Config(eval_mode="process", threads=cores)
    assert "eval_mode process needs a core of its own" in describe(beside)
    assert "eval_mode" not in describe(dataclasses.replace(beside, eval_mode="inline"))
