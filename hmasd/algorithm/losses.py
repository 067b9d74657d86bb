"""Stop 6, the mathematics: PPO's losses (HMASD eq. 5) and the discriminators' (eq. 8); pure."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hmasd.algorithm.returns import weighted_mean
from hmasd.distributed import ALONE, Ranks
from hmasd.kernels.compiled import compiled
from hmasd.modules.distributions import score_categorical

HEAVIEST = 10.0  # times the weight of a pair whose skill is chosen as often as others


class PolicyLoss(NamedTuple):
    """The clipped surrogate and how far the policy has moved; scalars."""

    loss: Tensor
    kl: Tensor  # estimate of KL(old || new), never negative
    clip_fraction: Tensor
    ratio_error: Tensor  # max |ratio - 1|; 0 before the first gradient step


def _same_shape(logp: Tensor, *others: Tensor | float | None) -> bool:
    return all(not isinstance(x, Tensor) or x.shape == logp.shape for x in others)


@compiled("policy_loss", _same_shape, PolicyLoss)
def policy_loss(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, clip: float, weight: Tensor | None = None
) -> PolicyLoss:
    """L = -E[min(ρ A, clip(ρ, 1 - ε, 1 + ε) A)], ρ = exp(logp - old_logp); all of one shape."""
    log_ratio = logp - old_logp
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage)
    with torch.no_grad():
        error = (ratio - 1).abs()
        kl = weighted_mean(ratio - 1 - log_ratio, weight)
        clip_fraction = weighted_mean((error > clip).to(ratio.dtype), weight)
        ratio_error = (error if weight is None else error * weight).max()
    return PolicyLoss(-weighted_mean(surrogate, weight), kl, clip_fraction, ratio_error)


def huber(error: Tensor, delta: float) -> Tensor:
    """½e² where |e| ≤ δ, else δ(|e| - ½δ)."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta))


def _one_value_or_all(value: Tensor, old: Tensor, target: Tensor, *others: object) -> bool:
    """Whether each target has its value, or those of the last axis share one."""
    weight = others[-1]
    return (
        value.shape == old.shape
        and value.shape in (target.shape, (*target.shape[:-1], 1))
        and (not isinstance(weight, Tensor) or weight.shape == target.shape)
    )


@compiled("value_loss", _one_value_or_all)
def value_loss(
    value: Tensor,
    old_value: Tensor,
    target: Tensor,
    clip: float,
    delta: float,
    weight: Tensor | None = None,
) -> Tensor:
    """E[max(H(V - R), H(V_old + clip(V - V_old, ±ε) - R))], H the Huber loss; scalar.

    Args:
        value: V, broadcastable to target, normalised units.
        old_value: V before the update, of value's shape.
        target: R in normalised units.
        clip: ε.
        delta: Huber's δ.
        weight: of target's shape, or None.
    """
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    worst = torch.maximum(huber(value - target, delta), huber(clipped - target, delta))
    return weighted_mean(worst, weight)


class SkillLoss(NamedTuple):
    """A discriminator's loss and how often its best guess is right; scalars."""

    loss: Tensor
    accuracy: Tensor


def _a_skill_each(logits: Tensor, skill: Tensor, weight: Tensor | None = None) -> bool:
    return logits.shape[:-1] == skill.shape and (weight is None or weight.shape == skill.shape)


@compiled("skill_loss", _a_skill_each, SkillLoss)
def skill_loss(logits: Tensor, skill: Tensor, weight: Tensor | None = None) -> SkillLoss:
    """Cross-entropy of the skill in force (HMASD eq. 8): [..., n], [...] int64."""
    with torch.no_grad():
        right = (logits.argmax(-1) == skill).to(logits.dtype)
        accuracy = weighted_mean(right, weight)
    return SkillLoss(-weighted_mean(score_categorical(logits, skill).logp, weight), accuracy)


def balance(counts: Tensor) -> Tensor:
    """What a pair of each skill weighs so that all skills weigh alike: [..., n] for so many pairs.

    log q then measures where skills lead against a uniform choice among them; with the
    coordinator's choice as the prior, what is chosen often is learned best and
    chosen more often still (Eysenbach et al., ICLR 2019, section 3.1). A pair weighs at most
    `HEAVIEST`, so that a few of them do not make up the whole gradient.
    """
    mean = counts.sum(-1, keepdim=True) / counts.shape[-1]
    return (mean / counts.clamp(min=1)).clamp(max=HEAVIEST)


def _two_ends(both: Tensor, limit: float, weight: Tensor | None = None) -> bool:
    return len(both) == 2 and (weight is None or weight.shape == both.shape[1:-1])


@compiled("smoothness_penalty", _two_ends)
def smoothness_penalty(both: Tensor, limit: float, weight: Tensor | None = None) -> Tensor:
    """E[max(0, |f(s_{t+1}) - f(s_t)|² / c² - 1)]: logits f may change by c in one env step.

    Distance is counted in steps of the env and not in units of the observation, as in METRA
    (Park et al., ICLR 2024): a feature that differs between two neighbouring states cannot make the
    discriminator sure of a skill.

    Args:
        both: [2, ..., n] logits before and after a step of the env.
        limit: c.
        weight: [...], or None.
    """
    before, after = both
    excess = ((after - before) / limit).square().sum(-1) - 1
    return weighted_mean(excess.clamp(min=0), weight)


def explained_variance(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, ranks: Ranks = ALONE
) -> Tensor:
    """1 - Var(target - prediction) / Var(target); 1 perfect, 0 no better than a constant.

    Args:
        prediction: broadcastable to target.
        target: any shape.
        weight: of target's shape, 0 for what does not count; or None.
        ranks: whose predictions all count.
    """
    both = (target - prediction).double(), target.double()
    columns = [(moment, weight) for x in both for moment in (x, x.square())]
    error, error_square, mean, square = ranks.means(*columns)
    return 1 - (error_square - error**2) / (square - mean**2).clamp(min=1e-8)
