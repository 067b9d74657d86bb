"""Steps per second of an environment alone, with random actions drawn beforehand.

    python benchmarks/env_speed.py --env alice_and_bob --num-envs 32 --steps 20000

The first call compiles the kernels and is not timed. One step is one step of one env with all its
agents; the best of `--repeats` runs counts, the guard that training calls on every step is timed
apart.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hmasd.envs.base import BatchedEnv
from hmasd.envs.contract import random_action
from hmasd.envs.guard import check_step
from hmasd.envs.registry import env_names, make_env


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="alice_and_bob", choices=env_names())
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20_000, help="lock-steps of all envs")
    parser.add_argument("--episode-length", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def seconds(env: BatchedEnv, actions: list[np.ndarray], *, guarded: bool) -> float:
    """Wall seconds to play all actions."""
    start = time.perf_counter()
    for number, action in enumerate(actions, start=1):
        step = env.step(action)
        if guarded:
            check_step(step, number)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print one line per case."""
    args = parse()
    env = make_env(args.env, args.num_envs, args.episode_length)
    rng, view = np.random.default_rng(0), env.reset(0)
    if view.action_mask is not None:
        raise SystemExit(f"{args.env} has action masks: actions cannot be drawn beforehand")
    actions = [random_action(env, view, rng) for _ in range(args.steps)]
    env.step(actions[0])
    for guarded in (False, True):
        best = min(seconds(env, actions, guarded=guarded) for _ in range(args.repeats))
        rate = args.steps * args.num_envs / best
        name = "env and guard" if guarded else "env alone"
        print(f"{name:>14}: {rate:12,.0f} steps/s, {best / args.steps * 1e6:7.1f} us a lock-step")
    env.close()


if __name__ == "__main__":
    main()
