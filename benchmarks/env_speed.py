"""Steps per second of an environment alone, with random actions drawn beforehand.

    python benchmarks/env_speed.py --env alice_and_bob --num-envs 32 --steps 20000
    python benchmarks/env_speed.py --env smax_3m --steps 1000

The actions come from a first run, which also compiles what there is to compile and is not timed;
the timed runs have its seed, so they play the same games. One step is one step of one env with all
its agents; the best of `--repeats` runs counts, the guard that training calls on every step is
timed apart. For a game of JaxMARL or VMAS the package's own batched step is timed, too, with the
same actions: what the adapter costs is the difference.
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
from hmasd.envs.registry import make_env
from hmasd.types import EnvOptions

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="alice_and_bob", help="as training's --env")
    parser.add_argument("--env-args", default="", help="as training's --env-args")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20_000, help="lock-steps of all envs")
    parser.add_argument("--episode-length", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    return parser.parse_args()


def record(env: BatchedEnv, steps: int) -> list[np.ndarray]:
    """Random actions that are allowed in the games of seed 0."""
    rng, view, actions = np.random.default_rng(0), env.reset(0), []
    for _ in range(steps):
        actions.append(random_action(env, view, rng))
        view = env.step(actions[-1]).view
    return actions


def seconds(
    env: BatchedEnv, actions: list[np.ndarray], clock: str, *, guarded: bool = False
) -> float:
    """Seconds to play all actions."""
    env.reset(0)
    start = CLOCKS[clock]()
    for number, action in enumerate(actions, start=1):
        step = env.step(action)
        if guarded:
            check_step(step, number)
    return CLOCKS[clock]() - start


def jaxmarl_seconds(env: BatchedEnv, actions: list[np.ndarray], clock: str) -> float:
    """Seconds of JaxMARL's own step, vmapped and compiled, with its automatic restarts."""
    import jax

    game, keys = env._game, jax.random.split(jax.random.PRNGKey(0), env.num_envs)

    def step(keys, state, action):
        named = {agent: action[:, i] for i, agent in enumerate(game.agents)}
        obs, state, reward, done, _ = jax.vmap(game.step)(keys[:, 0], state, named)
        return jax.vmap(jax.random.split)(keys[:, 1]), state, (obs, reward, done)

    compiled = jax.jit(step)
    _, state = jax.vmap(game.reset)(keys)
    keys = jax.vmap(jax.random.split)(keys)
    for action in actions[:3]:  # its state's types settle after the first steps
        keys, state, _ = jax.block_until_ready(compiled(keys, state, action))
    start = CLOCKS[clock]()
    for action in actions:
        keys, state, _ = jax.block_until_ready(compiled(keys, state, action))
    return CLOCKS[clock]() - start


def vmas_seconds(env: BatchedEnv, actions: list[np.ndarray], clock: str) -> float:
    """Seconds of VMAS's own step; all envs restart when the time is up."""
    import torch

    game = env._game
    columns = [a if a.ndim > 2 else a[..., None] for a in actions]
    played = [[torch.from_numpy(a[:, i]) for i in range(env.num_agents)] for a in columns]
    game.reset(seed=0)
    start = CLOCKS[clock]()
    for number, action in enumerate(played, start=1):
        game.step(action)
        if number % env.episode_length == 0:
            game.reset()
    return CLOCKS[clock]() - start


OWN_STEPS = {"JaxMarlEnv": jaxmarl_seconds, "VmasEnv": vmas_seconds}


def main() -> None:
    """Measure and print one line per case."""
    args = parse()
    env = make_env(args.env, args.num_envs, args.episode_length, EnvOptions(args.env_args))
    actions = record(env, args.steps)
    cases = {
        "env alone": lambda: seconds(env, actions, args.clock),
        "env and guard": lambda: seconds(env, actions, args.clock, guarded=True),
    }
    own = OWN_STEPS.get(type(env).__name__)
    if own is not None:
        cases["package's own"] = lambda: own(env, actions, args.clock)
    for name, measure in cases.items():
        best = min(measure() for _ in range(args.repeats))
        rate = args.steps * args.num_envs / best
        print(f"{name:>14}: {rate:12,.0f} steps/s, {best / args.steps * 1e6:7.1f} us a lock-step")
    env.close()


if __name__ == "__main__":
    main()
