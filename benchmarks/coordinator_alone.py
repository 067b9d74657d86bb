"""The coordinator alone: the guide's game with scripted skills, one env step for each decision.

    python benchmarks/coordinator_alone.py --seeds 5

A skill is a walk of 25 steps, three quarters of them towards a corner or an edge, the rest at
random, so nothing of the low level is learned and a run takes seconds. What is left is the question
whether the coordinator finds and keeps the right choices: the skills' corners are there from the
start. Settings that differ are those of the coordinator's reward; gamma per step is 0.99 in all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from gymnasium.spaces import Discrete, Space

from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.envs.alice_and_bob import AliceAndBob
from hmasd.rollout.episodes import EpisodeTracker, summarize
from hmasd.rollout.team import Generators, Team
from hmasd.types import EnvStep, EnvView

INTERVAL, DECISIONS, NUM_ENVS = 25, 4, 32
RIGHT, LEFT, UP, DOWN, STAY, RANDOM = range(6)
SKILLS = np.array(  # what each walks by; two of the eight lead to one corner, three to none
    [
        *([UP, LEFT], [UP, RIGHT], [DOWN, LEFT], [DOWN, RIGHT], [UP, LEFT]),
        *([UP, RANDOM], [RANDOM, RANDOM], [DOWN, RANDOM]),
    ]
)
DIRECTED = 0.75  # share of the steps that follow the skill
PER_STEP = 0.99
PER_DECISION = PER_STEP**INTERVAL  # gamma^k: what `high_discount` "smdp" counts for a whole segment
SETTINGS: dict[str, dict[str, Any]] = {
    "gamma per decision (paper)": {"gamma": PER_STEP},
    "gamma per step (smdp)": {"gamma": PER_DECISION},
}


class ScriptedSkills:
    """Alice_and_Bob in which an action is one of `SKILLS`, followed for `INTERVAL` steps."""

    num_agents = AliceAndBob.num_agents
    obs_size = AliceAndBob.obs_size
    episode_length = DECISIONS

    def __init__(self, num_envs: int) -> None:
        self.game = AliceAndBob(num_envs, INTERVAL * DECISIONS)
        self.num_envs = num_envs
        self.state_size = self.game.state_size
        self.action_space: Space = Discrete(len(SKILLS))

    def reset(self, seed: int) -> EnvView:
        """New games; the walks' randomness follows from the seed, too."""
        self.rng = np.random.default_rng(seed)
        return self.game.reset(seed)

    def step(self, action: np.ndarray) -> EnvStep:
        """Walk on until the interval or the episode is over; action: [E, 2]. Then stand still."""
        over = np.zeros(self.num_envs, dtype=bool)
        whole: dict[str, np.ndarray] = {}
        for _ in range(INTERVAL):
            moves = np.where(over[:, None], STAY, self._moves(action))
            view, *rest = self.game.step(moves)
            told = dict(zip(EnvStep._fields[1:7], rest, strict=False))
            if not whole:
                whole = {name: value.copy() for name, value in told.items()}
            for name, value in told.items():
                whole[name][~over] = value[~over]
            over |= whole["terminated"] | whole["truncated"]
        return EnvStep(view, **whole)

    def _moves(self, action: np.ndarray) -> np.ndarray:
        """One step of every agent under its skill: [E, 2]."""
        which = self.rng.integers(2, size=action.shape)
        move = SKILLS[action, which]
        stray = (move == RANDOM) | (self.rng.random(action.shape) > DIRECTED)
        return np.where(stray, self.rng.integers(5, size=action.shape), move)


def settings_of(name: str, seed: int) -> Config:
    """The default's coordinator, with its skills as actions; a round is one episode per env."""
    changes = {
        "low_level": "action",
        "skill_interval": 1,
        "episode_length": DECISIONS,
        "num_envs": NUM_ENVS,
        "batch_size": NUM_ENVS * DECISIONS,
        "high_level_batch_size": 1,
        "chunk_length": 1,
        # to see the reward alone
        "coordinator_kl_limit": 0.0,
        "exploration_start": 0,
        "winning_step": 1.0,
        "losing_entropy": 1.0,
        "seed": seed,
    }
    return replace(Config(), **changes, **SETTINGS[name])


def success(agent: HMASDAgent, greedy: bool, episodes: int) -> float:
    """Share of fresh games that the agent's coordinator wins."""
    env, tracker = ScriptedSkills(episodes), EpisodeTracker(episodes)
    generators = Generators.of_seed(0, agent.device)
    if greedy:
        generators = generators.greedy(agent.config)
    nets = agent.networks
    team = Team(agent.config, nets.coordinator, nets.actor, (episodes, 2), generators)
    view, first = env.reset(0), {}
    while len(first) < episodes:
        step = env.step(team.play(view))
        for episode in tracker.add(step):
            first.setdefault(episode.env, episode)
        team.advance(torch.from_numpy(step.terminated | step.truncated))
        view = step.view
    return summarize(list(first.values()), "")["success"]


def learn(name: str, seed: int, env_steps: int, episodes: int) -> list[tuple[int, float, float]]:
    """Train; returns (env steps of the game, greedy, stochastic success) at ten moments."""
    env = ScriptedSkills(NUM_ENVS)
    agent = HMASDAgent(settings_of(name, seed), env)
    view, curve, steps = env.reset(seed), [], 0
    while steps < env_steps:
        while not agent.should_sync_update():
            seen = agent.observe(view)
            acting = agent.act(seen)
            step = env.step(acting.action.numpy())
            agent.store_transition(seen, acting, step)
            view = step.view
            steps += NUM_ENVS * INTERVAL
        agent.sync_update()
        if steps >= (len(curve) + 1) * env_steps / 10:
            curve.append((steps, *(success(agent, greedy, episodes) for greedy in (True, False))))
    return curve


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one row per setting and seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each setting")
    parser.add_argument("--env-steps", type=int, default=400_000, help="steps of the game")
    parser.add_argument("--episodes", type=int, default=200, help="of each evaluation")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print("| coordinator's reward | seed | both ≥ 0.95 first at | greedy / stochastic, by tenths |")
    print("|---|---|---|---|")
    for name in SETTINGS:
        for seed in range(1, options.seeds + 1):
            curve = learn(name, seed, options.env_steps, options.episodes)
            won = [steps for steps, *both in curve if min(both) >= 0.95]
            points = " ".join(f"{greedy:.2f}/{sampled:.2f}" for _, greedy, sampled in curve)
            print(f"| {name} | {seed} | {won[0] if won else '-'} | {points} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
