"""How often teams that have learned nothing win: what makes a 0-1 reward come up at all.

    python benchmarks/first_wins.py --env smax_3m --skill-gains 0.01 1 4 8 --steps 500

A team of random weights plays under skills that its untrained coordinator draws. With the skill at
the output (`--skill-input output`) each skill is a preference for some actions, the stronger the
larger `skill_gain` is. Told for each gain: how many episodes were won, how many choices (Z, z^1..)
ever won, and the share of wins of the best agent skills for each agent by themselves.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.envs.base import BatchedEnv
from hmasd.envs.registry import make_env


def play(config: Config, env: BatchedEnv, steps: int) -> tuple[Counter, Counter]:
    """Episodes and wins by the skills that were in force when they ended."""
    agent, view = HMASDAgent(config, env), env.reset(config.seed)
    played: Counter[tuple[int, ...]] = Counter()
    won: Counter[tuple[int, ...]] = Counter()
    for _ in range(steps):
        seen = agent.observe(view)
        acting = agent.act(seen)
        step = env.step(acting.action.numpy())
        ended = step.terminated | step.truncated
        for env_number in np.flatnonzero(ended):
            skills = tuple(sorted(acting.agent_skills[env_number].tolist()))
            played[skills] += 1
            won[skills] += int(step.success[env_number])
        agent.team.advance(torch.from_numpy(ended))
        view = step.view
    return played, won


def main() -> None:
    """Play and print a line for each gain and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="smax_3m")
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300, help="lock-steps of all envs")
    parser.add_argument("--episode-length", type=int, default=100)
    parser.add_argument("--skill-gains", type=float, nargs="+", default=[0.01, 1.0, 4.0, 8.0])
    parser.add_argument("--num-agent-skills", type=int, nargs="+", default=[8])
    parser.add_argument("--skill-interval", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    env = make_env(args.env, args.num_envs, args.episode_length)
    for skills in args.num_agent_skills:
        for gain in args.skill_gains:
            for seed in range(1, 1 + args.seeds):
                config = Config(
                    env=args.env,
                    num_envs=args.num_envs,
                    batch_size=args.num_envs * args.steps,
                    episode_length=args.episode_length,
                    skill_interval=args.skill_interval,
                    skill_gain=gain,
                    num_agent_skills=skills,
                    seed=seed,
                )
                with torch.no_grad():
                    played, won = play(config, env, args.steps)
                best = sorted(won, key=lambda s: won[s] / played[s], reverse=True)[:4]
                told = ", ".join(f"{s}: {won[s]}/{played[s]}" for s in best if won[s])
                print(
                    f"skills {skills}, gain {gain:g}, seed {seed}: {won.total():,} of "
                    f"{played.total():,} episodes won ({won.total() / played.total():.2%}); "
                    f"{sum(w > 0 for w in won.values())} of {len(played)} sets of skills ever; "
                    f"{told}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
