"""Choices: categorical ones over masked logits, and Gaussian ones for continuous actions.

Draws take the random numbers that decide them: who draws has generators of its own, and evaluation
never touches training's randomness.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hmasd.kernels.compiled import compiled

MASKED = -1e10  # finite, so that a masked logit has probability 0 and gradient 0, not NaN


def one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """[...] int64 -> [..., size]."""
    return functional.one_hot(index, size).to(dtype)


def mask_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Give choices where mask is False probability 0; both [..., A]."""
    return logits if mask is None else logits.masked_fill(~mask, MASKED)


class Draw(NamedTuple):
    """Choices and how likely they were."""

    choice: Tensor  # [...] int64, or [..., A] for continuous ones
    logp: Tensor  # [...]


def _a_draw_each(logits: Tensor, uniform: Tensor) -> bool:
    return logits.shape[:-1] == uniform.shape


@compiled("draw_categorical", _a_draw_each, Draw)
def draw_categorical(logits: Tensor, uniform: Tensor) -> Draw:
    """The choice at which the cumulated probability exceeds a number in [0, 1).

    Args:
        logits: [..., A].
        uniform: [...].
    """
    log_probs = logits.log_softmax(-1)
    cumulated = log_probs.exp().cumsum(-1)
    # Scaled by the last entry, a number is always below it: rounding of the sum to less than 1 can
    # never choose past the last allowed choice.
    choice = (cumulated <= uniform.unsqueeze(-1) * cumulated[..., -1:]).sum(-1)
    return Draw(choice, gather_log_prob(log_probs, choice))


def sample_categorical(logits: Tensor, uniform: Tensor | None) -> Draw:
    """Draw from softmax(logits), [..., A]; without numbers [...]: the most likely choice."""
    if uniform is None:
        choice = logits.argmax(-1)
        return Draw(choice, gather_log_prob(logits.log_softmax(-1), choice))
    return draw_categorical(logits, uniform)


def gather_log_prob(log_probs: Tensor, choice: Tensor) -> Tensor:
    """Log-probability of each choice: [..., A], [...] -> [...]."""
    return log_probs.gather(-1, choice.unsqueeze(-1)).squeeze(-1)


class Score(NamedTuple):
    """How likely given choices are, and how undecided their distribution is; both [...]."""

    logp: Tensor
    entropy: Tensor  # in nats


def _a_choice_each(logits: Tensor, choice: Tensor) -> bool:
    return logits.shape[:-1] == choice.shape and choice.dtype == torch.int64


@compiled("score_categorical", _a_choice_each, Score)
def score_categorical(logits: Tensor, choice: Tensor) -> Score:
    """Of softmax(logits): [..., A] and [...] int64; a masked choice adds exactly 0 to entropy."""
    log_probs = logits.log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return Score(gather_log_prob(log_probs, choice), entropy)


def sample_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor | None) -> Draw:
    """Draw from N(mean, exp(log_std)^2), [..., A]; noise: of N(0, 1), None: the mean."""
    value = mean if noise is None else mean + log_std.exp() * noise
    return Draw(value, gaussian_log_prob(mean, log_std, value))


def gaussian_log_prob(mean: Tensor, log_std: Tensor, value: Tensor) -> Tensor:
    """Log-density of value under the diagonal Gaussian: [..., A] -> [...]."""
    squared = ((value - mean) / log_std.exp()).square()
    return (-0.5 * squared - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def gaussian_entropy(mean: Tensor, log_std: Tensor) -> Tensor:
    """[..., A] -> [...], in nats."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).expand_as(mean).sum(-1)
