"""Env steps per second of whole training, split into collect and update; medians over rounds.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --preset paper_alice_and_bob

All flags are those of train_sync_enhanced.py; logging is on, evaluation and checkpoints are off.
The first rounds, which compile, are not counted. The machine's fp32 matrix-product rate, measured
in the same process on a shape of the update, and its load are printed beside the figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from hmasd import kernels
from hmasd.cli import load_config
from hmasd.config import Config
from hmasd.training.loop import train

WARM_UP, COUNTED = 5, 25  # rounds
RATES = ("steps", "collect_steps", "update_steps")


def measure(config: Config) -> list[dict[str, float]]:
    """Train for some rounds; the metrics of those that count."""
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(
            config,
            total_steps=(WARM_UP + COUNTED) * config.batch_size,
            eval_interval=0,
            checkpoint_interval=0,
            output_dir=folder,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            train(config)
        (log,) = Path(folder).glob("runs/*/metrics.jsonl")
        return [json.loads(line) for line in log.read_text().splitlines()][WARM_UP:]


def product_rate(seconds: float = 0.5) -> float:
    """Fp32 GFLOP/s of [640, 64] x [64, 192], the recurrent product of the update."""
    a, b = torch.randn(640, 64), torch.randn(64, 192)
    rates, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        rates.append(2 * 640 * 64 * 192 / (time.perf_counter() - start) / 1e9)
    return statistics.median(rates)


def main() -> None:
    """Print the figures of one configuration."""
    config = load_config(sys.argv[1:])
    rows = measure(config)
    print(f"{config.num_envs} envs x {config.rollout_length} steps, ", end="")
    print(f"{config.discoverer_epochs} epochs, {torch.get_num_threads()} thread(s)")
    for name in RATES:
        rate = statistics.median(row[f"time/{name}_per_second"] for row in rows)
        print(f"{name.replace('_', ' ') + '/s':16}{rate:10,.0f}")
    # Rounds with and without a coordinator's update differ: the mean is what a run sees.
    seconds = sum(row["Sync/CollectionTime"] + row["Sync/UpdateTime"] for row in rows)
    print(f"{'mean steps/s':16}{len(rows) * config.batch_size / seconds:10,.0f}")
    print(f"matrix products {product_rate():.0f} GFLOP/s, load {os.getloadavg()[0]:.1f}, ", end="")
    print(f"kernels {kernels.status()}")


if __name__ == "__main__":
    main()
