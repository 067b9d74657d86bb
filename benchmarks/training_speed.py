"""Env steps per second of whole training, and where the time goes; medians over rounds.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --preset paper_alice_and_bob --rounds 10

All other flags are those of train_sync_enhanced.py; logging is on, evaluation and checkpoints are
off. The first rounds, which compile, are not counted. An update is split into its networks; the
rest of it is preparation. Beside the times stand the rate of the matrix products, in GFLOP/s, and
its share of what the machine can do on as many cores, measured in the same process.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import machine  # before numpy

# isort: split
import torch

from benchmarks import flops
from benchmarks.network_clock import NetworkClock
from hmasd import kernels
from hmasd.cli import load_config
from hmasd.config import Config
from hmasd.training.loop import Trainer
from hmasd.training.memory import keep_freed_memory


def train(config: Config, warm_up: int, rounds: int) -> tuple[Trainer, list[dict[str, float]]]:
    """Train; the trainer, and the metrics of the rounds that count, networks' seconds included."""
    torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision(config.matmul_precision)
    torch.backends.cudnn.allow_tf32 = config.matmul_precision != "highest"
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(
            dataclasses.replace(
                config,
                total_steps=(warm_up + rounds) * config.batch_size,
                eval_interval=0,
                checkpoint_interval=0,
                output_dir=folder,
            )
        )
        clock, agent, seconds = NetworkClock(trainer.agent), trainer.agent, []
        sync_update = agent.sync_update

        def timed_update() -> dict[str, float]:
            metrics = sync_update()
            seconds.append(clock.pop())
            return metrics

        agent.sync_update = timed_update
        trainer.run()
        log = (trainer.run_dir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) | spent for line, spent in zip(log, seconds, strict=True)]
    return trainer, rows[warm_up:]


def summarize(config: Config, trainer: Trainer, rows: list[dict[str, float]]) -> dict[str, Any]:
    """The figures of one configuration; times are seconds per round."""
    peak = machine.peak_memory()
    limit = machine.product_limit() * config.threads
    work = [flops.update(config, trainer.env, row.get("high/segments", 0.0)) for row in rows]
    update = sum(row["Sync/UpdateTime"] for row in rows)
    collect = sum(row["Sync/CollectionTime"] for row in rows)
    networks = {}
    for name in flops.NETWORKS:
        spent = sum(row.get(name, 0.0) for row in rows)
        done = sum(w[name] for w in work)
        rate = done / spent / 1e9 if spent else 0.0
        networks[name] = {"seconds": spent / len(rows), "gflops": rate, "share": rate / limit}
    steps = len(rows) * config.batch_size
    rate = sum(sum(w.values()) for w in work) / update / 1e9
    return {
        "env": config.env,
        "device": config.device,
        "threads": config.threads,
        "rounds": len(rows),
        "steps_per_round": config.batch_size,
        # Rounds with and without a coordinator's update differ: the mean is what a run sees.
        "steps_per_second": steps / (collect + update),
        "median_steps_per_second": statistics.median(r["time/steps_per_second"] for r in rows),
        "collect_steps_per_second": steps / collect,
        "update_steps_per_second": steps / update,
        "collect_seconds": collect / len(rows),
        "prepare_seconds": update / len(rows) - sum(n["seconds"] for n in networks.values()),
        "update_seconds": update / len(rows),
        "networks": networks,
        "update_gflop": rate * update / len(rows),
        "gflops": rate,
        "share": rate / limit,
        "limit_gflops": limit,
        # of the update alone, were it nothing but its products at the limit
        "bound_steps_per_second": config.batch_size * limit / (rate * update / len(rows)),
        "peak_mib": peak,
        "load": machine.load(),
        "kernels": kernels.status(),
    }


def describe(config: Config, figures: dict[str, Any]) -> str:
    """The figures as a few lines."""
    on_cpu = config.device == "cpu"
    lines = [
        f"{config.env}, hidden {config.hidden_size}: {config.num_envs} envs x "
        f"{config.rollout_length} steps, {config.discoverer_epochs} epochs, "
        f"{config.threads} thread(s), {figures['rounds']} rounds",
        f"{'steps/s':26}{figures['steps_per_second']:10,.0f}"
        f"   (median round {figures['median_steps_per_second']:,.0f})",
        f"{'collect':26}{1e3 * figures['collect_seconds']:10.1f} ms a round"
        f"   {figures['collect_steps_per_second']:,.0f} steps/s",
        f"{'update':26}{1e3 * figures['update_seconds']:10.1f} ms a round"
        f"   {figures['update_steps_per_second']:,.0f} steps/s",
        f"{'  prepare':26}{1e3 * figures['prepare_seconds']:10.1f} ms",
    ]
    for name, network in figures["networks"].items():
        lines.append(
            f"{'  ' + name:26}{1e3 * network['seconds']:10.1f} ms"
            f"   {network['gflops']:6.1f} GFLOP/s"
            + (f" = {network['share']:.0%} of the limit" if on_cpu else "")
        )
    if not on_cpu:  # the limit is the processor's
        lines.append(f"update's products {figures['gflops']:.1f} GFLOP/s on {config.device}")
        return "\n".join(lines)
    lines.append(
        f"update's products {figures['gflops']:.1f} GFLOP/s = {figures['share']:.0%} of the limit "
        f"of {figures['limit_gflops']:.0f}, at which it would do "
        f"{figures['bound_steps_per_second']:,.0f} steps/s"
    )
    lines.append(
        f"peak memory {figures['peak_mib']:,.0f} MiB; load {figures['load']:.1f}; "
        f"kernels {figures['kernels']}"
    )
    return "\n".join(lines)


def main() -> None:
    """Print the figures of one configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--warm-up", type=int, default=5, help="rounds that are not counted")
    parser.add_argument("--rounds", type=int, default=25, help="rounds that are counted")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")
    own, rest = parser.parse_known_args()
    config = load_config(rest)
    figures = summarize(config, *train(config, own.warm_up, own.rounds))
    print(json.dumps(figures) if own.json else describe(config, figures))


if __name__ == "__main__":
    main()
