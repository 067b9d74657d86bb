"""Simple_spread against the package mpe2 itself, step by step from the same state."""

from __future__ import annotations

import numpy as np
import pytest
from mpe2 import simple_spread_v3

from hmasd.envs.simple_spread import SimpleSpread

Points = tuple[np.ndarray, np.ndarray, np.ndarray]  # position, velocity, landmark: [N, 2]


class Original:
    """The package's env, put into a state of ours."""

    def __init__(self, points: Points, episode_length: int) -> None:
        self.env = simple_spread_v3.parallel_env(N=len(points[0]), max_cycles=episode_length)
        self.env.reset(seed=0)
        world = self.env.aec_env.unwrapped.world
        for agent, position, velocity in zip(world.agents, *points[:2], strict=True):
            agent.state.p_pos, agent.state.p_vel = position.copy(), velocity.copy()
        for landmark, position in zip(world.landmarks, points[2], strict=True):
            landmark.state.p_pos = position.copy()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Play [N]; observations [N, O], rewards [N], truncated."""
        names = self.env.possible_agents
        obs, reward, _, truncated, _ = self.env.step(dict(zip(names, action, strict=True)))
        return (
            np.stack([obs[name] for name in names]),
            np.array([reward[name] for name in names]),
            all(truncated.values()),
        )

    def state(self) -> np.ndarray:
        return self.env.state()


def put(env: SimpleSpread, points: Points) -> None:
    """Start a new episode of the only game from these points."""
    env.reset(0)
    names = ("position", "velocity", "landmark")
    env.set_state({**env.get_state(), **{n: x[None] for n, x in zip(names, points, strict=True)}})


def crowd(rng: np.random.Generator, num_agents: int, spread: float) -> Points:
    """Agents on the move within `spread` of the origin; small means many touch."""
    shape = (num_agents, 2)
    return (
        rng.uniform(-spread, spread, shape),
        rng.uniform(-1, 1, shape),
        rng.uniform(-1, 1, shape),
    )


@pytest.mark.parametrize("num_agents", [1, 3, 8])
@pytest.mark.parametrize("spread", [0.2, 1.0])
def test_every_step_is_that_of_the_package(num_agents: int, spread: float) -> None:
    rng, length, touching = np.random.default_rng(num_agents), 100, 0
    for _ in range(4):
        points = crowd(rng, num_agents, spread)
        env = SimpleSpread(1, length, num_agents)
        put(env, points)
        original, place = Original(points, length), points[0]
        for number in range(1, length + 1):
            action = rng.integers(0, 5, size=num_agents)
            if number % 2:  # towards the middle, so that agents go on meeting each other
                action = np.where(place[:, 0] > 0, 1, 2)
            obs, reward, truncated = original.step(action)
            place = obs[:, 2:4]
            step = env.step(action[None])
            np.testing.assert_allclose(step.final_obs[0], obs, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(step.final_state[0], original.state(), rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(step.reward[0], reward.mean(), rtol=1e-6)
            assert step.truncated[0] == truncated == (number == length)
            distance = np.linalg.norm(place[:, None] - place, axis=-1)  # [N, N]
            touching += int((distance < 0.3).sum()) - num_agents
    assert num_agents == 1 or touching > 20, "the comparison is to include collisions"


def test_control_a_changed_start_is_seen() -> None:
    points = crowd(np.random.default_rng(0), 3, 0.5)
    env = SimpleSpread(1)
    put(env, (points[0] + 1e-4, *points[1:]))
    action = np.zeros(3, dtype=np.int64)
    obs, _, _ = Original(points, 100).step(action)
    assert np.abs(env.step(action[None]).final_obs[0] - obs).max() > 5e-5


def test_sizes_are_those_of_the_package() -> None:
    for num_agents in (1, 3, 8):
        original = simple_spread_v3.parallel_env(N=num_agents)
        env = SimpleSpread(2, num_agents=num_agents)
        assert original.observation_space("agent_0").shape == (env.obs_size,)
        assert original.state_space.shape == (env.state_size,)
        assert original.action_space("agent_0") == env.action_space
