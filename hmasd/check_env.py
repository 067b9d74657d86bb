"""`hmasd check-env NAME`: play an environment at random and say what would spoil training with it.

Whatever the env prints while it is played is held back, so that the report can be read.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hmasd.envs.base import BatchedEnv
from hmasd.envs.contract import check_env, random_action
from hmasd.envs.env_slice import RAISED, EnvError, told
from hmasd.envs.registry import env_names, env_problem, make_env
from hmasd.types import EnvOptions, EnvView

EXIT_FAULTS = 1
EXIT_BAD_INPUT = 2
MOST_LINES = 20  # that an env may print during the check


class Play(NamedTuple):
    """What happened in some lock-steps of random play."""

    steps: int  # env steps, summed over the envs
    seconds: float  # of this thread's CPU
    episodes: int
    terminated: int
    successes: int
    rewarded: int  # env steps with a reward other than 0


def main(argv: Sequence[str] | None = None) -> int:
    """Check one env; returns 0: no fault, 1: faults, 2: bad input."""
    parser = _parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # --help, or a word that the parser refused and explained
        return stop.code if isinstance(stop.code, int) else EXIT_BAD_INPUT
    options = EnvOptions(args.env_args, args.team_reward)
    problem = env_problem(args.env, options) or _bad_number(args)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        return EXIT_BAD_INPUT
    faults = _check(args, options)
    for fault in faults:
        print(f"fault: {fault}")
    if faults:
        print(f"{args.env}: {len(faults)} fault(s); mend the first one first")
        return EXIT_FAULTS
    print(f"ok: no fault in {3 * args.steps * args.num_envs:,} env steps")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hmasd check-env",
        description="Play an environment at random, three times over: as it comes, again from its "
        "seed, and again from a state saved halfway. Every fault is told with step, env, field and "
        "what to change.",
        epilog=f"Envs: {', '.join(env_names())}; or one of your own: my_module:make_env, "
        "gym:MODULE:ID, pettingzoo:MODULE (docs/environments.md). Exit codes: 0 no fault, 1 "
        "faults, 2 bad input.",
    )
    parser.add_argument("env", help="name of the environment, or where to find it")
    parser.add_argument("--env-args", default="", help="its factory's arguments, a YAML mapping")
    parser.add_argument("--team-reward", choices=("sum", "mean"), default="sum")
    parser.add_argument("--num-envs", type=int, default=3, help="copies to play (default 3)")
    parser.add_argument("--steps", type=int, default=300, help="steps of each copy (default 300)")
    parser.add_argument(
        "--episode-length", type=int, default=100, help="limit of an episode (default 100)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the envs and of the actions")
    return parser


def _bad_number(args: argparse.Namespace) -> str | None:
    """The first number that is too small, in words."""
    for name, least in (("num_envs", 1), ("steps", 2), ("episode_length", 1), ("seed", 0)):
        if getattr(args, name) < least:
            return f"{name} = {getattr(args, name)} must be at least {least}"
    return None


def _check(args: argparse.Namespace, options: EnvOptions) -> list[str]:
    """Make the env, describe it and list its faults."""
    try:
        env = make_env(args.env, args.num_envs, args.episode_length, options)
        with captured_output():
            view = env.reset(0)
    except (EnvError, ValueError) as error:
        return [str(error)]
    except RAISED as error:
        return [f"step 0: reset raised {told(error)}"]
    _describe(args.env, env, view)
    with captured_output() as lines:
        faults = check_env(env, args.steps, args.seed)
    if len(lines) > MOST_LINES:
        faults.append(
            f"the env printed {len(lines):,} lines, such as {lines[0][:80]!r}; that hides what "
            f"training tells: let it be silent"
        )
    if not faults:
        with captured_output():
            play = _play(env, args.steps, args.seed)
        _tell(play, args.episode_length)
    env.close()
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


def _describe(name: str, env: BatchedEnv, view: EnvView) -> None:
    """Sizes and spaces, and what an adapter did."""
    print(
        f"{name}: {env.num_envs} envs, {env.num_agents} agents, observation {env.obs_size}, state "
        f"{env.state_size}, actions {env.action_space}, "
        f"{'with' if view.action_mask is not None else 'no'} action masks, "
        f"{'agents may die' if view.alive is not None else 'all agents live'}"
    )
    for note in getattr(env, "notes", ()):
        print(f"note: {note}")


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


def _tell(play: Play, episode_length: int) -> None:
    """What happened, and what is worth a second look."""
    print(
        f"random play: {play.steps:,} env steps, {play.episodes} episodes ended "
        f"({play.terminated} by the task, {play.episodes - play.terminated} by the clock), "
        f"{play.successes} of them with success; {play.rewarded:,} steps with a reward; "
        f"{play.steps / max(play.seconds, 1e-9):,.0f} env steps per second of this process's CPU"
    )
    if not play.episodes:
        print(
            f"note: no episode ended, so no end was checked; give more --steps than "
            f"--episode-length, which is {episode_length}"
        )
    if not play.rewarded:
        print("note: random play never had a reward, so rewards were not checked")
