"""Stop 5, high level: when the coordinator explores, and what else follows from its wins."""

from __future__ import annotations

from torch import Tensor

from hmasd.config import Config
from hmasd.types import LowRollout

WINDOW = 100  # episodes that the share of wins averages over
PATIENCE = 300  # updates in which the lasting share of wins follows a fall
SOME = 0.01  # share of wins that is worth keeping, also when the time for exploring is over
FEW = 0.1  # share of wins below which there is something to explore for
MOST = 0.9  # share of wins from which on there is nothing to explore for
SAVED = ("success", "lasting_success", "is_on", "since")


def ended_and_won(rollout: LowRollout, lost: Tensor | None) -> tuple[float, float]:
    """How many episodes ended in a round, and how many of them were won.

    Args:
        rollout: the round.
        lost: [E] bool, envs that failed, whose games are neither won nor lost; None: none did.
    """
    ended = rollout.terminated | rollout.truncated
    ended = ended if lost is None else ended & ~lost
    return float(ended.sum()), float((ended & rollout.success).sum())


def faded(left: float, extent: float) -> float:
    """From 1 at extent 0 down to what is `left` at extent 1, in proportion."""
    return 1 + (left - 1) * extent


class Exploration:
    """Follows how often the team wins, and says by it and by the clock whether to explore."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.success = 0.0
        self.lasting_success = 0.0
        self.is_on = False
        self.since = 0  # env steps at which the coordinator began to explore, or last won enough

    def hear(self, env_steps: int, ended: float, won: float) -> None:
        """Take in a round that ended after so many env steps.

        The share of wins is a running mean that begins at 0, so a team counts as winning some time
        after it does. The lasting share rises as fast and falls slowly. A team that wins all and is
        then stuck somewhere has to find out again what it is paid for: were it paid less for
        winning and played by chance as soon as it loses, it would unlearn the way instead.

        Exploring begins where it is time for it and hardly anything is won. It ends with its time,
        but where something is won only when most is: the steps from the first wins to the habit are
        those that are lost most easily.

        Args:
            env_steps: of all ranks, this round's included.
            ended: how many episodes of all ranks ended in it.
            won: how many of them were won.
        """
        self.success += (won - ended * self.success) / max(WINDOW, ended)
        self.lasting_success += (self.success - self.lasting_success) / PATIENCE
        self.lasting_success = max(self.lasting_success, self.success)
        time = self._is_time(env_steps)
        if self.is_on and self._explores:
            self.is_on = self.success < MOST and (time or self.wins_some)
        elif time and self.success < FEW:
            self.is_on, self.since = True, env_steps
        else:
            self.is_on = False
        if self.success >= FEW:
            self.since = env_steps

    def is_stuck(self, env_steps: int) -> bool:
        """Whether the coordinator has explored for few wins, for as long as the skills had learned.

        What it finds first it soon does always, and then it finds nothing more; with other draws it
        often does.
        """
        for_long = env_steps - self.since >= self.config.exploration_start
        return self.is_on and self._is_time(env_steps) and for_long

    @property
    def wins_some(self) -> bool:
        """Whether something is won that is worth keeping."""
        return self.success >= SOME

    @property
    def wins(self) -> tuple[float, float]:
        """The share of wins, and the share that lasts."""
        return self.success, self.lasting_success

    @property
    def _explores(self) -> bool:
        """Whether it ever does."""
        return self.config.exploration_start > 0 and self.config.high_level == "coordinator"

    def _is_time(self, env_steps: int) -> bool:
        """Over and over training goes on as usual until the start, then for twice as many not."""
        start = self.config.exploration_start
        return self._explores and env_steps % (3 * start) >= start

    def pauses_skills(self, env_steps: int) -> bool:
        """Whether the skills stay as they are; not if `extrinsic_coef` is above 0."""
        searches = self.is_on and self.success < FEW and self._is_time(env_steps)
        return searches and self.config.extrinsic_coef == 0

    @property
    def segments_due(self) -> int:
        """Closed segments that the coordinator's update waits for."""
        config = self.config
        return config.exploration_batch_size if self.is_on else config.high_level_batch_size

    @property
    def novelty_coef(self) -> float:
        """Weight of what is new: the less, the more is won."""
        return (1 - self.success) * self.config.novelty_coef

    @property
    def step_share(self) -> float:
        """Share of the learning rate: who wins learns more carefully (`winning_step`)."""
        return faded(self.config.winning_step, self.success)

    @property
    def sharpness(self) -> float:
        """κ of the actor: who won plays nearly as greedily as it will (`winning_sharpness`)."""
        return float(self.config.winning_sharpness**self.lasting_success)

    @property
    def persistence(self) -> float:
        """Chance that skills go on for another interval: none where the coordinator explores."""
        return 0.0 if self.is_on else (1 - self.lasting_success) * self.config.skill_persistence

    @property
    def extrinsic_coef(self) -> float:
        """λ_e: who won is paid for it (`winning_extrinsic_coef`)."""
        grown = self.lasting_success * self.config.winning_extrinsic_coef
        return self.config.extrinsic_coef + grown

    @property
    def intrinsic_share(self) -> float:
        """Share of λ_D and λ_d that counts: who won is paid for that (`winning_intrinsic`)."""
        return faded(self.config.winning_intrinsic, self.lasting_success)

    @property
    def entropy_coef(self) -> float:
        """λ_h: who wins keeps all skills in use (`losing_entropy`)."""
        return faded(self.config.losing_entropy, 1 - self.success) * self.config.high_entropy_coef

    def state_dict(self) -> dict[str, float | bool | int]:
        """Everything needed to go on exactly."""
        return {name: getattr(self, name) for name in SAVED}

    def load_state_dict(self, state: dict[str, float | bool | int]) -> None:
        """Go on exactly from `state_dict`."""
        for name in SAVED:
            setattr(self, name, state[name])
