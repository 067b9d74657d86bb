"""Gymnasium games of several agents: played by hand, and the limits of packages."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from hmasd.envs import gymnasium_team
from hmasd.envs.contract import check_env
from hmasd.envs.gymnasium_team import GymnasiumTeam, is_gymnasium_team
from hmasd.envs.vector import make_batch
from tests.helpers.foreign_envs import Carriers, Codes, Relay


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("shared_reward", [False, True])
def test_plays_by_hand(listed: bool, shared_reward: bool) -> None:
    env = Carriers(listed, shared_reward)
    assert is_gymnasium_team(env)
    team = GymnasiumTeam(env)
    view = team.reset(3)
    left, right = env.places.tolist()
    assert view.obs.tolist() == [[left, 0, 0], [right, 0, 1]]
    assert view.state.tolist() == [left, right, 0, 1] and team.state_size == 4
    assert team.action_space == Box(-1, 1, (2,), np.float32)
    step = team.step(np.array([[1, 1], [0, -1]], np.float32))  # moves 4 + 1 and 2 - 1
    assert step.reward == 6.0 and not step.terminated and not step.success
    np.testing.assert_allclose(step.view.obs[:, 0], [left + 5, right + 1], rtol=1e-6)
    ends = [team.step(np.ones((2, 2), np.float32)) for _ in range(2)]
    assert [(s.terminated, s.success) for s in ends] == [(False, False), (True, True)]
    assert team.render().shape == (4, 6, 3) and team.render().dtype == np.uint8
    team.close()


def test_the_mean_of_the_rewards() -> None:
    team = GymnasiumTeam(Carriers(), "mean")
    team.reset(0)
    assert team.step(np.array([[1, 1], [0, -1]], np.float32)).reward == 3.0


@pytest.mark.parametrize("make", [Carriers, Codes])
def test_keeps_the_contract(make) -> None:
    assert check_env(make_batch(lambda: GymnasiumTeam(make()), 2, 7), steps=50, seed=0) == []


def test_combinations_and_fillers() -> None:
    env = Codes()
    team = GymnasiumTeam(env)
    assert team.action_space == Discrete(6)
    assert team.reset(0).action_mask.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    team.step(np.array([5, 3]))
    assert env.seen[0].tolist() == [1, 2] and env.seen[1] == 3


class Package(Carriers):
    """Ends at `limit` steps as if the task had ended."""

    limit = 3
    done = False

    def reset(self, **options):
        self.time = 0
        return super().reset(**options)

    def step(self, actions):
        self.time += 1
        observations, rewards, *_ = super().step(actions)
        return observations, rewards, self.done or self.time >= self.limit, False, {}


@pytest.mark.parametrize(("known", "ends"), [(True, (False, True)), (False, (True, False))])
def test_a_packages_own_limit_is_a_truncation(known, ends, monkeypatch) -> None:
    package = gymnasium_team._Package("limit", lambda game: game.done)
    if known:
        monkeypatch.setitem(gymnasium_team._PACKAGES, Package.__module__.split(".")[0], package)
    env = Package()
    team = GymnasiumTeam(env)
    team.reset(0)
    steps = [team.step(np.zeros((2, 2), np.float32)) for _ in range(3)]
    assert [(s.terminated, s.truncated) for s in steps] == [(False, False)] * 2 + [ends]
    team.reset(0)
    env.done = True
    step = team.step(np.zeros((2, 2), np.float32))
    assert (step.terminated, step.truncated, step.success) == (True, False, known)


def test_lists_of_another_length_are_named() -> None:
    class Short(Carriers):
        def step(self, actions):
            observations, rewards, *rest = super().step(actions)
            return observations[: self.keep], rewards[: 3 - self.keep] * self.keep, *rest

    env = Short()
    team = GymnasiumTeam(env)
    team.reset(0)
    env.keep = 1
    with pytest.raises(ValueError, match="there are 1 observations, but 2 agents"):
        team.step(np.zeros((2, 2), np.float32))
    env.step = lambda actions: (env._observe(), [1.0] * 3, False, False, {})
    with pytest.raises(ValueError, match="step gave 3 rewards, but must give one per agent"):
        team.step(np.zeros((2, 2), np.float32))


class Told(Carriers):
    """Tells ends and infos as it is set to."""

    terminated: object = False
    truncated: object = False
    info: object = {}

    def step(self, actions):
        observations, rewards, *_ = super().step(actions)
        return observations, rewards, self.terminated, self.truncated, self.info


@pytest.mark.parametrize(
    ("terminated", "truncated", "ends"),
    [
        (True, True, (True, False)),
        (False, True, (False, True)),
        ([True, False], [False, False], (False, False)),
        ([True, False], [False, True], (False, True)),
        (np.array([True, True]), False, (True, False)),
    ],
)
def test_an_episode_is_over_when_each_agent_has_an_end(terminated, truncated, ends) -> None:
    env = Told()
    team = GymnasiumTeam(env)
    team.reset(0)
    env.terminated, env.truncated = terminated, truncated
    step = team.step(np.zeros((2, 2), np.float32))
    assert (step.terminated, step.truncated) == ends


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"terminated": {0: False, 1: False}}, "as terminated, but must give one bool"),
        ({"truncated": [True] * 3}, "as truncated, but must give one bool, or a list of one"),
        ({"truncated": None}, "step gave None as truncated"),
        ({"info": {"action_mask": [1]}}, "has an action_mask now, but had none"),
    ],
)
def test_what_cannot_be_read_is_named(told: dict[str, object], words: str) -> None:
    env = Told()
    team = GymnasiumTeam(env)
    team.reset(0)
    vars(env).update(told)
    with pytest.raises(ValueError, match=words):
        team.step(np.zeros((2, 2), np.float32))


def test_calls_of_years_ago_are_named() -> None:
    env = Told()
    team = GymnasiumTeam(env)
    team.reset(0)
    env.step = lambda actions: (env._observe(), 0.0, False, {})
    with pytest.raises(ValueError, match="step returned 4 values, but must return 5: observations"):
        team.step(np.zeros((2, 2), np.float32))
    env.reset = lambda seed: env._observe()
    with pytest.raises(
        ValueError, match="reset returned tuple as its last part, but must return the info"
    ):
        team.reset(1)


def test_one_info_per_agent_may_hold_its_mask() -> None:
    class Masked(Codes):
        def reset(self, **options):
            return super().reset(**options)[0], [{}, {"action_mask": np.array([1, 0, 0, 1])}]

    view = GymnasiumTeam(Masked()).reset(0)
    assert view.action_mask.tolist() == [[True] * 6, [True, False, False, True, False, False]]


def test_what_is_no_team() -> None:
    single = Carriers()
    single.action_space = Discrete(3)
    assert not is_gymnasium_team(single) and not is_gymnasium_team(Relay())
