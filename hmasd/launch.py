"""What a launcher such as torchrun tells the processes that it starts; reads the environment."""

from __future__ import annotations

import os
from typing import NamedTuple


class Launch(NamedTuple):
    """This process among those of the run."""

    rank: int
    world_size: int
    local_rank: int  # among those of this machine


def launched() -> Launch:
    """What RANK, WORLD_SIZE and LOCAL_RANK say; without them a run of one process."""
    rank, world_size, local_rank = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    return Launch(rank, world_size, local_rank)
