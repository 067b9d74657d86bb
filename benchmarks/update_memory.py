"""How much memory an update takes beyond the round that it learns from; Linux only.

    python benchmarks/update_memory.py --num-envs 256 --batch-size 65536
    python benchmarks/update_memory.py --num-envs 256 --batch-size 65536 --samples-at-once 2048

All flags are those of train_sync_enhanced.py. One round is collected and learned from; what saving
a checkpoint takes is not in it.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from hmasd.cli import load_config
from hmasd.training.loop import Trainer


def resident(name: str) -> float:
    """A line of /proc/self/status, MiB: VmRSS is memory now, VmHWM the most since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> None:
    """Print one line."""
    config = load_config(sys.argv[1:])
    torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(dataclasses.replace(config, output_dir=folder))
        trainer._collect_round()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        trainer.agent.sync_update()
        more = resident("VmHWM") - before
    print(
        f"{config.batch_size:,} samples, {config.samples_at_once or config.batch_size:,} at once: "
        f"{before:,.0f} MiB before the update, {more:,.0f} MiB more at its peak"
    )


if __name__ == "__main__":
    main()
