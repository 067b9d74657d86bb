"""Spaces of agents that may differ, as one observation size and one action space for all.

* Observations become flat float32 numbers: boxes row by row (pictures of bytes divided by 255),
  Discrete and MultiDiscrete one-hot, Dict and Tuple joined; zeros fill up to the longest.
* Discrete actions count from 0; an agent with fewer has the others forbidden by its mask.
  MultiDiscrete actions become one number per combination, up to `MAX_COMBINATIONS`.
* Box actions with finite bounds are shown as [-1, 1]: an action is clipped to that and stretched to
  the bounds. Without bounds they are passed on as they are. Numbers that an agent has no use for
  are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from gymnasium.spaces import Dict as DictSpace
from gymnasium.spaces import Tuple as TupleSpace
from gymnasium.spaces import utils as space_utils

MAX_COMBINATIONS = 256


class _Bounds(NamedTuple):
    """How numbers in [-1, 1] become those of a bounded Box; worked out once, as steps are many."""

    low: np.ndarray
    high: np.ndarray
    middle: np.ndarray
    half: np.ndarray


class TeamSpaces:
    """How the agents' own spaces and the team's common ones become each other."""

    def __init__(self, obs_spaces: Sequence[Space], action_spaces: Sequence[Space]) -> None:
        """One space per agent, of observations and of actions.

        Raises:
            ValueError: a space cannot be used; names the agent, the space and the remedy.
        """
        self.num_agents = len(action_spaces)
        self.notes: list[str] = []
        self._obs_spaces = list(obs_spaces)
        self.obs_sizes = [_flat_size(agent, space) for agent, space in enumerate(obs_spaces)]
        self.obs_size = max(self.obs_sizes)
        ends = np.cumsum([0, *self.obs_sizes])
        self._places = [slice(a, b) for a, b in pairwise(map(int, ends))]
        self._are_even = len(set(self.obs_sizes)) == 1
        plain = all(isinstance(x, Box) and x.dtype.char != "B" for x in obs_spaces)
        self._plain_shapes = [(size,) for size in self.obs_sizes] if plain else None
        if not self._are_even:
            self.notes.append(
                f"observations of {self.obs_sizes} numbers are filled up with zeros to "
                f"{self.obs_size}; --agent-id lets agents that differ know who they are"
            )
        self._action_spaces = list(action_spaces)
        kinds = {_action_kind(agent, space) for agent, space in enumerate(action_spaces)}
        if len(kinds) > 1:
            raise ValueError(
                f"some agents' actions are discrete and others' continuous: "
                f"{_unique(action_spaces)}; all agents must share one kind"
            )
        self._bounds = [_bounds(space) for space in action_spaces]
        starts = [int(space.start) for space in action_spaces if isinstance(space, Discrete)]
        self._starts = starts if len(starts) == self.num_agents else None
        self.is_discrete = kinds == {"discrete"}
        self.action_space = self._join_discrete() if self.is_discrete else self._join_boxes()

    def flatten(self, values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Flat observations, None for an agent that has none.

        Returns:
            obs: [N, O] float32, zeros after the end of shorter ones.
            joined: [sum of `obs_sizes`] float32, one after the other without these zeros.
        """
        joined = np.zeros(self._places[-1].stop, dtype=np.float32)
        if [getattr(value, "shape", None) for value in values] == self._plain_shapes:
            np.concatenate(values, out=joined)  # quicker, and what most games show
        else:
            for space, place, value in zip(self._obs_spaces, self._places, values, strict=True):
                if value is not None:
                    _write(space, value, joined[place])
        if self._are_even:
            return joined.reshape(self.num_agents, self.obs_size), joined
        obs = np.zeros((self.num_agents, self.obs_size), dtype=np.float32)
        for row, place, size in zip(obs, self._places, self.obs_sizes, strict=True):
            row[:size] = joined[place]
        return obs, joined

    def own_actions(self, action: np.ndarray) -> list[Any]:
        """What each agent's own space takes for the team's [N] numbers, or [N, A]."""
        if self._starts is None:
            return [self.own_action(agent, own) for agent, own in enumerate(action)]
        return [own + start for own, start in zip(action.tolist(), self._starts, strict=True)]

    def own_action(self, agent: int, action: np.ndarray) -> Any:
        """What the agent's own space takes for a number, or for [A] numbers, of the team's."""
        space = self._action_spaces[agent]
        if isinstance(space, Discrete):
            return int(action) + int(space.start)
        if isinstance(space, MultiDiscrete):
            return np.array(np.unravel_index(int(action), space.nvec))
        assert isinstance(space, Box)
        own = action[: math.prod(space.shape)].reshape(space.shape)
        bounds = self._bounds[agent]
        if bounds is not None:  # not np.clip: it takes several times as long on a few numbers
            own = bounds.middle + np.minimum(np.maximum(own, -1.0), 1.0) * bounds.half
            own = np.minimum(np.maximum(own, bounds.low), bounds.high)
        else:
            own = np.minimum(np.maximum(own, space.low), space.high)
        return own.astype(space.dtype)

    def allowed(self, agent: int, mask: Any = None) -> np.ndarray:
        """Which of the team's actions [A] the agent may take, given its own mask, if it has one."""
        assert isinstance(self.action_space, Discrete)
        row = np.zeros(int(self.action_space.n), dtype=np.bool_)
        count = self._counts[agent]
        own = np.ones(count, bool) if mask is None else np.asarray(mask, dtype=np.bool_)
        if own.shape != (count,):
            raise ValueError(
                f"the action mask of agent {agent} has shape {own.shape}, but the agent has "
                f"{count} actions"
            )
        row[:count] = own
        return row

    @property
    def has_fillers(self) -> bool:
        """Whether some agents must be forbidden some of the team's actions all the time."""
        return self.is_discrete and len(set(self._counts)) > 1

    def _join_discrete(self) -> Discrete:
        spaces = self._action_spaces
        self._counts = [
            int(np.prod(space.nvec)) if isinstance(space, MultiDiscrete) else int(space.n)
            for space in spaces
            if isinstance(space, (Discrete, MultiDiscrete))
        ]
        if len(set(self._counts)) > 1:
            self.notes.append(
                f"agents have {self._counts} actions: all get {max(self._counts)}, and an agent's "
                f"action mask forbids what it does not have"
            )
        if any(isinstance(space, MultiDiscrete) for space in spaces):
            self.notes.append("every combination of a MultiDiscrete action counts as one action")
        return Discrete(max(self._counts))

    def _join_boxes(self) -> Box:
        sizes = [int(np.prod(space.shape or ())) for space in self._action_spaces]
        bounded = [bounds is not None for bounds in self._bounds]
        half = [
            isinstance(space, Box)
            and not space.is_bounded()
            and bool((np.isfinite(space.low) | np.isfinite(space.high)).any())
            for space in self._action_spaces
        ]
        if any(half):
            self.notes.append("actions with one bound are cut off there")
        if any(bounded):
            self.notes.append("actions are clipped to [-1, 1] and stretched to their bounds")
        if len(set(sizes)) > 1:
            self.notes.append(
                f"agents have actions of {sizes} numbers: all get {max(sizes)}, and an agent's "
                f"superfluous ones are ignored"
            )
        bound = 1.0 if all(bounded) else np.inf
        return Box(-bound, bound, (max(sizes),), np.float32)


def _flat_size(agent: int, space: Space) -> int:
    """Numbers of an agent's flat observation."""
    try:
        return int(space_utils.flatdim(space))
    except (NotImplementedError, ValueError) as error:
        raise ValueError(
            f"agent {agent} observes {space}, which has no fixed length; give it a Box, Discrete, "
            f"MultiDiscrete, MultiBinary, or a Dict or Tuple of these"
        ) from error


def _action_kind(agent: int, space: Space) -> str:
    if isinstance(space, Discrete):
        return "discrete"
    if isinstance(space, MultiDiscrete):
        combinations = int(np.prod(space.nvec))
        if combinations <= MAX_COMBINATIONS:
            return "discrete"
        reason = f"has {combinations:,} combinations, more than {MAX_COMBINATIONS}"
    elif isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
        return "continuous"
    else:
        reason = "is of no kind that can be learned"
    raise ValueError(
        f"agent {agent}'s action space {space} {reason}; use a Discrete, a Box of floats, or a "
        f"MultiDiscrete of at most {MAX_COMBINATIONS} combinations"
    )


def _bounds(space: Space) -> _Bounds | None:
    """None: no Box, or one without bounds, or with some so far apart that they are none."""
    if not isinstance(space, Box) or not space.is_bounded():
        return None
    low, high = space.low, space.high
    if (np.subtract(high, low, dtype=np.float64) > np.finfo(np.float32).max).any():
        return None
    return _Bounds(low, high, (high + low) / 2, (high - low) / 2)


def _write(space: Space, value: Any, out: np.ndarray) -> None:
    """Write an observation's numbers to `out`, in the order in which its space declares them."""
    if isinstance(space, Box):
        given = np.asarray(value)
        if given.shape != space.shape:
            raise ValueError(f"an observation has shape {given.shape}, but must have {space}")
        flat = given.reshape(-1)
        is_bytes = space.dtype.char == "B"  # quicker than the comparison with np.uint8
        if is_bytes and given.dtype.kind == "f":
            raise ValueError(f"an observation of {space} came as {given.dtype}, not as uint8")
        np.divide(flat, 255, out=out) if is_bytes else np.copyto(out, flat)
    elif isinstance(space, (TupleSpace, DictSpace)):
        parts = space.spaces.items() if isinstance(space, DictSpace) else enumerate(space.spaces)
        start = 0
        for name, inner in parts:
            stop = start + space_utils.flatdim(inner)
            _write(inner, value[name], out[start:stop])
            start = stop
    elif not space.contains(value):
        raise ValueError(f"an observation is {value!r}, but must be in {space}")
    else:
        out[:] = space_utils.flatten(space, value)


def _unique(spaces: Sequence[Space]) -> str:
    return ", ".join(sorted({str(space) for space in spaces}))
