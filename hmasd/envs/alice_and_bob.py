"""Stop 1 of the walk, the guide's game: two agents, keys and diamonds, no shaped reward.

A map of codes (0 empty, 1 wall, 2 and 3 the agents, then the P keys from 4 on, then the P
diamonds from 4 + P on). Diamond i is collected, for good, in a step after which any agent stands
on it while any agent stands on key i. The team's only reward is 1 for the last diamond, which ends
the episode. The guide's game has 8 x 8 cells inside its walls and 2 pairs; docs/alice_and_bob.md
tells how the others follow from it.

What the map shows is a function of the agents' cells and of what was collected:

* an agent hides what it stands on, so a held key is never drawn;
* where both agents share a cell the map shows agent 1, who moves last. If one of them leaves,
  the other is drawn there (the authors' code clears the cell);
* the centre of an agent's patch is always its own code, also on a shared cell.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Discrete, Space
from numba import njit

from hmasd.envs.alice_and_bob_picture import draw_picture
from hmasd.envs.batch_checks import check_actions, check_saved, check_saved_clock
from hmasd.envs.random_state import next_uint64, seed_states
from hmasd.types import EnvStep, EnvView

SIZES = (8, 12, 16)  # cells to walk on, per side
NUM_PAIRS = (2, 3, 4)  # keys, and diamonds
NUM_AGENTS = 2
NUM_ACTIONS = 5
MOVES = np.array([[0, 1], [0, -1], [-1, 0], [1, 0], [0, 0]], dtype=np.int64)  # [5, 2]
OBS_SIZE = 11


class Layout(NamedTuple):
    """What tells one game of the family from another; P pairs of a key and a diamond."""

    size: int  # cells to walk on, per side; the map is two wider
    keys: np.ndarray  # [P, 2] int64, row and column
    goals: np.ndarray  # [P, 2] int64
    board: np.ndarray  # [S] float32, the map without agents, nothing collected


def make_layout(size: int, num_pairs: int) -> Layout:
    """Spread keys and diamonds evenly along the border, every diamond opposite to its key.

    The border's 4 (size - 1) cells are walked anticlockwise from the upper right corner: first all
    keys, then all diamonds. On size 8 with 2 pairs that is one in every corner, as in the guide.

    Raises:
        ValueError: a number is not one of `SIZES` or `NUM_PAIRS`.
    """
    for name, value, allowed in (("size", size, SIZES), ("num_pairs", num_pairs, NUM_PAIRS)):
        if value not in allowed:
            raise ValueError(f"{name} is {value}, but must be one of {allowed}")
    last = size - 1
    left = [(1, size - i) for i in range(last)]
    down = [(1 + i, 1) for i in range(last)]
    right = [(size, 1 + i) for i in range(last)]
    up = [(size - i, size) for i in range(last)]
    border, items = [*left, *down, *right, *up], 2 * num_pairs
    places = [(2 * i * len(border) + items) // (2 * items) for i in range(items)]  # rounded
    cells = np.array([border[place] for place in places], dtype=np.int64)
    board = np.ones((size + 2, size + 2), dtype=np.float32)
    board[1:-1, 1:-1] = 0
    board[cells[:, 0], cells[:, 1]] = 4 + np.arange(items)
    return Layout(size, cells[:num_pairs], cells[num_pairs:], board.ravel())


class _Memory(NamedTuple):
    """All that decides the games' future."""

    position: np.ndarray  # [E, 2, 2] int64, row and column of the agents
    collected: np.ndarray  # [E, P] bool, the diamonds
    clock: np.ndarray  # [E] int64, steps played in this episode
    rng: np.ndarray  # [E] uint64


class _Out(NamedTuple):
    """The arrays that every step writes again: the fields of `EnvView` and `EnvStep`."""

    obs: np.ndarray  # [E, 2, 11] float32
    state: np.ndarray  # [E, S] float32, S = (size + 2)^2
    final_obs: np.ndarray  # [E, 2, 11] float32
    final_state: np.ndarray  # [E, S] float32
    reward: np.ndarray  # [E] float32
    terminated: np.ndarray  # [E] bool
    truncated: np.ndarray  # [E] bool
    success: np.ndarray  # [E] bool


@njit(cache=True)
def _place(size: int, position: np.ndarray, rng: np.ndarray, env: int) -> None:
    """Put the agents of `env` on two distinct uniform cells; position: [E, 2, 2]."""
    cells = size * size
    high = next_uint64(rng, env) >> np.uint64(32)
    pair = np.int64((high * np.uint64(cells * (cells - 1))) >> np.uint64(32))
    first = pair // (cells - 1)
    second = pair % (cells - 1)
    if second >= first:
        second += 1
    position[env, 0, 0] = 1 + first // size
    position[env, 0, 1] = 1 + first % size
    position[env, 1, 0] = 1 + second // size
    position[env, 1, 1] = 1 + second % size


@njit(cache=True)
def _draw_state(
    layout: Layout, position: np.ndarray, collected: np.ndarray, out: np.ndarray
) -> None:
    """The map of one env; position: [2, 2], collected: [P], out: [S]."""
    side = layout.size + 2
    for cell in range(len(out)):  # faster than out[:] = board, which asks whether they overlap
        out[cell] = layout.board[cell]
    for i in range(len(collected)):
        if collected[i]:
            out[layout.goals[i, 0] * side + layout.goals[i, 1]] = 0.0
    for agent in range(NUM_AGENTS):
        out[position[agent, 0] * side + position[agent, 1]] = 2.0 + agent


@njit(cache=True)
def _draw_obs(size: int, position: np.ndarray, state: np.ndarray, out: np.ndarray) -> None:
    """Both agents' patches and cells; position: [2, 2], state: [S], out: [2, 11]."""
    side = size + 2
    for agent in range(NUM_AGENTS):
        row = position[agent, 0]
        column = position[agent, 1]
        for i in range(3):
            for j in range(3):
                out[agent, 3 * i + j] = state[(row + i - 1) * side + column + j - 1]
        out[agent, 4] = 2.0 + agent
        out[agent, 9] = row
        out[agent, 10] = column


@njit(cache=True)
def _move(size: int, position: np.ndarray, action: np.ndarray) -> None:
    """Walk both agents of one env; position: [2, 2], action: [2]. Only walls block."""
    for agent in range(NUM_AGENTS):
        row = position[agent, 0] + MOVES[action[agent], 0]
        column = position[agent, 1] + MOVES[action[agent], 1]
        if 1 <= row <= size and 1 <= column <= size:
            position[agent, 0] = row
            position[agent, 1] = column


@njit(cache=True)
def _anyone_on(position: np.ndarray, cells: np.ndarray, i: int) -> bool:
    """Whether any agent stands on cell i; position: [2, 2], cells: [P, 2]."""
    for agent in range(NUM_AGENTS):
        if position[agent, 0] == cells[i, 0] and position[agent, 1] == cells[i, 1]:
            return True
    return False


@njit(cache=True)
def _collect(layout: Layout, position: np.ndarray, collected: np.ndarray) -> bool:
    """Collect every diamond stood on while its key is held; position: [2, 2], collected: [P].

    Returns:
        Whether all are collected now.
    """
    won = True
    for i in range(len(collected)):
        if _anyone_on(position, layout.keys, i) and _anyone_on(position, layout.goals, i):
            collected[i] = True
        won = won and collected[i]
    return won


@njit(cache=True)
def _restart(layout: Layout, memory: _Memory, env: int) -> None:
    """Begin a new episode in `env`."""
    _place(layout.size, memory.position, memory.rng, env)
    memory.collected[env] = False
    memory.clock[env] = 0


@njit(cache=True)
def _draw(layout: Layout, memory: _Memory, env: int, obs: np.ndarray, state: np.ndarray) -> None:
    """Write what is seen in `env` now into obs [E, 2, 11] and state [E, S]."""
    _draw_state(layout, memory.position[env], memory.collected[env], state[env])
    _draw_obs(layout.size, memory.position[env], state[env], obs[env])


@njit(cache=True)
def _draw_all(layout: Layout, memory: _Memory, obs: np.ndarray, state: np.ndarray) -> None:
    """Write what is seen in every env now into obs [E, 2, 11] and state [E, S]."""
    for env in range(memory.clock.shape[0]):
        _draw(layout, memory, env, obs, state)


@njit(cache=True)
def _restart_all(layout: Layout, memory: _Memory, obs: np.ndarray, state: np.ndarray) -> None:
    """Begin a new episode in every env and draw it into obs and state."""
    for env in range(memory.clock.shape[0]):
        _restart(layout, memory, env)
    _draw_all(layout, memory, obs, state)


@njit(cache=True)
def _remember(memory: _Memory, ends: _Memory, env: int) -> None:
    """Keep how the episode of `env` ended, for its picture."""
    ends.position[env] = memory.position[env]
    ends.collected[env] = memory.collected[env]
    ends.clock[env] = memory.clock[env]


@njit(cache=True)
def _step_all(
    layout: Layout,
    action: np.ndarray,
    memory: _Memory,
    ends: _Memory,
    episode_length: int,
    out: _Out,
) -> None:
    """Play one step in every env and restart those that ended; action: [E, 2]."""
    for env in range(memory.clock.shape[0]):
        _move(layout.size, memory.position[env], action[env])
        won = _collect(layout, memory.position[env], memory.collected[env])
        memory.clock[env] += 1
        out.reward[env] = 1.0 if won else 0.0
        out.terminated[env] = won
        out.success[env] = won
        out.truncated[env] = memory.clock[env] >= episode_length and not won
        _draw(layout, memory, env, out.final_obs, out.final_state)
        if won or out.truncated[env]:
            _remember(memory, ends, env)
            _restart(layout, memory, env)
            _draw(layout, memory, env, out.obs, out.state)
        else:
            out.obs[env] = out.final_obs[env]
            out.state[env] = out.final_state[env]


class AliceAndBob:
    """`num_envs` games of Alice_and_Bob (see the module's text for the rules).

    Actions: 0 right, 1 left, 2 up, 3 down, 4 stay; agent 0 moves first and only walls block.
    Observation of an agent: its 3 x 3 patch of codes, row by row, then its row and column, raw.
    State: the map, row by row. Nothing tells the time.

    The arrays of an `EnvView` or `EnvStep` belong to the env and are written again by the next
    `step`, `reset` or `set_state`: read them before, or copy what must last.
    """

    num_agents = NUM_AGENTS
    obs_size = OBS_SIZE

    def __init__(
        self, num_envs: int, episode_length: int = 100, *, size: int = 8, num_pairs: int = 2
    ) -> None:
        """Make the envs; `reset` or `set_state` starts them.

        Args:
            num_envs: number of games, at least 1.
            episode_length: steps after which an episode is truncated, at least 1.
            size: cells to walk on, per side; one of `SIZES`.
            num_pairs: keys, and diamonds; one of `NUM_PAIRS`.

        Raises:
            ValueError: a number is below 1, or not one of those allowed.
        """
        for name, value in (("num_envs", num_envs), ("episode_length", episode_length)):
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        self.num_envs = num_envs
        self.first_env = 0
        self.episode_length = episode_length
        self.layout = make_layout(size, num_pairs)
        self.state_size = (size + 2) ** 2
        self.action_space: Space = Discrete(NUM_ACTIONS)
        self._started = False
        self._memory = _make_memory(num_envs, num_pairs)
        self._ends = _make_memory(num_envs, num_pairs)  # of episodes that the last step ended
        self._out = _make_out(num_envs, self.state_size)

    def reset(self, seed: int) -> EnvView:
        """Start new episodes; what env e does depends on (seed, first_env + e) alone."""
        self._memory.rng[:] = seed_states(seed, self.num_envs, self.first_env)
        _restart_all(self.layout, self._memory, self._out.obs, self._out.state)
        self._start()
        return EnvView(self._out.obs, self._out.state)

    def step(self, action: np.ndarray) -> EnvStep:
        """Play one step in all envs and restart those that ended; action: [E, 2] integers 0..4.

        Raises:
            ValueError: the actions' shape, type or a value is wrong; nothing was played then.
            RuntimeError: the env was not started.
        """
        if not self._started:
            raise RuntimeError("step() before reset(): call reset(seed) or set_state(state) first")
        out, length = self._out, self.episode_length
        action = check_actions(action, (self.num_envs, NUM_AGENTS), NUM_ACTIONS)
        _step_all(self.layout, action, self._memory, self._ends, length, out)
        return EnvStep(
            view=EnvView(out.obs, out.state),
            reward=out.reward,
            terminated=out.terminated,
            truncated=out.truncated,
            final_obs=out.final_obs,
            final_state=out.final_state,
            success=out.success,
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of all that `set_state` needs to go on exactly from here.

        Returns:
            position [E, 2, 2] int64, collected [E, P] bool, clock [E] int64, rng [E] uint64.
        """
        return {name: array.copy() for name, array in self._memory._asdict().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on exactly from where `get_state` was called, on an env of as many games.

        Raises:
            ValueError: a name, a shape, a type or a value is not what `get_state` returns.
        """
        memory = self._memory._asdict()
        check_saved(memory, state)
        check_saved_clock(state["clock"], self.episode_length)
        size = self.layout.size
        if state["position"].min() < 1 or state["position"].max() > size:
            raise ValueError(f"the env's state: position has a cell outside 1..{size}")
        if state["collected"].all(axis=1).any():
            raise ValueError("the env's state: collected has a game that is won, so it is over")
        for name, array in memory.items():
            array[:] = state[name]
        _draw_all(self.layout, self._memory, self._out.obs, self._out.state)
        self._start()

    def render(self, index: int = 0) -> np.ndarray:
        """Picture of game `index`, 40 pixels a cell: [440, 400, 3] uint8 on size 8."""
        if not 0 <= index < self.num_envs:
            raise ValueError(f"there is no env {index} to draw: there are {self.num_envs} envs")
        ended = self._out.terminated[index] or self._out.truncated[index]
        memory = self._ends if ended else self._memory
        return draw_picture(
            self.layout.size,
            memory.position[index],
            memory.collected[index],
            (self.layout.keys, self.layout.goals),
            (int(memory.clock[index]), self.episode_length),
        )

    def close(self) -> None:
        """Give back what the env holds: nothing but memory."""

    def _start(self) -> None:
        """All games begin or go on from here: none has ended with the last step."""
        self._out.terminated[:] = False
        self._out.truncated[:] = False
        self._started = True


def _make_memory(num_envs: int, num_pairs: int) -> _Memory:
    """New arrays for the memory of `num_envs` games."""
    return _Memory(
        position=np.ones((num_envs, NUM_AGENTS, 2), dtype=np.int64),
        collected=np.zeros((num_envs, num_pairs), dtype=np.bool_),
        clock=np.zeros(num_envs, dtype=np.int64),
        rng=np.zeros(num_envs, dtype=np.uint64),
    )


def _make_out(num_envs: int, state_size: int) -> _Out:
    """New arrays for the steps of `num_envs` games."""
    obs_shape, state_shape = (num_envs, NUM_AGENTS, OBS_SIZE), (num_envs, state_size)
    return _Out(
        obs=np.zeros(obs_shape, dtype=np.float32),
        state=np.zeros(state_shape, dtype=np.float32),
        final_obs=np.zeros(obs_shape, dtype=np.float32),
        final_state=np.zeros(state_shape, dtype=np.float32),
        reward=np.zeros(num_envs, dtype=np.float32),
        terminated=np.zeros(num_envs, dtype=np.bool_),
        truncated=np.zeros(num_envs, dtype=np.bool_),
        success=np.zeros(num_envs, dtype=np.bool_),
    )
