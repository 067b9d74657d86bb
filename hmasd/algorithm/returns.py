"""Stop 5: advantages; pure functions over any number of parallel sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from hmasd.distributed import ALONE, Ranks

EPSILON = 1e-5  # keeps the division by a deviation finite


def generalized_advantage(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    discount: Tensor | float,
    gae_lambda: float,
) -> Tensor:
    """GAE(γ, λ): A_t = δ_t + γλ (1 - ended_t) A_{t+1}, δ_t = r_t + γ (1 - terminated_t) V'_t - V_t.

    All arguments are [T, ...] and broadcast against each other; time is the first axis.

    Args:
        reward: r_t.
        value: V_t in real units.
        next_value: V'_t, the value of the state that step t reached in the same episode; where the
            episode was truncated, the value of its final state.
        terminated: bool, what follows is worth 0.
        ended: bool, step t+1 belongs to another episode. Terminated implies ended.
        discount: γ, one number or one per step (γ^d for a decision that lasted d steps).
        gae_lambda: λ.

    Returns:
        Advantages [T, ...] of the broadcast shape.
    """
    delta = reward + discount * next_value * (~terminated) - value
    decay = (discount * gae_lambda * (~ended)).expand_as(delta)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        running = torch.addcmul(delta[t], decay[t], running)
        advantage[t] = running
    return advantage


def weighted_mean(x: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of x where each entry counts `weight` times (same shape; None: all once)."""
    return x.mean() if weight is None else (x * weight).sum() / weight.sum()


def standardize(
    advantage: Tensor,
    weight: Tensor | None = None,
    floor: Tensor | float = 0.0,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Shift advantages of any shape to mean 0 and scale them to standard deviation 1.

    Args:
        advantage: any shape.
        weight: of the same shape, how often each entry counts; None: once.
        floor: advantages that vary less than this are noise and are not scaled up to 1.
        ranks: mean and deviation are those of all their advantages.
    """
    exact = advantage.double()
    mean, square = ranks.means((exact, weight), (exact.square(), weight))
    mean, variance = mean.to(advantage), (square - mean.square()).clamp(min=0).to(advantage)
    return (advantage - mean) / (variance.sqrt().clamp(min=floor) + EPSILON)


def segment_slots(env: Tensor) -> Tensor:
    """For segments of several envs in order of time: how many segments of its env came before.

    Args:
        env: [D] int64 on the host, env of each segment.

    Returns:
        [D] int64; `padded[slot, env] = x` lays segments out time first, one column per env.
    """
    order = torch.argsort(env, stable=True)
    counts = torch.bincount(env)
    first = counts.cumsum(0) - counts
    slot = torch.empty_like(env)
    slot[order] = torch.arange(len(env)) - first[env[order]]
    return slot
