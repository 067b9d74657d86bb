"""Stop 6, high level: how the coordinator learns, with what exploring adds to it."""

from __future__ import annotations

from hmasd.algorithm.coordinator import Coordinator
from hmasd.algorithm.exploration import Exploration
from hmasd.algorithm.novelty import Novelty
from hmasd.algorithm.optimization import Metrics
from hmasd.types import HighRollout


class Explorer:
    """Lets a coordinator learn; one that explores is also rewarded for what is new."""

    def __init__(
        self, coordinator: Coordinator, exploration: Exploration, novelty: Novelty | None
    ) -> None:
        """What it needs; it keeps nothing else.

        Args:
            coordinator: who learns.
            exploration: says when it explores.
            novelty: of what segments pass through, worth `novelty_coef`; None: nothing.
        """
        self.coordinator = coordinator
        self.exploration = exploration
        self.novelty = novelty

    def learn(self, segments: HighRollout, env_steps: int, by_chance: bool) -> Metrics:
        """Learn from a batch of segments; from those under skills by chance what these lead to."""
        explores, metrics = self.exploration.is_on, {}
        if not by_chance:
            metrics = self._update(segments)
        elif self.novelty is not None and explores:  # else nobody asks for the survey any more
            self.novelty.take_in(segments)
        is_stuck = self.exploration.is_stuck(env_steps)
        if is_stuck:
            self._begin_anew(env_steps)
        return metrics | ({"high/begins_anew": float(is_stuck)} if explores else {})

    def begin_or_end_survey(self) -> bool:
        """Forget past surveys where it does not explore.

        Returns:
            Whether skills are to be chosen by chance from here on.
        """
        if self.novelty is None:
            return False
        if not self.exploration.is_on:
            self.novelty.forget()
        return self.exploration.is_on and not self.novelty.is_known

    def _update(self, segments: HighRollout) -> Metrics:
        """PPO; it is rewarded for what is new, too, as far as a survey tells what that is.

        What it was rewarded for becomes usual from time to time. Not while it wins: what leads
        there is to be kept, so it has to stay worth something.
        """
        coordinator, exploration, novelty = self.coordinator, self.exploration, self.novelty
        if not exploration.is_on or novelty is None or not novelty.is_known:
            return coordinator.update(coordinator.prepare(segments), exploration.epochs)
        is_new = coordinator.ranks.mean(novelty.new_to_chance(segments.mean_state))
        bonus = exploration.novelty_coef * novelty.rise(segments)
        metrics = coordinator.update(coordinator.prepare(segments, bonus), exploration.epochs)
        if exploration.wins_some:
            novelty.give_up_survey()
        else:
            novelty.follow(segments)
        surveys = float(len(novelty.surveys))
        return metrics | {"high/novelty": is_new, "high/surveys": surveys}

    def _begin_anew(self, env_steps: int) -> None:
        """Forget all that was learned but the survey by chance, which tells of the skills."""
        self.coordinator.begin_anew()
        if self.novelty is not None:
            self.novelty.start_over()
        self.exploration.restart(env_steps)
