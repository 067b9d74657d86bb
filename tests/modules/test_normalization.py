"""Value normalisation: a wrong mean or a bias at the start scales every target of the critic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hmasd.modules.normalization import MIN_VARIANCE, ValueNormalizer


def weighted_moments(batches: list[np.ndarray], beta: float) -> tuple[float, float]:
    """Mean and deviation with explicit weights β^(n-1-i) / Σ, float64."""
    weights = np.array([beta ** (len(batches) - 1 - i) for i in range(len(batches))])
    weights /= weights.sum()
    mean = sum(w * b.mean() for w, b in zip(weights, batches, strict=True))
    square = sum(w * (b**2).mean() for w, b in zip(weights, batches, strict=True))
    return float(mean), float(np.sqrt(square - mean**2))


def fed(batches: list[np.ndarray], beta: float) -> ValueNormalizer:
    normalizer = ValueNormalizer(beta)
    for batch in batches:
        normalizer.update(torch.from_numpy(batch))
    return normalizer


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99999])
@pytest.mark.parametrize("count", [1, 2, 20])
def test_statistics_against_explicit_weights(beta: float, count: int) -> None:
    rng = np.random.default_rng(count)
    batches = [rng.normal(5 + i, 2, size=(4, 3)) for i in range(count)]
    mean, std = fed(batches, beta).statistics()
    np.testing.assert_allclose([mean, std], weighted_moments(batches, beta), rtol=1e-7)


def test_another_memory_would_be_seen() -> None:
    """Control: the oracle tells a β of 0.9 from one of 0.8, and sees a missing debias."""
    rng = np.random.default_rng(0)
    batches = [rng.normal(5 + i, 2, size=50) for i in range(5)]
    normalizer = fed(batches, 0.9)
    expected = weighted_moments(batches, 0.9)[0]
    assert abs(fed(batches, 0.8).statistics()[0] - expected) > 0.1
    assert abs(float(normalizer.mean) - expected) > 1.0


def test_before_the_first_update_nothing_changes() -> None:
    """The critic's first values must not be scaled by statistics of nothing."""
    value = torch.randn(5)
    normalizer = ValueNormalizer()
    assert torch.equal(normalizer.normalize(value), value)
    assert torch.equal(normalizer.denormalize(value), value)


def test_normalize_and_denormalize_are_inverse(float64: None) -> None:
    normalizer = ValueNormalizer()
    normalizer.update(50 + 7 * torch.randn(1000))
    value = torch.randn(20)
    torch.testing.assert_close(normalizer.normalize(normalizer.denormalize(value)), value)
    assert (normalizer.denormalize(value) - value).abs().min() > 1


def test_targets_become_standard(float64: None) -> None:
    normalizer = ValueNormalizer()
    targets = 50 + 7 * torch.randn(1000)
    normalizer.update(targets)
    normalized = normalizer.normalize(targets)
    assert abs(normalized.mean()) < 1e-6
    assert abs(normalized.std(correction=0) - 1) < 1e-6


def test_constant_targets_do_not_divide_by_zero() -> None:
    normalizer = ValueNormalizer()
    normalizer.update(torch.full((10,), 3.0))
    mean, std = normalizer.statistics()
    assert float(mean) == pytest.approx(3.0)
    assert float(std) == pytest.approx(MIN_VARIANCE**0.5)


def test_float32_values_stay_float32() -> None:
    normalizer = ValueNormalizer()
    normalizer.update(torch.randn(10))
    assert normalizer.normalize(torch.randn(3)).dtype == torch.float32
    assert normalizer.denormalize(torch.randn(3)).dtype == torch.float32


def test_statistics_travel_with_the_state_dict() -> None:
    source, copy = ValueNormalizer(), ValueNormalizer()
    source.update(50 + 7 * torch.randn(100))
    copy.load_state_dict(source.state_dict())
    assert [float(x) for x in copy.statistics()] == [float(x) for x in source.statistics()]
