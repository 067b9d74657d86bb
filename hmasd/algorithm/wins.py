"""Stop 5, first: how often the team wins, and what of the learning follows from that."""

from __future__ import annotations

from torch import Tensor

from hmasd.config import Config
from hmasd.types import LowRollout

WINDOW = 100  # episodes that the share of wins averages over
PATIENCE = 300  # updates in which the lasting share of wins follows a fall
SAVED = ("success", "lasting_success")


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


class Wins:
    """The share of episodes that the team wins, now and lastingly."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.success = 0.0
        self.lasting_success = 0.0

    def hear(self, ended: float, won: float) -> None:
        """Take in a round.

        The share of wins is a running mean that begins at 0, so a team counts as winning some time
        after it does. The lasting share rises as fast and falls slowly. A team that wins all and is
        then stuck somewhere has to find out again what it is paid for: were it paid less for
        winning and played by chance as soon as it loses, it would unlearn the way instead.

        Args:
            ended: how many episodes of all ranks ended in it.
            won: how many of them were won.
        """
        self.success += (won - ended * self.success) / max(WINDOW, ended)
        self.lasting_success += (self.success - self.lasting_success) / PATIENCE
        self.lasting_success = max(self.lasting_success, self.success)

    @property
    def shares(self) -> tuple[float, float]:
        """The share of wins, and the share that lasts."""
        return self.success, self.lasting_success

    @property
    def step_share(self) -> float:
        """Share of the learning rate: who wins learns more carefully (`winning_step`)."""
        return faded(self.config.winning_step, self.success)

    @property
    def entropy_coef(self) -> float:
        """λ_h: who wins keeps all skills in use (`losing_entropy`)."""
        return faded(self.config.losing_entropy, 1 - self.success) * self.config.high_entropy_coef

    @property
    def sharpness(self) -> float:
        """κ of the actor: who won plays nearly as greedily as it will (`winning_sharpness`)."""
        return float(self.config.winning_sharpness**self.lasting_success)

    @property
    def extrinsic_coef(self) -> float:
        """λ_e: who won is paid for it (`winning_extrinsic_coef`)."""
        grown = self.lasting_success * self.config.winning_extrinsic_coef
        return self.config.extrinsic_coef + grown

    @property
    def intrinsic_share(self) -> float:
        """Share of λ_D and λ_d that counts: who won is paid for that (`winning_intrinsic`)."""
        return faded(self.config.winning_intrinsic, self.lasting_success)

    def state_dict(self) -> dict[str, float]:
        """Everything needed to go on exactly."""
        return {name: getattr(self, name) for name in SAVED}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on exactly from `state_dict`."""
        for name in SAVED:
            setattr(self, name, state[name])
