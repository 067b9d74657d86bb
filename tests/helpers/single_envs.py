"""Small plain Python games: `SingleEnv`s with random starts, random ends, and every field."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete

from hmasd.envs.single import SingleStep, SingleView


class Walk:
    """Two agents walk on a ring of 5 cells by -1, 0, +1; the second may not step back.

    Observation of an agent: (its cell, steps so far, a number drawn at the reset). State: both
    cells. Reward: agents on cell 0, minus 0.25. With a chance of 1/8 a step the game ends, with
    success where both agents stand on one cell. From step 3 on agent 0 may be dead. The arrays of
    a view are written again by the next step.
    """

    num_agents = 2
    obs_size = 3
    state_size = 2
    action_space = Discrete(3)

    def __init__(self, *, full: bool = True, end_chance: float = 0.125) -> None:
        """full: whether views have action masks and alive."""
        self.full = full
        self.end_chance = end_chance
        self.obs = np.zeros((2, 3), dtype=np.float32)
        self.closed = False

    def reset(self, seed: int) -> SingleView:
        self.rng = np.random.default_rng(seed)
        self.cells = self.rng.integers(0, 5, 2)
        self.obs[:, 2] = self.rng.random()
        self.time = 0
        self.frail = bool(self.rng.random() < 0.5)
        return self._view()

    def step(self, action: np.ndarray) -> SingleStep:
        self.time += 1
        self.cells = (self.cells + action - 1) % 5
        ended = bool(self.rng.random() < self.end_chance)
        reward = float((self.cells == 0).sum()) - 0.25
        return SingleStep(self._view(), reward, ended, False, bool(self.cells[0] == self.cells[1]))

    def render(self) -> np.ndarray:
        return np.full((4, 4, 3), self.time, dtype=np.uint8)

    def close(self) -> None:
        self.closed = True

    def _view(self) -> SingleView:
        self.obs[:, 0] = self.cells
        self.obs[:, 1] = self.time
        state = self.cells.astype(np.float32)
        if not self.full:
            return SingleView(self.obs, state)
        mask = np.array([[True, True, True], [False, True, True]])
        return SingleView(self.obs, state, mask, np.array([not self.frail or self.time < 3, True]))


class Push:
    """One agent with two continuous actions, which are summed up and seen with their noise."""

    num_agents = 1
    obs_size = 1
    state_size = 1
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, seed: int) -> SingleView:
        self.rng = np.random.default_rng(seed)
        self.place = self.rng.normal()
        return self._view()

    def step(self, action: np.ndarray) -> SingleStep:
        self.place += float(action.sum()) + 0.1 * self.rng.normal()
        done = bool(abs(self.place) < 0.3)
        return SingleStep(self._view(), -abs(self.place), done, False, done)

    def render(self) -> np.ndarray:
        return np.zeros((2, 2, 3), dtype=np.uint8)

    def close(self) -> None:
        """Nothing to give back."""

    def _view(self) -> SingleView:
        place = np.array([self.place], dtype=np.float32)
        return SingleView(place[None], place)
