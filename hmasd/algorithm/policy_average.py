"""Stop 5, last: the policy that plays is an average of the one that learns, once the team wins.

Learning never stands still: near the end of its way a skill is paid hardly anything for the last
steps, and which action is the most likely one there changes from update to update. The average of
the weights over many updates (Polyak & Juditsky, SIAM J. Control Optim. 1992) does not follow.
Nothing that learns depends on it.
"""

from __future__ import annotations

import torch
from torch import nn


def newest_share(success: float, updates: int) -> float:
    """What the newest policy weighs in the average: 1 where nothing is won, 1 / updates at best.

    Args:
        success: share of the last episodes that were won.
        updates: how many the average is over if all were.
    """
    return 1 - success * (1 - 1 / updates)


@torch.no_grad()
def follow(average: nn.Module, newest: nn.Module, share: float) -> None:
    """Move each parameter of the average by `share` of its way to the newest; copy the buffers."""
    for mine, its in zip(average.parameters(), newest.parameters(), strict=True):
        mine.lerp_(its, share)
    for my_buffer, its_buffer in zip(average.buffers(), newest.buffers(), strict=True):
        my_buffer.copy_(its_buffer)
