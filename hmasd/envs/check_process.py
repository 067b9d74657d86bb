"""The program that plays an env for `hmasd check-env`, and says before each call what it is.

Whatever the env prints while it is played is held back, so that the report can be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from hmasd.envs.base import BatchedEnv
from hmasd.envs.check_request import Report, Request
from hmasd.envs.contract import check_env, random_action
from hmasd.envs.env_slice import RAISED, EnvError, told
from hmasd.envs.messages import Messages
from hmasd.envs.player_process import DONE, serve
from hmasd.envs.registry import env_problem, make_env
from hmasd.envs.vector import SingleEnvBatch
from hmasd.types import EnvOptions, EnvView

MOST_LINES = 20  # that an env may print during the check

Say = Callable[[str], None]


class Play(NamedTuple):
    """What happened in some lock-steps of random play."""

    steps: int  # env steps, summed over the envs
    seconds: float  # of this thread's CPU
    episodes: int
    terminated: int
    successes: int
    rewarded: int  # env steps with a reward other than 0


class Announced:
    """An env or one of its games that says what it is about to do."""

    def __init__(self, played: Any, name: str, say: Say) -> None:
        self._played = played
        self._name = name
        self._say = say
        self._steps = self._steps_saved = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._played, name)

    def reset(self, seed: int) -> Any:
        """As the env does it."""
        self._steps = 0
        self._say(f"{self._name}: reset({seed})")
        return self._played.reset(seed)

    def step(self, action: np.ndarray) -> Any:
        """As the env does it."""
        self._steps += 1
        self._say(f"{self._name}, step {self._steps}: step({np.asarray(action).tolist()})")
        return self._played.step(action)

    def get_state(self) -> Any:
        """As the env does it."""
        self._steps_saved = self._steps
        self._say(f"{self._name}, step {self._steps}: get_state()")
        return self._played.get_state()

    def set_state(self, state: Any) -> None:
        """As the env does it."""
        self._steps = self._steps_saved
        self._say(f"{self._name}, step {self._steps}: set_state(get_state())")
        self._played.set_state(state)


def announce(env: BatchedEnv, say: Say) -> BatchedEnv:
    """The env, whose every call is said before: game by game where it is made of single ones."""
    if isinstance(env, SingleEnvBatch):
        for number, game in enumerate(env.games):
            env.games[number] = Announced(game, f"env {number}", say)
        return env
    return Announced(env, "all envs", say)


def check(request: Request, say: Callable[[str, list[str]], None]) -> Report:
    """Make the env, describe it and list its faults.

    Args:
        request: what to check.
        say: is told what comes next, and all that is known about the env so far.
    """
    options = EnvOptions(request.env_args, request.team_reward)
    described: list[str] = []

    def say_it(now: str) -> None:
        say(now, described)

    say_it("making it")
    with captured_output():
        problem = env_problem(request.env, options)
    if problem is not None:
        return Report(problem)
    try:
        with captured_output():
            env = make_env(request.env, request.num_envs, request.episode_length, options)
            env = announce(env, say_it)
            view = env.reset(0)
    except (EnvError, ValueError) as error:
        return Report(faults=[str(error)])
    except RAISED as error:
        return Report(faults=[f"step 0: reset raised {told(error)}"])
    described += _describe(request.env, env, view)
    faults, seen = _faults(env, request), []
    if not faults:
        with captured_output():
            play = _play(env, request.steps, request.seed)
        seen = _tell(play, request)
    say_it("closing it")
    env.close()
    say_it("telling what was seen")
    return Report(None, described, faults, seen)


def _faults(env: BatchedEnv, request: Request) -> list[str]:
    """All that breaks the contract, and too much talk."""
    with captured_output() as lines:
        faults = check_env(env, request.steps, request.seed)
    if len(lines) > MOST_LINES:
        faults.append(
            f"the env printed {len(lines):,} lines, such as {lines[0][:80]!r}; that hides what "
            f"training tells: let it be silent"
        )
    return faults


@contextlib.contextmanager
def captured_output() -> Iterator[list[str]]:
    """Hold back what is written to standard output, also by compiled code.

    Yields:
        A list that holds the lines when the context is left.
    """
    lines: list[str] = []
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        sys.stdout.flush()
        saved = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with contextlib.redirect_stdout(file):
                yield lines
        finally:
            file.flush()
            os.dup2(saved, 1)
            os.close(saved)
            file.seek(0)
            lines += file.read().splitlines()


def _describe(name: str, env: BatchedEnv, view: EnvView) -> list[str]:
    """Sizes and spaces, and what an adapter did."""
    sizes = (
        f"{name}: {env.num_envs} envs, {env.num_agents} agents, observation {env.obs_size}, state "
        f"{env.state_size}, actions {env.action_space}, "
        f"{'with' if view.action_mask is not None else 'no'} action masks, "
        f"{'agents may die' if view.alive is not None else 'all agents live'}"
    )
    return [sizes, *(f"note: {note}" for note in getattr(env, "notes", ()))]


def _play(env: BatchedEnv, steps: int, seed: int) -> Play:
    """Play some lock-steps at random, without looking closely."""
    rng = np.random.default_rng(seed)
    view = env.reset(seed)
    ended = terminated = successes = rewarded = 0
    seconds = 0.0
    for _ in range(steps):
        action = random_action(env, view, rng)
        start = time.thread_time()
        step = env.step(action)
        seconds += time.thread_time() - start
        ended += int((step.terminated | step.truncated).sum())
        terminated += int(step.terminated.sum())
        successes += int(step.success.sum())
        rewarded += int((step.reward != 0).sum())
        view = step.view
    return Play(steps * env.num_envs, seconds, ended, terminated, successes, rewarded)


def _tell(play: Play, request: Request) -> list[str]:
    """What happened, and what is worth a second look."""
    seen = [
        f"random play: {play.steps:,} env steps, {play.episodes} episodes ended "
        f"({play.terminated} by the task, {play.episodes - play.terminated} by the clock), "
        f"{play.successes} of them with success; {play.rewarded:,} steps with a reward; "
        f"{play.steps / max(play.seconds, 1e-9):,.0f} env steps per second of this process's CPU"
    ]
    if not play.episodes:
        seen.append(
            f"note: no episode ended, so no end was checked; give more --steps than "
            f"--episode-length, which is {request.episode_length}"
        )
    if not play.rewarded:
        seen.append("note: random play never had a reward, so rewards were not checked")
    steps = 3 * request.steps * request.num_envs
    return [*seen, f"ok: no fault in {steps:,} env steps"]


def _work(connection: Messages, words: list[str]) -> None:
    """Check what the parent asks for; words: none."""

    def send(answer: dict[str, Any]) -> None:
        connection.send(DONE + json.dumps(answer).encode())

    def say(now: str, described: list[str]) -> None:
        send({"now": now, "told": described})

    request = Request(*json.loads(connection.receive()))
    send(check(request, say)._asdict())


if __name__ == "__main__":
    serve(sys.argv[1:], _work)
