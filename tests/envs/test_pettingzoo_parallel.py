"""PettingZoo's API: small games played by hand, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from hmasd.envs.contract import check_env
from hmasd.envs.pettingzoo_parallel import PettingZooTeam, is_pettingzoo, succeeded
from hmasd.envs.vector import make_batch
from tests.helpers.foreign_envs import Carriers, MaskedRelay, Relay, StatefulRelay, Turns


def start(env: Relay, place: int = 0) -> tuple[PettingZooTeam, Relay]:
    team = PettingZooTeam(env)
    seed = next(s for s in range(20) if np.random.default_rng(s).integers(2) == place)
    return team, team.reset(seed)


def test_agents_that_differ_are_filled_up_and_said_so() -> None:
    team, view = start(Relay(), place=1)
    assert (team.num_agents, team.obs_size, team.state_size) == (2, 4, 6)
    assert team.action_space == Discrete(3)
    assert view.obs.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]  # (place, time); sign 1 of 4
    assert view.state.tolist() == [1, 0, 0, 1, 0, 0]  # joined, without the fillers
    assert view.action_mask.tolist() == [[True] * 3, [True, True, False]]
    assert view.alive.tolist() == [True, True]
    text = " ".join(team.notes)
    assert "observations of [2, 4] numbers" in text and "agents have [3, 2] actions" in text
    assert "no state(): the agents' observations joined" in text


def test_an_agent_that_leaves_is_dead_and_the_clock_truncates() -> None:
    team, _ = start(Relay(leave=2, length=4))
    first = team.step(np.array([1, 1]))
    assert (first.reward, first.terminated, first.truncated) == (11.0, False, False)
    assert first.view.alive.all() and first.view.obs[0].tolist() == [1, 1, 0, 0]
    second = team.step(np.array([2, 0]))
    assert second.view.alive.tolist() == [False, True] and second.reward == 2.0
    assert second.view.obs[0].tolist() == [3, 2, 0, 0]  # what it saw when it left
    assert second.view.action_mask.tolist() == [[True, False, False], [True, True, False]]
    third = team.step(np.array([0, 1]))
    assert third.reward == 10.0 and third.view.obs[0].tolist() == [0, 0, 0, 0]
    last = team.step(np.array([0, 0]))
    assert (last.terminated, last.truncated, last.success) == (False, True, False)
    assert not last.view.alive.any()


@pytest.mark.parametrize("length", [4, 3])
def test_a_win_terminates_even_on_the_last_step(length: int) -> None:
    team, _ = start(Relay(length=length))
    for _ in range(2):
        assert not team.step(np.array([2, 0])).success
    last = team.step(np.array([2, 0]))
    assert (last.terminated, last.truncated, last.success) == (True, False, True)


def test_rewards_become_the_teams_sum_or_mean_over_all_agents() -> None:
    env = Relay(leave=1)
    rewards = []
    for how in ("sum", "mean"):
        team = PettingZooTeam(env, how)
        team.reset(0)
        rewards += [[team.step(np.array([2, 1])).reward for _ in range(2)]]
    assert rewards == [[12.0, 10.0], [6.0, 5.0]]  # the runner left after the first step


def test_the_envs_own_state_is_taken() -> None:
    team, view = start(StatefulRelay())
    assert team.state_size == 3 and view.state.tolist() == [0, 0, 4]
    assert team.step(np.array([1, 0])).view.state.tolist() == [1, 1, 4]
    assert not any("state" in note for note in team.notes)


def test_a_state_that_is_gone_when_the_episode_is_over() -> None:
    class Forgetful(StatefulRelay):
        def state(self) -> np.ndarray:
            if not self.agents:
                raise AttributeError("nothing left")
            return super().state()

    team, _ = start(Forgetful(length=2))
    team.step(np.array([1, 0]))
    last = team.step(np.array([1, 0]))
    assert last.truncated and last.view.state.tolist() == [1, 1, 4]


def test_masks_come_from_observations_and_infos() -> None:
    team, view = start(MaskedRelay())
    assert view.obs.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    assert view.action_mask.tolist() == [[True, True, True], [True, True, False]]
    masks = team.step(np.array([2, 0])).view.action_mask
    assert masks.tolist() == [[True, True, False], [True, False, False]]


@pytest.mark.parametrize("make", [Relay, StatefulRelay, MaskedRelay])
def test_keeps_the_contract(make) -> None:
    batch = make_batch(lambda: PettingZooTeam(make()), 3, 5)
    assert check_env(batch, steps=60, seed=1) == []


def test_turns_become_one_step_of_all() -> None:
    batch = make_batch(lambda: PettingZooTeam(Turns()), 1, 9)
    assert check_env(batch, steps=30, seed=1) == []
    batch.reset(0)
    step = batch.step(np.array([[2, 1]]))
    assert step.view.obs.tolist() == [[[3], [3]]] and step.reward == 6.0
    ends = [bool(batch.step(np.array([[0, 0]])).truncated[0]) for _ in range(4)]
    assert ends == [False, False, False, True]


def test_turns_that_are_no_cycle_are_refused() -> None:
    with pytest.raises(ValueError, match="Turns plays turn by turn and is not 'is_parallelizable'"):
        PettingZooTeam(Turns(parallelizable=False))


def test_an_agent_nobody_announced_is_named() -> None:
    class Growing(Relay):
        def step(self, actions):
            result = super().step(actions)
            self.agents.append("stranger")
            return result

    team, _ = start(Growing())
    with pytest.raises(ValueError, match="agent 'stranger' is not one of possible_agents"):
        team.step(np.array([1, 0]))


class Wrong(Relay):
    """A `Relay` whose reset and step return what `fault` makes of what they should."""

    def __init__(self, method, fault) -> None:
        super().__init__()
        self.method, self.fault = method, fault

    def reset(self, seed=None, options=None):
        result = super().reset(seed)
        return self.fault(self, *result) if self.method == "reset" else result

    def step(self, actions):
        result = super().step(actions)
        return self.fault(self, *result) if self.method == "step" else result


def without_agents(env, *result):
    env.agents = []
    return result


@pytest.mark.parametrize(
    ("method", "fault", "words"),
    [
        ("reset", lambda env, seen, infos: seen, "reset returned dict, but must return 2 dicts"),
        ("reset", lambda env, seen, infos: (seen, None), r"reset returned \(dict, NoneType\)"),
        ("reset", without_agents, "reset left no agents"),
        ("step", lambda env, *result: result[:4], "step returned 4 values, but must return 5"),
        ("step", lambda env, seen, *rest: ({}, *rest), "no observations of .'runner', 'coach'."),
        (
            "step",
            lambda env, seen, rewards, *rest: (seen, {"runner": None, "coach": 0.0}, *rest),
            r"rewards are \[None, 0.0\], but each must be one number",
        ),
        (
            "step",
            lambda env, seen, rewards, *rest: (seen, {"runner": 1.0}, *rest),
            r"step gave no reward of \['coach'\], who acted",
        ),
        (
            "step",
            lambda env, seen, rewards, *rest: (seen, {**rewards, "nobody": 9.0}, *rest),
            "agent 'nobody' is not one of possible_agents",
        ),
        (
            "step",
            lambda env, seen, rewards, ends, cuts, infos: (seen, rewards, ends, {}, infos),
            r"step gave no truncation of \['runner', 'coach'\], who acted",
        ),
        ("step", without_agents, r"\['runner', 'coach'\] left self.agents without an end"),
        (
            "step",
            lambda env, seen, rewards, *_: (
                dict.fromkeys(seen),
                rewards,
                dict.fromkeys(rewards, True),
                dict.fromkeys(rewards, False),
                {},
            ),
            r"the episode ended without observations of \['runner', 'coach'\]",
        ),
        (
            "step",
            lambda env, seen, *rest: ({**seen, "runner": np.zeros((2, 1))}, *rest),
            r"an observation has shape \(2, 1\), but must have Box",
        ),
        (
            "step",
            lambda env, seen, *rest: ({**seen, "coach": -1}, *rest),
            r"an observation is -1, but must be in Discrete\(4\)",
        ),
    ],
)
def test_what_breaks_the_api_is_named(method, fault, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PettingZooTeam(Wrong(method, fault)).step(np.array([0, 0]))


def test_masks_that_come_after_the_first_reset_are_refused() -> None:
    """Where nobody knew of masks: all agents have as many actions."""

    class Even(Wrong):
        def action_space(self, agent):
            return Discrete(3)

    late = Even("step", lambda env, *told: (*told[:4], {"runner": {"action_mask": np.ones(3)}}))
    with pytest.raises(ValueError, match="infos have an action_mask now, but had none"):
        PettingZooTeam(late).step(np.array([0, 0]))


def test_an_agent_that_comes_back_in_the_episode_is_named() -> None:
    class Undead(Relay):
        def step(self, actions):
            result = super().step(actions)
            self.agents = list(self.possible_agents)
            return result

    team, _ = start(Undead(leave=1, length=9))
    team.step(np.array([1, 0]))
    with pytest.raises(ValueError, match=r"\['runner'\] play on although they had left"):
        team.step(np.array([1, 0]))


@pytest.mark.parametrize(
    ("infos", "wanted"),
    [
        ({}, False),
        ({"is_success": True}, True),
        ({"a": {"won": 0}, "b": {"battle_won": np.True_}}, True),
        ({"a": {"victory": True}}, False),
        ([{"success": False}, {"success": 1}], True),
    ],
)
def test_success_is_read_from_the_infos(infos, wanted: bool) -> None:
    assert succeeded(infos) is wanted


def test_a_missing_picture_tells_how_to_get_one() -> None:
    team, _ = start(Relay())
    with pytest.raises(ValueError, match="render_mode: rgb_array"):
        team.render()


def test_what_follows_the_api() -> None:
    assert is_pettingzoo(Relay()) and is_pettingzoo(Turns()) and not is_pettingzoo(Carriers())
