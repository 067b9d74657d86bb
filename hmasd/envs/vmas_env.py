"""Scenarios of VMAS, batched in torch: https://github.com/proroklab/VectorizedMultiAgentSimulator.

VMAS draws for the whole batch from one generator that all its environments of a process share.
Each `VmasEnv` puts its own in its place for every call, so that evaluation does not disturb
training; still, what env e does depends on `num_envs`.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hmasd.envs.actions import BatchActions, padding_notes
from hmasd.envs.end_pictures import EndPictures
from hmasd.envs.extras import NO_SUCCESS, import_extra
from hmasd.types import EnvStep, EnvView

Leaf = Tensor | bool | int | float

_IN_WORLD = re.compile(r"\.world\._(agents|landmarks)\.\d+")  # where entities have their home
_SEEDS = 2**32  # numpy's generator takes no more


class VmasEnv:
    """`num_envs` copies of one VMAS scenario on the CPU; see `BatchedEnv`.

    Shorter observations are filled up with zeros; where agents have fewer actions than others a
    mask forbids the rest. The state is the observations joined. The scenario's `done` terminates
    an episode; nothing counts as a success, since `done` may be good or bad.
    """

    def __init__(
        self, game: Any, episode_length: int, combine: Callable[[Tensor, int], Tensor]
    ) -> None:
        """Wrap a `vmas` environment that has no time limit of its own; it belongs to this one.

        Args:
            game: `vmas.make_env(...)`.
            episode_length: steps after which an episode is truncated.
            combine: `torch.sum` or `torch.mean`: the team's reward [E] of the agents' [N, E].

        Raises:
            ValueError: a number is below 1, or the agents' actions are of kinds that do not mix.
        """
        if episode_length < 1:
            raise ValueError(f"episode_length is {episode_length}, but must be at least 1")
        self.num_envs: int = game.num_envs
        self.num_agents = len(game.agents)
        self.episode_length = episode_length
        spaces = [game.get_agent_action_space(agent) for agent in game.agents]
        self._actions = BatchActions([agent.name for agent in game.agents], spaces)
        self.action_space = self._actions.space
        mask = self._actions.mask
        self._mask = None if mask is None else np.repeat(mask[None], self.num_envs, axis=0)
        self._game = game
        self._combine = combine
        self._shared: list[Any] = game.vmas_random_state  # one list for all of VMAS
        self._random = list(self._shared)
        self._clock = np.zeros(self.num_envs, dtype=np.int64)
        self._sizes = [space.shape[0] for space in game.observation_space]
        self.obs_size = max(self._sizes)
        self.state_size = self.num_agents * self.obs_size
        self.notes = [
            *self._actions.notes,
            *padding_notes(self._sizes),
            "the agents' observations joined stand in for a state",
            f"the scenario {NO_SUCCESS}",
        ]
        self._started = False
        self._ends = EndPictures()
        still = np.zeros((self.num_envs, self.num_agents, *(self.action_space.shape or ())))
        self._play(still.astype(self.action_space.dtype))  # what a step makes, set_state must find

    def reset(self, seed: int) -> EnvView:
        """Start new episodes in all envs; the seed decides all that follows.

        Raises:
            ValueError: the seed is out of VMAS's range.
        """
        if not 0 <= seed < _SEEDS:
            raise ValueError(f"the seed is {seed}, but VMAS takes 0..2**32 - 1")
        self._ends.forget()
        obs = self._call(self._game.reset, seed=seed)
        self._clock[:] = 0
        self._started = True
        return self._view(self._join(obs))

    def step(self, action: np.ndarray) -> EnvStep:
        """Play one step in all envs and restart those that ended; action: [E, N] or [E, N, A].

        Raises:
            ValueError: the actions' shape, type or a value is wrong; nothing was played then.
            RuntimeError: the env was not started.
        """
        if not self._started:
            raise RuntimeError("step() before reset(): call reset(seed) or set_state(state) first")
        played = self._actions.read(action, self.num_envs)
        self._ends.forget()
        obs, rewards, done, _ = self._play(played)
        self._clock += 1
        terminated = done.numpy().copy()
        truncated = (self._clock >= self.episode_length) & ~terminated
        final = self._join(obs)
        self._ends.keep(terminated | truncated, self._picture)
        return EnvStep(
            view=self._restart(terminated | truncated, final),
            reward=self._combine(torch.stack(rewards), 0).float().numpy(),
            terminated=terminated,
            truncated=truncated,
            final_obs=final,
            final_state=final.reshape(self.num_envs, -1),
            success=np.zeros(self.num_envs, dtype=np.bool_),
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of every tensor and number in VMAS's world and scenario, by their paths.

        With them come the clocks [E] and the states of VMAS's three random generators.
        """
        _, leaves = _walk(self._game)
        state = {path: _as_array(value) for path, value in leaves.items()}
        return state | {"clock": self._clock.copy()} | _random_arrays(self._random)

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on exactly from where `get_state` was called, on an env of as many games.

        Raises:
            ValueError: an array has no place or not the shape that it has in this env.
        """
        holders, leaves = _walk(self._game)
        inside = {path: array for path, array in state.items() if path.startswith(".")}
        _check_state(inside, holders, leaves, self.num_envs)
        if state["clock"].shape != self._clock.shape:
            raise ValueError(f"the env's state: clock is not of {self.num_envs} envs")
        entities = _entities(self._game)
        for path, array in inside.items():
            if path.endswith("@"):
                _put(holders, path[:-1], entities[array.item()])
            elif isinstance(leaves.get(path), (bool, int, float)):
                _put(holders, path, array.item())
            else:
                _put(holders, path, torch.from_numpy(array.copy()))
        self._clock[:] = state["clock"]
        self._random = _random_state(state)
        self._started = True
        self._ends.forget()

    def render(self, index: int = 0) -> np.ndarray:
        """Picture of env `index` as its last step left it: [700, 700, 3] uint8.

        VMAS needs a display or EGL for it.
        """
        if not 0 <= index < self.num_envs:
            raise ValueError(f"there is no env {index} to draw: there are {self.num_envs} envs")
        return self._ends.show(index, self._picture)

    def close(self) -> None:
        """Give back what the env holds: nothing but memory."""

    def _picture(self, index: int) -> np.ndarray:
        return self._call(self._game.render, mode="rgb_array", env_index=index)

    def _play(self, action: np.ndarray) -> tuple[list[Tensor], list[Tensor], Tensor, list[Any]]:
        """VMAS's own step: observations, rewards, dones and infos; action: [E, N] or [E, N, A]."""
        columns = action if action.ndim > 2 else action[..., None]
        played = [torch.from_numpy(columns[:, agent]) for agent in range(self.num_agents)]
        return self._call(self._game.step, played)

    @torch.no_grad()
    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call VMAS with this env's random generators in the place of the shared ones."""
        self._shared[:] = self._random
        try:
            return function(*args, **kwargs)
        finally:
            self._random = list(self._shared)

    def _join(self, obs: list[Tensor]) -> np.ndarray:
        """The agents' observations [E, O_i] as one array [E, N, O] of its own."""
        joined = np.zeros((self.num_envs, self.num_agents, self.obs_size), dtype=np.float32)
        for agent, (size, rows) in enumerate(zip(self._sizes, obs, strict=True)):
            joined[:, agent, :size] = rows.numpy()
        return joined

    def _view(self, obs: np.ndarray) -> EnvView:
        """What the envs show; obs: [E, N, O]."""
        return EnvView(obs, obs.reshape(self.num_envs, -1), self._mask)

    def _restart(self, ended: np.ndarray, final: np.ndarray) -> EnvView:
        """Restart the ended envs [E]; final: [E, N, O], what the others show."""
        if not ended.any():
            return self._view(final)
        self._clock[ended] = 0
        if ended.all():  # one call instead of one per env
            return self._view(self._join(self._call(self._game.reset)))
        for env in np.flatnonzero(ended):
            self._call(self._game.reset_at, int(env), return_observations=False)
        get = self._game.get_from_scenario
        (obs,) = self._call(
            get, get_observations=True, get_rewards=False, get_infos=False, get_dones=False
        )
        return self._view(np.where(ended[:, None, None], self._join(obs), final))


def make_vmas(
    num_envs: int,
    episode_length: int,
    scenario: str,
    team_reward: Literal["sum", "mean"] = "sum",
    *,
    continuous: bool = True,
    **scenario_args: Any,
) -> VmasEnv:
    """Make a batch of one of VMAS's scenarios.

    Args:
        num_envs: E, at least 1.
        episode_length: steps after which an episode is truncated.
        scenario: a name of `vmas.scenarios`, `vmas.debug_scenarios` or `vmas.mpe_scenarios`.
        team_reward: how the agents' rewards become the team's.
        continuous: whether actions are continuous, else discrete ones.
        scenario_args: the scenario's own settings, as n_agents=3.

    Raises:
        MissingPackageError: VMAS is not installed.
        ValueError: the scenario or a number cannot be.
    """
    vmas = import_extra("vmas", "vmas")
    known = [*vmas.scenarios, *vmas.debug_scenarios, *vmas.mpe_scenarios]
    if scenario not in known:
        raise ValueError(f"VMAS has no scenario {scenario!r}; it has {', '.join(sorted(known))}")
    if team_reward not in ("sum", "mean"):
        raise ValueError(f"team_reward is {team_reward!r}, but must be 'sum' or 'mean'")
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}, but must be at least 1")
    game = vmas.make_env(scenario, num_envs, continuous_actions=continuous, seed=0, **scenario_args)
    return VmasEnv(game, episode_length, torch.sum if team_reward == "sum" else torch.mean)


def _entities(game: Any) -> list[Any]:
    """The agents and landmarks of VMAS's world; what a scenario points to, as at a goal."""
    return [*game.world.agents, *game.world.landmarks]


def _walk(game: Any) -> tuple[dict[str, Any], dict[str, Leaf]]:
    """All that VMAS's objects hold, each holder once; the world first, whose paths never change.

    Returns:
        The holders (objects, lists, dicts) and the leaves by their paths: tensors, numbers, and,
        under a path that ends in "@", the number of the entity that is pointed to.
    """
    holders: dict[str, Any] = {}
    leaves: dict[str, Leaf] = {}
    numbers = {id(entity): number for number, entity in enumerate(_entities(game))}
    seen: set[int] = set()
    waiting = deque([(".world", game.world), ("", game)])
    while waiting:
        path, value = waiting.popleft()
        if isinstance(value, (Tensor, bool, int, float)) and not isinstance(value, enum.Enum):
            leaves[path] = value
        elif id(value) in numbers and not _IN_WORLD.fullmatch(path):
            leaves[path + "@"] = numbers[id(value)]
        elif id(value) not in seen:
            seen.add(id(value))
            parts = _parts(value)
            if parts is not None:
                holders[path] = value
                waiting += [(f"{path}.{name}", part) for name, part in parts]
    return holders, leaves


def _parts(value: Any) -> Iterator[tuple[str, Any]] | None:
    """Names and values of what a holder holds; None: not VMAS's, or nothing that changes."""
    if isinstance(value, dict):
        return ((getattr(key, "name", str(key)), part) for key, part in value.items())
    if isinstance(value, list):
        return ((str(number), part) for number, part in enumerate(value))
    if isinstance(value, (enum.Enum, type)) or not hasattr(value, "__dict__"):
        return None
    # VMAS imports its scenarios' files under an empty name
    rooms = {kind.__module__.partition(".")[0] for kind in type(value).__mro__}
    return iter(vars(value).items()) if rooms & {"vmas", ""} else None


def _as_array(value: Leaf) -> np.ndarray:
    """A copy of a leaf."""
    return value.numpy().copy() if isinstance(value, Tensor) else np.array(value)


def _put(holders: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at its place."""
    parent, _, name = path.rpartition(".")
    holder = holders[parent]
    if isinstance(holder, list):
        holder[int(name)] = value
    elif isinstance(holder, dict):
        keys = {getattr(key, "name", str(key)): key for key in holder}
        holder[keys.get(name, name)] = value
    else:
        setattr(holder, name, value)


def _check_state(
    state: dict[str, np.ndarray], holders: dict[str, Any], leaves: dict[str, Any], num_envs: int
) -> None:
    """Refuse a saved state that does not fit."""
    for path, array in state.items():
        if path.rpartition(".")[0] not in holders:
            raise ValueError(f"the env's state: this scenario has nothing that holds {path}")
        here = np.shape(leaves[path]) if path in leaves else array.shape
        if array.shape != here:
            raise ValueError(
                f"the env's state: {path} is of shape {array.shape}, but {here} in this env of "
                f"{num_envs}; use the num_envs and the settings that it was saved with"
            )


def _random_arrays(states: list[Any]) -> dict[str, np.ndarray]:
    """The states of torch's, numpy's and Python's generators as arrays."""
    torch_state, (_, keys, *rest), (version, words, gauss) = states
    return {
        "torch_random": torch_state.numpy().copy(),
        "numpy_random": np.array(keys),
        "numpy_random_rest": np.array(rest, dtype=np.float64),
        "python_random": np.array((version, *words), dtype=np.uint32),
        "python_random_gauss": np.array([] if gauss is None else [gauss], dtype=np.float64),
    }


def _random_state(state: dict[str, np.ndarray]) -> list[Any]:
    """What `_random_arrays` was given."""
    position, has_gauss, cached = state["numpy_random_rest"].tolist()
    version, *words = state["python_random"].tolist()
    gauss = state["python_random_gauss"].tolist()
    return [
        torch.from_numpy(state["torch_random"].copy()),
        ("MT19937", state["numpy_random"].copy(), int(position), int(has_gauss), cached),
        (version, tuple(words), gauss[0] if gauss else None),
    ]
