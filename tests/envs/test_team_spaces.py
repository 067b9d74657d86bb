"""Spaces that differ between agents: their joint form and the way back, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Text, Tuple

from hmasd.envs.team_spaces import MAX_COMBINATIONS, TeamSpaces

ONE = Discrete(2)


@pytest.mark.parametrize(
    ("space", "value", "wanted"),
    [
        (Box(-9, 9, (2, 2)), [[1, 2], [3, 4]], [1, 2, 3, 4]),
        (Box(0, 255, (1, 2), np.uint8), [[0, 51]], [0, 0.2]),
        (Discrete(3), 1, [0, 1, 0]),
        (Discrete(3, start=5), 7, [0, 0, 1]),
        (MultiDiscrete([2, 3]), [1, 0], [0, 1, 1, 0, 0]),
        (MultiBinary(3), [1, 0, 1], [1, 0, 1]),
        (Tuple((Discrete(2), Box(0, 9, (1,)))), (0, [4.0]), [1, 0, 4]),
        (Dict(b=Discrete(2), a=Box(0, 9, (1,))), {"a": [4.0], "b": 1}, [0, 1, 4]),
    ],
)
def test_observations_become_flat_numbers(space, value, wanted) -> None:
    spaces = TeamSpaces([space], [ONE])
    value = np.array(value) if isinstance(value, list) else value
    obs, joined = spaces.flatten([value])
    np.testing.assert_array_equal(joined, np.array(wanted, np.float32))
    np.testing.assert_array_equal(obs, joined[None])
    assert obs.dtype == np.float32 and spaces.obs_size == len(wanted)


def test_observations_that_differ_are_filled_up_and_missing_ones_are_zeros() -> None:
    spaces = TeamSpaces([Box(0, 9, (1,)), Discrete(3), Box(0, 9, (2,))], [ONE] * 3)
    obs, joined = spaces.flatten([[7], 2, None])
    assert obs.tolist() == [[7, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert joined.tolist() == [7, 0, 0, 1, 0, 0]
    with pytest.raises(ValueError, match=r"an observation has shape \(2,\), but must have Box"):
        spaces.flatten([[7, 8], 2, [1, 1]])


def test_discrete_actions_count_from_the_agents_own_start() -> None:
    spaces = TeamSpaces([ONE] * 2, [Discrete(2, start=3), Discrete(4)])
    assert spaces.action_space == Discrete(4) and spaces.has_fillers
    assert [spaces.own_action(0, np.int64(a)) for a in (0, 1)] == [3, 4]
    assert spaces.allowed(0).tolist() == [True, True, False, False]
    assert spaces.allowed(0, [0, 1]).tolist() == [False, True, False, False]
    assert spaces.allowed(1).all()
    with pytest.raises(ValueError, match=r"mask of agent 0 has shape \(4,\).* 2 actions"):
        spaces.allowed(0, [1, 1, 1, 1])


def test_every_combination_of_a_multidiscrete_is_one_action() -> None:
    spaces = TeamSpaces([ONE], [MultiDiscrete([2, 3])])
    assert spaces.action_space == Discrete(6) and not spaces.has_fillers
    combinations = [tuple(spaces.own_action(0, np.int64(a))) for a in range(6)]
    assert combinations == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_bounded_boxes_are_stretched_from_minus_one_to_one() -> None:
    low, high = np.array([0, -2], np.float32), np.array([4, 2], np.float32)
    spaces = TeamSpaces([ONE] * 2, [Box(low, high), Box(-1, 3, (1,))])
    assert spaces.action_space == Box(-1, 1, (2,), np.float32)
    for given, own in [([-1, -1], [0, -2]), ([0, 0.5], [2, 1]), ([7, -7], [4, -2])]:
        np.testing.assert_array_equal(spaces.own_action(0, np.array(given, np.float32)), own)
    np.testing.assert_array_equal(spaces.own_action(1, np.array([0.5, 9], np.float32)), [2])
    assert any("clipped to [-1, 1]" in note for note in spaces.notes)
    assert any("[2, 1] numbers" in note for note in spaces.notes)


def test_boxes_without_bounds_are_passed_on() -> None:
    spaces = TeamSpaces([ONE], [Box(-np.inf, np.inf, (2, 1), np.float64)])
    own = spaces.own_action(0, np.array([70, -3], np.float32))
    assert own.dtype == np.float64 and own.tolist() == [[70], [-3]]
    assert np.isinf(spaces.action_space.high).all() and spaces.notes == []


def test_boxes_with_one_bound_are_cut_off_there_and_said_so() -> None:
    low, high = np.array([0, -np.inf], np.float32), np.array([np.inf, 1], np.float32)
    spaces = TeamSpaces([ONE], [Box(low, high)])
    own = spaces.own_action(0, np.array([-7, 7], np.float32))
    assert own.tolist() == [0, 1]
    assert spaces.own_action(0, np.array([7, -7], np.float32)).tolist() == [7, -7]
    assert any("one bound" in note for note in spaces.notes)


@pytest.mark.parametrize(("low", "high", "own"), [(0, np.inf, 0), (-np.inf, 1, -7)])
def test_half_bounded_boxes_leave_a_note(low: float, high: float, own: float) -> None:
    spaces = TeamSpaces([ONE], [Box(low, high, (1,))])
    assert spaces.own_action(0, np.array([-7], np.float32)).tolist() == [own]
    assert any("one bound" in note for note in spaces.notes)


def test_bounds_too_far_apart_to_stretch_to_are_none() -> None:
    most = np.finfo(np.float32).max
    spaces = TeamSpaces([ONE], [Box(-most, most, (1,))])
    assert spaces.own_action(0, np.array([0.5], np.float32)).tolist() == [0.5]


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (Box(0, 255, (2, 2), np.uint8), np.full((2, 2), 0.5), "came as float64, not as uint8"),
        (Box(-1, 1, (4, 2)), np.zeros((2, 4)), r"has shape \(2, 4\), but must have Box"),
        (Discrete(3), 5, r"an observation is 5, but must be in Discrete\(3\)"),
        (MultiDiscrete([2, 2]), np.array([0, 2]), "but must be in MultiDiscrete"),
    ],
)
def test_observations_that_are_not_in_their_space_are_named(space, value, words: str) -> None:
    spaces = TeamSpaces([space], [ONE])
    with pytest.raises(ValueError, match=words):
        spaces.flatten([value])


@pytest.mark.parametrize(
    ("obs_spaces", "action_spaces", "words"),
    [
        ([ONE], [MultiDiscrete([MAX_COMBINATIONS, 2])], "has 512 combinations, more than 256"),
        ([ONE], [Text(3)], "agent 0's action space .* is of no kind that can be learned"),
        ([ONE], [Box(0, 3, (2,), np.int64)], "a Box of floats"),
        ([ONE] * 2, [ONE, Box(0, 1, (1,))], "some agents' actions are discrete and others'"),
        ([ONE, Graph(ONE, None)], [ONE] * 2, "agent 1 observes .*, which has no fixed length"),
    ],
)
def test_spaces_that_cannot_be_used_are_named(obs_spaces, action_spaces, words) -> None:
    with pytest.raises(ValueError, match=words):
        TeamSpaces(obs_spaces, action_spaces)
