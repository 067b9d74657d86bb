"""Stop 5, high level: when the coordinator explores."""

from __future__ import annotations

from hmasd.algorithm.wins import Wins
from hmasd.config import Config

SOME = 0.01  # share of wins that is worth keeping, also when the time for exploring is over
FEW = 0.1  # share of wins below which there is something to explore for
MOST = 0.9  # share of wins from which on there is nothing to explore for
SAVED = ("is_on", "since")


class Exploration:
    """Says by the clock and by what is won whether the coordinator explores."""

    def __init__(self, config: Config, wins: Wins) -> None:
        self.config = config
        self.wins = wins
        self.is_on = False
        self.since = 0  # env steps at which the coordinator began to explore, or last won enough

    def begin_or_end(self, env_steps: int) -> None:
        """Begin, go on or end by the clock, after a round whose wins were taken in.

        Exploring begins where it is time for it and hardly anything is won. It ends with its time,
        but where something is won only when most is: the steps from the first wins to the habit are
        those that are lost most easily.

        Args:
            env_steps: of all ranks, this round's included.
        """
        time, success = self._is_time(env_steps), self.wins.success
        if self.is_on and self._explores:
            self.is_on = success < MOST and (time or self.wins_some)
        elif time and success < FEW:
            self.is_on, self.since = True, env_steps
        else:
            self.is_on = False
        if success >= FEW:
            self.since = env_steps

    def is_stuck(self, env_steps: int) -> bool:
        """Whether the coordinator has explored for few wins, for as long as the skills had learned.

        What it finds first it soon does always, and then it finds nothing more; with other draws it
        often does.
        """
        for_long = env_steps - self.since >= self.config.exploration_start
        return self.is_on and self._is_time(env_steps) and for_long

    def restart(self, env_steps: int) -> None:
        """Count from here on how long it explores for few wins."""
        self.since = env_steps

    @property
    def wins_some(self) -> bool:
        """Whether something is won that is worth keeping."""
        return self.wins.success >= SOME

    @property
    def _explores(self) -> bool:
        """Whether it ever does."""
        return self.config.exploration_start > 0 and self.config.high_level == "coordinator"

    def _is_time(self, env_steps: int) -> bool:
        """Cycles of 3 `exploration_start` steps: in the first third skills train, then it may."""
        start = self.config.exploration_start
        return self._explores and env_steps % (3 * start) >= start

    def pauses_skills(self, env_steps: int) -> bool:
        """Whether the skills stay as they are; not if `extrinsic_coef` is above 0."""
        searches = self.is_on and self.wins.success < FEW and self._is_time(env_steps)
        return searches and self.config.extrinsic_coef == 0

    @property
    def segments_due(self) -> int:
        """Closed segments that the coordinator's update waits for."""
        config = self.config
        return config.exploration_batch_size if self.is_on else config.high_level_batch_size

    @property
    def epochs(self) -> int:
        """Passes over each batch of segments."""
        config = self.config
        return config.exploration_epochs if self.is_on else config.coordinator_epochs

    @property
    def novelty_coef(self) -> float:
        """Weight of what is new: the less, the more is won."""
        return (1 - self.wins.success) * self.config.novelty_coef

    @property
    def persistence(self) -> float:
        """Chance that skills go on for another interval: none where the coordinator explores."""
        losing = 1 - self.wins.lasting_success
        return 0.0 if self.is_on else losing * self.config.skill_persistence

    def state_dict(self) -> dict[str, bool | int]:
        """Everything needed to go on exactly, beside the wins."""
        return {name: getattr(self, name) for name in SAVED}

    def load_state_dict(self, state: dict[str, bool | int]) -> None:
        """Go on exactly from `state_dict`."""
        for name in SAVED:
            setattr(self, name, state[name])
