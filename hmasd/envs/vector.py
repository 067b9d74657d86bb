"""Many copies of a plain Python game as one `BatchedEnv`, with exact resume for all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np
from gymnasium.spaces import Discrete

from hmasd.envs.batch_checks import check_actions, check_saved, check_saved_clock
from hmasd.envs.env_slice import BatchArrays, EnvSlice, GameSizes, array_shapes, sizes_of
from hmasd.envs.single import SingleEnv
from hmasd.types import EnvStep, EnvView

_MEMORY = ("seed", "episode", "clock", "played")


class Runner(Protocol):
    """Who steps the envs behind the arrays: an `EnvSlice` with all of them, or workers."""

    def reset(self) -> None:
        """As `EnvSlice.reset`, for all rows."""

    def step(self) -> np.ndarray | None:
        """As `EnvSlice.step`, for all rows; returns which envs failed and were replaced, if any."""

    def replay(self) -> None:
        """As `EnvSlice.replay`, for all rows."""

    def render(self, row: int) -> np.ndarray:
        """Picture of the env of one row: [height, width, 3] uint8."""

    def close(self) -> None:
        """Close all envs."""


class SingleEnvBatch:
    """Copies of one `SingleEnv` in lock-step; see `BatchedEnv`.

    The arrays that `reset` and `step` return are written again by the next call.

    Resume is exact for every env that its seed and its actions decide, and nothing of the env is
    ever pickled: `get_state` holds each env's episode seed and the actions since its reset, and
    `set_state` resets with that seed and plays them again. It costs memory for `episode_length`
    actions per env, and up to `episode_length` - 1 steps per env at a resume, about half of that
    on average. An env that does not repeat itself is warned about.
    """

    def __init__(
        self, game: GameSizes, episode_length: int, arrays: BatchArrays, runner: Runner
    ) -> None:
        """The runner must step the envs behind these very arrays."""
        self.num_envs = len(arrays.clock)
        self.first_env = 0
        self.num_agents = game.num_agents
        self.obs_size = game.obs_size
        self.state_size = game.state_size
        self.action_space = game.action_space
        self.episode_length = episode_length
        self.notes = game.notes
        self._arrays = arrays
        self._runner = runner
        self._started = False

    @property
    def games(self) -> list[SingleEnv]:
        """The games themselves, to look at or to put others in their place; none with workers."""
        return self._runner.envs if isinstance(self._runner, EnvSlice) else []

    def reset(self, seed: int) -> EnvView:
        """Start new episodes; what env e does depends on (seed, first_env + e) alone."""
        if not 0 <= seed < 2**64:
            raise ValueError(f"the seed is {seed}, but must be in 0..2**64 - 1")
        self._number_envs()
        self._arrays.seed[:] = seed
        self._runner.reset()
        self._started = True
        return self._view()

    def step(self, action: np.ndarray) -> EnvStep:
        """Play one step in all envs and restart those that ended.

        Raises:
            ValueError: an action cannot be played; nothing was played then.
            EnvError: an env raised, or returned what does not fit; names env, seed and actions.
            RuntimeError: the batch was not started.
        """
        if not self._started:
            raise RuntimeError("step() before reset(): call reset(seed) or set_state(state) first")
        arrays = self._arrays
        arrays.action[:] = self._check_action(np.asarray(action))
        lost = self._runner.step()
        return EnvStep(
            view=self._view(),
            reward=arrays.reward,
            terminated=arrays.terminated,
            truncated=arrays.truncated,
            final_obs=arrays.final_obs,
            final_state=arrays.final_state,
            success=arrays.success,
            lost=lost,
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of seed, episode, clock [E] and played [E, episode_length, N, ...].

        With them comes obs [E, N, O], by which `set_state` sees whether the envs repeat themselves.
        """
        return {name: getattr(self._arrays, name).copy() for name in (*_MEMORY, "obs")}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from where `get_state` was called, by playing the open episodes again.

        Raises:
            ValueError: a name, a shape, a type or a clock is not what `get_state` returns.
            EnvError: an env raised.
        """
        check_saved({name: getattr(self._arrays, name) for name in (*_MEMORY, "obs")}, state)
        check_saved_clock(state["clock"], self.episode_length)
        self._number_envs()
        for name in _MEMORY:
            getattr(self._arrays, name)[:] = state[name]
        self._runner.replay()
        self._started = True
        differs = (self._arrays.obs != state["obs"]).any(axis=(1, 2))
        if differs.any():
            warnings.warn(
                f"env {int(np.flatnonzero(differs)[0])} does not repeat itself: the same seed and "
                f"actions reached another observation, so this is no exact resume; let the env "
                f"draw everything random from its reset's seed",
                RuntimeWarning,
                stacklevel=2,
            )

    def render(self, index: int = 0) -> np.ndarray:
        """Picture of env `index`: [height, width, 3] uint8."""
        if not 0 <= index < self.num_envs:
            raise ValueError(f"there is no env {index} to draw: there are {self.num_envs} envs")
        return self._runner.render(index)

    def close(self) -> None:
        """Close all envs."""
        self._runner.close()

    def _number_envs(self) -> None:
        self._arrays.number[:] = np.arange(self.first_env, self.first_env + self.num_envs)

    def _view(self) -> EnvView:
        arrays = self._arrays
        return EnvView(arrays.obs, arrays.state, arrays.action_mask, arrays.alive)

    def _check_action(self, action: np.ndarray) -> np.ndarray:
        """The actions, or the error that names what is wrong with them."""
        space, mask = self.action_space, self._arrays.action_mask
        if isinstance(space, Discrete):
            action = check_actions(action, (self.num_envs, self.num_agents), int(space.n))
            if mask is None:
                return action
            bad = ~np.take_along_axis(mask, action[..., None], axis=2)[..., 0]
            reason = "forbidden by the action mask"
        else:
            shape = self._arrays.action.shape
            if action.shape != shape or action.dtype.kind != "f":
                raise ValueError(
                    f"actions must be floats of shape {shape}, got {action.dtype} of {action.shape}"
                )
            bad, reason = ~np.isfinite(action), "not finite"
        for index in np.argwhere(bad)[:1]:
            raise ValueError(
                f"env {index[0]}, agent {index[1]}: action {action[tuple(index)]} is {reason}"
            )
        return action


def make_arrays(game: GameSizes, num_envs: int, episode_length: int) -> BatchArrays:
    """New arrays of this process for a batch."""
    shapes = array_shapes(game, num_envs, episode_length)
    needed = (shapes[field] for field in BatchArrays._fields)
    return BatchArrays._make(None if shape is None else np.zeros(*shape) for shape in needed)


def make_batch(make: Callable[[], SingleEnv], num_envs: int, episode_length: int) -> SingleEnvBatch:
    """A batch whose envs this process steps one after the other.

    Args:
        make: makes one game; all must have the same sizes.
        num_envs: E, at least 1.
        episode_length: steps after which an episode is truncated.

    Raises:
        EnvError: the game cannot be reset or has no usable action space.
    """
    envs = [make() for _ in range(num_envs)]
    game = sizes_of(envs[0])
    arrays = make_arrays(game, num_envs, episode_length)
    return SingleEnvBatch(game, episode_length, arrays, EnvSlice(envs, arrays))
