"""Random numbers for batched envs: one splitmix64 state per env, all in one array.

A state is one uint64, so that a whole batch's generators are saved and restored as an [E] array,
and env e's numbers depend on (seed, e) alone, not on how many envs stand beside it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@njit(cache=True)
def _mix(value: np.uint64) -> np.uint64:
    """Splitmix64's output function."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@njit(cache=True)
def next_uint64(states: np.ndarray, env: int) -> np.uint64:
    """Draw the next number of `env` and advance its state; states: [E] uint64."""
    states[env] += _STEP
    return _mix(states[env])


@njit(cache=True)
def next_uniform(states: np.ndarray, env: int) -> float:
    """Draw the next number of `env`, uniform in [0, 1), of 53 random bits; states: [E] uint64."""
    return np.float64(next_uint64(states, env) >> np.uint64(11)) * 2.0**-53


@njit(cache=True)
def _seed_states(seed: np.uint64, first: int, states: np.ndarray) -> None:
    """Fill states [E], far apart for neighbouring seeds and envs."""
    base = _mix(seed + _STEP)
    for env in range(states.shape[0]):
        states[env] = _mix(base ^ _mix(_STEP * np.uint64(first + env + 1)))


def seed_states(seed: int, num_envs: int, first: int = 0) -> np.ndarray:
    """Start the generators of `num_envs` envs.

    Args:
        seed: 0 <= seed < 2**64.
        num_envs: E.
        first: number of the first of them.

    Returns:
        states: [E] uint64.

    Raises:
        ValueError: the seed is out of range.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"the seed is {seed}, but must be in 0..2**64 - 1")
    states = np.zeros(num_envs, dtype=np.uint64)
    _seed_states(np.uint64(seed), first, states)
    return states
