"""What one env does wrong is named with env, seed, step and last actions, and can be seen again."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete, MultiDiscrete

from hmasd.envs.env_slice import EnvError, episode_seed, sizes_of
from hmasd.envs.single import SingleStep, SingleView
from hmasd.envs.vector import SingleEnvBatch, make_batch
from hmasd.envs.worker_process import decode_sizes, encode_sizes
from tests.helpers.single_envs import Walk


class Faulty(Walk):
    """A `Walk` that never ends by itself; `fault` changes its fourth step."""

    def __init__(self, fault: Callable[[SingleStep], Any]) -> None:
        super().__init__(end_chance=0.0)
        self.fault = fault

    def step(self, action: np.ndarray) -> SingleStep:
        step = super().step(action)
        return self.fault(step) if self.time == 4 else step


def play(batch: SingleEnvBatch, steps: int) -> None:
    batch.reset(5)
    for number in range(steps):
        batch.step(np.full((batch.num_envs, 2), 1 + number % 2))


def raising(step: SingleStep) -> SingleStep:
    raise KeyError("no such diamond")


def leaving(step: SingleStep) -> SingleStep:
    sys.exit(0)


def with_view(**fields: Any) -> Callable[[SingleStep], SingleStep]:
    return lambda step: step._replace(view=step.view._replace(**fields))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (raising, "step raised KeyError: 'no such diamond' (test_env_slice.py, line "),
        (leaving, "step raised SystemExit: 0 (test_env_slice.py, line "),
        (tuple, "step returned a tuple, not a SingleStep"),
        (lambda s: s._replace(view=tuple(s.view)), "a view is a tuple, but must be a SingleView"),
        (lambda s: s._replace(reward=np.zeros(2)), "reward is float64 of shape (2,), but must be"),
        (lambda s: s._replace(reward=None), "reward is object of shape ()"),
        (with_view(obs=np.zeros(3)), "obs is float64 of shape (3,), but must be float32 of (2, 3)"),
        (with_view(state=np.array(["a", "b"])), "state is <U1 of shape (2,)"),
        (with_view(alive=None), "alive is missing, but was given at the first reset"),
        (with_view(alive=np.zeros(2, bool)), "no agent is alive although the episode goes on"),
        (with_view(action_mask=np.zeros((2, 3), bool)), "action_mask forbids agent 0 every action"),
    ],
)
def test_a_fault_in_step_is_named(fault: Callable[[SingleStep], Any], words: str) -> None:
    games = iter([Walk(end_chance=0.0), Faulty(fault)])
    batch = make_batch(lambda: next(games), 2, 50)
    play(batch, 3)
    with pytest.raises(EnvError) as caught:
        batch.step(np.array([[1, 1], [2, 1]]))
    message = str(caught.value)
    assert f"env 1, step 4 of episode 0 (its reset had seed {episode_seed(5, 1, 0)}): " in message
    assert words in message
    assert message.endswith("; last actions, oldest first: [[2, 2], [1, 1], [2, 1]]")


def test_a_new_field_is_named() -> None:
    games = iter([Walk(full=False), Walk()])
    batch = make_batch(lambda: next(games), 2, 50)
    with pytest.raises(EnvError, match=r"env 1, step 0 .* action_mask is given, but was missing"):
        batch.reset(0)


def test_a_fault_in_a_later_reset_is_named() -> None:
    class Once(Walk):
        resets = 0

        def reset(self, seed: int) -> SingleView:
            self.resets += 1
            if self.resets == 4:  # the probe, then episodes 0, 1 and 2
                raise OSError("no more games")
            return super().reset(seed)

    batch = make_batch(lambda: Once(end_chance=0.0), 1, 3)
    with pytest.raises(EnvError, match=r"env 0, step 0 of episode 2 .*OSError: no more games"):
        play(batch, 6)


def test_the_error_tells_how_to_see_it_again() -> None:
    class Cursed(Walk):
        def step(self, action: np.ndarray) -> SingleStep:
            step = super().step(action)
            if self.time > 1 and self.cells.sum() == 8:
                raise ArithmeticError("both on the last cell")
            return step

    batch = make_batch(lambda: Cursed(end_chance=0.0), 3, 4)
    with pytest.raises(EnvError) as caught:
        play(batch, 1000)
    seed, actions = re.search(r"seed (\d+)\).*oldest first: (.*)$", str(caught.value)).groups()
    again = Cursed(end_chance=0.0)
    again.reset(int(seed))
    moves = [[int(x) for x in pair] for pair in re.findall(r"(\d), (\d)", actions)]
    with pytest.raises(ArithmeticError):
        for move in moves:
            again.step(np.array(move))


@pytest.mark.parametrize("space", [Discrete(3, start=1), MultiDiscrete([2, 3])])
def test_an_action_space_that_cannot_be_used_is_named(space: Any) -> None:
    game = Walk()
    game.action_space = space
    with pytest.raises(EnvError, match=r"Walk.action_space is .* counts from 0"):
        sizes_of(game)


def test_a_fault_in_the_first_reset_is_named() -> None:
    class Broken(Walk):
        def reset(self, seed: int) -> SingleView:
            raise OSError("no game here")

    with pytest.raises(EnvError, match="reset of seed 0 raised OSError: no game here"):
        make_batch(Broken, 2, 5)


def test_sizes_of_numpy_are_sizes() -> None:
    game = Walk()
    game.obs_size = np.int64(3)
    assert decode_sizes(encode_sizes(sizes_of(game))) == sizes_of(Walk())


def test_episode_seeds_are_far_apart() -> None:
    seeds = {
        episode_seed(s, env, episode) for s in range(8) for env in range(8) for episode in range(8)
    }
    assert len(seeds) == 512 and max(seeds) < 2**31 and min(seeds) >= 0
