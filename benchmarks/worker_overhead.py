"""What worker processes cost and gain: plain Python envs stepped by 0, 1 and 2 of them.

    python benchmarks/worker_overhead.py
    python benchmarks/worker_overhead.py --env gym:lbforaging:Foraging-8x8-2p-2f-coop-v3
    python benchmarks/worker_overhead.py --collect

Without `--env` the game is a loop of Python that takes `--microseconds` per step. `of ideal`
compares a row with plain Python loops over the copies of the game, with the same actions: one
loop, or as many at once as there are workers, each over its share of the copies. The loops play
gymnasium's and PettingZoo's games without the project's adapter, but ask for PettingZoo's `state()`
where there is one, since training needs it. With `--collect` a team chooses the actions, as in a
training round, and the rows are compared with 0 workers. One step is one step of one env with all
its agents. The cases take turns, `--repeats` times, and the best of each counts.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.envs.base import BatchedEnv
from hmasd.envs.registry import make_env
from hmasd.envs.single import SingleStep, SingleView
from hmasd.envs.user_env import find_factory, make_single, parse_env_args

WORKERS = (0, 1, 2)


class Toil:
    """A game of two agents and 20 numbers each whose step is a loop of so many turns."""

    num_agents, obs_size, state_size, action_space = 2, 20, 40, Discrete(5)

    def __init__(self, turns: int = 0) -> None:
        """turns: of the loop, per step."""
        self.turns = turns
        self.obs = np.zeros((2, 20), dtype=np.float32)

    def reset(self, seed: int) -> SingleView:
        """Start anew."""
        self.obs[:] = seed % 7
        return SingleView(self.obs, self.obs.reshape(-1))

    def step(self, action: np.ndarray) -> SingleStep:
        """Toil."""
        x = 0.0
        for turn in range(self.turns):
            x += turn * 0.5
        self.obs[:, 0] = action
        return SingleStep(SingleView(self.obs, self.obs.reshape(-1)), x, False, False, False)

    def render(self) -> np.ndarray:
        """Nothing to see."""
        return np.zeros((2, 2, 3), dtype=np.uint8)

    def close(self) -> None:
        """Nothing to give back."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", help="as training's --env, a game that makes no batch of itself")
    parser.add_argument("--env-args", default="", help="as training's --env-args")
    parser.add_argument("--microseconds", type=float, default=200.0, help="of a step without --env")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200, help="lock-steps of all envs")
    parser.add_argument("--episode-length", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--collect", action="store_true", help="let a team act, as in training")
    return parser.parse_args()


def turns_of(microseconds: float) -> int:
    """Turns of `Toil`'s loop that take so long here."""
    games = [Toil(turns) for turns in (1000, 11_000)]
    action = np.zeros(2, dtype=np.int64)
    best = []
    for game in games:
        times = []
        for _ in range(200):
            start = time.perf_counter()
            game.step(action)
            times.append(time.perf_counter() - start)
        best.append(min(times))
    return round(microseconds * 1e-6 / (best[1] - best[0]) * 10_000)


class OwnGame:
    """A game of gymnasium or PettingZoo played as its package offers it."""

    def __init__(self, game: Any) -> None:
        """game: what the factory made."""
        self.game = game
        self.names = getattr(game, "possible_agents", None)
        self.reset(0)
        self.has_state = False
        with contextlib.suppress(NotImplementedError, AttributeError):
            self.has_state = self.names is not None and game.state() is not None
        self.close = game.close

    def reset(self, seed: int) -> None:
        """Start anew."""
        self.game.reset(seed=seed)

    def step(self, action: np.ndarray) -> bool:
        """Play; returns whether the episode ended."""
        if self.names is None:
            _, _, terminated, truncated, _ = self.game.step(tuple(action))
            return bool(np.all(terminated) or np.all(truncated))
        self.game.step(dict(zip(self.names, action, strict=True)))
        if self.has_state:
            self.game.state()
        return not self.game.agents


def make_games(config: Config, count: int) -> list[Any]:
    """Copies of the game, whose `step` returns a `SingleStep` or whether the episode ended."""
    if not config.env.startswith(("gym:", "pettingzoo:")):
        return [make_single(config.env, config.env_options) for _ in range(count)]
    factory, args = find_factory(config.env), parse_env_args(config.env_args)
    return [OwnGame(factory(**args)) for _ in range(count)]


def plain_loop(config: Config, actions: np.ndarray, start_line: Barrier | None = None) -> float:
    """Seconds that a loop over as many games takes as there are actions for: [T, E, N]."""
    games = make_games(config, actions.shape[1])
    for number, game in enumerate(games):
        game.reset(number)
    clocks = [0] * len(games)
    if start_line is not None:
        start_line.wait()
    start = time.perf_counter()
    for lock_step in actions:
        for number, game in enumerate(games):
            step = game.step(lock_step[number])
            clocks[number] += 1
            ended = step if isinstance(step, bool) else step.terminated or step.truncated
            if ended or clocks[number] == config.episode_length:
                game.reset(number)
                clocks[number] = 0
    elapsed = time.perf_counter() - start
    for game in games:
        game.close()
    return elapsed


def put_plain_loop(results: Any, *arguments: Any) -> None:
    """Send the result of `plain_loop` to another process."""
    results.put(plain_loop(*arguments))


def loops_at_once(config: Config, actions: np.ndarray, count: int) -> float:
    """Seconds until `count` plain loops, each in a process of its own, have played their shares."""
    # Not forked from this process: the copying of its memory would slow down the next case.
    processes = multiprocessing.get_context("forkserver")
    start_line, results = processes.Barrier(count), processes.SimpleQueue()
    started = [
        processes.Process(target=put_plain_loop, args=(results, config, share, start_line))
        for share in np.array_split(actions, count, axis=1)
    ]
    for process in started:
        process.start()
    slowest = max(results.get() for _ in started)
    for process in started:
        process.join()
    return slowest


def play(env: BatchedEnv, actions: np.ndarray) -> float:
    """Seconds that a batch takes."""
    env.reset(0)
    start = time.perf_counter()
    for lock_step in actions:
        env.step(lock_step)
    return time.perf_counter() - start


def collect(env: BatchedEnv, config: Config) -> float:
    """Seconds that a round takes, without what follows it."""
    agent, view = HMASDAgent(config, env), env.reset(0)
    start = time.perf_counter()
    while not agent.should_sync_update():
        seen = agent.observe(view)
        acting = agent.act(seen)
        step = env.step(acting.action.numpy())
        agent.store_transition(seen, acting, step)
        view = step.view
    return time.perf_counter() - start


def main() -> None:
    """Measure and print one line per case."""
    args = parse()
    env_args = args.env_args
    if args.env is None:
        env_args = f"{{turns: {turns_of(args.microseconds)}}}"
    config = Config(
        env=args.env or "benchmarks.worker_overhead:Toil",
        env_args=env_args,
        num_envs=args.num_envs,
        batch_size=args.num_envs * args.steps,
        episode_length=args.episode_length,
    )
    with contextlib.ExitStack() as stack:
        envs = {}
        for workers in WORKERS:
            options = config.env_options._replace(workers=workers)
            made = make_env(config.env, config.num_envs, config.episode_length, options)
            envs[f"{workers} workers"] = stack.enter_context(contextlib.closing(made))
        cases: dict[str, Callable[[], float]]
        if args.collect:
            cases = {name: partial(collect, env, config) for name, env in envs.items()}
        else:
            shape = (args.steps, config.num_envs, made.num_agents)
            actions = np.random.default_rng(0).integers(0, made.action_space.n, shape)
            cases = {
                "1 loop": partial(plain_loop, config, actions),
                "2 loops": partial(loops_at_once, config, actions, 2),
            }
            cases |= {name: partial(play, env, actions) for name, env in envs.items()}
        best = dict.fromkeys(cases, np.inf)
        for _ in range(args.repeats):
            for name, measure in cases.items():
                best[name] = min(best[name], measure())
    report(best, config.batch_size)


def report(best: dict[str, float], steps: int) -> None:
    """Print a line per case, compared with as many loops, or else with the first case."""
    first = next(iter(best.values()))
    whole = "ideal" if "1 loop" in best else "0 workers"
    for name, seconds in best.items():
        loops = "2 loops" if name.startswith("2") else "1 loop"
        print(
            f"{name:>10}: {steps / seconds:9,.0f} steps/s, {1e6 * seconds / steps:7.1f} us a step, "
            f"{best.get(loops, first) / seconds:6.1%} of {whole}"
        )


if __name__ == "__main__":
    main()
