"""The discoverer's reward: a coefficient in the wrong place teaches something else."""

from __future__ import annotations

import math

import pytest
import torch

from hmasd.algorithm.intrinsic import chance_offset, log_odds, mix_rewards


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
        by_chance = float(log_odds(torch.zeros(n), torch.tensor(1)))
        assert by_chance + chance_offset("log_n", n, "log_odds") == pytest.approx(0, abs=1e-6)
        assert chance_offset("none", n) == chance_offset("none", n, "log_odds") == 0.0


def test_log_odds_by_hand() -> None:
    """Of 1/2 it is even; of 1/4 one to three; of 9/10 nine to one."""
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.05, 0.9, 0.05]]).log()
    odds = log_odds(logits, torch.tensor([0, 1, 1]))
    assert odds.tolist() == pytest.approx([0, -math.log(3), math.log(9)], abs=1e-6)


def test_log_odds_are_those_of_the_softmax(float64: None) -> None:
    logits = 3 * torch.randn(5, 2, 7)
    choice = torch.randint(7, (5, 2))
    q = logits.softmax(-1).gather(-1, choice.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_odds(logits, choice), q.log() - (1 - q).log())


def test_log_odds_go_on_where_log_q_levels_off() -> None:
    """100 nats ahead, where 1 - q is 0 in these numbers; log q is the control."""
    near, far = torch.tensor([[100.0, 0, 0]]), torch.tensor([[101.0, 0, 0]])
    own = torch.tensor([0])
    assert float(log_odds(far, own) - log_odds(near, own)) == pytest.approx(1)
    assert float(far.log_softmax(-1)[0, 0] - near.log_softmax(-1)[0, 0]) == 0
