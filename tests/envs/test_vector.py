"""Many copies of a plain game in lock-step: equal to playing each by hand, resumed exactly."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from hmasd.envs.contract import check_env, random_action
from hmasd.envs.env_slice import EnvError, EnvSlice, episode_seed, rows, sizes_of
from hmasd.envs.single import SingleEnv, SingleStep, SingleView
from hmasd.envs.vector import SingleEnvBatch, make_arrays, make_batch
from hmasd.types import EnvStep, EnvView
from tests.helpers.single_envs import Push, Walk

LENGTH = 9


def copy(data):
    """A copy of a view or step that the batch can no longer change."""
    if isinstance(data, tuple):
        return type(data)(*map(copy, data))
    return None if data is None else data.copy()


def play(env: SingleEnvBatch, view: EnvView, steps: int, seed: int = 0) -> list[EnvStep]:
    rng = np.random.default_rng(seed)
    played = []
    for _ in range(steps):
        step = env.step(random_action(env, view, rng))
        view = step.view
        played.append(copy(step))
    return played


def assert_equal(left, right) -> None:
    for a, b in zip(left, right, strict=True):
        if isinstance(a, tuple):
            assert_equal(a, b)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", [Walk, lambda: Walk(full=False), Push])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_keeps_the_contract(make: Callable[[], SingleEnv], num_envs: int) -> None:
    assert check_env(make_batch(make, num_envs, LENGTH), steps=80, seed=5) == []


def test_equals_playing_each_game_by_hand() -> None:
    batch = make_batch(Walk, 3, LENGTH)
    view = batch.reset(11)
    games = [Walk() for _ in range(3)]
    episode, clock = [0, 0, 0], [0, 0, 0]
    shown = [copy(game.reset(episode_seed(11, e, 0))) for e, game in enumerate(games)]
    rng = np.random.default_rng(0)
    ends = {"terminated": 0, "truncated": 0, "success": 0}
    for _ in range(120):
        action = random_action(batch, view, rng)
        step = batch.step(action)
        for e, game in enumerate(games):
            told = copy_step(game.step(action[e]))
            clock[e] += 1
            late = clock[e] == LENGTH and not told.terminated
            np.testing.assert_array_equal(step.final_obs[e], told.view.obs)
            np.testing.assert_array_equal(step.final_state[e], told.view.state)
            assert step.reward[e] == np.float32(told.reward)
            assert (step.terminated[e], step.truncated[e]) == (told.terminated, late)
            assert step.success[e] == ((told.terminated or late) and told.success)
            shown[e] = told.view
            if told.terminated or late:
                episode[e], clock[e] = episode[e] + 1, 0
                shown[e] = copy(game.reset(episode_seed(11, e, episode[e])))
            assert_equal((x[e] for x in step.view), shown[e])
        for name in ends:
            ends[name] += int(getattr(step, name).sum())
        view = step.view
    assert all(count > 3 for count in ends.values())


def copy_step(step: SingleStep) -> SingleStep:
    return step._replace(view=copy(step.view))


def test_an_env_plays_the_same_whatever_stands_beside_it() -> None:
    few, many = make_batch(Walk, 2, LENGTH), make_batch(Walk, 5, LENGTH)
    rng = np.random.default_rng(1)
    assert_equal(few.reset(3), (x[:2] for x in many.reset(3)))
    for _ in range(50):
        action = np.full((5, 2), 1) + rng.integers(0, 2, (5, 2))
        left, right = few.step(action[:2]), many.step(action)
        np.testing.assert_array_equal(left.final_obs, right.final_obs[:2])
        assert_equal(left.view, (x[:2] for x in right.view))
    assert (copy(many.reset(4)).obs[0] != many.reset(3).obs[0]).any()


def test_slices_of_the_rows_equal_one_slice() -> None:
    whole = make_batch(Walk, 5, LENGTH)
    game = sizes_of(Walk())
    arrays = make_arrays(game, 5, LENGTH)
    slices = [
        EnvSlice([Walk() for _ in range(i, j)], rows(arrays, i, j)) for i, j in ((0, 2), (2, 5))
    ]

    class Both:
        def reset(self) -> None:
            for part in slices:
                part.reset()

        def step(self) -> None:
            for part in slices:
                part.step()

    parts = SingleEnvBatch(game, LENGTH, arrays, Both())
    assert_equal(parts.reset(7), whole.reset(7))
    for left, right in zip(
        play(parts, parts.reset(7), 60), play(whole, whole.reset(7), 60), strict=True
    ):
        assert_equal(left, right)


@pytest.mark.parametrize("make", [Walk, Push])
@pytest.mark.parametrize("steps", [0, 1, 25])
def test_resumes_exactly_in_another_batch(make: Callable[[], SingleEnv], steps: int) -> None:
    old, new = make_batch(make, 4, LENGTH), make_batch(make, 4, LENGTH)
    view = old.reset(2)
    for step in play(old, view, steps):
        view = step.view
    saved, view = old.get_state(), copy(view)
    new.set_state(saved)
    for left, right in zip(play(old, view, 40, 9), play(new, view, 40, 9), strict=True):
        assert_equal(left, right)


def test_control_other_actions_do_not_resume() -> None:
    batch = make_batch(Walk, 3, LENGTH)
    play(batch, batch.reset(0), 4)
    saved = batch.get_state()
    env = int(saved["clock"].argmax())
    saved["played"][env, 0] = (saved["played"][env, 0] + 1) % 3
    with pytest.warns(RuntimeWarning, match=f"env {env} does not repeat itself"):
        make_batch(Walk, 3, LENGTH).set_state(saved)


class Unseeded(Walk):
    def reset(self, seed: int) -> SingleView:
        return super().reset(np.random.SeedSequence().entropy)


def test_warns_about_an_env_that_ignores_its_seed() -> None:
    batch = make_batch(lambda: Unseeded(end_chance=0.0), 3, LENGTH)
    play(batch, batch.reset(0), 4)
    with pytest.warns(RuntimeWarning, match="env 0 does not repeat itself"):
        batch.set_state(batch.get_state())


def test_refuses_to_resume_an_episode_that_ends_too_soon() -> None:
    batch = make_batch(lambda: Walk(end_chance=0.0), 2, LENGTH)
    play(batch, batch.reset(0), 4)
    with pytest.raises(EnvError, match=r"env 0, step 1 .* before step 4, so the env does not"):
        make_batch(lambda: Walk(end_chance=1.0), 2, LENGTH).set_state(batch.get_state())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clock": None}, "has arrays"),
        ({"clock": np.array([0, LENGTH])}, f"outside 0..{LENGTH - 1}"),
        ({"episode": np.zeros(3, dtype=np.int64)}, r"episode is int64 of shape \(3,\)"),
        ({"seed": np.zeros(2, dtype=np.int64)}, "needs uint64"),
    ],
)
def test_refuses_a_state_that_does_not_fit(change: dict, words: str) -> None:
    batch = make_batch(Walk, 2, LENGTH)
    batch.reset(0)
    state = {k: v for k, v in (batch.get_state() | change).items() if v is not None}
    with pytest.raises(ValueError, match=words):
        batch.set_state(state)


@pytest.mark.parametrize(
    ("make", "action", "words"),
    [
        (Walk, np.zeros((2, 3), int), r"of shape \(2, 2\), got"),
        (Walk, np.zeros((2, 2)), "must be integers"),
        (
            Walk,
            np.array([[1, 1], [1, 3]]),
            r"env 1, agent 1: action 3 is not one of the actions 0..2",
        ),
        (Walk, np.array([[1, 1], [1, 0]]), r"env 1, agent 1: action 0 is forbidden by the"),
        (Push, np.zeros((2, 1, 2), int), "must be floats"),
        (Push, np.array([[[0, 0]], [[0, np.nan]]], np.float32), "env 1, agent 0: .*nan is not"),
    ],
)
def test_refuses_an_action_that_cannot_be_played(make, action, words: str) -> None:
    batch = make_batch(make, 2, LENGTH)
    batch.reset(0)
    with pytest.raises(ValueError, match=words):
        batch.step(action)


def test_draws_and_closes_its_envs() -> None:
    games = [Walk(), Walk()]
    left = iter(games)
    batch = make_batch(lambda: next(left), 2, LENGTH)
    with pytest.raises(RuntimeError, match="before reset"):
        batch.step(np.ones((2, 2), int))
    play(batch, batch.reset(0), 3)
    assert batch.render(1).max() == games[1].time
    with pytest.raises(ValueError, match="no env 2"):
        batch.render(2)
    batch.close()
    assert [game.closed for game in games] == [True, True]


def test_the_end_of_an_episode_is_drawn_until_the_next_step() -> None:
    """Walk's picture is its clock: without the end's picture, the next episode's 0 would show."""
    batch = make_batch(Walk, 2, LENGTH)
    view = batch.reset(0)
    assert batch.render(0).max() == 0
    shown, ends = [], []
    for _ in range(3 * LENGTH):
        step = play(batch, view, 1)[0]
        shown.append(int(batch.render(0).max()))
        ends.append(bool((step.terminated | step.truncated)[0]))
        view = step.view
    assert sum(ends) >= 3
    starts = [0, *(number + 1 for number, ended in enumerate(ends) if ended)]
    for start, stop in itertools.pairwise(starts):
        assert shown[start:stop] == list(range(1, 1 + stop - start))
    batch.reset(0)
    assert batch.render(0).max() == 0


def test_a_correct_env_warns_of_nothing() -> None:
    batch = make_batch(Walk, 3, LENGTH)
    play(batch, batch.reset(0), 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch.set_state(batch.get_state())
