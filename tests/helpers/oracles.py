"""Definitions written out in numpy, in another shape than the shipped code: slow and plain."""

from __future__ import annotations

import numpy as np


def advantage_by_definition(
    reward: np.ndarray,
    value: np.ndarray,
    next_value: np.ndarray,
    terminated: np.ndarray,
    ended: np.ndarray,
    discount: np.ndarray,
    gae_lambda: float,
) -> np.ndarray:
    """GAE of one sequence [T] as the λ-weighted average of n-step advantages, O(T²).

    From step t the episode has m steps left in the data. The n-step advantage takes n rewards and
    then the value of the state reached; each n < m weighs (1-λ) λ^(n-1), the longest λ^(m-1).
    """
    result = np.zeros(len(reward))
    for t in range(len(reward)):
        ends = np.flatnonzero(ended[t:])
        left = int(ends[0]) + 1 if len(ends) else len(reward) - t
        collected, factor = 0.0, 1.0
        for n in range(1, left + 1):
            last = t + n - 1
            collected += factor * reward[last]
            factor *= discount[last]
            bootstrap = 0.0 if terminated[last] else factor * next_value[last]
            weight = gae_lambda ** (n - 1) * (1 - gae_lambda if n < left else 1.0)
            result[t] += weight * (collected + bootstrap - value[t])
    return result
