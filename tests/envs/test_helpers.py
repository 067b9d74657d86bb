"""The small envs of the tests follow the contract, too."""

from __future__ import annotations

import numpy as np
import pytest

from hmasd.envs.base import BatchedEnv
from hmasd.envs.contract import check_env
from tests.helpers.envs import ConstantReward, ContinuousPoint, Counter, MaskedAgents

ENVS = [
    Counter(5),
    ConstantReward(3, terminates=True),
    ConstantReward(3, terminates=False, show_time=False),
    ContinuousPoint(4),
    MaskedAgents(4),
]


@pytest.mark.parametrize("env", ENVS, ids=lambda env: type(env).__name__)
def test_follows_the_contract(env: BatchedEnv) -> None:
    assert check_env(env, steps=120, seed=1) == []


def test_counter_tells_where_a_step_belongs() -> None:
    env = Counter(4, episode_length=7)
    view = env.reset(0)
    for _ in range(50):
        before = view.state.copy()
        step = env.step(np.zeros((4, 2), dtype=np.int64))
        ended = step.terminated | step.truncated
        np.testing.assert_array_equal(step.final_state, before + np.array([0, 1, 0]))
        np.testing.assert_array_equal(step.view.state[ended, 0], before[ended, 0] + 1)
        np.testing.assert_array_equal(step.view.state[ended, 1], 0)
        np.testing.assert_array_equal(step.reward, Counter.reward_of(*before.T))
        view = step.view


@pytest.mark.parametrize("terminates", [True, False])
def test_constant_reward_ends_as_it_was_told(terminates: bool) -> None:
    env = ConstantReward(2, episode_length=3, terminates=terminates)
    env.reset(0)
    steps = [env.step(np.zeros((2, 2), dtype=np.int64)) for _ in range(6)]
    for number, step in enumerate(steps, start=1):
        assert (step.terminated == (terminates and number % 3 == 0)).all()
        assert (step.truncated == (not terminates and number % 3 == 0)).all()


def test_continuous_point_reaches_its_target_by_the_obvious_policy() -> None:
    env = ContinuousPoint(16)
    view = env.reset(3)
    reached = np.zeros(16, dtype=bool)
    for _ in range(5):  # targets are at most 1 away, a step moves 0.2
        step = env.step(5.0 * (view.obs[:, :, 1:] - view.obs[:, :, :1]))
        view = step.view
        reached |= step.success
    assert reached.all()


def test_masked_agents_refuse_what_is_masked_and_pay_the_living() -> None:
    env = MaskedAgents(8, episode_length=12)
    view = env.reset(2)
    seen_dead = False
    for time in range(12):
        action = (time + 1 + np.arange(3)) % 4 * np.ones((8, 1), dtype=np.int64)
        step = env.step(np.where(view.alive, action, 0))
        np.testing.assert_allclose(step.reward, view.alive.mean(axis=1), rtol=1e-6)
        view = step.view
        seen_dead |= bool((~view.alive).any())
    assert seen_dead
    with pytest.raises(ValueError, match="env 0, agent 0: action 0 is masked"):
        env.step(np.zeros((8, 3), dtype=np.int64))
