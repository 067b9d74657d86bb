"""MAPPO in this project's loop against JaxMARL's, on JaxMARL's own simple_spread: the same return?

    python benchmarks/mappo_beside_jaxmarl.py --seeds 5 --out mappo_beside_jaxmarl

Both see the same env for the same number of steps, with the same width, learning rate, epochs and
samples per round; the score of a run is the mean return of its training episodes over the last
tenth of its steps. Needs `.[bench]`. JaxMARL's agents learn from their own rewards each, ours from
the team's mean of them; both are scored by the mean.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hmasd.bench.statistics import (
    improvement_p_value,
    interquartile_mean_interval,
    probability_of_improvement_interval,
)

NUM_ENVS, EPISODE, EPOCHS, LEARNING_RATE = 128, 25, 5, 1e-3
ROUND = NUM_ENVS * EPISODE  # every env plays one episode


def jaxmarl_return(seed: int, rounds: int, out: Path) -> float:
    """Train JaxMARL's `mappo_rnn` as `peer_jaxmarl.py` has it."""
    sizes = ["--num-envs", NUM_ENVS, "--steps", EPISODE, "--epochs", EPOCHS, "--warm-up", 0]
    run = ["--rounds", rounds, "--learning-rate", LEARNING_RATE, "--seed", seed]
    printed = _run(ROOT / "benchmarks" / "peer_jaxmarl.py", sizes + run, out / f"jaxmarl_{seed}")
    return EPISODE * json.loads(printed.splitlines()[-1])["reward_last_tenth"]


def our_return(seed: int, rounds: int, out: Path) -> float:
    """Train this project's MAPPO."""
    folder = out / f"hmasd_{seed}"
    settings = {
        "preset": "mappo",
        "env": "jaxmarl:MPE_simple_spread_v3",
        "team-reward": "mean",
        "num-envs": NUM_ENVS,
        "batch-size": ROUND,
        "episode-length": EPISODE,
        "chunk-length": EPISODE,
        "discoverer-epochs": EPOCHS,
        "learning-rate": LEARNING_RATE,
        "max-grad-norm": 0.5,  # as JaxMARL's
        "total-steps": rounds * ROUND,
        "eval-interval": 0,
        "checkpoint-interval": 0,
        "seed": seed,
        "output-dir": folder,
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    _run(ROOT / "train_sync_enhanced.py", flags, folder)
    (log,) = folder.glob("runs/*/metrics.jsonl")
    returns = [json.loads(line)["rollout/return"] for line in log.read_text().splitlines()]
    return float(np.mean(returns[-max(1, len(returns) // 10) :]))


def _run(script: Path, arguments: list[object], folder: Path) -> str:
    """What the script prints; its run must succeed."""
    folder.mkdir(parents=True)
    command = [sys.executable, str(script), *map(str, arguments)]
    with (folder / "stderr.txt").open("w") as errors:
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, check=True)
    return run.stdout


def main() -> None:
    """Train both, seed after seed, and print each score and what follows from all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=160, help=f"of {ROUND} env steps")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the runs")
    args = parser.parse_args()
    scores: dict[str, list[float]] = {"hmasd mappo": [], "jaxmarl mappo_rnn": []}
    for seed in range(1, args.seeds + 1):
        scores["hmasd mappo"].append(our_return(seed, args.rounds, args.out))
        scores["jaxmarl mappo_rnn"].append(jaxmarl_return(seed, args.rounds, args.out))
        print(f"seed {seed}: " + ", ".join(f"{n} {x[-1]:.2f}" for n, x in scores.items()))
    ours, theirs = (np.array(x) for x in scores.values())
    for name, x in (("hmasd mappo", ours), ("jaxmarl mappo_rnn", theirs)):
        mean = interquartile_mean_interval([x])
        print(f"{name:>18}: {mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]")
    better = probability_of_improvement_interval([ours], [theirs])
    p_value = improvement_p_value([ours], [theirs])
    print(
        f"ours is better in {better.value:.0%} [{better.low:.0%}, {better.high:.0%}], "
        f"p {p_value:.2f}"
    )


if __name__ == "__main__":
    main()
