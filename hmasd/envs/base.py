"""Stop 1 of the walk: what a batched environment must offer."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from gymnasium.spaces import Space

from hmasd.types import EnvStep, EnvView


class BatchedEnv(Protocol):
    """`num_envs` copies of one game that step together; each restarts when its episode ends.

    An env may write the arrays of an `EnvView` or `EnvStep` again in its next `step`, `reset` or
    `set_state`: who needs them longer copies them. An episode that ends is `terminated` or
    `truncated`, never both. `hmasd.envs.contract.check_env` checks all of this by random play.
    """

    num_envs: int
    num_agents: int
    obs_size: int
    state_size: int
    action_space: Space  # of one agent: gymnasium Discrete or Box
    episode_length: int

    def reset(self, seed: int) -> EnvView:
        """Start new episodes in all envs; the seed decides everything random from here on.

        What env e does should depend on (seed, e) alone, not on `num_envs`. A batch may have a
        `first_env`, 0 unless it is set before: the number of its first env among the run's, which
        then counts as e. Several processes play what one would, if theirs have it.
        """

    def step(self, action: np.ndarray) -> EnvStep:
        """Play one step in all envs; action: [E, N] int64, or [E, N, A] float32.

        Raises:
            ValueError: an action that cannot be played, with its env, agent and value.
        """

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of all that `set_state` needs to go on exactly, random generators included.

        The view is not among them: who resumes keeps the last `EnvView` beside it.
        """

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on exactly from where `get_state` was called; raises ValueError on other shapes."""

    def render(self, index: int = 0) -> np.ndarray:
        """Picture of env `index` as its last step left it: [height, width, 3] uint8.

        An episode that ended with that step shows its end, although the next one has begun.
        """

    def close(self) -> None:
        """Give back what the env holds."""
