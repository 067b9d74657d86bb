"""Stop 5, high level: how seldom chance leads to what segments pass through (`novelty_coef`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from hmasd.distributed import ALONE, Ranks
from hmasd.kernels.transfer import to_device
from hmasd.types import HighRollout

NUM_DIRECTIONS = 128  # two features each; the update costs their number cubed
LENGTH_SCALE = 5.0  # standard deviations of a state's entries: states farther apart are strangers
DEVIATIONS = 2.0  # of chance's log novelty above its mean, that are nothing to be rewarded
SURVEY = 2  # batches of segments under skills by chance


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


class Novelty:
    """How seldom chance choices of skills lead to what segments pass through; same on all ranks.

    A survey comes first: of two batches of segments under skills by chance the first is remembered,
    the second tells how new what is usual seems beside it. Then nothing more is remembered, so what
    is rare stays worth looking for however often it is found.
    """

    def __init__(
        self, state_size: int, seed: int, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        self.ranks = ranks
        self.directions = to_device(random_directions(state_size, seed), device)
        self.forget()

    def forget(self) -> None:
        """Begin anew, with a survey."""
        size = 2 * NUM_DIRECTIONS
        self.precision = torch.eye(size, dtype=torch.float64, device=self.directions.device)
        self.usual = self.directions.new_zeros(2)  # mean and deviation of log b by chance
        self.surveyed = 0  # batches

    @property
    def is_known(self) -> bool:
        """Whether the survey is over."""
        return self.surveyed == SURVEY

    def survey(self, segments: HighRollout) -> None:
        """Take in one of the survey's batches: segments under skills by chance."""
        if self.surveyed == 0:
            features = fourier_features(segments.mean_state, self.directions)
            self.precision += self.ranks.sum(features.T @ features)
        else:
            log_new = self.of(segments.mean_state).log()
            mean = self.ranks.mean(log_new)
            deviation = self.ranks.mean((log_new - mean).square()).sqrt()
            self.usual = torch.stack([mean, deviation])
        self.surveyed += 1

    def of(self, state: Tensor) -> Tensor:
        """How new each state [D, S] is, 1 to 0: [D] float64."""
        return novelty(fourier_features(state, self.directions), self.precision)

    def rise(self, segments: HighRollout, new: Tensor) -> Tensor:
        """By how much more what a segment passed through stands out than what came before it: [D].

        Each is worth Φ = max(0, log b - mean - 2 deviations), so chance's own spread counts
        nothing. A segment gets Φ less the Φ of the one before it in its episode: a rare thing
        pays once, when it comes, and who goes to a rare place pays back what it got on leaving;
        what an episode ends with is not paid back.

        Args:
            segments: after the survey.
            new: b of their mean states [D].
        """
        after, before = (
            standing_out(b.log(), self.usual) for b in (new, self.of(segments.mean_before))
        )
        first = to_device(segments.is_first, before.device)
        return (after - before.masked_fill(first, 0)).to(segments.state.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly."""
        names = ("directions", "precision", "usual", "surveyed")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly from `state_dict`."""
        for name in ("directions", "precision", "usual"):
            setattr(self, name, state[name].to(self.directions, copy=True))
        self.surveyed = state["surveyed"]


def standing_out(log_novelty: Tensor, usual: Tensor) -> Tensor:
    """Φ = max(0, log b - mean - 2 deviations): [D].

    With b = 1 / √(1 + n) a step of Φ is half the logarithm of how many times rarer a thing is.

    Args:
        log_novelty: log b [D].
        usual: mean and deviation of log b where skills are chosen by chance.
    """
    mean, deviation = usual
    return (log_novelty - mean - DEVIATIONS * deviation).clamp(min=0)
