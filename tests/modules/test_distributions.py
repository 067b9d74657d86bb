"""Choices: if a draw did not follow the probabilities that are scored, PPO's ratio would lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from hmasd.modules import distributions
from hmasd.modules.distributions import (
    gather_log_prob,
    gaussian_entropy,
    gaussian_log_prob,
    mask_logits,
    one_hot,
    sample_categorical,
    sample_gaussian,
    score_categorical,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(logits: Tensor, seed: int = 0) -> Tensor:
    return torch.rand(logits.shape[:-1], generator=generator(seed), dtype=logits.dtype)


def normal(mean: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(mean.shape, generator=generator(seed), dtype=mean.dtype)


def chi_square_p(log_probs: Tensor, expected: Tensor, draws: int, seed: int) -> float:
    """p-value of `draws` draws from log_probs [A] against the probabilities expected [A]."""
    many = log_probs.expand(draws, -1)
    drawn = sample_categorical(many, uniform(many, seed)).choice
    counts = torch.bincount(drawn, minlength=len(expected)).double()
    return float(
        stats.chisquare(counts, expected.double() / expected.double().sum() * draws).pvalue
    )


def test_one_hot_by_hand() -> None:
    hot = one_hot(torch.tensor([[2, 0]]), 3, torch.float64)
    assert hot.tolist() == [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    assert hot.dtype == torch.float64


@pytest.mark.parametrize("seed", range(3))
def test_draws_follow_the_probabilities(seed: int) -> None:
    log_probs = torch.randn(6, generator=generator(seed)).log_softmax(-1)
    assert chi_square_p(log_probs, log_probs.exp(), 50_000, seed) > 1e-3


def test_draws_from_shifted_probabilities_would_be_seen() -> None:
    """Control: off by one choice, or 2 % too flat, must be rejected."""
    log_probs = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert chi_square_p(log_probs, log_probs.exp().roll(1), 50_000, 0) < 1e-6
    assert chi_square_p(log_probs, log_probs.exp() + 0.02, 50_000, 0) < 1e-6


def test_without_random_numbers_the_most_likely_is_taken() -> None:
    log_probs = torch.randn(500, 7).log_softmax(-1)
    drawn = sample_categorical(log_probs, None)
    assert torch.equal(drawn.choice, log_probs.max(-1).indices)
    torch.testing.assert_close(drawn.logp, log_probs.max(-1).values)


def test_draws_are_decided_by_their_numbers_alone() -> None:
    """Evaluation draws with generators of its own; a global draw would change training."""
    logits, mean = torch.zeros(100, 5), torch.zeros(100, 2)
    before = torch.get_rng_state()
    first, again, other = (
        (
            sample_categorical(logits, uniform(logits, seed)),
            sample_gaussian(mean, mean, normal(mean, seed)),
        )
        for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.choice, b.choice)
        assert not torch.equal(a.choice, c.choice)


def masked_draws(mask_function: Callable[[Tensor, Tensor], Tensor]) -> int:
    """How many of 1e5 draws took a masked action; the first and the last are masked often."""
    logits = 3 * torch.randn(100_000, 5, generator=generator(1))
    mask = torch.rand(100_000, 5, generator=generator(2)) < 0.5
    mask[torch.arange(len(mask)), torch.randint(5, (len(mask),), generator=generator(3))] = True
    drawn = sample_categorical(mask_function(logits, mask), uniform(logits, 4)).choice
    return int((~gather_log_prob(mask, drawn)).sum())


def test_masked_actions_are_never_drawn() -> None:
    assert masked_draws(mask_logits) == 0
    assert masked_draws(lambda logits, mask: logits) > 1000
    assert masked_draws(lambda logits, mask: mask_logits(logits, ~mask | mask.cumsum(-1).eq(1))) > 0


@pytest.mark.parametrize("threshold", [0.0, 1 - 2.0**-24])
def test_extreme_uniforms_stay_inside_the_mask(threshold: float) -> None:
    """`torch.rand` can give exactly 0 and the float just below 1: once in 16 million draws each."""
    mask = torch.tensor([False, True, True, False, True, False]).expand(50_000, -1)
    logits = 5 * torch.randn(50_000, 6, generator=generator())
    drawn = sample_categorical(mask_logits(logits, mask), torch.full((50_000,), threshold)).choice
    assert set(drawn.tolist()) <= {1, 2, 4}


def test_masked_action_has_probability_and_gradient_exactly_zero() -> None:
    logits = torch.randn(20, 4, requires_grad=True)
    mask = torch.tensor([True, False, True, False]).expand(20, -1)
    masked = mask_logits(logits, mask)
    assert (masked.softmax(-1)[~mask] == 0).all()
    score = score_categorical(masked, torch.zeros(20, dtype=torch.int64))
    loss = score.entropy.sum() + score.logp.square().sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).all()
    assert gradient.isfinite().all()


def test_infinity_as_a_mask_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with -inf the entropy is NaN, which is why the mask is finite."""
    monkeypatch.setattr(distributions, "MASKED", float("-inf"))
    logits = mask_logits(torch.zeros(2, dtype=torch.float64), torch.tensor([True, False]))
    assert not score_categorical(logits, torch.tensor(0)).entropy.isfinite()


def test_no_mask_leaves_logits_alone() -> None:
    logits = torch.randn(3, 4)
    assert mask_logits(logits, None) is logits


def test_categorical_against_torch_distributions(float64: None) -> None:
    logits, choice = torch.randn(4, 3, 6), torch.randint(6, (4, 3))
    oracle = torch.distributions.Categorical(logits=logits)
    score = score_categorical(logits, choice)
    torch.testing.assert_close(score.logp, oracle.log_prob(choice))
    torch.testing.assert_close(score.entropy, oracle.entropy())
    drawn = sample_categorical(logits, uniform(logits))
    torch.testing.assert_close(drawn.logp, oracle.log_prob(drawn.choice))


def test_gaussian_against_torch_distributions(float64: None) -> None:
    mean, log_std, value = torch.randn(4, 3, 2), torch.tensor([-0.7, 0.4]), torch.randn(4, 3, 2)
    oracle = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    torch.testing.assert_close(gaussian_log_prob(mean, log_std, value), oracle.log_prob(value))
    torch.testing.assert_close(gaussian_entropy(mean, log_std), oracle.entropy())
    wrong = gaussian_log_prob(mean, 2 * log_std, value)  # control: a variance for a deviation
    assert (wrong - oracle.log_prob(value)).abs().max() > 0.1


def test_gaussian_draws_have_mean_and_deviation() -> None:
    """Kolmogorov-Smirnov per axis; control: the other axis's deviation is rejected."""
    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]).log()
    many = mean.expand(20_000, 2)
    drawn = sample_gaussian(many, log_std, normal(many)).choice
    for axis, (center, scale) in enumerate([(1.0, 0.5), (-2.0, 3.0)]):
        sample = drawn[:, axis].numpy()
        assert stats.kstest(sample, stats.norm(center, scale).cdf).pvalue > 1e-3
        assert stats.kstest(sample, stats.norm(center, 3.5 - scale).cdf).pvalue < 1e-6
    assert torch.equal(sample_gaussian(mean, log_std, None).choice, mean)
