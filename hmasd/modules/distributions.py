"""Choices: categorical ones over masked logits, and Gaussian ones for continuous actions.

Draws go through an explicit generator, so that evaluation never touches training's randomness.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MASKED = -1e10  # finite, so that a masked logit has probability 0 and gradient 0, not NaN


def one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """[...] int64 -> [..., size]."""
    return functional.one_hot(index, size).to(dtype)


def mask_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Give choices where mask is False probability 0; both [..., A]."""
    return logits if mask is None else logits.masked_fill(~mask, MASKED)


def sample_categorical(log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from log-probabilities [..., A] -> [...] int64; without generator: the most likely."""
    if generator is None:
        return log_probs.argmax(-1)
    uniform = torch.rand(
        log_probs.shape[:-1], generator=generator, device=log_probs.device, dtype=log_probs.dtype
    )
    cumulative = log_probs.exp().cumsum(-1)
    # Scaled by the last entry, a threshold is always below it: rounding of the sum to less than
    # 1 can never choose past the last allowed action.
    return (cumulative <= uniform.unsqueeze(-1) * cumulative[..., -1:]).sum(-1)


def gather_log_prob(log_probs: Tensor, choice: Tensor) -> Tensor:
    """Log-probability of each choice: [..., A], [...] -> [...]."""
    return log_probs.gather(-1, choice.unsqueeze(-1)).squeeze(-1)


def categorical_entropy(log_probs: Tensor) -> Tensor:
    """[..., A] -> [...], in nats; a masked choice adds exactly 0."""
    return -(log_probs.exp() * log_probs).sum(-1)


def sample_gaussian(mean: Tensor, log_std: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from N(mean, exp(log_std)^2): [..., A]; without generator: the mean."""
    if generator is None:
        return mean
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + log_std.exp() * noise


def gaussian_log_prob(mean: Tensor, log_std: Tensor, value: Tensor) -> Tensor:
    """Log-density of value under the diagonal Gaussian: [..., A] -> [...]."""
    squared = ((value - mean) / log_std.exp()).square()
    return (-0.5 * squared - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def gaussian_entropy(mean: Tensor, log_std: Tensor) -> Tensor:
    """[..., A] -> [...], in nats."""
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).expand_as(mean).sum(-1)
