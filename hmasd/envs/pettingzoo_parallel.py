"""Environments of PettingZoo's API: https://pettingzoo.farama.org.

A `ParallelEnv` is played as it is. An `AECEnv`, whose agents move one after the other, is played
through PettingZoo's own `aec_to_parallel`, which takes those that update once per cycle.

* The state is the env's `state()`, or all agents' observations joined where it has none.
* An agent that left is dead: it sees zeros, and its mask, if there are masks, allows action 0.
* The episode is over when no agent is left; truncated if an agent left by truncation alone.
* Action masks: `infos[agent]["action_mask"]`, or an observation {"observation", "action_mask"}.
* Success: one of `SUCCESS_KEYS` in any agent's info at the end; without, the env never succeeds.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from gymnasium.spaces import Dict as DictSpace
from gymnasium.spaces import Space

from hmasd.envs.single import SingleStep, SingleView
from hmasd.envs.team_spaces import TeamSpaces

_RESET = ("observations", "infos")
_STEP = ("observations", "rewards", "terminations", "truncations", "infos")
SUCCESS_KEYS = ("success", "is_success", "won", "battle_won")


def is_pettingzoo(env: Any) -> bool:
    """Whether an object follows PettingZoo's API, parallel or turn by turn."""
    return hasattr(env, "possible_agents") and callable(getattr(env, "observation_space", None))


def team_reward(rewards: Collection[float], num_agents: int, how: str) -> float:
    """The team's reward from its agents': their "sum", or the "mean" over all, also the dead.

    Raises:
        ValueError: one of them is no number.
    """
    try:
        total = float(sum(rewards))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the agents' rewards are {list(rewards)}, but each must be one number"
        ) from error
    return total / num_agents if how == "mean" else total


def succeeded(infos: Any) -> bool:
    """Whether an info, or any agent's, has one of `SUCCESS_KEYS` that is true."""
    if not infos:
        return False
    if not isinstance(infos, dict):
        return any(succeeded(info) for info in infos)
    if any(infos.get(key, False) for key in SUCCESS_KEYS):
        return True
    return any(succeeded(info) for info in infos.values() if isinstance(info, dict))


def picture(env: Any) -> np.ndarray:
    """What the env draws: [height, width, 3] uint8.

    Raises:
        ValueError: it drew nothing.
    """
    try:
        drawn = env.render()
    except NotImplementedError:
        drawn = None
    if not isinstance(drawn, np.ndarray):
        raise ValueError(
            f"{type(env).__name__}.render() gave no picture but {type(drawn).__name__}; make the "
            f"env with render_mode='rgb_array', as by --env-args '{{render_mode: rgb_array}}'"
        )
    return drawn[..., :3].astype(np.uint8)


class PettingZooTeam:
    """One PettingZoo game; see `SingleEnv`."""

    def __init__(self, env: Any, reward: str = "sum") -> None:
        """env: parallel or turn by turn; reward: "sum" or "mean" of the agents'.

        Raises:
            ValueError: a space cannot be used, or the turns cannot be played as one step.
        """
        self._env = _parallel(env)
        self._names = list(self._env.possible_agents)
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._reward = reward
        obs_spaces = [self._env.observation_space(name) for name in self._names]
        self._shows_masks = self._masked = any(_holds_mask(space) for space in obs_spaces)
        self._spaces = TeamSpaces(
            [space["observation"] if _holds_mask(space) else space for space in obs_spaces],
            [self._env.action_space(name) for name in self._names],
        )
        self.num_agents = len(self._names)
        self._everybody = np.ones(self.num_agents, dtype=np.bool_)
        self.obs_size = self._spaces.obs_size
        self.action_space = self._spaces.action_space
        observations, infos = self._restart(0)
        self._masked |= self._spaces.has_fillers
        self._masked |= any("action_mask" in info for info in infos.values())
        self._has_state = _state_of(self._env) is not None
        self._last_state = self._state(self._read(observations)[1], over=False)
        self.state_size = len(self._last_state)
        self.notes = [*self._spaces.notes]
        if not self._has_state:
            self.notes.append("the env has no state(): the agents' observations joined stand in")

    def reset(self, seed: int) -> SingleView:
        """Start a new episode with all agents."""
        observations, infos = self._restart(seed)
        return self._view(observations, infos, self._env.agents, self._env.agents)

    def step(self, action: np.ndarray) -> SingleStep:
        """Play one step; the actions of agents that left are ignored."""
        own = self._spaces.own_actions(action)
        actions = {name: own[self._number(name)] for name in self._env.agents}
        told = _told("step", _STEP, self._env.step(actions))
        observations, rewards, terminated, truncated, infos = told
        self._check(actions, rewards, terminated, truncated)
        gone = {name for name in actions if terminated.get(name) or truncated.get(name)}
        left = [name for name in self._env.agents if name not in gone]
        cut = any(truncated.get(name) and not terminated.get(name) for name in gone)
        self._gone |= gone
        blind = [name for name in actions if observations.get(name) is None]
        if blind and not left:
            raise ValueError(
                f"the episode ended without observations of {blind}; return those that the last "
                f"step reached, also of agents that leave"
            )
        return SingleStep(
            view=self._view(observations, infos, left, actions),
            reward=team_reward(rewards.values(), self.num_agents, self._reward),
            terminated=not left and not cut,
            truncated=not left and cut,
            success=succeeded(infos),
        )

    def render(self) -> np.ndarray:
        """Picture of the game: [height, width, 3] uint8."""
        return picture(self._env)

    def close(self) -> None:
        """Close the game."""
        self._env.close()

    def _restart(self, seed: int) -> tuple[Any, Any]:
        """The env's own reset: observations and infos."""
        observations, infos = _told("reset", _RESET, self._env.reset(seed=seed))
        if not self._env.agents:
            raise ValueError("reset left no agents: set self.agents to list(self.possible_agents)")
        self._gone: set[Any] = set()
        return observations, infos

    def _check(self, acted: Any, rewards: Any, terminated: Any, truncated: Any) -> None:
        """Look whether a step told of each agent that acted what became of it.

        Raises:
            ValueError: it did not; what is missing, of whom.
        """
        if not rewards.keys() == terminated.keys() == truncated.keys() == acted.keys():
            self._check_told(acted, rewards, terminated, truncated)
        if self._gone or self._env.agents != list(acted):
            self._check_players(acted, terminated, truncated)

    def _check_told(self, acted: Any, rewards: Any, terminated: Any, truncated: Any) -> None:
        """Nobody who acted is left out, nobody unknown is rewarded; raises as `_check`."""
        parts = (("reward", rewards), ("termination", terminated), ("truncation", truncated))
        for what, part in parts:
            missing = [name for name in acted if name not in part]
            if missing:
                raise ValueError(f"step gave no {what} of {missing}, who acted; give each its own")
        for name in rewards:
            self._number(name)

    def _check_players(self, acted: Any, terminated: Any, truncated: Any) -> None:
        """Who left has an end, and who had left stays away; raises as `_check`."""
        playing = set(self._env.agents)
        silent = [
            name
            for name in acted
            if name not in playing and not terminated[name] and not truncated[name]
        ]
        if silent:
            raise ValueError(
                f"{silent} left self.agents without an end: set the termination or the truncation "
                f"of each agent that leaves"
            )
        back = sorted(playing & self._gone, key=str)
        if back:
            raise ValueError(
                f"{back} play on although they had left the episode; take an agent out of "
                f"self.agents when it ends, and let it come back with the next reset"
            )

    def _view(self, observations: Any, infos: Any, left: Any, acted: Any) -> SingleView:
        """What the team sees.

        Args:
            observations: by agent, as are infos.
            infos: of the same agents.
            left: the agents that play on.
            acted: those who see: who plays on, and who leaves with this step.
        """
        obs, joined, masks = self._read({name: observations.get(name) for name in acted})
        alive = self._everybody
        numbers = [self._number(name) for name in left]
        if len(numbers) < self.num_agents:
            alive = np.zeros(self.num_agents, dtype=np.bool_)
            alive[numbers] = True
        blind = [name for name in left if observations.get(name) is None]
        if blind:
            raise ValueError(
                f"there are no observations of {blind}, who play on; return one for each agent in "
                f"self.agents"
            )
        mask = None
        if not self._masked and any("action_mask" in info for info in infos.values()):
            raise ValueError(
                "infos have an action_mask now, but had none at the first reset; give it always"
            )
        if self._masked:
            for name, info in infos.items():
                masks.setdefault(name, info.get("action_mask"))
            mask = np.stack(
                [
                    self._spaces.allowed(number, masks.get(name) if alive[number] else None)
                    for number, name in enumerate(self._names)
                ]
            )
            mask[~alive] = np.arange(mask.shape[1]) == 0
        return SingleView(obs, self._state(joined, over=not left), mask, alive)

    def _read(self, observations: Any) -> tuple[np.ndarray, np.ndarray, dict[Any, Any]]:
        """Observations [N, O], the same joined without fillers, and masks found in them."""
        values = [observations.get(name) for name in self._names]
        masks = {}
        if self._shows_masks:
            for number, (name, seen) in enumerate(zip(self._names, values, strict=True)):
                if isinstance(seen, dict) and "action_mask" in seen:
                    masks[name], values[number] = seen["action_mask"], seen["observation"]
        return *self._spaces.flatten(values), masks

    def _state(self, joined: np.ndarray, over: bool) -> np.ndarray:
        """The env's own state, flat, or what stands in for it.

        Some envs (multiwalker) have no state any more when the episode is over: the last one they
        had stands in.
        """
        if not self._has_state:
            return joined
        given = _state_of(self._env)
        if given is None and over:
            return self._last_state
        state = np.asarray(given)
        flat = state.reshape(-1).astype(np.float32)
        self._last_state = flat / np.float32(255) if state.dtype == np.uint8 else flat
        return self._last_state

    def _number(self, name: Any) -> int:
        if name not in self._numbers:
            raise ValueError(
                f"agent {name!r} is not one of possible_agents, {self._names}; the set of agents "
                f"must not change, though some may leave"
            )
        return self._numbers[name]


def _told(what: str, parts: tuple[str, ...], returned: Any) -> Any:
    """What a call returned, if it is one dict by agent for each of its parts.

    Raises:
        ValueError: it is something else, as in APIs of years ago.
    """
    if isinstance(returned, tuple) and len(returned) == len(parts):
        if all(isinstance(part, dict) for part in returned):
            return returned
        kinds = ", ".join(type(part).__name__ for part in returned)
        given = f"({kinds})"
    else:
        given = (
            f"{len(returned)} values" if isinstance(returned, tuple) else type(returned).__name__
        )
    raise ValueError(
        f"{what} returned {given}, but must return {len(parts)} dicts by agent: {', '.join(parts)}"
    )


def _parallel(env: Any) -> Any:
    """The env with one step for all agents."""
    if not hasattr(env, "agent_iter"):
        return env
    if not env.metadata.get("is_parallelizable", False):
        raise ValueError(
            f"{type(env.unwrapped).__name__} plays turn by turn and is not 'is_parallelizable' in "
            f"its metadata: each agent's move changes what the next one sees. Make it a "
            f"ParallelEnv in which those who are not at turn have an action that does nothing"
        )
    from pettingzoo.utils.conversions import aec_to_parallel

    return aec_to_parallel(env)


def _state_of(env: Any) -> Any:
    """What `env.state()` gives; None if the env has no state."""
    try:
        return env.state()
    except (NotImplementedError, AttributeError):
        return None


def _holds_mask(space: Space) -> bool:
    return isinstance(space, DictSpace) and {"observation", "action_mask"} <= set(space.spaces)
