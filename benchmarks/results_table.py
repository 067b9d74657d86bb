"""The table of docs/results.md from run folders, one row per run, all runs that are given.

python benchmarks/results_table.py runs/*
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

MODES = ("greedy", "stochastic")
BAR = 0.95  # success that counts as solved
COLUMNS = (
    "run",
    "env steps",
    f"first ≥ {BAR}, greedy / stochastic",
    "at 1.5M, greedy / stochastic",
    "mean of last 5, greedy / stochastic",
    "last training episodes",
)


def row(folder: Path) -> list[str]:
    """The cells of one run."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluations = [x for x in map(json.loads, lines) if "eval/greedy_success" in x]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    cells = [f"seed {config['seed']}", f"{evaluations[-1]['env_steps']:,}"]
    firsts, middles, lasts = [], [], []
    for mode in MODES:
        success = [(x["env_steps"], x[f"eval/{mode}_success"]) for x in evaluations]
        first = next((steps for steps, value in success if value >= BAR), None)
        firsts.append("never" if first is None else f"{first / 1e6:.1f}M")
        middle = next((value for steps, value in success if steps >= 1_500_000), None)
        middles.append("-" if middle is None else f"{middle:.2f}")
        lasts.append(f"{statistics.mean(value for _, value in success[-5:]):.3f}")
    cells += [" / ".join(pair) for pair in (firsts, middles, lasts)]
    return [*cells, f"{evaluations[-1]['rollout/success']:.2f}"]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", type=Path, nargs="+")
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for folder in parser.parse_args().run_dirs:
        print("| " + " | ".join(row(folder)) + " |")


if __name__ == "__main__":
    main()
