"""Stop 5, last: the policy that plays is an average of the one that learns, once the team wins.

Learning never stands still: near the end of its way a skill is paid hardly anything for the last
steps, and which action is the most likely one there changes from update to update. The average of
the weights over many updates (Polyak & Juditsky, SIAM J. Control Optim. 1992) does not follow.
Nothing that learns depends on it.
"""

from __future__ import annotations

import torch
from torch import nn

from hmasd.algorithm.wins import WINDOW


class PolicyAverage:
    """Says how much of the average each update's policy is: it counts as its odds of winning.

    With s the share of the last episodes that were won it weighs s / (1 - s + 1 / WINDOW), since no
    odds above WINDOW can be told from so many. So a team that begins to win leaves what it was
    behind at once, and one that loses its way for a while hardly counts. What came before is
    forgotten over n^l updates, l the share that lasts (`Wins.lasting_success`): at once
    where nothing was won, over n where all was, and hardly sooner while it is lost for once.
    """

    def __init__(self, updates: int) -> None:
        """`updates`: n; 1: the average is the newest policy."""
        self.updates = updates
        self.weight = 0.0  # of what the average holds

    def weigh(self, success: float, lasting: float) -> float:
        """Take in a policy.

        Args:
            success: s, how often it wins.
            lasting: l, how often the team won and may win again.

        Returns:
            Its share of the average; 1 where nothing was ever won.
        """
        odds = success / (1 - success + 1 / WINDOW)
        self.weight *= 1 - self.updates**-lasting
        self.weight += odds
        return odds / self.weight if self.weight > 0 else 1.0


@torch.no_grad()
def follow(average: nn.Module, newest: nn.Module, share: float) -> None:
    """Move each parameter and buffer of the average by `share` of its way to the newest."""
    its_state = newest.state_dict()
    for name, mine in average.state_dict().items():
        mine.lerp_(its_state[name], share)
