"""A new coordinator on the skills of a checkpoint, which stay as they are: seconds, not minutes.

    python benchmarks/coordinator_on_skills.py models/hmasd_sync_enhanced_1000000.pth \
        --total-steps 1000000

Whether the coordinator finds what the skills make possible, without the time that learning them
takes. The run is the checkpoint's, with the flags that are given; its coordinator begins anew and
explores from the first round on until it wins, and the skills never learn. Prints ten lines of what
the rounds said.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from hmasd import checkpoint
from hmasd.algorithm.exploration import Exploration
from hmasd.cli import load_config
from hmasd.config import Config
from hmasd.training.loop import Trainer

TAGS = (
    *("rollout/episodes", "rollout/success", "high/entropy_agent", "high/novelty"),
    "high/surveys",
)


def train(config: Config, networks: dict[str, torch.Tensor]) -> list[dict[str, float]]:
    """The rounds' metrics of a run on these networks' skills, each with all that was said before.

    Args:
        config: of the run.
        networks: whose parameters, but for the coordinator's, are taken.
    """
    always = {"_is_time": lambda *_: True, "pauses_skills": lambda *_: True}
    always |= {"is_stuck": lambda *_: False}
    with mock.patch.multiple(Exploration, **always):
        trainer = Trainer(replace(config, exploration_start=max(1, config.exploration_start)))
        own = trainer.agent.networks.state_dict()
        high = {name: x for name, x in own.items() if name.startswith(("coordinator", "high"))}
        trainer.agent.networks.load_state_dict(networks | high)
        trainer.run()
    (log,) = Path(config.output_dir).glob("runs/*/metrics.jsonl")
    said: dict[str, float] = {}
    rounds = []
    for line in log.read_text().splitlines():
        said |= json.loads(line)
        rounds.append(dict(said))
    return rounds


def main() -> None:
    """Train, and print how it went by tenths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path)
    own, flags = parser.parse_known_args()
    torch.set_num_threads(1)
    content = checkpoint.load(own.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "settings.json"
        settings.write_text(json.dumps(content["config"] | {"model_path": None}))
        config = load_config(["--config", str(settings), *flags])
        config = replace(config, eval_interval=0, checkpoint_interval=0, output_dir=folder)
        rounds = train(config, content["agent"]["networks"])
    for i in range(1, 11):
        row = rounds[len(rounds) * i // 10 - 1]
        told = (f"{tag} {row[tag]:.2f}" for tag in TAGS if tag in row)
        print(f"{row['env_steps']:,} steps:", ", ".join(told))


if __name__ == "__main__":
    main()
