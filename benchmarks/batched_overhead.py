"""What the adapter of a batched game costs: SMAX by JaxMARL's own loop, and through the contract.

    python benchmarks/batched_overhead.py --map 3m

JaxMARL's loop is its own `step`, vectorised and compiled as its documentation does, which restarts
ended games inside; what training needs (observations, state, masks, reward, ends) comes to numpy.
The cases take turns, `--repeats` times, and the best of each counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hmasd.envs.base import BatchedEnv
from hmasd.envs.extras import import_extra
from hmasd.envs.smax import make_smax


def own_loop(name: str, num_envs: int) -> Callable[[np.ndarray], Any]:
    """JaxMARL's own lock-step: actions [E, N] -> what training needs, as numpy arrays."""
    jaxmarl = import_extra("jaxmarl", "jaxmarl")
    units = import_extra("jaxmarl.environments.smax", "jaxmarl").map_name_to_scenario(name)
    game = jaxmarl.make("HeuristicEnemySMAX", scenario=units, max_steps=100)

    @jax.jit
    def lock_step(key: jax.Array, state: Any, action: jax.Array) -> Any:
        keys = jax.random.split(key, num_envs)
        actions = {agent: action[:, i] for i, agent in enumerate(game.agents)}
        obs, state, reward, done, _ = jax.vmap(game.step)(keys, state, actions)
        mask = jax.vmap(game.get_avail_actions)(state)
        seen = jnp.stack([obs[agent] for agent in game.agents], axis=1)
        allowed = jnp.stack([mask[agent] for agent in game.agents], axis=1)
        first = game.agents[0]
        return state, (seen, obs["world_state"], allowed, reward[first], done["__all__"])

    _, state = jax.vmap(game.reset)(jax.random.split(jax.random.PRNGKey(0), num_envs))
    key = jax.random.PRNGKey(1)

    def play(action: np.ndarray) -> Any:
        nonlocal state, key
        key, step_key = jax.random.split(key)
        state, shown = lock_step(step_key, state, action)
        return [np.asarray(array) for array in shown]

    return play


def seconds(play: Callable[[np.ndarray], Any], actions: np.ndarray) -> float:
    """How long some lock-steps take; actions: [T, E, N]."""
    start = time.perf_counter()
    for action in actions:
        play(action)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print a line per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--map", default="3m")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200, help="lock-steps")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    env: BatchedEnv = make_smax(args.num_envs, 100, args.map)
    env.reset(0)
    shape = (args.steps, args.num_envs, env.num_agents)
    actions = np.random.default_rng(0).integers(0, 5, shape)  # walking is always allowed
    cases = {"JaxMARL's own": own_loop(args.map, args.num_envs), "the contract": env.step}
    best = dict.fromkeys(cases, np.inf)
    for play in cases.values():
        seconds(play, actions[:3])  # compiles
    for _ in range(args.repeats):
        for name, play in cases.items():
            best[name] = min(best[name], seconds(play, actions))
    for name, took in best.items():
        each = 1e6 * took / args.steps
        print(f"{name:>14}: {each:8,.0f} us a lock-step of {args.num_envs} envs")


if __name__ == "__main__":
    main()
