"""The gradient noise scale against Gaussian gradients of known mean and covariance, and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hmasd.algorithm import discoverer
from hmasd.algorithm.discoverer import split_by_env
from hmasd.algorithm.noise_scale import (
    LEAST_ROUNDS,
    GradientMoments,
    NoiseScale,
    gradient_moments,
)
from hmasd.types import ActorBatch
from tests.helpers.envs import Counter, MaskedAgents
from tests.helpers.rounds import SMALL, Player, captured
from tests.helpers.runs import differences, snapshot

MEAN = torch.linspace(-0.3, 0.5, 6, dtype=torch.float64)  # G
DEVIATION = torch.linspace(0.5, 2.0, 6, dtype=torch.float64)  # Σ = diag(DEVIATION²)
SIGNAL, NOISE = float(MEAN.square().sum()), float(DEVIATION.square().sum())


def test_two_parts_by_hand() -> None:
    """|g|² = 4, mean |g_k|² = 5, so tr Σ = 8 (5 - 4) and |G|² = 4 - 8 / 8 = 3 = g_1 g_2."""
    moments = gradient_moments(torch.tensor([[3.0], [1.0]]), torch.tensor([0.5, 0.5]), 8)
    assert moments == GradientMoments(signal=3.0, noise=8.0)


def batch_of(sizes: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """Mean gradients of parts of so many samples, their shares, and the samples of all."""
    total = sum(sizes)
    samples = MEAN + DEVIATION * torch.randn(total, 6, generator=generator, dtype=torch.float64)
    gradients = torch.stack([part.mean(0) for part in samples.split(sizes)])
    return gradients, torch.tensor(sizes) / total, total


def check_unbiased(estimate: Callable[..., GradientMoments], sizes: list[int]) -> None:
    """Means over 4000 batches lie within 4 standard errors of |G|² and tr Σ."""
    generator = torch.Generator().manual_seed(0)
    found = torch.tensor([estimate(*batch_of(sizes, generator)) for _ in range(4000)])
    error = (found.mean(0) - torch.tensor([SIGNAL, NOISE])).abs()
    assert (error < 4 * found.std(0) / math.sqrt(len(found))).all()


@pytest.mark.parametrize("sizes", [[8, 8], [5, 5, 5, 5], [3, 9, 4]])
def test_the_moments_are_those_of_the_distribution(sizes: list[int]) -> None:
    check_unbiased(gradient_moments, sizes)


def test_control_a_batch_that_counts_its_own_noise_as_signal_is_caught() -> None:
    def biased(gradients: Tensor, share: Tensor, batch_size: int) -> GradientMoments:
        signal, noise = gradient_moments(gradients, share, batch_size)
        return GradientMoments(signal + noise / batch_size, noise)

    with pytest.raises(AssertionError):
        check_unbiased(biased, [5, 5, 5, 5])
    with pytest.raises(AssertionError):  # equal shares assumed
        check_unbiased(
            lambda g, share, n: gradient_moments(g, torch.full_like(share, 1 / 3), n), [1, 14, 1]
        )


def test_the_scale_is_the_ratio_of_the_means() -> None:
    """Not the mean of ratios: one round without signal must not count as infinitely noisy."""
    scale = NoiseScale()
    for number in range(2000):
        assert (scale.value is None) == (number < LEAST_ROUNDS)
        scale.add(GradientMoments(signal=0.0 if number % 2 else 0.02, noise=30.0))
    assert scale.value == pytest.approx(3000, rel=0.03)


def test_what_is_steady_is_exact_from_the_start() -> None:
    scale = NoiseScale()
    for _ in range(LEAST_ROUNDS):
        scale.add(GradientMoments(0.5, 600.0))
    assert scale.value == pytest.approx(1200)


def test_no_signal_is_an_infinite_scale() -> None:
    scale = NoiseScale()
    for _ in range(LEAST_ROUNDS):
        scale.add(GradientMoments(-0.1, 600.0))
    assert scale.value == math.inf


def test_goes_on_exactly() -> None:
    scale, other = NoiseScale(), NoiseScale()
    scale.add(GradientMoments(0.5, 600.0))
    other.load_state_dict(scale.state_dict())
    assert vars(other) == vars(scale)
    other.add(GradientMoments(0.1, 1.0))
    assert other.rounds == 2 and scale.rounds == 1


# --- measured on the actor -----------------------------------------------------------------------


def measured(player: Player, monkeypatch: pytest.MonkeyPatch) -> tuple[ActorBatch, Tensor, Tensor]:
    """A round's batch, and the gradients and shares of the parts that it was measured in."""
    player.collect()
    learner, copies = player.agent.discoverer, []
    measure = learner.measure_noise

    def copy_first(batch: ActorBatch, *sizes: int) -> dict[str, float]:  # the round is emptied
        copies.append(ActorBatch(*(None if x is None else x.clone() for x in batch)))
        return measure(batch, *sizes)

    learner.measure_noise = copy_first
    with captured(discoverer, "gradient_moments", monkeypatch) as calls:
        player.agent.sync_update()
    gradients, share, batch_size, _ = calls[0]
    assert batch_size == player.agent.config.batch_size
    return copies[0], gradients, share


@pytest.mark.parametrize(("num_envs", "count"), [(2, 2), (3, 3), (4, 4), (6, 6), (7, 7), (10, 5)])
def test_the_parts_are_whole_envs(num_envs: int, count: int, monkeypatch) -> None:
    """Every sample is in one part, with all others of its env."""
    config = replace(SMALL, num_envs=num_envs, batch_size=12 * num_envs, batch_schedule="noise")
    batch, gradients, _ = measured(Player(config, Counter(num_envs)), monkeypatch)
    parts = list(split_by_env(batch, 3, num_envs))
    assert len(parts) == len(gradients) == count
    envs = [set(part.obs[..., 2].flatten().tolist()) for part in parts]
    assert sorted(env for some in envs for env in some) == list(range(num_envs))
    for name, x in batch._asdict().items():
        if x is not None:
            pieces = torch.cat([getattr(part, name).flatten() for part in parts])
            assert torch.equal(pieces.sort().values, x.flatten().sort().values)
    for part in parts:  # the GRU state before a chunk is that of the chunk's first step
        assert len(part.hidden) == part.obs.shape[1]


@pytest.mark.parametrize("env", [Counter, MaskedAgents])
@pytest.mark.parametrize("samples_at_once", [0, 4])
def test_the_parts_add_up_to_the_updates_gradient(
    env, samples_at_once: int, monkeypatch, float64: None
) -> None:
    """Weighted with those who live, and before the first step: else something else is measured."""
    config = replace(SMALL, batch_schedule="noise", discoverer_epochs=1, max_grad_norm=1e9)
    config = replace(config, samples_at_once=samples_at_once)
    player = Player(config, env(4))
    batch, gradients, share = measured(player, monkeypatch)
    stepped = player.agent.discoverer.actor_learner.gradient
    torch.testing.assert_close(share @ gradients, stepped, rtol=1e-9, atol=1e-12)
    assert (batch.weight is not None) == (env is MaskedAgents)
    if batch.weight is not None:
        equal = torch.full_like(share, 1 / len(share))
        assert (equal @ gradients - stepped).abs().max() > 1e-6  # control


def test_measuring_changes_nothing_in_training() -> None:
    """With max_batch_factor 1 the round stays as it is: bit for bit the constant schedule."""
    plain, measuring = (
        Player(replace(SMALL, **change), Counter(4, end_chances=(0.1, 0.1)))
        for change in ({}, {"batch_schedule": "noise", "max_batch_factor": 1})
    )
    for _ in range(3):
        metrics = []
        for player in (plain, measuring):
            player.collect()
            metrics.append(player.agent.sync_update())
        more = {"low/gradient_signal", "low/gradient_noise"}
        assert set(metrics[1]) - set(metrics[0]) == more
        assert {k: v for k, v in metrics[1].items() if k not in more} == metrics[0]
    changed = differences(snapshot(plain.agent), snapshot(measuring.agent))
    assert changed == ["noise_scale.signal", "noise_scale.noise", "noise_scale.rounds"]
