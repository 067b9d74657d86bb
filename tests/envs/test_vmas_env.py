"""VMAS's scenarios in the contract, against the real package."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from hmasd.envs.contract import check_env, random_action
from hmasd.envs.extras import install_line
from hmasd.envs.registry import make_env
from hmasd.types import EnvOptions, EnvStep

pytest.importorskip("vmas", reason=f"VMAS is not installed: {install_line('vmas')}")

from hmasd.envs.vmas_env import VmasEnv, make_vmas


def actions(env: VmasEnv, steps: int, seed: int = 0) -> list[np.ndarray]:
    view, rng = env.reset(seed), np.random.default_rng(seed)
    return [random_action(env, view, rng) for _ in range(steps)]


def assert_equal(left: EnvStep, right: EnvStep) -> None:
    for a, b in zip([*left[1:], *left.view[:2]], [*right[1:], *right.view[:2]], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "args", "sizes"),
    [
        ("vmas:navigation", "", (4, 18, 72)),
        ("vmas:balance", "", (3, 16, 48)),
        ("vmas:navigation", "{continuous: false, n_agents: 2}", (2, 18, 36)),
        ("vmas:simple_speaker_listener", "{continuous: false}", (2, 11, 22)),
    ],
)
def test_follows_the_contract(name: str, args: str, sizes: tuple[int, int, int]) -> None:
    env = make_env(name, 3, 15, EnvOptions(args))
    assert (env.num_agents, env.obs_size, env.state_size) == sizes
    assert check_env(env, steps=40, seed=3) == []


@pytest.mark.parametrize("scenario", ["navigation", "balance", "football", "simple_reference"])
def test_goes_on_exactly_in_another_object(scenario: str) -> None:
    env, other = make_vmas(3, 12, scenario), make_vmas(3, 12, scenario)
    played = actions(env, 40)
    for action in played[:17]:
        env.step(action)
    other.set_state(env.get_state())
    for action in played[17:]:
        assert_equal(env.step(action), other.step(action))


def test_envs_of_one_process_do_not_disturb_each_other() -> None:
    alone, disturbed = make_vmas(2, 5, "navigation"), make_vmas(2, 5, "navigation")
    played = actions(alone, 30)
    alone.reset(9)
    steps = [alone.step(action) for action in played]
    disturbed.reset(9)
    for action, wanted in zip(played, steps, strict=True):
        make_vmas(1, 5, "balance").reset(3)
        assert_equal(disturbed.step(action), wanted)


def test_the_process_own_generators_are_left_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    wanted = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    env = make_vmas(2, 3, "navigation")
    for action in actions(env, 10):
        env.step(action)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == wanted


def test_truncates_with_what_was_reached_and_restarts() -> None:
    env = make_vmas(2, 4, "navigation")
    view = env.reset(1)
    still = np.zeros((2, 4, 2), dtype=np.float32)
    first = view.obs.copy()
    steps = [env.step(still) for _ in range(4)]
    assert [s.truncated.all() for s in steps] == [False, False, False, True]
    assert not any(s.terminated.any() for s in steps)
    np.testing.assert_allclose(steps[-1].final_obs[..., :2], first[..., :2], atol=1e-6)
    assert (np.abs(steps[-1].view.obs[..., :2] - first[..., :2]).max(axis=(1, 2)) > 0.05).all()


def test_a_reached_goal_terminates() -> None:
    env = make_vmas(2, 50, "navigation", n_agents=1, collisions=False)
    env.reset(1)
    state = env.get_state()
    agent, goal = ".world._agents.0._state._pos", ".world._landmarks.0._state._pos"
    state[goal][0] = state[agent][0]
    state[goal][1] = state[agent][1] + 1.0
    env.set_state(state)
    step = env.step(np.zeros((2, 1, 2), dtype=np.float32))
    assert step.terminated.tolist() == [True, False]
    assert not step.truncated.any()
    np.testing.assert_allclose(step.final_obs[0, 0, :2], state[agent][0], atol=1e-6)


def test_a_picture_shows_the_end_of_an_episode_until_the_next_step(monkeypatch) -> None:
    """The picture is replaced by where the first agent is, since VMAS's needs a display or EGL."""
    env = make_vmas(2, 3, "navigation")
    agent = env._game.agents[0]
    monkeypatch.setattr(
        env._game, "render", lambda mode, env_index: agent.state.pos[env_index].numpy().copy()
    )
    played = actions(env, 6)
    env.reset(0)
    starts = env.render(1)
    shown = []
    for action in played:
        env.step(action)
        shown.append(env.render(1))
    now = agent.state.pos[1].numpy()
    assert np.abs(shown[2] - shown[1]).max() < 0.2, "the end follows from the step before"
    assert np.abs(shown[5] - now).max() > 0 and np.abs(shown[3] - shown[2]).max() > 0
    env.reset(0)
    np.testing.assert_array_equal(env.render(1), starts)


def test_rewards_of_agents_become_the_teams() -> None:
    rewards = []
    for team_reward in ("sum", "mean"):
        env = make_env("vmas:navigation", 2, 10, EnvOptions("", team_reward))
        action = actions(env, 1, seed=5)[0]
        rewards.append(env.step(action).reward)
    assert (rewards[0] != 0).all()
    np.testing.assert_allclose(rewards[0], 4 * rewards[1], rtol=1e-5)


def test_names_what_it_cannot_play_or_make() -> None:
    env = make_vmas(2, 5, "navigation")
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros((2, 4, 2), dtype=np.float32))
    env.reset(0)
    with pytest.raises(ValueError, match="env 1, agent 3: action nan is not finite"):
        env.step(
            np.where(
                np.arange(8).reshape(1, 4, 2) + 8 * np.arange(2)[:, None, None] == 15,
                np.float32(np.nan),
                np.float32(0),
            )
        )
    with pytest.raises(ValueError, match=r"use the num_envs"):
        env.set_state(make_vmas(3, 5, "navigation").get_state())
    with pytest.raises(ValueError, match="no scenario 'navigatoin'"):
        make_vmas(2, 5, "navigatoin")
    with pytest.raises(ValueError, match="seed is -1"):
        env.reset(-1)
    with pytest.raises(ValueError, match="num_envs is 0"):
        make_vmas(0, 5, "navigation")
    with pytest.raises(ValueError, match="team_reward is 'max'"):
        make_vmas(1, 5, "navigation", team_reward="max")
