"""Alice_and_Bob as an env: seeds, saving, errors, pictures; and the registry."""

from __future__ import annotations

import numpy as np
import pytest

from hmasd.envs.alice_and_bob import NUM_PAIRS, SIZES, AliceAndBob, make_layout
from hmasd.envs.alice_and_bob_picture import draw_picture
from hmasd.envs.contract import check_env
from hmasd.envs.registry import env_names, make_env


@pytest.mark.parametrize(("num_envs", "length"), [(1, 100), (7, 13), (32, 1)])
def test_follows_the_contract(num_envs: int, length: int) -> None:
    assert check_env(AliceAndBob(num_envs, length), steps=250, seed=num_envs) == []


@pytest.mark.parametrize("num_pairs", NUM_PAIRS)
@pytest.mark.parametrize("size", SIZES)
def test_the_family_follows_the_contract(size: int, num_pairs: int) -> None:
    env = AliceAndBob(5, 30, size=size, num_pairs=num_pairs)
    assert check_env(env, steps=120, seed=size + num_pairs) == []


@pytest.mark.parametrize("num_pairs", NUM_PAIRS)
@pytest.mark.parametrize("size", SIZES)
def test_keys_and_diamonds_are_apart_opposite_and_on_the_border(size: int, num_pairs: int) -> None:
    _, keys, goals, _ = make_layout(size, num_pairs)
    cells = np.concatenate([keys, goals])
    assert len(np.unique(cells, axis=0)) == 2 * num_pairs
    assert ((cells == 1) | (cells == size)).any(axis=1).all()
    np.testing.assert_array_equal(keys + goals, np.full((num_pairs, 2), size + 1))
    apart = np.abs(cells - np.roll(cells, 1, axis=0)).sum(axis=1)  # along the border or shorter
    assert apart.min() >= 2 * (size - 1) // num_pairs


@pytest.mark.parametrize(("size", "num_pairs"), [(10, 2), (8, 5), (0, 2), (12, 1)])
def test_a_member_that_does_not_exist_is_named_with_those_that_do(
    size: int, num_pairs: int
) -> None:
    words = r"size is \d+, .*\(8, 12, 16\)|num_pairs is \d, .*\(2, 3, 4\)"
    with pytest.raises(ValueError, match=words):
        AliceAndBob(2, size=size, num_pairs=num_pairs)


def test_starts_are_distinct_uniform_cells() -> None:
    view = AliceAndBob(64 * 63 * 8).reset(5)
    cell = ((view.obs[:, :, 9:] - 1) @ np.array([8, 1])).astype(int)  # [E, 2]
    count = np.bincount(cell @ np.array([64, 1]), minlength=4096).reshape(64, 64)
    assert (np.diag(count) == 0).all()
    pairs = count[~np.eye(64, dtype=bool)]
    assert (pairs > 0).mean() > 0.998
    chi_square = ((pairs - 8) ** 2 / 8).sum()
    assert abs(chi_square - 4031) < 5 * np.sqrt(2 * 4031)


def test_an_env_depends_on_seed_and_its_number_alone() -> None:
    few, many = AliceAndBob(3, 9), AliceAndBob(8, 9)
    np.testing.assert_array_equal(few.reset(4).state, many.reset(4).state[:3])
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = rng.integers(0, 5, size=(8, 2))
        np.testing.assert_array_equal(
            few.step(action[:3]).view.state, many.step(action).view.state[:3]
        )
    assert not np.array_equal(many.reset(5).state, AliceAndBob(8, 9).reset(4).state)
    assert len(np.unique(many.reset(0).state, axis=0)) > 4


def test_goes_on_exactly_in_another_object() -> None:
    env, other, rng = AliceAndBob(6, 20), AliceAndBob(6, 20), np.random.default_rng(1)
    env.reset(8)
    for _ in range(33):
        env.step(rng.integers(0, 5, size=(6, 2)))
    other.set_state(env.get_state())
    for _ in range(60):
        action = rng.integers(0, 5, size=(6, 2))
        for left, right in zip(env.step(action)[1:], other.step(action)[1:], strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clock": np.zeros(5, dtype=np.int64)}, "clock is int64 of shape"),
        ({"rng": np.zeros(4)}, "rng is float64"),
        ({"extra": np.zeros(4)}, "extra"),
        ({"clock": np.full(4, 100)}, r"clock has a value outside 0\.\.99"),
        ({"position": np.zeros((4, 2, 2), dtype=np.int64)}, r"outside 1\.\.8"),
        ({"collected": np.ones((4, 2), dtype=bool)}, "collected has a game that is won"),
    ],
)
def test_refuses_a_state_that_does_not_fit(change: dict[str, np.ndarray], words: str) -> None:
    env = AliceAndBob(4)
    env.reset(0)
    before = env.get_state()
    with pytest.raises(ValueError, match=words):
        env.set_state({**before, **change})
    for name, array in env.get_state().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("value", [5, -1, 10**9])
def test_a_bad_action_is_named_and_nothing_is_played(value: int) -> None:
    env = AliceAndBob(4)
    env.reset(0)
    before = env.get_state()
    action = np.zeros((4, 2), dtype=np.int64)
    action[2, 1] = value
    with pytest.raises(ValueError, match=rf"env 2, agent 1: action {value} .* 0\.\.4"):
        env.step(action)
    np.testing.assert_array_equal(env.get_state()["position"], before["position"])


def test_actions_of_wrong_shape_or_type_are_refused() -> None:
    env = AliceAndBob(4)
    env.reset(0)
    for action in (np.zeros((4, 3), dtype=np.int64), np.zeros((4, 2)), np.zeros((3, 2), int)):
        with pytest.raises(ValueError, match=r"integers of shape \(4, 2\)"):
            env.step(action)
    env.step(np.zeros((4, 2), dtype=np.int32))


def test_needs_a_start_and_sensible_numbers() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        AliceAndBob(2).step(np.zeros((2, 2), dtype=np.int64))
    for numbers in ((0, 100), (2, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            AliceAndBob(*numbers)
    with pytest.raises(ValueError, match="seed is -1"):
        AliceAndBob(2).reset(-1)


def test_the_picture_after_an_episodes_last_step_shows_its_end() -> None:
    """Else nobody ever sees a game won: the next one has begun."""
    env = AliceAndBob(2, episode_length=3)
    env.reset(0)
    state = env.get_state()
    state["position"][:] = [[(1, 7), (8, 1)], [(4, 4), (5, 5)]]
    state["collected"][:] = [[False, True], [False, False]]
    state["clock"][:] = 1
    env.set_state(state)
    cells = env.layout.keys, env.layout.goals
    step = env.step(np.array([[0, 4], [4, 4]]))  # agent 0 on to key 0, agent 1 is on diamond 0
    assert step.terminated.tolist() == [True, False]
    end = np.array([[1, 8], [8, 1]])
    won = draw_picture(8, end, np.array([True, True]), cells, (2, 3))
    assert (env.render(0) == won).all()
    goes_on = draw_picture(8, np.array([[4, 4], [5, 5]]), np.array([False] * 2), cells, (2, 3))
    assert (env.render(1) == goes_on).all()
    env.step(np.full((2, 2), 4))
    assert (env.render(0) != won).any(), "the next episode goes on"
    state = env.get_state()
    env.set_state(state)
    start = draw_picture(8, state["position"][1], np.array([False] * 2), cells, (0, 3))
    assert (env.render(1) == start).all(), "who sets a state sees that state"


def situation(name: str, value: object) -> np.ndarray:
    """Picture of a fixed game with one part of its state changed."""
    env = AliceAndBob(1)
    env.reset(0)
    state = env.get_state()
    state["position"][0] = [(3, 3), (5, 5)]
    if name:
        state[name][0] = value
    env.set_state(state)
    return env.render(0)


def test_picture_shows_every_part_of_the_game() -> None:
    parts = [
        ("", None),
        ("position", [(3, 4), (5, 5)]),
        ("position", [(5, 5), (3, 3)]),
        ("position", [(3, 3), (3, 3)]),
        ("position", [(1, 8), (5, 5)]),
        ("position", [(8, 1), (5, 5)]),
        ("collected", [True, False]),
        ("collected", [False, True]),
        ("clock", 50),
    ]
    pictures = [situation(name, value) for name, value in parts]
    assert all(p.shape == (440, 400, 3) and p.dtype == np.uint8 for p in pictures)
    assert len({p.tobytes() for p in pictures}) == len(parts)
    assert situation("", None).tobytes() == pictures[0].tobytes()
    with pytest.raises(ValueError, match="no env 4"):
        AliceAndBob(4).render(4)


def test_the_picture_has_the_size_and_the_colours_of_its_game() -> None:
    for size in SIZES:
        colours = []
        for num_pairs in NUM_PAIRS:
            env = AliceAndBob(1, size=size, num_pairs=num_pairs)
            env.reset(3)
            picture = env.render()
            assert picture.shape == (40 * (size + 3), 40 * (size + 2), 3)
            colours.append(len(np.unique(picture.reshape(-1, 3), axis=0)))
        assert colours == sorted(set(colours))


def test_a_held_key_looks_different_around_the_agent() -> None:
    on_key, beside = situation("position", [(1, 8), (5, 5)]), situation("", None)
    corner = np.s_[40 + 4 : 40 + 8, 320 + 4 : 320 + 8]  # of the key's cell, outside the disc
    assert not np.array_equal(on_key[corner], beside[corner])


def test_registry_makes_envs_and_helps_with_names() -> None:
    family = {f"alice_and_bob_{n}x{n}_{pairs}" for n in SIZES for pairs in NUM_PAIRS}
    assert {x for x in env_names() if x.startswith("alice_and_bob")} == (
        family - {"alice_and_bob_8x8_2"} | {"alice_and_bob"}
    )
    largest = make_env("alice_and_bob_16x16_4", 3, 50)
    assert (largest.obs_size, largest.state_size) == (11, 18 * 18)
    env = make_env("alice_and_bob", 3, 50)
    assert (env.num_envs, env.episode_length, env.num_agents) == (3, 50, 2)
    assert (env.obs_size, env.state_size) == (11, 100)
    with pytest.raises(ValueError, match=r"'alice_bob'.*did you mean 'alice_and_bob'"):
        make_env("alice_bob", 3, 50)
    with pytest.raises(ValueError, match=r"'zzz' does not exist; the envs are .*alice_and_bob"):
        make_env("zzz", 3, 50)
