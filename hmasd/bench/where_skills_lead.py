"""Where each pair (Z, z) of a trained policy leads: a table, and a picture of visited cells.

    python -m hmasd.bench.where_skills_lead models/hmasd_sync_enhanced_final.pth --out skills.png

From fresh starts all agents follow one pair for one skill interval, with sampled actions. In
Alice_and_Bob the last columns are the shares of the interval's last quarter spent on each key and
diamond: a team can hardly succeed where one of them is on no skill's way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmasd.bench.measure import load_policy
from hmasd.bench.skill_maps import draw_skills
from hmasd.bench.skills import look_at_skills, shares_on
from hmasd.bench.tables import markdown
from hmasd.checkpoint import CheckpointError
from hmasd.settings import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hmasd.bench.where_skills_lead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model_path", type=Path, help="a checkpoint or a policy")
    parser.add_argument("--out", type=Path, help="picture to write, where the env has cells")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        config, networks = load_policy(options.model_path)
    except (CheckpointError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = look_at_skills(config, networks)
    print(markdown(skill_table(found)), end="")
    if options.out is None:
        return 0
    if found["pairs"][0]["visited"] is None:
        print(
            f"error: --out {options.out}: there is nothing to draw, since {config.env} has no "
            "cells, or episodes end before the last quarter of a skill interval; leave it out",
            file=sys.stderr,
        )
        return 1
    draw_skills({options.model_path.stem: found}).savefig(options.out, dpi=110)
    return 0


def skill_table(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text of what `look_at_skills` found; mean ends are cells or observations."""
    cells = found["items"]["cells"] if found["items"] else []
    head = ["Z", "z", "mean end", "to the nearest other", "recognised"]
    table = [[*head, *(f"on ({row}, {column})" for row, column in cells)]]
    for pair in found["pairs"]:
        end = ", ".join(f"{x:.1f}" for x in pair["end"])
        nearest = "-" if pair["nearest"] is None else f"{pair['nearest']:.1f}"
        numbers = [str(pair["team_skill"]), str(pair["skill"])]
        row = [*numbers, end, nearest, f"{pair['accuracy']:.0%}"]
        if cells:
            shares = shares_on(np.array(cells), np.array([pair["visited"]]))[0]
            row += [f"{share:.0%}" for share in shares]
        table.append(row)
    return table


if __name__ == "__main__":
    sys.exit(main())
