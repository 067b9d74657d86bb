"""One copy of a game: what an adapter of a foreign, plain Python environment must offer.

`hmasd.envs.vector` steps many copies as one `BatchedEnv`, in this process or in workers.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from gymnasium.spaces import Space


class SingleView(NamedTuple):
    """What one team may look at before it acts; an env of `EnvView` without its first axis."""

    obs: np.ndarray  # [N, O] float32
    state: np.ndarray  # [S] float32
    action_mask: np.ndarray | None = None  # [N, A] bool, True where the action is allowed
    alive: np.ndarray | None = None  # [N] bool, None: all agents live all the time


class SingleStep(NamedTuple):
    """One step of one game; nothing has been reset: `view` is what the step reached."""

    view: SingleView
    reward: float  # the team's
    terminated: bool  # the task ended: what follows is worth 0
    truncated: bool  # the clock ended
    success: bool  # the goal is reached; counted only in the step that ends the episode


class SingleEnv(Protocol):
    """One game with fixed sizes. Who steps it restarts it, and counts `episode_length`."""

    num_agents: int
    obs_size: int
    state_size: int
    action_space: Space  # of one agent: gymnasium Discrete or Box

    def reset(self, seed: int) -> SingleView:
        """Start a new episode; the seed and the actions decide all that happens in it."""

    def step(self, action: np.ndarray) -> SingleStep:
        """Play one step; action: [N] int64, or [N, A] float32."""

    def render(self) -> np.ndarray:
        """Picture of the game: [height, width, 3] uint8."""

    def close(self) -> None:
        """Give back what the env holds."""
