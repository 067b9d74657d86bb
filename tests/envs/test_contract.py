"""The contract's check and the guard find planted faults, and name them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hmasd.envs.alice_and_bob import AliceAndBob
from hmasd.envs.contract import check_env
from hmasd.envs.guard import check_step, check_view
from hmasd.types import EnvStep, EnvView
from tests.helpers.envs import Counter, MaskedAgents

Fault = Callable[[EnvStep, int], EnvStep]


class Faulty(Counter):
    """A `Counter` whose every step goes through `fault`."""

    def __init__(self, fault: Fault, episode_length: int = 10) -> None:
        super().__init__(4, episode_length=episode_length, end_chances=(0.05, 0.05))
        self.fault = fault
        self.number = 0

    def step(self, action: np.ndarray) -> EnvStep:
        self.number += 1
        return self.fault(super().step(action), self.number)


def with_nan(step: EnvStep, number: int) -> EnvStep:
    if number == 7:
        step.view.obs[2, 1, 0] = np.nan
    return step


def with_inf_reward(step: EnvStep, number: int) -> EnvStep:
    step.reward[3] = -np.inf
    return step


def with_wrong_shape(step: EnvStep, number: int) -> EnvStep:
    return step._replace(reward=step.reward[:, None])


def with_wrong_type(step: EnvStep, number: int) -> EnvStep:
    return step._replace(view=step.view._replace(state=step.view.state.astype(np.float64)))


def with_next_episode_as_final(step: EnvStep, number: int) -> EnvStep:
    return step._replace(final_obs=step.view.obs, final_state=step.view.state)


def with_stale_final(step: EnvStep, number: int) -> EnvStep:
    return step._replace(final_state=step.final_state - 1)


def with_both_ends(step: EnvStep, number: int) -> EnvStep:
    return step._replace(truncated=step.truncated | step.terminated)


def with_early_success(step: EnvStep, number: int) -> EnvStep:
    return step._replace(success=np.ones_like(step.success))


def with_hidden_truncation(step: EnvStep, number: int) -> EnvStep:
    return step._replace(
        truncated=np.zeros_like(step.truncated),
        final_obs=step.view.obs,
        final_state=step.view.state,
    )


def with_global_randomness(step: EnvStep, number: int) -> EnvStep:
    return step._replace(reward=np.full_like(step.reward, number))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (with_nan, "env 2, step 7: obs[2, 1, 0] is nan"),
        (with_inf_reward, "env 3, step 1: reward[3] is -inf"),
        (with_wrong_shape, "step 1: reward is float32 of shape (4, 1)"),
        (with_wrong_type, "step 1: state is float64"),
        (with_next_episode_as_final, "final_obs is the next episode's first obs in all"),
        (with_next_episode_as_final, "final_state is the next episode's first state in all"),
        (with_stale_final, "step 1: final_state differs from the view"),
        (with_both_ends, "terminated and truncated are both set"),
        (with_early_success, "success is set although the episode goes on"),
        (with_hidden_truncation, "but episode_length is 10"),
        (with_global_randomness, "reward of env 0 differs in a second run of seed 3"),
    ],
)
def test_finds_the_planted_fault(fault: Fault, words: str) -> None:
    messages = check_env(Faulty(fault), steps=60, seed=3)
    assert any(words in message for message in messages), messages


def with_nan_always(step: EnvStep, number: int) -> EnvStep:
    for array in (step.view.obs, step.final_obs):
        array[2, 1, 0] = np.nan
    return step


def test_nan_is_a_fault_but_no_difference() -> None:
    messages = check_env(Faulty(with_nan_always), steps=60, seed=3)
    assert [message.split(" is ")[-1][:3] for message in messages] == ["nan", "nan"]


def test_control_without_a_fault() -> None:
    assert check_env(Faulty(lambda step, _: step), steps=60, seed=3) == []


def test_finds_a_seed_that_is_ignored() -> None:
    class Unseeded(AliceAndBob):
        resets = 0

        def reset(self, seed: int) -> EnvView:
            self.resets += 1
            return super().reset(seed + self.resets)

    (message,) = check_env(Unseeded(3, 20), steps=50, seed=0)
    assert "step 0: obs of env" in message


def test_finds_a_generator_that_is_not_saved() -> None:
    class Forgetful(Counter):
        def set_state(self, state: dict[str, np.ndarray]) -> None:
            super().set_state({**state, "rng": self.memory["rng"] + np.uint64(1)})

    (message,) = check_env(Forgetful(6), steps=80, seed=0)
    assert "differs after set_state(get_state()) of step 40" in message


def test_finds_a_state_that_is_no_copy() -> None:
    class Sharing(Counter):
        def get_state(self) -> dict[str, np.ndarray]:
            return self.memory

    assert any("set_state" in message for message in check_env(Sharing(6), steps=80, seed=0))


def test_finds_an_agent_without_any_action() -> None:
    class Stuck(MaskedAgents):
        def _view(self) -> EnvView:
            view = super()._view()
            view.action_mask[~view.alive] = False
            return view

    messages = check_env(Stuck(4), steps=60, seed=0)
    assert any("forbids agent" in message for message in messages)


def a_step(episode_length: int = 100) -> EnvStep:
    env = Counter(3, episode_length=episode_length, end_chances=(0.0, 0.0))
    env.reset(0)
    return env.step(np.zeros((3, 2), dtype=np.int64))


def test_guard_lets_finite_numbers_pass_even_if_their_squares_overflow() -> None:
    step = a_step()
    step.view.obs[:] = 3e38
    check_step(step, 1)
    check_step(a_step(episode_length=1), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_guard_names_env_step_field_and_agent(value: float) -> None:
    step = a_step()
    step.view.obs[2, 1, 3] = value
    with pytest.raises(ValueError, match=rf"env 2, step 17: obs of agent 1 is {value} at place 3"):
        check_step(step, 17)
    with pytest.raises(ValueError, match="env 2, step 0: obs of agent 1"):
        check_view(step.view, 0)
    step = a_step()
    step.view.state[1, 2] = value
    with pytest.raises(ValueError, match=r"env 1, step 5: state is .* at place 2"):
        check_step(step, 5)
    step = a_step()
    step.reward[0] = value
    with pytest.raises(ValueError, match="env 0, step 5: reward is"):
        check_step(step, 5)


def test_guard_looks_at_the_final_observations_of_ended_episodes() -> None:
    step = a_step(episode_length=1)
    step.truncated[0] = False
    step.final_obs[2, 0, 1] = np.nan
    with pytest.raises(ValueError, match="env 2, step 9: final_obs of agent 0 is nan at place 1"):
        check_step(step, 9)
    step = a_step(episode_length=1)
    step.final_state[1, 0] = np.inf
    with pytest.raises(ValueError, match="env 1, step 9: final_state is inf"):
        check_step(step, 9)
