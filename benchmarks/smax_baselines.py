"""How often scripted and random teams win a battle of SMAX: what a learned team must beat.

    python benchmarks/smax_baselines.py --env smax_3m --steps 1500

"attack or east": everyone shoots the first enemy in reach, else walks towards them. "attack or
stop": the same, but waits. "random": uniform among what the mask allows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hmasd.envs.base import BatchedEnv
from hmasd.envs.contract import random_action
from hmasd.envs.registry import make_env
from hmasd.types import EnvView

EAST, STOP, FIRST_ATTACK = 1, 4, 5


def attack_or(otherwise: int, view: EnvView) -> np.ndarray:
    """Actions [E, N] that shoot where an enemy is in reach."""
    can = view.action_mask[..., FIRST_ATTACK:]
    action = np.where(can.any(-1), FIRST_ATTACK + can.argmax(-1), otherwise)
    return np.where(view.alive, action, STOP)


def main() -> None:
    """Play each team and print how many of its battles it won."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="smax_3m")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1500, help="lock-steps of all envs")
    args = parser.parse_args()
    env: BatchedEnv = make_env(args.env, args.num_envs, 100)
    rng = np.random.default_rng(0)
    teams = {
        "attack or east": lambda view: attack_or(EAST, view),
        "attack or stop": lambda view: attack_or(STOP, view),
        "random": lambda view: random_action(env, view, rng),
    }
    for name, act in teams.items():
        view, battles, wins = env.reset(1), 0, 0
        for _ in range(args.steps):
            step = env.step(act(view))
            battles += int((step.terminated | step.truncated).sum())
            wins += int(step.success.sum())
            view = step.view
        print(f"{name:>14}: won {wins:,} of {battles:,} battles, {wins / battles:.1%}")


if __name__ == "__main__":
    main()
