"""Actions of a batched foreign game: one space for all agents, and what the game is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from hmasd.envs.batch_checks import check_actions


class BatchActions:
    """How the team's actions become those of a game that steps all envs at once.

    Discrete: all agents get as many actions as the one with the most. Box: shown as [-1, 1], since
    a policy's Gaussian starts at 0 with a width of 1; what is beyond is clipped, and the rest
    stretched to the game's bounds.
    """

    def __init__(self, agents: Sequence[str], spaces: Sequence[Any]) -> None:
        """One space per agent, of any package: with `n`, or with `low`, `high` and `shape`.

        Raises:
            ValueError: the spaces are of kinds or bounds that do not mix.
        """
        self.num_agents = len(agents)
        self.notes: list[str] = []
        self.space: Space
        self.mask: np.ndarray | None = None  # [N, A] bool, where agents have fewer than others
        if all(hasattr(space, "n") for space in spaces):
            counts = np.array([int(space.n) for space in spaces])
            self.space = Discrete(int(counts.max()))
            if counts.min() < counts.max():
                self.mask = np.arange(counts.max()) < counts[:, None]
                self.notes.append(
                    f"agents have {counts.tolist()} actions: all get {counts.max()}, and an "
                    f"agent's action mask forbids what it does not have"
                )
            return
        bounds = [_bounds(space) for space in spaces if hasattr(space, "low")]
        if len(bounds) < len(spaces) or any(not np.array_equal(x, bounds[0]) for x in bounds):
            told = ", ".join(f"{a}: {space}" for a, space in zip(agents, spaces, strict=True))
            raise ValueError(
                f"the agents' actions must all be Discrete, or all one finite Box; they are {told}"
            )
        low, high = bounds[0]
        self.space = Box(-1.0, 1.0, low.shape, np.float32)
        self._middle, self._half = (high + low) / 2, (high - low) / 2
        self.notes.append("actions are clipped to [-1, 1] and stretched to their bounds")

    def read(self, action: np.ndarray, num_envs: int) -> np.ndarray:
        """What the game takes: int64 [E, N], or float32 [E, N, A] within the game's own bounds.

        Raises:
            ValueError: a shape, a type or a value is wrong; names env, agent and value.
        """
        if isinstance(self.space, Discrete):
            return check_actions(action, (num_envs, self.num_agents), int(self.space.n))
        action = np.asarray(action)
        shape = (num_envs, self.num_agents, *(self.space.shape or ()))
        if action.shape != shape or action.dtype.kind != "f":
            raise ValueError(
                f"actions must be floats of shape {shape}, got {action.dtype} of {action.shape}"
            )
        for index in np.argwhere(~np.isfinite(action))[:1]:
            raise ValueError(
                f"env {index[0]}, agent {index[1]}: action {action[tuple(index)]} is not finite"
            )
        stretched = self._middle + np.clip(action, -1.0, 1.0) * self._half
        return stretched.astype(np.float32)


def _bounds(space: Any) -> np.ndarray:
    """Lowest and highest values of a box: [2, ...]; NaN, which equals nothing, if unbounded."""
    bounds = np.stack(
        [np.broadcast_to(np.asarray(x), space.shape) for x in (space.low, space.high)]
    )
    return np.where(np.isfinite(bounds), bounds, np.nan).astype(np.float32)


def padding_notes(sizes: Sequence[int]) -> list[str]:
    """What is to be told where agents' observations of these sizes are filled up."""
    if len(set(sizes)) == 1:
        return []
    return [
        f"observations of {list(sizes)} numbers are filled up with zeros to {max(sizes)}; "
        f"--agent-id lets agents that differ know who they are"
    ]
