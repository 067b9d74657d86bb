"""Gymnasium environments of several agents: spaces, observations and rewards one per agent.

`observation_space` and `action_space` are a Tuple, a list or a tuple, one space per agent. `reset`
and `step` follow gymnasium; rewards are one per agent, or one number for the team; `terminated` and
`truncated` are single, or one per agent: the episode is over when each agent has one of the two.
Until then all agents play on: there is no API by which one could leave.

* The state is all agents' observations joined.
* Action masks: `info["action_mask"]`, one row per agent.
* Success: one of `SUCCESS_KEYS` in the info at the end; without, the env never succeeds.

Some packages end an episode at their own time limit as if the task had ended. Where `_PACKAGES`
knows the limit, such an end is a truncation. It also mends what a package's reset leaves behind, so
that the seed alone decides an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Space
from gymnasium.spaces import Tuple as TupleSpace

from hmasd.envs.pettingzoo_parallel import picture, succeeded, team_reward
from hmasd.envs.single import SingleStep, SingleView
from hmasd.envs.team_spaces import TeamSpaces

_RESET = ("observations", "info")
_STEP = ("observations", "rewards", "terminated", "truncated", "info")


class _Package(NamedTuple):
    """What a package does not tell through gymnasium, or does not do."""

    limit: str  # name of the game's attribute with its time limit
    solved: Callable[[Any], bool] = lambda game: False  # whether it has reached its goal
    forget: Callable[[Any], None] = lambda game: None  # the last episode, before a reset


def _forget_players(game: Any) -> None:
    """Lbforaging starts nobody where one who is not placed yet stood when the last game ended."""
    for player in game.players:
        player.position = None


_PACKAGES = {
    "lbforaging": _Package(
        "_max_episode_steps", lambda game: not game.field.any(), _forget_players
    ),
    "rware": _Package("max_steps"),  # shelves are asked for without end
}


def is_gymnasium_team(env: Any) -> bool:
    """Whether an object is a gymnasium env whose spaces come one per agent."""
    return all(
        _is_listing(getattr(env, name, None)) for name in ("observation_space", "action_space")
    )


class GymnasiumTeam:
    """One gymnasium game of several agents; see `SingleEnv`."""

    def __init__(self, env: Any, reward: str = "sum") -> None:
        """env: its spaces are listings; reward: "sum" or "mean" of the agents'.

        Raises:
            ValueError: a space cannot be used.
        """
        self._env = env
        self._game = getattr(env, "unwrapped", env)
        self._package = _PACKAGES.get(type(self._game).__module__.partition(".")[0])
        self._reward = reward
        self._spaces = TeamSpaces(list(env.observation_space), list(env.action_space))
        self.num_agents = self._spaces.num_agents
        self.obs_size = self._spaces.obs_size
        self.state_size = sum(self._spaces.obs_sizes)
        self.action_space = self._spaces.action_space
        self._masked = self._spaces.has_fillers or _masks(self._restart(0)[1]) is not None
        self.notes = [
            *self._spaces.notes,
            "the env has no state: the agents' observations joined stand in",
        ]

    def reset(self, seed: int) -> SingleView:
        """Start a new episode."""
        return self._view(*self._restart(seed))

    def step(self, action: np.ndarray) -> SingleStep:
        """Play one step."""
        actions = tuple(self._spaces.own_actions(action))
        told = _parts("step", _STEP, self._env.step(actions))
        observations, rewards, terminated, truncated, info = told
        self._clock += 1
        ended, cut = self._ends(terminated, truncated)
        success = succeeded(info)
        if self._package is not None and ended:
            success = success or self._package.solved(self._game)
            if not success and self._clock >= getattr(self._game, self._package.limit):
                ended, cut = False, True
        return SingleStep(
            view=self._view(observations, info),
            reward=self._team_reward(rewards),
            terminated=ended,
            truncated=cut,
            success=success,
        )

    def render(self) -> np.ndarray:
        """Picture of the game: [height, width, 3] uint8."""
        return picture(self._env)

    def close(self) -> None:
        """Close the game."""
        self._env.close()

    def _restart(self, seed: int) -> tuple[Sequence[Any], dict[str, Any]]:
        """The env's own reset."""
        self._clock = 0
        if self._package is not None:
            self._package.forget(self._game)
        return _parts("reset", _RESET, self._env.reset(seed=seed))

    def _ends(self, terminated: Any, truncated: Any) -> tuple[bool, bool]:
        """Whether the episode ended by the task, and whether by the clock."""
        if isinstance(terminated, bool) and isinstance(truncated, bool):  # most games, and quicker
            return terminated, truncated and not terminated
        by_task = self._flags("terminated", terminated)
        by_clock = self._flags("truncated", truncated)
        over = bool((by_task | by_clock).all())
        cut = over and bool((by_clock & ~by_task).any())
        return over and not cut, cut

    def _flags(self, what: str, given: Any) -> np.ndarray:
        """One flag, or one per agent: [1] or [N] bool."""
        flags = np.asarray(given)
        if flags.dtype.kind in "biu" and flags.shape in ((), (self.num_agents,)):
            return flags.astype(np.bool_).reshape(-1)
        raise ValueError(
            f"step gave {given!r} as {what}, but must give one bool, or a list of one for each of "
            f"the {self.num_agents} agents"
        )

    def _team_reward(self, rewards: Any) -> float:
        """The team's of one per agent, or the one that came."""
        if not isinstance(rewards, (list, tuple)) and np.ndim(rewards) == 0:
            return float(rewards)
        if len(rewards) != self.num_agents:
            raise ValueError(
                f"step gave {len(rewards)} rewards, but must give one per agent "
                f"({self.num_agents}) or one for the team"
            )
        return team_reward(rewards, self.num_agents, self._reward)

    def _view(self, observations: Sequence[Any], info: dict[str, Any]) -> SingleView:
        if len(observations) != self.num_agents:
            raise ValueError(
                f"there are {len(observations)} observations, but {self.num_agents} agents"
            )
        obs, joined = self._spaces.flatten(observations)
        mask = None
        masks = _masks(info)
        if masks is not None and not self._masked:
            raise ValueError(
                "the info has an action_mask now, but had none at the first reset; give it always"
            )
        if self._masked:
            masks = [None] * self.num_agents if masks is None else masks
            mask = np.stack([self._spaces.allowed(i, own) for i, own in enumerate(masks)])
        return SingleView(obs, joined, mask)


def _masks(info: Any) -> Any:
    """The agents' action masks of an info, or of one info per agent; None: there are none."""
    if isinstance(info, dict):
        return info.get("action_mask")
    masks = [own.get("action_mask") for own in info]
    return None if all(mask is None for mask in masks) else masks


def _parts(what: str, parts: tuple[str, ...], returned: Any) -> Any:
    """What a call returned, if it has all its parts.

    Raises:
        ValueError: it has not, as in APIs of years ago.
    """
    if isinstance(returned, tuple) and len(returned) == len(parts):
        infos = returned[-1] if isinstance(returned[-1], (list, tuple)) else returned[-1:]
        if all(isinstance(info, dict) for info in infos):
            return returned
        raise ValueError(
            f"{what} returned {type(returned[-1]).__name__} as its last part, but must return the "
            f"info, a dict or a list of one per agent"
        )
    given = f"{len(returned)} values" if isinstance(returned, tuple) else type(returned).__name__
    raise ValueError(
        f"{what} returned {given}, but must return {len(parts)}: {', '.join(parts)} (gymnasium)"
    )


def _is_listing(spaces: Any) -> bool:
    return isinstance(spaces, TupleSpace) or (
        isinstance(spaces, (list, tuple))
        and len(spaces) > 0
        and all(isinstance(space, Space) for space in spaces)
    )
