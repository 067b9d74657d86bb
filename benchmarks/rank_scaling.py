"""The rate of whole training with 1, 2, ... processes of one thread each, and what reductions cost.

    python benchmarks/rank_scaling.py
    python benchmarks/rank_scaling.py --weak
    python benchmarks/rank_scaling.py --ranks 1 2 4 --rounds 60 --num-envs 64 --batch-size 4096

All other flags are those of train_sync_enhanced.py. With --weak every process has as many envs and
samples as one alone. The rate is that of the wall clock between two rounds' log lines, so that all
is in it; evaluation and checkpoints are off. Collection, update and reductions are seconds of the
first process; reductions include waiting for the others and lie inside the two before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import machine
from hmasd.cli import load_config
from hmasd.config import Config


def measure(config: Config, flags: list[str], ranks: int, warm_up: int, rounds: int) -> dict:
    """Steps per second, and seconds per round of its pieces, over the rounds after warming up."""
    steps = (warm_up + rounds) * config.batch_size
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={ranks}", "train_sync_enhanced.py", *flags),
            *(f"--num-envs={config.num_envs}", f"--batch-size={config.batch_size}"),
            *(f"--total-steps={steps}", "--eval-interval=0", "--checkpoint-interval=0"),
            f"--output-dir={folder}",
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        (log,) = Path(folder).glob("runs/*/metrics.jsonl")
        rows = [json.loads(line) for line in log.read_text().splitlines()]
    before, counted = rows[warm_up - 1], rows[warm_up:]
    seconds = counted[-1]["time/wall"] - before["time/wall"]

    def mean(tag: str) -> float:
        return sum(row.get(tag, 0.0) for row in counted) / len(counted)

    return {
        "ranks": ranks,
        "num_envs": config.num_envs,
        "batch_size": config.batch_size,
        "steps_per_second": rounds * config.batch_size / seconds,
        "collect_seconds": mean("Sync/CollectionTime"),
        "update_seconds": mean("Sync/UpdateTime"),
        "reduce_seconds": mean("time/reduce"),
        "peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,  # the largest
        "load": machine.load(),
    }


def main() -> None:
    """Print a line per number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--weak", action="store_true", help="the round grows with the processes")
    parser.add_argument("--warm-up", type=int, default=8, help="rounds that are not counted")
    parser.add_argument("--rounds", type=int, default=40, help="rounds that are counted")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead")
    own, flags = parser.parse_known_args()
    base, first = load_config(flags), None
    for ranks in own.ranks:
        factor = ranks if own.weak else 1
        config = Config(num_envs=base.num_envs * factor, batch_size=base.batch_size * factor)
        figures = measure(config, flags, ranks, own.warm_up, own.rounds)
        first = first or figures["steps_per_second"]
        if own.json:
            print(json.dumps(figures), flush=True)
            continue
        print(
            f"{ranks} process(es), {config.num_envs} envs, rounds of {config.batch_size:,}: "
            f"{figures['steps_per_second']:,.0f} steps/s = "
            f"{figures['steps_per_second'] / first:.2f}"
            f" x the first; a round: collect {1e3 * figures['collect_seconds']:.1f} ms, update "
            f"{1e3 * figures['update_seconds']:.1f} ms, of both in reductions "
            f"{1e3 * figures['reduce_seconds']:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
