"""One process of a run of several: python -m tests.helpers.rank_program SETTINGS.json."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import torch

from hmasd import distributed
from hmasd.config import Config
from hmasd.distributed import Ranks, Sockets
from hmasd.shared_memory import SharedMemory
from hmasd.training.loop import Trainer


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, settings["dtype"]))
    config = Config(**settings["config"])
    fault = settings["fault"]
    if fault == "by sockets":  # as between machines
        distributed.share_memory = lambda *_: None
    with distributed.join(config.device, config.reduce_timeout, config.rank_timeout) as ranks:
        if ranks.world_size > 1 and platform.machine() == "x86_64":
            host = Sockets if fault in ("by sockets", "two hosts") else SharedMemory
            assert isinstance(ranks._host, host)
        code = train(config, ranks, fault)
    sys.exit(code)


def train(config: Config, ranks: Ranks, fault: str) -> int:
    trainer = Trainer(config, ranks)
    if fault == "gradients are not added up":
        ranks.sum_all = lambda tensors: None  # control: each learns from its own samples only
    elif fault == "one rank raises" and ranks.rank == 1:
        trainer.agent.discoverer.update = melt
    elif fault == "one rank goes astray" and ranks.rank == 1:
        with torch.no_grad():
            next(trainer.agent.networks.parameters()).view(-1)[0] += 1e-6
    elif fault == "what one rank plays goes astray" and ranks.rank == 1:
        trainer.agent.wins.success = trainer.agent.wins.lasting_success = 0.5
        trainer.agent.wins.hear = lambda *_: None
    return trainer.run()


def melt(*_: object) -> None:
    raise ValueError("the reactor melted")


if __name__ == "__main__":
    main()
