"""Stop 5, high level: when the coordinator explores, and what else follows from its wins."""

from __future__ import annotations

from torch import Tensor

from hmasd.config import Config
from hmasd.types import LowRollout

WINDOW = 100  # episodes that the share of wins averages over
ENOUGH = 0.5  # share of wins from which on there is nothing to explore for


def ended_and_won(rollout: LowRollout, lost: Tensor | None) -> tuple[float, float]:
    """How many episodes ended in a round, and how many of them were won.

    Args:
        rollout: the round.
        lost: [E] bool, envs that failed, whose games are neither won nor lost; None: none did.
    """
    ended = rollout.terminated | rollout.truncated
    ended = ended if lost is None else ended & ~lost
    return float(ended.sum()), float((ended & rollout.success).sum())


class Exploration:
    """Follows how often the team wins, and says by it and by the clock whether to explore."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.success = 0.0

    def hear(self, ended: float, won: float) -> None:
        """Take in a round: of its episodes, all ranks', how many ended and how many were won.

        A running mean that begins at 0, so a team counts as winning some time after it does.
        """
        self.success += (won - ended * self.success) / max(WINDOW, ended)

    def is_on(self, env_steps: int) -> bool:
        """Whether the coordinator explores in the round that ends after so many env steps.

        It does from 2ⁿ to 1.5 · 2ⁿ times the start: the longer it took, the longer it tries.
        """
        start = self.config.exploration_start
        if self.config.high_level == "random" or self.success >= ENOUGH:
            return False
        if not 0 < start <= env_steps:
            return False
        doubled = 1 << (env_steps // start).bit_length() - 1  # 2ⁿ
        return 2 * env_steps < 3 * doubled * start

    def pauses_skills(self, env_steps: int) -> bool:
        """Whether the skills stay as they are; those that earn the team reward never do."""
        return self.is_on(env_steps) and self.config.extrinsic_coef == 0

    @property
    def step_share(self) -> float:
        """Share of the learning rate: who wins learns more carefully (`winning_step`)."""
        return 1 + (self.config.winning_step - 1) * self.success

    @property
    def entropy_coef(self) -> float:
        """λ_h: who wins keeps all skills in use (`losing_entropy`)."""
        share = 1 + (self.config.losing_entropy - 1) * (1 - self.success)
        return share * self.config.high_entropy_coef
