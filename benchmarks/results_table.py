"""How steady training was: a Markdown table of run folders, one row each, all that are given.

python benchmarks/results_table.py runs/* --after 1000000
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hmasd.telemetry.jsonl import read_lines

MODES = ("greedy", "stochastic")
BAR = 0.95  # success that counts as solved
LAST = 5  # evaluations


def row(folder: Path, after: int) -> list[str]:
    """The cells of one run; `after`: env steps up to which evaluations do not count."""
    if not (folder / "metrics.jsonl").is_file():
        raise SystemExit(f"{folder} is no run folder: there is no metrics.jsonl in it")
    evaluations = [x for x in read_lines(folder / "metrics.jsonl") if "eval/greedy_success" in x]
    if not evaluations:
        raise SystemExit(f"{folder} has no evaluation yet: leave it out")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    cells = [str(config["seed"]), f"{evaluations[-1]['env_steps']:,}"]
    means, lowest, below = [], [], []
    for mode in MODES:
        success = [x[f"eval/{mode}_success"] for x in evaluations if x["env_steps"] > after]
        if not success:
            raise SystemExit(f"{folder} has no evaluation after {after:,} env steps: lower --after")
        means.append(f"{statistics.mean(success[-LAST:]):.3f}")
        lowest.append(f"{min(success):.2f}")
        below.append(f"{sum(value < BAR for value in success)}")
    return [*cells, " / ".join(means), " / ".join(lowest), f"{' / '.join(below)} of {len(success)}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", type=Path, nargs="+")
    parser.add_argument("--after", type=int, default=0, help="env steps; later evaluations count")
    options = parser.parse_args()
    means = f"mean of the last {LAST}, greedy / stochastic"
    columns = ("seed", "env steps", means, "lowest", f"below {BAR}")
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for folder in options.run_dirs:
        print("| " + " | ".join(row(folder, options.after)) + " |")


if __name__ == "__main__":
    main()
