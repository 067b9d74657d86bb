"""One process of a run of several: python -m tests.helpers.rank_program SETTINGS.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from hmasd.config import Config
from hmasd.distributed import join
from hmasd.training.loop import Trainer


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, settings["dtype"]))
    config = Config(**settings["config"])
    ranks = join(config.device, config.reduce_timeout, config.rank_timeout)
    trainer = Trainer(config, ranks)
    if settings["fault"] == "gradients are not added up":
        ranks.sum_all = lambda tensors: None  # control: each learns from its own samples only
    elif settings["fault"] == "one rank goes astray" and ranks.rank == 1:
        with torch.no_grad():
            next(trainer.agent.networks.parameters()).view(-1)[0] += 1e-6
    code = trainer.run()
    ranks.close()
    sys.exit(code)


if __name__ == "__main__":
    main()
