"""How noisy a batch's gradient is: the simple noise scale, in samples.

McCandlish et al. 2018, An Empirical Model of Large-Batch Training: far below it one step on twice
the batch is worth two steps, far above it not more than one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from hmasd.distributed import ALONE, Ranks

DECAY = 0.98
"""Of the running means: they remember about 1 / (1 - DECAY) = 50 rounds."""
LEAST_ROUNDS = 50
"""Measurements before the estimate is believed."""


class GradientMoments(NamedTuple):
    """Unbiased estimates from one batch; either may be negative by chance."""

    signal: float  # |G|², G the gradient that a batch without end would have
    noise: float  # tr Σ, the variance of one sample's gradient


def gradient_moments(
    gradients: Tensor, share: Tensor, batch_size: int, ranks: Ranks = ALONE
) -> GradientMoments:
    """The two moments from a batch in independent parts (appendix A.1 there, for K parts).

    E|g_k|² = |G|² + tr Σ / B_k for part k, and likewise for the whole g = Σ p_k g_k with all B.

    Args:
        gradients: g_k, [K, P] with K ≥ 2, mean gradient of each part.
        share: p_k, [K], part of the batch's samples that lie in each; all above 0, adds up to 1.
        batch_size: B, samples of the whole.
        ranks: over whose parts, all together, all of this is meant.
    """
    gradients, share = gradients.double(), share.double()
    whole = ranks.sum(share @ gradients).square().sum()
    parts = ranks.sum(share @ gradients.square().sum(-1))
    noise = batch_size * (parts - whole) / (ranks.total(len(share)) - 1)
    return GradientMoments(float(whole - noise / batch_size), float(noise))


class NoiseScale:
    """The simple noise scale B = tr Σ / |G|² in samples, each moment's running mean apart.

    Both means start at 0, so what they lack at the beginning cancels in their ratio.
    """

    def __init__(self) -> None:
        self.signal = 0.0
        self.noise = 0.0
        self.rounds = 0

    def add(self, moments: GradientMoments) -> None:
        """Take in one round's moments."""
        self.signal += (1 - DECAY) * (moments.signal - self.signal)
        self.noise += (1 - DECAY) * (moments.noise - self.noise)
        self.rounds += 1

    @property
    def value(self) -> float | None:
        """Samples; infinite where no signal stands out; None before `LEAST_ROUNDS` rounds."""
        if self.rounds < LEAST_ROUNDS:
            return None
        return self.noise / self.signal if self.signal > 0 else math.inf

    def state_dict(self) -> dict[str, float | int]:
        """Everything needed to go on exactly."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Go on exactly from `state_dict`."""
        vars(self).update(state)
