"""MAPPO in this project's loop against another system's, on an env of that system: the same return?

    python benchmarks/mappo_beside.py benchmarl --seeds 5 --out mappo_beside_benchmarl
    python benchmarks/mappo_beside.py jaxmarl --seeds 5 --out mappo_beside_jaxmarl
    python benchmarks/mappo_beside.py jaxmarl_own --baseline FILE --peer-python PYTHON --out beside

Both play simple_spread for the same number of steps in rounds of the same size, with networks of
the same width where nothing else is said; a run's score is the mean return of its training episodes
over the last tenth of its rounds (ours: of the last 100 episodes at the end of each). Needs
`.[bench]`.

- BenchMARL: its own program on VMAS's env, whose agents share one reward (`peer_benchmarl.py`), by
  its own step size, minibatches and epochs and without memory; both without an entropy bonus and
  with its lambda.
- JaxMARL: its algorithm, written again as in `peer_jaxmarl.py`, on its own env, with our step size
  and epochs. Its agents learn from their own rewards each, ours from the team's mean of them; both
  are scored by the mean.
- JaxMARL's own program (`peer_jaxmarl_own.py`), a copy of which `--baseline` names: its published
  step size, annealing, minibatches, epochs and width (128; ours is 64), or what `--overrides` says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hmasd.bench.statistics import (
    improvement_p_value,
    interquartile_mean_interval,
    probability_of_improvement_interval,
)


class Match(NamedTuple):
    """What both sides have: sizes of a round, and the flags of either side."""

    program: str  # the other side's
    num_envs: int
    episode: int  # steps; every env plays one in a round
    theirs: dict[str, Any]
    ours: dict[str, Any]


SPREAD_OF_JAXMARL = {
    "env": "jaxmarl:MPE_simple_spread_v3",
    "discoverer-epochs": 5,
    "learning-rate": 1e-3,
    "max-grad-norm": 0.5,
}
MATCHES = {
    "benchmarl": Match(
        "peer_benchmarl.py",
        num_envs=32,
        episode=100,
        theirs={
            "model": "mlp",
            "epochs": 45,
            "minibatch-size": 400,
            "learning-rate": 5e-5,
        },
        ours={
            "env": "vmas:simple_spread",
            "env-args": "{continuous: false}",
            "discoverer-epochs": 15,
            "learning-rate": 7e-4,
            "gae-lambda": 0.9,
            "low-entropy-coef": 0.0,
        },
    ),
    "jaxmarl": Match(
        "peer_jaxmarl.py",
        num_envs=128,
        episode=25,
        theirs={"epochs": 5, "learning-rate": 1e-3},
        ours=SPREAD_OF_JAXMARL,
    ),
    "jaxmarl_own": Match(
        "peer_jaxmarl_own.py",
        num_envs=128,
        episode=25,
        theirs={},  # as published; `main` adds where the program is
        ours=SPREAD_OF_JAXMARL,
    ),
}


def their_return(match: Match, seed: int, rounds: int, folder: Path, python: str) -> float:
    """Train the other system in its own interpreter."""
    flags = match.theirs | {
        "num-envs": match.num_envs,
        "steps": match.episode,
        "warm-up": 1,
        "rounds": rounds - 1,
        "seed": seed,
    }
    printed = _run(python, ROOT / "benchmarks" / match.program, flags, folder)
    return match.episode * float(json.loads(printed.splitlines()[-1])["reward_last_tenth"])


def our_return(match: Match, seed: int, rounds: int, folder: Path) -> float:
    """Train this project's MAPPO."""
    batch_size = match.num_envs * match.episode
    flags = match.ours | {
        "preset": "mappo",
        "team-reward": "mean",
        "num-envs": match.num_envs,
        "batch-size": batch_size,
        "episode-length": match.episode,
        "chunk-length": 25,
        "total-steps": rounds * batch_size,
        "eval-interval": 0,
        "checkpoint-interval": 0,
        "seed": seed,
        "output-dir": folder,
    }
    _run(sys.executable, ROOT / "train_sync_enhanced.py", flags, folder)
    (log,) = folder.glob("runs/*/metrics.jsonl")
    returns = [json.loads(line)["rollout/return"] for line in log.read_text().splitlines()]
    return float(np.mean(returns[-max(1, len(returns) // 10) :]))


def _run(python: str, script: Path, flags: dict[str, Any], folder: Path) -> str:
    """What the script prints; its run must succeed."""
    folder.mkdir(parents=True)
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    with (folder / "stderr.txt").open("w") as errors:
        run = subprocess.run(
            [python, str(script), *words],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
        )
    if run.returncode:
        raise SystemExit(f"{script.name} failed with {run.returncode}: see {errors.name}")
    return run.stdout


def main() -> None:
    """Train both, seed after seed, and print each score and what follows from all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=list(MATCHES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=160, help="of 3,200 env steps")
    parser.add_argument("--peer-python", default=sys.executable, help="where the peer lives")
    parser.add_argument("--baseline", type=Path, help="jaxmarl_own: the program")
    parser.add_argument("--overrides", default="", help="jaxmarl_own: as 'LR=1e-3 UPDATE_EPOCHS=5'")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the runs")
    args = parser.parse_args()
    match, out = MATCHES[args.peer], args.out
    if args.peer == "jaxmarl_own":
        if args.baseline is None or not args.baseline.is_file():
            parser.error("jaxmarl_own needs --baseline, a copy of JaxMARL's mappo_rnn_mpe.py")
        own = {"baseline": args.baseline, "overrides": args.overrides}
        match = match._replace(theirs=own)
    elif args.baseline or args.overrides:
        parser.error("--baseline and --overrides are for jaxmarl_own")
    if out.exists():
        parser.error(f"--out {out} exists: give a new folder")
    ours, theirs = [], []
    for seed in range(1, args.seeds + 1):
        ours.append(our_return(match, seed, args.rounds, out / f"hmasd_{seed}"))
        folder = out / f"{args.peer}_{seed}"
        theirs.append(their_return(match, seed, args.rounds, folder, args.peer_python))
        print(f"seed {seed}: hmasd {ours[-1]:.2f}, {args.peer} {theirs[-1]:.2f}", flush=True)
    _tell(np.array(ours), np.array(theirs), args.peer)


def _tell(ours: np.ndarray, theirs: np.ndarray, peer: str) -> None:
    for name, x in (("hmasd", ours), (peer, theirs)):
        mean = interquartile_mean_interval([x])
        print(f"{name:>10}: {mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]")
    better = probability_of_improvement_interval([ours], [theirs])
    p_value = improvement_p_value([ours], [theirs])
    print(
        f"ours is better in {better.value:.0%} [{better.low:.0%}, {better.high:.0%}], "
        f"p {p_value:.2f}"
    )


if __name__ == "__main__":
    main()
