"""How hard each game of the Alice_and_Bob family is: random play and the best possible play.

    python benchmarks/alice_and_bob_family.py --episodes 20000

The best plan is exact: agents do not block each other and a diamond needs both at the same time,
so from one diamond to the next both walk straight, and the later one decides the steps. All orders
of the diamonds, and who stands where, are compared for every start; the plan is then played.
"""

from __future__ import annotations

import argparse
import sys
from itertools import permutations, product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hmasd.envs.alice_and_bob import NUM_PAIRS, SIZES, AliceAndBob

RIGHT, LEFT, UP, DOWN, STAY = range(5)


def all_plans(env: AliceAndBob) -> np.ndarray:
    """Every order of the diamonds with every choice of who holds the key: [plans, P, 2, 2]."""
    keys, goals = env.layout.keys, env.layout.goals
    pairs = range(len(keys))
    return np.array(
        [
            [
                (goals[i], keys[i]) if swap else (keys[i], goals[i])
                for i, swap in zip(order, swaps, strict=True)
            ]
            for order in permutations(pairs)
            for swaps in product((False, True), repeat=len(keys))
        ]
    )


def best_plan(plans: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, int]:
    """The shortest plan [P, 2, 2] from the agents' cells [2, 2], and its steps."""
    before = np.concatenate([np.broadcast_to(start, (len(plans), 1, 2, 2)), plans[:, :-1]], axis=1)
    steps = np.abs(plans - before).sum(axis=-1).max(axis=-1)  # [plans, P]
    steps = np.maximum(steps, 1).sum(axis=1)  # standing there already still takes a step
    return plans[steps.argmin()], int(steps.min())


def straight(cell: np.ndarray, target: np.ndarray) -> int:
    """The action that leads from a cell to another, rows first."""
    row, column = target - cell
    if row:
        return DOWN if row > 0 else UP
    if column:
        return RIGHT if column > 0 else LEFT
    return STAY


def play_best(env: AliceAndBob, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Play the best plan once in every env; returns success [E] and the steps it took [E]."""
    view, plans = env.reset(seed), all_plans(env)
    cells = view.obs[:, :, 9:].astype(int)
    found = [best_plan(plans, start) for start in cells]
    won, taken = np.zeros(env.num_envs, dtype=bool), np.zeros(env.num_envs, dtype=int)
    stage, over = np.zeros(env.num_envs, dtype=int), np.zeros(env.num_envs, dtype=bool)
    for _ in range(env.episode_length):
        targets = np.array([found[e][0][stage[e]] for e in range(env.num_envs)])
        action = np.array(
            [
                [straight(*x) for x in zip(*pair, strict=True)]
                for pair in zip(cells, targets, strict=True)
            ]
        )
        step = env.step(action)
        taken += ~over
        won |= step.success & ~over
        over |= step.terminated | step.truncated
        if over.all():
            break
        cells = step.view.obs[:, :, 9:].astype(int)
        there = (cells == targets).all(axis=(1, 2))
        stage = np.minimum(stage + there, len(env.layout.keys) - 1)
    assert (taken == [steps for _, steps in found])[won].all(), "the plan takes what it says"
    return won, taken


def play_random(env: AliceAndBob, seed: int) -> float:
    """Share of the envs' first episodes that uniform random actions win."""
    env.reset(seed)
    rng = np.random.default_rng(seed)
    won, over = np.zeros(env.num_envs, dtype=bool), np.zeros(env.num_envs, dtype=bool)
    for _ in range(env.episode_length):
        step = env.step(rng.integers(0, 5, size=(env.num_envs, 2)))
        won |= step.success & ~over
        over |= step.terminated | step.truncated
    return float(won.mean())


def main() -> None:
    """Print one row per game."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=20_000, help="of random play, per game")
    parser.add_argument("--planned", type=int, default=500, help="episodes of best play, per game")
    arguments = parser.parse_args()
    print("| size | pairs | episode length | random play wins | best play wins | its steps |")
    print("|---|---|---|---|---|---|")
    for size, pairs in product(SIZES, NUM_PAIRS):
        length = 25 * size * pairs // 4
        kind = {"size": size, "num_pairs": pairs}
        chance = play_random(AliceAndBob(arguments.episodes, length, **kind), seed=0)
        won, taken = play_best(AliceAndBob(arguments.planned, length, **kind), seed=0)
        steps = f"{taken.mean():.1f} ({taken.min()} to {taken.max()})"
        print(f"| {size} | {pairs} | {length} | {chance:.4%} | {won.mean():.0%} | {steps} |")


if __name__ == "__main__":
    main()
