"""What a batched env with numpy memory refuses: actions and saved states that do not fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit


@njit(cache=True)
def _find_bad_action(action: np.ndarray, num_actions: int) -> int:
    """Flat index of the first action outside 0..num_actions - 1 in [E, N], -1 if all are right."""
    num_agents = action.shape[1]
    for env in range(action.shape[0]):
        for agent in range(num_agents):
            if action[env, agent] < 0 or action[env, agent] >= num_actions:
                return env * num_agents + agent
    return -1


def check_actions(action: np.ndarray, shape: tuple[int, int], num_actions: int) -> np.ndarray:
    """The actions as a [E, N] int64 array that can be played.

    Args:
        action: integers 0..num_actions - 1.
        shape: (E, N), what they must have.
        num_actions: how many an agent can choose from.

    Raises:
        ValueError: shape, type or a value is wrong; it is named, with its env and agent.
    """
    action = np.asarray(action)
    if action.shape != shape or action.dtype.kind not in "iu":
        raise ValueError(
            f"actions must be integers of shape {shape}, got {action.dtype} of {action.shape}"
        )
    action = np.ascontiguousarray(action, dtype=np.int64)
    bad = _find_bad_action(action, num_actions)
    if bad >= 0:
        env, agent = divmod(bad, shape[1])
        raise ValueError(
            f"env {env}, agent {agent}: action {action[env, agent]} is not one of the "
            f"actions 0..{num_actions - 1}"
        )
    return action


def check_saved(memory: Mapping[str, np.ndarray], saved: Mapping[str, np.ndarray]) -> None:
    """Refuse a saved state whose arrays are not of the names, shapes and types of `memory`.

    Raises:
        ValueError: the first difference, and the remedy.
    """
    if set(saved) != set(memory):
        raise ValueError(f"the env's state has arrays {sorted(saved)}, not {sorted(memory)}")
    for name, array in memory.items():
        given = np.asarray(saved[name])
        if given.shape != array.shape or given.dtype != array.dtype:
            raise ValueError(
                f"the env's state: {name} is {given.dtype} of shape {given.shape}, but this env "
                f"needs {array.dtype} of {array.shape}; use the num_envs it was saved with"
            )


def check_saved_clock(clock: np.ndarray, episode_length: int) -> None:
    """Refuse a saved clock [E] that an episode of `episode_length` steps never shows.

    Raises:
        ValueError: a value is out of range.
    """
    if clock.min() < 0 or clock.max() >= episode_length:
        raise ValueError(
            f"the env's state: clock has a value outside 0..{episode_length - 1}; use the "
            f"episode_length it was saved with"
        )
