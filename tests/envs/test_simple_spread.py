"""Simple_spread as an env: starts, seeds, saving, success, errors, pictures, names."""

from __future__ import annotations

import numpy as np
import pytest

from hmasd.envs.contract import check_env
from hmasd.envs.registry import make_env
from hmasd.envs.simple_spread import SimpleSpread
from hmasd.envs.simple_spread_picture import SIDE


@pytest.mark.parametrize(
    ("num_envs", "length", "num_agents"), [(1, 100, 3), (7, 13, 8), (32, 1, 3), (3, 20, 1)]
)
def test_follows_the_contract(num_envs: int, length: int, num_agents: int) -> None:
    assert check_env(SimpleSpread(num_envs, length, num_agents), steps=150, seed=num_envs) == []


def test_starts_are_uniform_and_at_rest() -> None:
    env = SimpleSpread(4000)
    env.reset(3)
    state = env.get_state()
    assert (state["velocity"] == 0).all()
    for name in ("position", "landmark"):
        places = np.floor((state[name].reshape(-1) + 1) * 10).astype(int)  # 20 bins of [-1, 1)
        count = np.bincount(places, minlength=20)
        assert len(count) == 20
        expected = len(places) / 20
        assert ((count - expected) ** 2 / expected).sum() < 19 + 5 * np.sqrt(2 * 19)
    x, y = state["position"][..., 0].ravel(), state["position"][..., 1].ravel()
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.04


def test_an_env_depends_on_seed_and_its_number_alone() -> None:
    few, many = SimpleSpread(3, 9), SimpleSpread(8, 9)
    np.testing.assert_array_equal(few.reset(4).state, many.reset(4).state[:3])
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = rng.integers(0, 5, size=(8, 3))
        np.testing.assert_array_equal(
            few.step(action[:3]).view.state, many.step(action).view.state[:3]
        )
    assert not np.array_equal(many.reset(5).state, SimpleSpread(8, 9).reset(4).state)


def test_goes_on_exactly_in_another_object() -> None:
    env, other, rng = SimpleSpread(6, 20), SimpleSpread(6, 20), np.random.default_rng(1)
    env.reset(8)
    for _ in range(33):
        env.step(rng.integers(0, 5, size=(6, 3)))
    other.set_state(env.get_state())
    for _ in range(60):
        action = rng.integers(0, 5, size=(6, 3))
        for left, right in zip(env.step(action)[1:], other.step(action)[1:], strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(("away", "covered"), [(0.05, True), (0.15, False)])
def test_success_is_that_all_are_covered_at_the_end(away: float, covered: bool) -> None:
    env = SimpleSpread(1, episode_length=2)
    env.reset(0)
    state = env.get_state()
    state["position"][0] = state["landmark"][0] = [(-0.8, 0), (0, 0), (0.8, 0)]
    state["position"][0, 1, 1] = away
    env.set_state(state)
    stay = np.zeros((1, 3), dtype=np.int64)
    first, last = env.step(stay).success[0], env.step(stay)
    assert not first
    assert last.truncated[0] and not last.terminated[0]
    assert last.success[0] == covered


def test_agents_on_one_point_stay_finite() -> None:
    env = SimpleSpread(1)
    env.reset(0)
    state = env.get_state()
    state["position"][:] = 0.0
    env.set_state(state)
    step = env.step(np.array([[1, 2, 0]]))
    assert np.isfinite(step.view.obs).all()
    assert np.isfinite(step.reward).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clock": np.zeros(5, dtype=np.int64)}, "clock is int64 of shape"),
        ({"position": np.zeros((4, 3, 2), dtype=np.float32)}, "position is float32"),
        ({"extra": np.zeros(4)}, "extra"),
        ({"clock": np.full(4, 100)}, r"clock has a value outside 0\.\.99"),
        ({"velocity": np.full((4, 3, 2), np.nan)}, "velocity has a number that is not finite"),
    ],
)
def test_refuses_a_state_that_does_not_fit(change: dict[str, np.ndarray], words: str) -> None:
    env = SimpleSpread(4)
    env.reset(0)
    before = env.get_state()
    with pytest.raises(ValueError, match=words):
        env.set_state({**before, **change})
    for name, array in env.get_state().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("value", [5, -1])
def test_a_bad_action_is_named_and_nothing_is_played(value: int) -> None:
    env = SimpleSpread(4)
    env.reset(0)
    before = env.get_state()
    action = np.zeros((4, 3), dtype=np.int64)
    action[2, 1] = value
    with pytest.raises(ValueError, match=rf"env 2, agent 1: action {value} .* 0\.\.4"):
        env.step(action)
    np.testing.assert_array_equal(env.get_state()["clock"], before["clock"])
    with pytest.raises(ValueError, match=r"integers of shape \(4, 3\)"):
        env.step(np.zeros((4, 2), dtype=np.int64))


def test_needs_a_start_and_sensible_numbers() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        SimpleSpread(2).step(np.zeros((2, 3), dtype=np.int64))
    for numbers in ((0, 100, 3), (2, 0, 3), (2, 100, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            SimpleSpread(*numbers)


def test_the_picture_after_an_episodes_last_step_shows_its_end() -> None:
    env, longer = SimpleSpread(2, episode_length=3), SimpleSpread(2, episode_length=9)
    for one in (env, longer):
        one.reset(4)
        state = one.get_state()
        state["clock"][:] = (2, 0)
        one.set_state(state)
        ended = one.step(np.full((2, 3), 4)).truncated
    assert ended.tolist() == [False, False] and not np.array_equal(env.render(0), env.render(1))
    picture = SIDE  # below it the bar tells the time of an episode of another length
    for game in (0, 1):
        assert (env.render(game)[:picture] == longer.render(game)[:picture]).all()
    env.step(np.full((2, 3), 4))
    assert (env.render(0)[:picture] != longer.render(0)[:picture]).any(), "the next one goes on"
    begun = env.get_state()
    env.step(np.zeros((2, 3), dtype=np.int64))
    env.set_state(begun)
    fresh = SimpleSpread(2, episode_length=3)
    fresh.reset(0)
    fresh.set_state(begun)
    assert (env.render(1) == fresh.render(1)).all(), "who sets a state sees that state"


def situation(name: str, agent: int, value: tuple[float, float]) -> np.ndarray:
    """Picture of a fixed game with one point moved."""
    env = SimpleSpread(1)
    env.reset(0)
    state = env.get_state()
    state["position"][0] = [(-0.8, 0), (0, 0.4), (0.8, 0)]
    state["landmark"][0] = [(-0.5, -0.7), (0, -0.7), (0.5, -0.7)]
    state[name][0, agent] = value
    env.set_state(state)
    return env.render(0)


def test_picture_shows_every_part_of_the_game() -> None:
    parts = [
        ("position", 0, (-0.8, 0)),
        ("position", 0, (-0.8, 0.1)),
        ("position", 1, (5.0, 0)),
        ("landmark", 0, (-0.5, -0.6)),
        ("landmark", 2, (0.8, 0.05)),
        ("velocity", 0, (1.0, 0)),
    ]
    pictures = [situation(*part) for part in parts]
    assert all(p.shape == (440, 400, 3) and p.dtype == np.uint8 for p in pictures)
    assert len({p.tobytes() for p in pictures[:-1]}) == len(parts) - 1
    assert pictures[-1].tobytes() == pictures[0].tobytes(), "a velocity is not drawn"
    with pytest.raises(ValueError, match="no env 4"):
        SimpleSpread(4).render(4)


def test_registry_names_tell_the_number_of_agents() -> None:
    assert make_env("simple_spread", 4, 25).num_agents == 3
    env = make_env("simple_spread_32", 2, 25)
    assert (env.num_agents, env.obs_size, env.state_size) == (32, 192, 6144)
    with pytest.raises(ValueError, match=r"did you mean 'simple_spread_3"):
        make_env("simple_spread_31", 2, 25)
