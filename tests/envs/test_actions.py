"""The team's actions become a batched game's, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from hmasd.envs.actions import BatchActions, padding_notes


def test_discrete_agents_share_the_longest_list() -> None:
    actions = BatchActions(["a", "b"], [Discrete(3), Discrete(5)])
    assert actions.space == Discrete(5)
    assert actions.mask.tolist() == [[True, True, True, False, False], [True] * 5]
    played = actions.read(np.array([[2, 4]], dtype=np.int32), 1)
    assert (played.tolist(), played.dtype) == ([[2, 4]], np.int64)
    assert "agents have [3, 5] actions" in actions.notes[0]
    alike = BatchActions(["a", "b"], [Discrete(4)] * 2)
    assert alike.mask is None
    assert alike.notes == []


def test_filled_up_observations_are_told() -> None:
    assert padding_notes([4, 4]) == []
    (note,) = padding_notes([3, 11])
    assert "[3, 11] numbers are filled up with zeros to 11" in note


def test_boxes_are_shown_as_plus_minus_1() -> None:
    box = Box(np.float32([0.0, -2.0]), np.float32([1.0, 6.0]), dtype=np.float32)
    actions = BatchActions(["a"], [box])
    assert actions.space == Box(-1.0, 1.0, (2,), np.float32)
    given = np.array([[[-1.0, -1.0]], [[0.0, 0.0]], [[1.0, 0.5]], [[-7.0, 7.0]]], np.float32)
    played = actions.read(given, 4)
    assert played.dtype == np.float32
    assert played[:, 0].tolist() == [[0.0, -2.0], [0.5, 2.0], [1.0, 4.0], [0.0, 6.0]]


@pytest.mark.parametrize(
    "spaces",
    [
        [Discrete(2), Box(-1, 1, (1,))],
        [Box(-1, 1, (1,)), Box(-1, 1, (2,))],
        [Box(-1, 1, (1,)), Box(-2, 2, (1,))],
        [Box(-np.inf, np.inf, (1,))] * 2,
    ],
)
def test_spaces_that_do_not_mix_are_refused(spaces: list) -> None:
    with pytest.raises(
        ValueError, match=r"all be Discrete, or all one finite Box; they are a: .*b: "
    ):
        BatchActions(["a", "b"], spaces)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.zeros((2, 1, 1), np.float32), "floats of shape"),
        (np.zeros((2, 2, 1), np.int64), "floats of shape"),
        (np.array([[[0], [0]], [[0], [np.inf]]], np.float32), "env 1, agent 1: action inf"),
    ],
)
def test_names_what_cannot_be_played(action: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BatchActions(["a", "b"], [Box(-1, 1, (1,))] * 2).read(action, 2)
