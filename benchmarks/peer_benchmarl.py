"""MAPPO of BenchMARL on VMAS's simple_spread: what `compare.py` and `mappo_beside.py` run.

    python benchmarks/peer_benchmarl.py --model gru --epochs 15 --rounds 10

Its own experiment, algorithm and envs, with the sizes that are compared: discrete actions, a
centralised critic. Evaluation, loggers and checkpoints are off. Needs `.[bench]`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import tempfile
import time
from itertools import pairwise

EXPERIMENT = {
    "loggers": [],
    "evaluation": False,
    "create_json": False,
    "prefer_continuous_actions": False,
}


def parse() -> argparse.Namespace:
    """The command line; the number of threads is settled before torch is imported."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("gru", "mlp"), default="gru")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100, help="steps per env in a round")
    parser.add_argument("--num-agents", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--minibatch-size", type=int, help="frames; the whole round")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--warm-up", type=int, default=2, help="rounds that are not counted")
    parser.add_argument("--rounds", type=int, default=10, help="rounds that are counted")
    parser.add_argument("--learning-rate", type=float, default=7e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    return args


if __name__ == "__main__":
    ARGS = parse()

import torch
from benchmarl.algorithms import MappoConfig
from benchmarl.environments import VmasTask
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models import GruConfig, MlpConfig
from tensordict import TensorDictBase


class Watch(Callback):
    """When each round was collected and when it was learned from, and its mean reward."""

    def __init__(self) -> None:
        super().__init__()
        self.collected: list[float] = []
        self.trained: list[float] = []
        self.rewards: list[float] = []  # per step, of all agents

    def on_batch_collected(self, batch: TensorDictBase) -> None:
        """The round is there."""
        self.collected.append(time.perf_counter())
        (rewards,) = (x for key, x in batch["next"].items(True, True) if key[-1:] == ("reward",))
        self.rewards.append(float(rewards.mean()))

    def on_train_end(self, training_td: object, group: str) -> None:
        """All epochs are done (there is one group)."""
        self.trained.append(time.perf_counter())


def make_experiment(args: argparse.Namespace, folder: str, watch: Watch) -> Experiment:
    """The experiment of the command line."""
    frames = args.num_envs * args.steps
    experiment = ExperimentConfig.get_from_yaml()
    settings = EXPERIMENT | {
        "on_policy_collected_frames_per_batch": frames,
        "on_policy_n_envs_per_worker": args.num_envs,
        "on_policy_n_minibatch_iters": args.epochs,
        "on_policy_minibatch_size": args.minibatch_size or frames,
        "max_n_frames": frames * (args.warm_up + args.rounds),
        "lr": args.learning_rate,
        "save_folder": folder,
    }
    for name, value in settings.items():
        assert hasattr(experiment, name), f"this version has no setting {name}"
        setattr(experiment, name, value)
    width = args.hidden_size
    if args.model == "gru":
        model = GruConfig.get_from_yaml()
        model.hidden_size, model.mlp_num_cells = width, [width]
    else:
        model = MlpConfig.get_from_yaml()
        model.num_cells = [width, width]
    task = VmasTask.SIMPLE_SPREAD.get_from_yaml()
    task.config |= {"n_agents": args.num_agents, "max_steps": args.steps}
    return Experiment(
        task=task,
        algorithm_config=MappoConfig.get_from_yaml(),
        model_config=model,
        critic_model_config=model,
        seed=args.seed,
        config=experiment,
        callbacks=[watch],
    )


def main() -> None:
    """Train for some rounds and print one line of JSON."""
    torch.set_num_threads(ARGS.threads)
    watch = Watch()
    chatter = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(chatter),
        contextlib.redirect_stderr(chatter),
    ):
        make_experiment(ARGS, folder, watch).run()
    first = ARGS.warm_up
    ends = watch.trained[first - 1 :]
    rounds = [after - before for before, after in pairwise(ends)]
    updates = [
        trained - collected
        for collected, trained in zip(watch.collected[first:], watch.trained[first:], strict=True)
    ]
    steps = ARGS.num_envs * ARGS.steps
    figures = {
        "threads": torch.get_num_threads(),
        "rounds": len(rounds),
        "steps_per_round": steps,
        "steps_per_second": steps * len(rounds) / sum(rounds),
        "median_steps_per_second": steps / statistics.median(rounds),
        "collect_seconds": (sum(rounds) - sum(updates)) / len(rounds),
        "update_seconds": sum(updates) / len(rounds),
        "reward_last_tenth": statistics.mean(watch.rewards[-max(1, len(watch.rewards) // 10) :]),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "load": os.getloadavg()[0],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
