"""Where each individual skill leads in Alice_and_Bob: a table, and a picture of visited cells.

    python benchmarks/where_skills_lead.py models/hmasd_sync_enhanced_final.pth --out skills.png

From 400 random starts both agents follow one skill for `skill_interval` steps, stochastically.
Counted are the cells of the last quarter of the interval. The keys and diamonds lie in the corners,
so a team can only succeed if every corner is the end of some skill.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from hmasd import checkpoint
from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.envs.alice_and_bob import AliceAndBob
from hmasd.rollout.team import Generators, Team

NUM_ENVS = 400
CORNERS = {"top left": (1, 1), "top right": (1, 8), "bottom left": (8, 1), "bottom right": (8, 8)}


def visited(agent: HMASDAgent, skill: int) -> np.ndarray:
    """Share of the last quarter of an interval spent in each cell of the map: [10, 10]."""
    env = AliceAndBob(NUM_ENVS)
    view = env.reset(seed=0)
    draws = Generators(*(torch.Generator().manual_seed(i) for i in range(2)))
    nets = agent.networks
    team = Team(agent.config, nets.coordinator, nets.actor, (NUM_ENVS, env.num_agents), draws)
    team.clock.agent_skills[:] = skill
    cells = np.zeros((10, 10))
    interval = agent.config.skill_interval
    for t in range(interval):
        view = env.step(team.act(team.observe(view)).action.numpy()).view
        team.restart[:] = False
        if t >= interval * 3 // 4:
            row, column = view.obs[..., 9].astype(int), view.obs[..., 10].astype(int)
            np.add.at(cells, (row, column), 1)
    return cells / cells.sum()


def draw(maps: list[np.ndarray], path: Path) -> None:
    """One small map per skill, darker where it stays longer."""
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(maps), figsize=(1.7 * len(maps), 2.0))
    for skill, (axis, cells) in enumerate(zip(np.atleast_1d(axes), maps, strict=True)):
        axis.imshow(np.sqrt(cells[1:9, 1:9]), cmap="magma_r", vmin=0, vmax=0.9)
        axis.set_title(f"skill {skill}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_path", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    content = checkpoint.load(arguments.model_path)
    names = {field.name for field in dataclasses.fields(Config)}
    config = Config(**{k: v for k, v in content["config"].items() if k in names})
    agent = HMASDAgent(config, AliceAndBob(config.num_envs))
    checkpoint.load_module("networks", agent.networks, content["agent"]["networks"])
    maps = [visited(agent, skill) for skill in range(config.num_agent_skills)]
    print("| skill | mean row | mean column | " + " | ".join(CORNERS) + " |")
    print("|---|---|---|" + "---|" * len(CORNERS))
    for skill, cells in enumerate(maps):
        row, column = cells.sum(1) @ np.arange(10), cells.sum(0) @ np.arange(10)
        shares = " | ".join(f"{cells[corner]:.0%}" for corner in CORNERS.values())
        print(f"| {skill} | {row:.1f} | {column:.1f} | {shares} |")
    if arguments.out is not None:
        draw(maps, arguments.out)


if __name__ == "__main__":
    main()
