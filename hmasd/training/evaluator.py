"""Who plays the evaluations: training itself, between two rounds, or a process beside it.

An evaluation measures a frozen policy, and its numbers are written under the env steps of that
policy, whenever they arrive. They arrive in order. Training waits for the process in one place
only: at its end, for the results that are still missing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from hmasd.agent import HMASDAgent
from hmasd.checkpoint import policy_path
from hmasd.config import Config
from hmasd.processes import Child
from hmasd.telemetry.writers import MetricsLog
from hmasd.training.evaluation import evaluate_agent, save_policy

MOST_WAITING = 2  # policies, beside the one that is played; of more the oldest is dropped
PROGRAM = "hmasd.training.evaluation_process"
_LONGEST_WAIT = 0.2  # seconds between two looks at a signal, while training waits at its end
_READ = 1 << 16  # bytes, a pipe's size

logger = logging.getLogger(__name__)


class Evaluator(Protocol):
    """What the training loop asks for."""

    def begin(self, agent: HMASDAgent) -> dict[str, float]:
        """Let the agent's policy of now be evaluated; returns the metrics that are there at once.

        Raises:
            CheckpointError: the policy cannot be written.
        """

    def look(self, env_steps: int) -> dict[str, float]:
        """Write what has arrived meanwhile, without waiting; returns how the evaluator does."""

    def finish(self, env_steps: int, is_stopped: Callable[[], bool]) -> None:
        """Wait for what is missing, until `is_stopped`; what is left waits for the run to go on."""

    def close(self) -> None:
        """End what runs for it."""


def waiting_policies(run_dir: Path, steps_learned: int) -> list[int]:
    """Env steps of the policies that wait for their evaluation since the run was last stopped.

    Those of later updates than where the run goes on are deleted: it will get there again.
    """
    waiting = []
    for path in (run_dir / "pending").glob("policy_*.pth"):
        env_steps = int(path.stem.removeprefix("policy_"))
        if env_steps <= steps_learned:
            waiting.append(env_steps)
        else:
            path.unlink()
    return sorted(waiting)


def make_evaluator(
    config: Config, run_dir: Path, metrics_log: MetricsLog, waiting: Iterable[int]
) -> Evaluator:
    """The evaluator that `eval_mode` asks for; waiting: `waiting_policies`."""
    folder = run_dir / "pending"
    if config.eval_mode == "process" and config.eval_interval > 0:
        return ProcessEvaluator(folder, metrics_log, waiting, config.eval_timeout)
    for env_steps in waiting:
        path = policy_path(folder, env_steps)
        logger.warning(
            "the policy of %d env steps was never evaluated: go on with --eval-mode process, or "
            "use --eval-only --model-path %s",
            *(env_steps, path),
        )
    return InlineEvaluator(metrics_log)


class InlineEvaluator:
    """Training plays, and waits until it is done."""

    def __init__(self, metrics_log: MetricsLog) -> None:
        self._metrics_log = metrics_log

    def begin(self, agent: HMASDAgent) -> dict[str, float]:
        """Play at once; see `Evaluator`."""
        found = evaluate_agent(agent)
        self._metrics_log.write_evaluation(found.rows, agent.env_steps)
        return found.metrics

    def look(self, env_steps: int) -> dict[str, float]:
        """Nothing ever arrives later."""
        return {}

    def finish(self, env_steps: int, is_stopped: Callable[[], bool]) -> None:
        """Nothing is ever missing."""

    def close(self) -> None:
        """Nothing runs."""


class ProcessEvaluator:
    """A process plays one policy file after the other, each deleted when its result is written.

    A process that dies or hangs is replaced by a new one for the next policy; what happened is a
    warning in the log. So nothing that it does can stop, delay or change training.
    """

    def __init__(
        self, folder: Path, metrics_log: MetricsLog, waiting: Iterable[int], timeout: float
    ) -> None:
        """The process is started with the first look, to be ready for the first evaluation.

        Args:
            folder: where the policy files lie.
            metrics_log: takes the results.
            waiting: env steps of policies that lie there already.
            timeout: seconds that one evaluation may take.
        """
        self._folder = folder
        self._metrics_log = metrics_log
        self._waiting = deque(waiting)
        self._timeout = timeout
        self._lost = 0
        self._playing: int | None = None  # env steps of the policy that is played
        self._began = 0.0
        self._player: Player | None = None

    def begin(self, agent: HMASDAgent) -> dict[str, float]:
        """Save the policy and let it wait for its turn; see `Evaluator`."""
        save_policy(policy_path(self._folder, agent.env_steps), agent)
        self._waiting.append(agent.env_steps)
        while len(self._waiting) > MOST_WAITING + (self._playing is None):
            self._lose(
                self._waiting.popleft(),
                f"is dropped: {MOST_WAITING} newer policies wait already. Evaluations take longer "
                "than the time between them: raise --eval-interval or lower --eval-episodes",
            )
        return {}

    def look(self, env_steps: int) -> dict[str, float]:
        """Write the result that has arrived, give up one that never will; see `Evaluator`."""
        if self._playing is not None:
            self._hear(self._playing, env_steps)
        if self._playing is None:
            self._play_next()
        return {
            "time/evaluations_waiting": float(self._num_pending),
            "time/evaluations_lost": float(self._lost),
        }

    def finish(self, env_steps: int, is_stopped: Callable[[], bool]) -> None:
        """Wait, at most `timeout` seconds for each policy; see `Evaluator`."""
        self.look(env_steps)
        if self._num_pending and not is_stopped():
            logger.warning(
                "training is done and saved; %d evaluation(s) are still played. Ctrl-C leaves them "
                "for when the run goes on",
                self._num_pending,
            )
        while self._player is not None and self._num_pending and not is_stopped():
            self._player.wait(_LONGEST_WAIT)
            self.look(env_steps)
        if self._num_pending:
            logger.warning(
                "%d evaluation(s) are left for when the run goes on; their policies are in %s",
                *(self._num_pending, self._folder),
            )

    def close(self) -> None:
        """Kill the process; see `Evaluator`."""
        if self._player is not None:
            self._player.end()
        with contextlib.suppress(OSError):  # there is none, or policies are left in it
            self._folder.rmdir()

    @property
    def _num_pending(self) -> int:
        return len(self._waiting) + (self._playing is not None)

    def _play_next(self) -> None:
        """Have a living process, and ask it for the next evaluation if one waits."""
        if self._player is not None and not self._player.is_running:
            logger.warning("the evaluator, playing nothing: process %s", self._player.death())
            self._player = None
        try:
            self._player = self._player or Player()
        except OSError as error:  # no memory, or no more processes allowed
            if self._waiting:
                what = f"is lost: no process can be started for it: {error}"
                self._lose(self._waiting.popleft(), what)
            return
        if self._waiting:
            self._playing, self._began = self._waiting.popleft(), time.monotonic()
            self._player.ask(policy_path(self._folder, self._playing))

    def _hear(self, playing: int, env_steps: int) -> None:
        """Take the answer, if there is one, or find out that there will be none."""
        assert self._player is not None, "somebody plays"
        took = time.monotonic() - self._began
        try:
            answer = self._player.answer()
        except EOFError:
            self._lose(playing, f"is lost: its process {self._player.death()}")
            self._player = None
            return
        if answer is None and took <= self._timeout:
            return
        if answer is None:
            self._lose(playing, self._player.hang(self._timeout))
            self._player = None
        elif "failure" in answer:
            self._lose(playing, f"failed: {answer['failure']}")
        else:
            self._write(playing, answer, float(env_steps - playing))

    def _write(self, playing: int, answer: dict[str, Any], lag: float) -> None:
        """Write a result under the env steps of its policy, and forget the policy."""
        self._metrics_log.write_evaluation(answer["rows"], playing)
        late = {"time/evaluation_lag_steps": lag}
        self._metrics_log.write(answer["metrics"] | late, playing)
        logger.info("evaluation at %d env steps: %s", playing, answer["metrics"])
        self._forget(playing)

    def _lose(self, env_steps: int, what: str) -> None:
        """Say that there will be no result of a policy, and why."""
        logger.warning("the evaluation at %d env steps %s", env_steps, what)
        self._lost += 1
        self._forget(env_steps)

    def _forget(self, env_steps: int) -> None:
        policy_path(self._folder, env_steps).unlink()
        if self._playing == env_steps:
            self._playing = None


class Player:
    """The process of `PROGRAM` as its parent sees it; no call waits."""

    def __init__(self) -> None:
        asked, self._requests = os.pipe()
        self._answers, told = os.pipe()
        os.set_blocking(self._answers, False)
        try:
            self._child = Child(PROGRAM, asked, told)
        except OSError:
            self._close()
            raise
        finally:
            os.close(asked)
            os.close(told)
        self._text = b""

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._child.is_running

    def ask(self, path: Path) -> None:
        """Let it play a policy file; that a dead one does not hear is found with its answer."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._requests, json.dumps(str(path)).encode() + b"\n")

    def answer(self) -> dict[str, Any] | None:
        """What it answered, if it is done.

        Raises:
            EOFError: it is dead.
        """
        self._child.read_output()
        while b"\n" not in self._text:
            try:
                read = os.read(self._answers, _READ)
            except BlockingIOError:
                return None
            if not read:
                raise EOFError
            self._text += read
        line, _, self._text = self._text.partition(b"\n")
        return json.loads(line)

    def wait(self, seconds: float) -> None:
        """Until it says something, but no longer than this."""
        select.select([self._answers], [], [], seconds)

    def death(self) -> str:
        """What is known of its end."""
        how = self._child.how_it_ended()
        self.end()
        return f"{self.pid} {how}{self._child.last_output()}"

    def hang(self, timeout: float) -> str:
        """Kill it for giving no answer; returns what happened, with the lines where it hangs."""
        self._child.kill_hanging()
        self.end()
        return (
            f"is lost: its process {self.pid} gave no answer within {timeout:g} s and was killed; "
            f"raise --eval-timeout if one may take that long{self._child.last_output()}"
        )

    def end(self) -> None:
        """Kill it; once."""
        self._child.end(0.0)
        self._close()

    def _close(self) -> None:
        os.close(self._requests)
        os.close(self._answers)
