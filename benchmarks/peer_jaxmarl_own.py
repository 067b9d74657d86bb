"""JaxMARL's own MAPPO program on its simple_spread, unchanged: what `mappo_beside.py` runs.

    python benchmarks/peer_jaxmarl_own.py --baseline JaxMARL/baselines/MAPPO/mappo_rnn_mpe.py

JaxMARL's baselines are not in its package and not here: the program is the reader's copy, run as
its own command line would, with the config beside it. Set are the number of env steps, the sizes of
a round, the seed and the length of an episode; `--overrides` sets more, in the program's own words.
A stand-in takes the place of wandb, to which the program tells its returns: nothing is sent.
Needs jax, flax, distrax, jaxmarl and hydra-core.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

NUM_AGENTS = 3  # of simple_spread where ENV_KWARGS, as published, does not say
NO_FILES = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=disabled")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", type=Path, required=True, help="the program")
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--steps", type=int, default=25, help="of an episode; per env in a round")
    parser.add_argument("--warm-up", type=int, default=0, help="rounds before --rounds")
    parser.add_argument("--rounds", type=int, default=160)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--overrides", default="", help="as 'LR=1e-3 UPDATE_EPOCHS=5'")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def overrides(args: argparse.Namespace) -> list[str]:
    """What differs from the published config; of two words for one setting the last holds."""
    total = (args.warm_up + args.rounds) * args.num_envs * args.steps
    return [
        f"TOTAL_TIMESTEPS={total}",
        f"NUM_ENVS={args.num_envs}",
        f"NUM_STEPS={args.steps}",
        f"SEED={args.seed}",
        # Its games end one step after `max_steps`: without this, episodes are of 26 steps.
        f"+ENV_KWARGS.max_steps={args.steps - 1}",
        *args.overrides.split(),
    ]


def run(program: Path, words: list[str]) -> list[dict[str, float]]:
    """Run the program as its command line would: what it tells wandb after each update."""
    told: list[dict[str, float]] = []
    wandb: Any = ModuleType("wandb")
    wandb.init = lambda **_: None
    wandb.log = lambda row: told.append({name: float(x) for name, x in row.items()})
    sys.modules["wandb"] = wandb
    sys.argv = [str(program), *NO_FILES, *words]
    runpy.run_path(str(program), run_name="__main__")
    if "jax" in sys.modules:
        sys.modules["jax"].effects_barrier()  # the last updates may not have been told yet
    return sorted(told, key=lambda row: row["env_step"])


def main() -> None:
    """Train and print one line of JSON."""
    args = parse()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    os.environ["JAX_PLATFORMS"] = "cpu"
    start = time.perf_counter()
    told = run(args.baseline.resolve(), overrides(args))
    # Told is the mean, over agents and envs, of an agent's return in the last finished episode,
    # times the number of agents: `MPELogWrapper` multiplies by it what it logs (not what is
    # learned from). Divided by it again, this is the mean over agents.
    returns = [row["returns"] / NUM_AGENTS for row in told]
    last_tenth = returns[-max(1, len(returns) // 10) :]
    figures = {
        "updates": len(returns),
        "return_first": returns[0],
        "reward_last_tenth": sum(last_tenth) / len(last_tenth) / args.steps,
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
