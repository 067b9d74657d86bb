"""How often the team wins, and what follows from it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from hmasd.algorithm.wins import Wins, ended_and_won
from hmasd.config import Config
from hmasd.types import LowRollout


def test_success_is_the_share_of_about_the_last_hundred_episodes() -> None:
    wins = Wins(Config())
    assert wins.shares == (0, 0)
    wins.hear(ended=10, won=10)  # the ninety before count as lost
    assert wins.success == pytest.approx(0.1)
    wins.hear(ended=0, won=0)
    assert wins.success == pytest.approx(0.1)
    wins.hear(ended=400, won=100)  # all that are remembered
    assert wins.success == pytest.approx(0.25)


def test_an_env_that_failed_has_neither_won_nor_lost() -> None:
    """Two steps of three envs, of which the second failed: it ends in both, and "wins" one."""
    fields = dict.fromkeys(LowRollout._fields)
    terminated = torch.tensor([[1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    truncated = torch.tensor([[0, 0, 1], [0, 1, 0]], dtype=torch.bool)
    rollout = LowRollout(
        **fields | {"terminated": terminated, "truncated": truncated, "success": terminated}
    )
    assert ended_and_won(rollout, None) == (5, 3)
    assert ended_and_won(rollout, torch.tensor([False, True, False])) == (3, 2)


def test_sharpness_and_the_team_reward_grow_with_the_wins() -> None:
    """To the power of the share of wins, and in proportion to it."""
    settings = {"winning_sharpness": 9.0, "extrinsic_coef": 1.0, "winning_extrinsic_coef": 4.0}
    wins = Wins(Config(winning_intrinsic=0.2, **settings))
    grown = []
    for won in (0, 50, 100):
        wins.hear(ended=100, won=won)
        grown.append((wins.sharpness, wins.extrinsic_coef, wins.intrinsic_share))
    assert grown == [pytest.approx(x) for x in ((1, 1, 1), (3, 3, 0.6), (9, 5, 0.2))]


def test_sharpness_and_the_rewards_go_back_slowly() -> None:
    """Over about 300 updates, where the size of the steps follows a loss at once."""
    settings = {"winning_sharpness": 10.0, "winning_extrinsic_coef": 10.0, "winning_step": 0.1}
    wins = Wins(Config(winning_intrinsic=0.0, **settings))
    wins.hear(ended=100, won=100)
    share = [1.0]
    for _ in range(300):
        wins.hear(ended=100, won=0)
        share.append(wins.extrinsic_coef / 10)
        assert wins.sharpness == pytest.approx(10 ** share[-1])
        assert wins.intrinsic_share == pytest.approx(1 - share[-1])
        assert wins.step_share == 1
    assert share[10] > 0.96
    assert share[300] == pytest.approx(math.exp(-1), abs=0.01)
    assert all(after < before for before, after in itertools.pairwise(share))
    wins.hear(ended=100, won=60)  # it rises at once
    assert (wins.extrinsic_coef, wins.step_share) == pytest.approx((6.0, 1 - 0.9 * 0.6))


def test_it_goes_on_exactly_from_what_was_saved() -> None:
    wins, other = Wins(Config()), Wins(Config())
    wins.hear(ended=100, won=80)
    wins.hear(ended=100, won=5)
    other.load_state_dict(wins.state_dict())
    for each in (wins, other):
        each.hear(ended=30, won=10)
    assert other.shares == wins.shares
    assert 0 < wins.success < wins.lasting_success
