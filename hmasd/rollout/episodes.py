"""Returns, lengths and successes of episodes, as they end."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from hmasd.distributed import ALONE, Ranks
from hmasd.types import EnvStep

WINDOW = 100  # episodes that the training metrics average over


class Episode(NamedTuple):
    """One finished episode."""

    env: int
    episode_return: float
    length: int
    success: bool


class EpisodeTracker:
    """Follows E running episodes and remembers the last `WINDOW` finished ones."""

    def __init__(self, num_envs: int, first_env: int = 0) -> None:
        """`first_env`: number of the first of these envs among the run's."""
        self.running_return = np.zeros(num_envs)
        self.running_length = np.zeros(num_envs, dtype=np.int64)
        self.first_env = first_env
        self.finished = 0
        self.recent: deque[Episode] = deque(maxlen=WINDOW)
        self._steps = 0  # since the last `meet`
        self._ended: list[tuple[float, ...]] = []  # since then: step, and an Episode

    def add(self, step: EnvStep) -> list[Episode]:
        """Count one step of all envs; returns the episodes that it finished, not those lost."""
        self.running_return += step.reward
        self.running_length += 1
        self._steps += 1
        over = step.terminated | step.truncated
        if not over.any():
            return []
        ended = np.flatnonzero(over if step.lost is None else over & ~step.lost)
        episodes = [
            Episode(
                self.first_env + int(e),
                float(self.running_return[e]),
                int(self.running_length[e]),
                bool(step.success[e]),
            )
            for e in ended
        ]
        self.running_return[over] = 0
        self.running_length[over] = 0
        self._ended += [(self._steps, *episode) for episode in episodes]
        return episodes

    def meet(self, ranks: Ranks) -> None:
        """Let rank 0 know what ended on all ranks since the last time, in order of time and env."""
        ended = np.array(self._ended, dtype=np.float64)
        found = [np.frombuffer(sent).reshape(-1, 5) for sent in ranks.gather(ended.tobytes())]
        self._steps, self._ended = 0, []
        for row in sorted(row for rows in found for row in rows.tolist()):
            _, env, episode_return, length, success = row
            self.recent.append(Episode(int(env), episode_return, int(length), bool(success)))
            self.finished += 1

    def metrics(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """Means over the last finished episodes of all ranks; empty before the first one."""
        self.meet(ranks)
        if not self.recent:
            return {}
        return summarize(list(self.recent), "rollout/") | {"rollout/episodes": float(self.finished)}

    def state_dict(self) -> dict[str, object]:
        """Everything needed to go on exactly."""
        return {
            "running_return": self.running_return.tolist(),
            "running_length": self.running_length.tolist(),
            "finished": self.finished,
            "recent": [list(episode) for episode in self.recent],
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on exactly from `state_dict`."""
        self.running_return[:] = state["running_return"]
        self.running_length[:] = state["running_length"]
        self.finished = state["finished"]
        self.recent.clear()
        self.recent.extend(Episode(*episode) for episode in state["recent"])


def summarize(episodes: list[Episode], prefix: str) -> dict[str, float]:
    """Mean success, return and length: `{prefix}success`, ..."""
    return {
        f"{prefix}success": float(np.mean([e.success for e in episodes])),
        f"{prefix}return": float(np.mean([e.episode_return for e in episodes])),
        f"{prefix}length": float(np.mean([e.length for e in episodes])),
    }
