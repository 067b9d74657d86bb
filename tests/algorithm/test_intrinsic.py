"""The discoverer's reward: a coefficient in the wrong place teaches something else."""

from __future__ import annotations

import math

import pytest
import torch

from hmasd.algorithm.intrinsic import chance_offset, mix_rewards


def test_mix_by_hand() -> None:
    parts = mix_rewards(
        torch.tensor([[2.0]]),
        torch.tensor([[-1.0]]),
        torch.tensor([[[-3.0, -5.0]]]),
        extrinsic_coef=100.0,
        team_coef=0.1,
        individual_coef=0.5,
    )
    assert parts.extrinsic.tolist() == [[200.0]]
    assert parts.team.tolist() == [[pytest.approx(-0.1)]]
    assert parts.individual.tolist() == [[[-1.5, -2.5]]]
    assert parts.mixed[0, 0].tolist() == pytest.approx([198.4, 197.4])


def test_weights_of_zero_leave_the_envs_reward_exactly() -> None:
    """Control of the ablation: any other weight, and it is no longer the env's reward."""
    reward, team, individual = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 3, 2)
    off = {"extrinsic_coef": 1.0, "team_coef": 0.0, "individual_coef": 0.0}
    expected = reward.unsqueeze(-1).expand(5, 3, 2)
    assert torch.equal(mix_rewards(reward, team, individual, **off).mixed, expected)
    for name, value in (("extrinsic_coef", 0.9), ("team_coef", 0.1), ("individual_coef", 0.1)):
        mixed = mix_rewards(reward, team, individual, **(off | {name: value})).mixed
        assert not torch.equal(mixed, expected)


def test_parts_add_up_and_reach_the_right_agent() -> None:
    reward, team, individual = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 3, 2)
    coefs = {"extrinsic_coef": 2.0, "team_coef": 0.3, "individual_coef": 0.7}
    parts = mix_rewards(reward, team, individual, **coefs)
    total = (parts.extrinsic + parts.team).unsqueeze(-1) + parts.individual
    torch.testing.assert_close(parts.mixed, total)
    louder = individual.clone()
    louder[..., 1] += 1
    difference = mix_rewards(reward, team, louder, **coefs).mixed - parts.mixed
    torch.testing.assert_close(difference[..., 1], torch.full((5, 3), 0.7))
    assert (difference[..., 0] == 0).all()


def test_a_guess_at_random_is_worth_nothing_with_log_n() -> None:
    for n in (2, 4, 8):
        assert math.log(1 / n) + chance_offset("log_n", n) == pytest.approx(0)
        assert chance_offset("none", n) == 0.0
