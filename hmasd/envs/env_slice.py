"""Some copies of a plain Python game that one process steps, one after the other, into arrays.

All that goes in and out are rows of `BatchArrays`, so the same class serves all envs of a batch in
this process, or a share of them in a worker with the arrays in shared memory.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from hmasd.envs.end_pictures import EndPictures
from hmasd.envs.single import SingleEnv, SingleStep, SingleView

RAISED = (Exception, SystemExit)  # a game that calls sys.exit() must not end what plays it
_PACKAGE = Path(__file__).resolve().parents[1]
_SHOWN_ACTIONS = 3


class EnvError(RuntimeError):
    """An env raised, or returned what cannot be used; says env, seed, step and last actions."""


class GameSizes(NamedTuple):
    """What must be known of a game before arrays for many copies of it can be made."""

    num_agents: int
    obs_size: int
    state_size: int
    action_space: Space
    has_mask: bool
    has_alive: bool
    notes: tuple[str, ...] = ()  # what an adapter did to make the game fit, in words


class BatchArrays(NamedTuple):
    """One row per env: what the batch hands out, and its memory (seed, episode, clock, actions)."""

    obs: np.ndarray  # [E, N, O] float32
    state: np.ndarray  # [E, S] float32
    action_mask: np.ndarray | None  # [E, N, A] bool
    alive: np.ndarray | None  # [E, N] bool
    reward: np.ndarray  # [E] float32
    terminated: np.ndarray  # [E] bool
    truncated: np.ndarray  # [E] bool
    success: np.ndarray  # [E] bool
    final_obs: np.ndarray  # [E, N, O] float32
    final_state: np.ndarray  # [E, S] float32
    action: np.ndarray  # [E, N] int64 or [E, N, A] float32: to be played next
    number: np.ndarray  # [E] int64: which env of the run it is
    seed: np.ndarray  # [E] uint64: what reset(seed) was given
    episode: np.ndarray  # [E] int64: number of the env's episode since then
    clock: np.ndarray  # [E] int64: steps played in it
    played: np.ndarray  # [E, L, N] int64 or [E, L, N, A] float32: its actions, the first `clock`


def sizes_of(env: SingleEnv) -> GameSizes:
    """Read a game's sizes; resets it once to see which fields its views have.

    Raises:
        EnvError: the reset raised, or the action space is neither Discrete nor Box.
    """
    space = env.action_space
    if not isinstance(space, (Discrete, Box)) or getattr(space, "start", 0) != 0:
        raise EnvError(
            f"{type(env).__name__}.action_space is {space}, but must be a gymnasium Box, or a "
            f"Discrete that counts from 0, the same for all agents"
        )
    try:
        view = env.reset(0)
    except RAISED as error:
        raise EnvError(f"reset of seed 0 raised {told(error)}") from error
    has_mask, has_alive = view.action_mask is not None, view.alive is not None
    notes = tuple(getattr(env, "notes", ()))
    agents, obs, state = int(env.num_agents), int(env.obs_size), int(env.state_size)
    return GameSizes(agents, obs, state, space, has_mask, has_alive, notes)


def array_shapes(
    game: GameSizes, num_envs: int, episode_length: int
) -> dict[str, tuple[tuple[int, ...], np.dtype] | None]:
    """Shape and type of every field of `BatchArrays`; None where the game has no such field."""
    envs, agents, space = num_envs, game.num_agents, game.action_space
    bools, numbers, counts = np.dtype(np.bool_), np.dtype(np.float32), np.dtype(np.int64)
    obs, state = (envs, agents, game.obs_size), (envs, game.state_size)
    discrete = isinstance(space, Discrete)
    actions = counts if discrete else numbers
    per_env = (agents,) if discrete else (agents, *(space.shape or ()))
    mask = (envs, agents, int(space.n)) if isinstance(space, Discrete) else ()
    return {
        "obs": (obs, numbers),
        "state": (state, numbers),
        "action_mask": (mask, bools) if game.has_mask else None,
        "alive": ((envs, agents), bools) if game.has_alive else None,
        "reward": ((envs,), numbers),
        "terminated": ((envs,), bools),
        "truncated": ((envs,), bools),
        "success": ((envs,), bools),
        "final_obs": (obs, numbers),
        "final_state": (state, numbers),
        "action": ((envs, *per_env), actions),
        "number": ((envs,), counts),
        "seed": ((envs,), np.dtype(np.uint64)),
        "episode": ((envs,), counts),
        "clock": ((envs,), counts),
        "played": ((envs, episode_length, *per_env), actions),
    }


def rows(arrays: BatchArrays, start: int, stop: int) -> BatchArrays:
    """The rows of envs start..stop-1; they share the arrays' memory."""
    return BatchArrays._make(None if a is None else a[start:stop] for a in arrays)


def episode_seed(seed: int, env: int, episode: int) -> int:
    """Seed of one episode: 31 bits, since many packages take no more.

    It depends on these three alone, so an env plays the same whatever stands beside it.
    """
    words = np.random.SeedSequence((seed, env, episode)).generate_state(1, np.uint32)
    return int(words[0]) >> 1


class EnvSlice:
    """Envs of a batch, one per row of `arrays`.

    `reset`, `step` and `replay` read what they need from the arrays and write their results there.
    """

    def __init__(self, envs: Sequence[SingleEnv], arrays: BatchArrays) -> None:
        """The envs belong to the slice from here on, which closes them."""
        self.envs = list(envs)
        self.arrays = arrays
        self._length = arrays.played.shape[1]  # L, the episode's limit
        self._ends = EndPictures()
        # Each field's array and the shape of one row of it, at hand for every step.
        self._slots = {
            field: (array, array.shape[1:])
            for field, array in zip(arrays._fields, arrays, strict=True)
            if array is not None
        }

    def reset(self) -> None:
        """Start episode 0 of `arrays.seed` in every env."""
        self._ends.forget()
        for row in range(len(self.envs)):
            self.arrays.episode[row] = 0
            self._start(row)
        self._check_teams()

    def step(self) -> None:
        """Play `arrays.action`, and start the next episode where one ended.

        Raises:
            EnvError: an env raised, or returned what does not fit its sizes.
        """
        self._ends.forget()
        steps = []
        for row, action in enumerate(self.arrays.action.copy()):  # a game may keep its own
            steps.append(self._play(row, action))
            self._show(row, steps[-1].view)
        self._conclude(steps)
        self._check_teams()

    def replay(self) -> None:
        """Bring every env to where seed, episode, clock and played actions lead; writes views.

        Raises:
            EnvError: an env raised, or an episode ended sooner than it did the first time.
        """
        self._ends.forget()
        for row in range(len(self.envs)):
            steps = int(self.arrays.clock[row])
            self._start(row)
            for clock in range(steps):
                step = self._play(row, self.arrays.played[row, clock].copy())
                self._show(row, step.view)
                if step.terminated or step.truncated:
                    raise self._error(
                        row,
                        f"played again, the episode ended before step {steps}, so the env does not "
                        f"repeat itself and cannot be resumed; let it draw everything random from "
                        f"its reset's seed",
                    )

    def render(self, row: int) -> np.ndarray:
        """Picture of the env of one row as its last step left it: [height, width, 3] uint8."""
        return self._ends.show(row, self._draw)

    def close(self) -> None:
        """Close all envs."""
        for env in self.envs:
            env.close()

    def _start(self, row: int) -> None:
        """Start the episode whose number stands in `arrays.episode`."""
        self.arrays.clock[row] = 0
        try:
            view = self.envs[row].reset(self._seed(row))
        except RAISED as error:
            raise self._error(row, f"reset raised {told(error)}") from error
        self._show(row, view)

    def _play(self, row: int, action: np.ndarray) -> SingleStep:
        """Play one action and note it."""
        arrays, clock = self.arrays, int(self.arrays.clock[row])
        arrays.played[row, clock] = action
        arrays.clock[row] = clock + 1
        try:
            step = self.envs[row].step(action)
        except RAISED as error:
            raise self._error(row, f"step raised {told(error)}") from error
        if not isinstance(step, SingleStep):
            raise self._error(row, f"step returned a {type(step).__name__}, not a SingleStep")
        return step

    def _conclude(self, steps: Sequence[SingleStep]) -> None:
        """Write how the step of every env went, and start anew where an episode ended."""
        arrays = self.arrays
        np.copyto(arrays.final_obs, arrays.obs)
        np.copyto(arrays.final_state, arrays.state)
        self._put_column("reward", float, [step.reward for step in steps])
        for field in ("terminated", "truncated", "success"):
            self._put_column(field, bool, [getattr(step, field) for step in steps])
        late = arrays.truncated | (arrays.clock >= self._length)
        np.copyto(arrays.truncated, late & ~arrays.terminated)
        ended = arrays.terminated | late
        np.copyto(arrays.success, arrays.success & ended)
        self._ends.keep(ended, self._draw)
        for row in np.flatnonzero(ended).tolist():
            arrays.episode[row] += 1
            self._start(row)

    def _draw(self, row: int) -> np.ndarray:
        return self.envs[row].render()

    def _show(self, row: int, view: SingleView) -> None:
        """Write what the env shows; its own arrays may change at once after that."""
        if not isinstance(view, SingleView):
            raise self._error(row, f"a view is a {type(view).__name__}, but must be a SingleView")
        self._put(row, "obs", view.obs)
        self._put(row, "state", view.state)
        self._put_if_given(row, "action_mask", view.action_mask)
        self._put_if_given(row, "alive", view.alive)

    def _check_teams(self) -> None:
        """Refuse teams that cannot act; once for all envs, which is quicker than one by one."""
        mask, alive = self.arrays.action_mask, self.arrays.alive
        if alive is not None and not alive.any(axis=1).all():
            row = int(np.flatnonzero(~alive.any(axis=1))[0])
            raise self._error(row, "no agent is alive although the episode goes on; end it")
        if mask is not None and not mask.any(axis=2).all():
            row, agent = np.argwhere(~mask.any(axis=2))[0]
            raise self._error(
                int(row),
                f"action_mask forbids agent {agent} every action; allow one, also to the dead",
            )

    def _put_if_given(self, row: int, field: str, given: object) -> None:
        """Write a value that a game has always or never."""
        if given is None and field not in self._slots:
            return
        if given is None or field not in self._slots:
            now, before = ("missing", "given") if given is None else ("given", "missing")
            raise self._error(
                row,
                f"{field} is {now}, but was {before} at the first reset; give it always or never",
            )
        self._put(row, field, given)

    def _put_column(self, field: str, kind: type, given: list[Any]) -> None:
        """Write one value per env; at once where all are of the kind that needs no look."""
        if all(type(value) is kind for value in given):
            self._slots[field][0][:] = given
            return
        for row, value in enumerate(given):
            self._put(row, field, value)

    def _put(self, row: int, field: str, given: object) -> None:
        """Write one value; numpy would stretch a smaller one silently."""
        array, shape = self._slots[field]
        value = given if type(given) is np.ndarray else np.asarray(given)
        if value.shape != shape or value.dtype.kind not in "fiub":
            raise self._error(
                row,
                f"{field} is {value.dtype} of shape {value.shape}, but must be "
                f"{array.dtype} of {shape}",
            )
        array[row] = value

    def _seed(self, row: int) -> int:
        arrays = self.arrays
        number, episode = int(arrays.number[row]), int(arrays.episode[row])
        return episode_seed(int(arrays.seed[row]), number, episode)

    def _error(self, row: int, what: str) -> EnvError:
        """The error with all that is needed to see it again."""
        where, told = place(self.arrays, row), last_actions(self.arrays, row)
        return EnvError(f"{where}: {what}{told}")


def place(arrays: BatchArrays, row: int) -> str:
    """Where the env of a row is, in words."""
    env, episode = int(arrays.number[row]), int(arrays.episode[row])
    seed = episode_seed(int(arrays.seed[row]), env, episode)
    return (
        f"env {env}, step {int(arrays.clock[row])} of episode {episode} (its reset had seed {seed})"
    )


def last_actions(arrays: BatchArrays, row: int) -> str:
    """What the env of a row was given to play last, in words; nothing at an episode's start."""
    clock = int(arrays.clock[row])
    last = arrays.played[row, max(0, clock - _SHOWN_ACTIONS) : clock]
    return f"; last actions, oldest first: {last.tolist()}" if clock else ""


def told(error: BaseException) -> str:
    """What was raised, and the line of the game that it came from, if any; the error was caught."""
    what = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if _PACKAGE not in Path(frame.filename).parents]
    return (
        f"{what} ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else what
    )
