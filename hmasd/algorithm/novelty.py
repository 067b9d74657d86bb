"""Stop 5, high level: how new it is what segments pass through (`novelty_coef`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from hmasd.distributed import ALONE, Ranks
from hmasd.kernels.transfer import to_device
from hmasd.types import HighRollout

NUM_DIRECTIONS = 128  # two features each; the update costs their number cubed
LENGTH_SCALE = 5.0  # standard deviations of a state's entries: states farther apart are strangers
MOST_SURVEYS = 32  # the first and the latest; each is half a megabyte
DEVIATIONS = 2.0  # of a survey's log novelty above its mean, that are nothing to be rewarded


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


def novelty(features: Tensor, lower: Tensor) -> Tensor:
    """B = √(φᵀ Λ⁻¹ φ): [D], the elliptical bonus of LSVI-UCB (Jin et al., COLT 2020).

    With Λ = I + Σ φφᵀ over the states seen it is the standard deviation of a Gaussian process that
    was told of them: 1 for what resembles nothing, 1 / √(1 + n) for what was seen n times.

    Args:
        features: φ [D, F].
        lower: L [F, F] of Λ = L Lᵀ.
    """
    return torch.linalg.solve_triangular(lower, features.T, upper=False).norm(dim=0)


def memory_of(features: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """L of Λ = L Lᵀ = I + Σ φφᵀ over all ranks' features φ [D, F]: [F, F]."""
    seen = ranks.sum(features.T @ features)
    precision = torch.eye(len(seen), dtype=seen.dtype, device=seen.device) + seen
    lower = torch.linalg.cholesky_ex(precision).L  # plain cholesky would wait to look for errors
    return lower.contiguous()  # as a checkpoint brings it back: another layout rounds otherwise


class Survey(NamedTuple):
    """What some segments led to."""

    lower: Tensor  # L of a batch that is remembered [F, F]
    usual: Tensor  # mean and deviation of log b, by L, in the batch after it [2]


class Novelty:
    """How seldom segments so far led to what later ones pass through; same on all ranks.

    A survey comes first: of two batches of segments under skills by chance the first is remembered,
    the second tells how new what is usual seems beside it. What a survey remembers stays, so what
    chance seldom finds is worth looking for however often it is found. But all that chance never
    finds is equally new to it: of two diamonds it tells nothing of a third. So every `interval`
    updates there is another survey, of where the coordinator has come to, and what is rare is worth
    the mean of what it is to all of them: each is a rung of a ladder. (Their sum would grow while
    the coordinator stays where it is, until winning is little beside it.) While something is won
    there is none.
    """

    def __init__(
        self,
        state_size: int,
        seed: int,
        device: torch.device,
        ranks: Ranks = ALONE,
        *,
        interval: int = 0,
    ) -> None:
        """`interval`: updates from one survey to the next; 0: there is only the first."""
        self.ranks = ranks
        self.interval = interval
        self.directions = to_device(random_directions(state_size, seed), device)
        self.forget()

    def forget(self) -> None:
        """Begin anew, with a survey by chance."""
        self._keep([])

    def start_over(self) -> None:
        """Keep the first survey alone, which tells of the skills and of no coordinator."""
        if self.is_known:
            self._keep(self.surveys[:1])

    def _keep(self, surveys: list[Survey]) -> None:
        self.surveys = surveys
        self.begun: Tensor | None = None  # L of a survey whose second batch is to come
        self.updates = 0  # of the coordinator since

    @property
    def is_known(self) -> bool:
        """Whether the first survey is over."""
        return len(self.surveys) > 0

    def take_in(self, segments: HighRollout) -> None:
        """Take in one of a survey's two batches."""
        features = fourier_features(segments.mean_state, self.directions)
        if self.begun is None:
            self.begun = memory_of(features, self.ranks)
            return
        log_new = novelty(features, self.begun).log()
        mean = self.ranks.mean(log_new)
        deviation = self.ranks.mean((log_new - mean).square()).sqrt()
        self.surveys.append(Survey(self.begun, torch.stack([mean, deviation])))
        self.begun = None
        if len(self.surveys) > MOST_SURVEYS:
            del self.surveys[1]

    def follow(self, segments: HighRollout) -> None:
        """Take in that the coordinator has learned from a batch: the last two are a survey."""
        self.updates += 1
        if self.interval == 0:
            return
        left = -self.updates % self.interval  # updates until the survey is over
        if left == 1:
            self.begun = None
        if left < 2:
            self.take_in(segments)

    def give_up_survey(self) -> None:
        """Forget one that is half over: its other half has to be the next batch or none."""
        if self.begun is not None:
            self.begun = None
            self.updates -= 1

    def new_to_chance(self, state: Tensor) -> Tensor:
        """B of each state [D, S] to the first survey, 1 to 0: [D] float64."""
        return novelty(fourier_features(state, self.directions), self.surveys[0].lower)

    def worth(self, state: Tensor) -> Tensor:
        """Φ, how much each state [D, S] stands out of what is usual, mean over all surveys: [D].

        Of one survey it is max(0, log b - mean - 2 deviations), so its own spread counts nothing.
        """
        features = fourier_features(state, self.directions)
        found = [
            standing_out(novelty(features, lower).log(), usual) for lower, usual in self.surveys
        ]
        return torch.stack(found).mean(0)

    def rise(self, segments: HighRollout) -> Tensor:
        """By how much more what a segment passed through stands out than what came before it: [D].

        A segment gets Φ less the Φ of the one before it in its episode: a rare thing
        pays once, when it comes, and who goes to a rare place pays back what it got on leaving
        (but for a survey in between); what an episode ends with is not paid back.
        """
        after, before = self.worth(segments.mean_state), self.worth(segments.mean_before)
        first = to_device(segments.is_first, before.device)
        return (after - before.masked_fill(first, 0)).to(segments.state.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly."""
        surveys = [list(survey) for survey in self.surveys]
        found = {"surveys": surveys, "begun": self.begun, "updates": self.updates}
        return {"directions": self.directions, **found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly from `state_dict`."""

        def copied(x: Tensor) -> Tensor:
            return x.to(self.directions, copy=True)

        self._keep([Survey(*map(copied, survey)) for survey in state["surveys"]])
        self.directions = copied(state["directions"])
        self.begun = None if state["begun"] is None else copied(state["begun"])
        self.updates = state["updates"]


def standing_out(log_novelty: Tensor, usual: Tensor) -> Tensor:
    """Φ = max(0, log b - mean - 2 deviations): [D].

    With b = 1 / √(1 + n) a step of Φ is half the logarithm of how many times rarer a thing is.

    Args:
        log_novelty: log b [D].
        usual: mean and deviation of log b in a survey.
    """
    mean, deviation = usual
    return (log_novelty - mean - DEVIATIONS * deviation).clamp(min=0)
