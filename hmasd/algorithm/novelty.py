"""Stop 5, high level: how new the states are that segments lead to (`novelty_coef`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from hmasd.distributed import ALONE, Ranks
from hmasd.kernels.transfer import to_device

NUM_DIRECTIONS = 128  # two features each; the update costs their number cubed
LENGTH_SCALE = 5.0  # standard deviations of a state's entries: states farther apart are strangers
DEVIATIONS = 1.0  # standard deviations of a batch's novelty that are nothing to be rewarded


def random_directions(state_size: int, seed: int) -> Tensor:
    """Frequencies of the features, [S, NUM_DIRECTIONS] float64, normal with 1 / LENGTH_SCALE."""
    generator = torch.Generator().manual_seed(seed)
    shape = (state_size, NUM_DIRECTIONS)
    return torch.randn(shape, generator=generator, dtype=torch.float64) / LENGTH_SCALE


def fourier_features(state: Tensor, directions: Tensor) -> Tensor:
    """φ(s) = [cos(xW), sin(xW)] / √F, x the state with its entries standardised: [D, 2F], |φ| = 1.

    φ(s)·φ(s') approximates exp(-|x - x'|² / 2ℓ²), ℓ the LENGTH_SCALE (Rahimi & Recht, NeurIPS
    2007). Entries are standardised over the state, as the coordinator's own network sees it.

    Args:
        state: [D, S].
        directions: W [S, F].
    """
    phase = layer_norm(state.to(directions.dtype), state.shape[-1:]) @ directions
    return torch.cat([phase.cos(), phase.sin()], dim=-1) / directions.shape[1] ** 0.5


def novelty(features: Tensor, precision: Tensor) -> Tensor:
    """B = √(φᵀ Λ⁻¹ φ): [D], the elliptical bonus of LSVI-UCB (Jin et al., COLT 2020).

    With Λ = I + Σ φφᵀ over the states seen it is the standard deviation of a Gaussian process that
    was told of them: 1 for what resembles nothing, 1 / √(1 + n) for what was seen n times.

    Args:
        features: φ [D, F].
        precision: Λ [F, F], symmetric, positive definite.
    """
    lower = torch.linalg.cholesky_ex(precision).L  # plain cholesky would wait to look for errors
    return torch.linalg.solve_triangular(lower, features.T, upper=False).norm(dim=0)


def standing_out(novelty: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """max(0, b - mean - std) over a batch of segments: [D].

    Where agents wander, every place is a little new, the more so the more a skill wanders; such
    differences stay within the batch's spread. A thing that was collected stands out of it.

    Args:
        novelty: b [D].
        ranks: whose segments are the batch together.
    """
    mean = ranks.mean(novelty)
    deviation = ranks.mean((novelty - mean).square()).sqrt()
    return (novelty - mean - DEVIATIONS * deviation).clamp(min=0)


class Novelty:
    """Remembers all states that segments led to, in one matrix, the same on all ranks."""

    def __init__(
        self, state_size: int, seed: int, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        self.ranks = ranks
        self.directions = to_device(random_directions(state_size, seed), device)
        self.precision = torch.eye(2 * NUM_DIRECTIONS, dtype=torch.float64, device=device)

    def visit(self, state: Tensor) -> Tensor:
        """How new each state [D, S] is, 1 to 0, before any of them is remembered: [D]."""
        features = fourier_features(state, self.directions)
        new = novelty(features, self.precision)
        self.precision += self.ranks.sum(features.T @ features)
        return new.to(state.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        return {"directions": self.directions, "precision": self.precision}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on exactly from `state_dict`."""
        self.directions = state["directions"].to(self.directions, copy=True)
        self.precision = state["precision"].to(self.precision, copy=True)
