"""Stop 5, high level: when the coordinator explores among skills that stay as they are."""

from __future__ import annotations

WINDOW = 100  # episodes that the share of wins averages over
ENOUGH = 0.5  # share of wins from which on there is nothing to explore for


class Exploration:
    """Follows how often the team wins, and says by it and by the clock whether to explore."""

    def __init__(self, start: int) -> None:
        """`start`: env steps before the first time; 0: there is none."""
        self.start = start
        self.success = 0.0

    def hear(self, ended: float, won: float) -> None:
        """Take in a round: of its episodes, all ranks', how many ended and how many were won."""
        self.success += (won - ended * self.success) / max(WINDOW, ended)

    def is_on(self, env_steps: int) -> bool:
        """Whether the coordinator explores in the round that ends after so many env steps.

        It does from 2ⁿ to 1.5 · 2ⁿ times the start: the longer it took, the longer it tries.
        """
        if not 0 < self.start <= env_steps or self.success >= ENOUGH:
            return False
        doubled = 1 << (env_steps // self.start).bit_length() - 1  # 2ⁿ
        return 2 * env_steps < 3 * doubled * self.start
