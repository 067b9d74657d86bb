"""Stop 1 of the walk, the benchmark's game: N agents spread over N landmarks in the plane.

The physics, observations and rewards are those of simple_spread_v3 of the package mpe2 (the
multi-agent particle envs) with its default settings, equal step by step; only the random starts
come from another generator, of the same distribution. Every step:

1. an agent's force is 5 along its action's direction, plus a soft contact force with every agent;
2. its position moves by 0.1 of its velocity, then the velocity keeps three quarters and gains 0.1
   of the force.

mpe2 pays agent i half of what all share, minus the sum of the landmarks' distances to their
nearest agents, and half of its own, -1 for every agent it touches. The team's reward is the mean
over the agents: on the scale of one agent's reward however many there are.
"""

from __future__ import annotations

from math import exp, inf, log1p, sqrt
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Discrete, Space
from numba import njit

from hmasd.envs.batch_checks import check_actions, check_saved, check_saved_clock
from hmasd.envs.random_state import next_uniform, seed_states
from hmasd.envs.simple_spread_picture import draw_picture
from hmasd.types import EnvStep, EnvView

NUM_ACTIONS = 5
DIRECTIONS = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], dtype=np.float64)  # [5, 2]
PUSH = 5.0  # force of an action
AGENT_RADIUS = 0.15
COVER_RADIUS = 0.1  # an agent this near covers a landmark
TIME_STEP = 0.1
DAMPING = 0.25
CONTACT_FORCE = 1e2
CONTACT_MARGIN = 1e-3
NO_CONTACT = 750.0  # margins apart at which exp(-x), hence the contact force, is 0 in float64
LOCAL_RATIO = 0.5


class _Memory(NamedTuple):
    """All that decides the games' future."""

    position: np.ndarray  # [E, N, 2] float64, x and y of the agents
    velocity: np.ndarray  # [E, N, 2] float64
    landmark: np.ndarray  # [E, N, 2] float64
    clock: np.ndarray  # [E] int64, steps played in this episode
    rng: np.ndarray  # [E] uint64


class _Out(NamedTuple):
    """The arrays that every step writes again; a state is the agents' observations, joined."""

    obs: np.ndarray  # [E, N, O] float32
    final_obs: np.ndarray  # [E, N, O] float32
    reward: np.ndarray  # [E] float32
    terminated: np.ndarray  # [E] bool, never set: only the clock ends an episode
    truncated: np.ndarray  # [E] bool
    success: np.ndarray  # [E] bool


@njit(cache=True)
def _distance(left: np.ndarray, right: np.ndarray) -> float:
    """Between two points [2]."""
    x, y = left[0] - right[0], left[1] - right[1]
    return sqrt(x * x + y * y)


@njit(cache=True)
def _add_contact(position: np.ndarray, force: np.ndarray) -> None:
    """Add to force [N, 2] how agents at position [N, 2] push each other apart.

    The push is 100 · m · log(1 + exp((0.3 - distance) / m)) along the line between them, margin m.
    Agents on exactly one point have no such line: they do not push (mpe2 computes NaN).
    """
    num_agents = len(position)
    for a in range(num_agents):
        for b in range(a + 1, num_agents):
            distance = _distance(position[a], position[b])
            gap = (distance - 2.0 * AGENT_RADIUS) / CONTACT_MARGIN
            if gap > NO_CONTACT or distance == 0.0:
                continue
            depth = (max(-gap, 0.0) + log1p(exp(-abs(gap)))) * CONTACT_MARGIN
            for axis in range(2):
                offset = position[a, axis] - position[b, axis]
                push = CONTACT_FORCE * offset / distance * depth
                force[a, axis] += push
                force[b, axis] -= push


@njit(cache=True)
def _move(
    position: np.ndarray, velocity: np.ndarray, action: np.ndarray, force: np.ndarray
) -> None:
    """Play one env's actions [N]; position, velocity: [N, 2]; force [N, 2] is room to work in."""
    for agent in range(len(position)):
        for axis in range(2):
            force[agent, axis] = PUSH * DIRECTIONS[action[agent], axis]
    _add_contact(position, force)
    for agent in range(len(position)):
        for axis in range(2):
            position[agent, axis] += velocity[agent, axis] * TIME_STEP
            velocity[agent, axis] *= 1.0 - DAMPING
            velocity[agent, axis] += force[agent, axis] * TIME_STEP


@njit(cache=True)
def _judge(position: np.ndarray, landmark: np.ndarray) -> tuple[float, bool]:
    """The team's reward of one env, and whether every landmark is covered; both [N, 2]."""
    num_agents = len(position)
    away, covered, touches = 0.0, True, 0
    for mark in range(num_agents):
        nearest = inf
        for agent in range(num_agents):
            nearest = min(nearest, _distance(position[agent], landmark[mark]))
        away += nearest
        covered = covered and nearest < COVER_RADIUS
    for a in range(num_agents):
        for b in range(a + 1, num_agents):
            if _distance(position[a], position[b]) < 2.0 * AGENT_RADIUS:
                touches += 2  # both agents pay
    reward = (1.0 - LOCAL_RATIO) * -away - LOCAL_RATIO * touches / num_agents
    return reward, covered


@njit(cache=True)
def _draw(memory: _Memory, env: int, obs: np.ndarray) -> None:
    """Write what the agents of `env` see now into obs [E, N, O]; the last entries stay 0."""
    position, landmark = memory.position[env], memory.landmark[env]
    num_agents = len(position)
    for agent in range(num_agents):
        row = obs[env, agent]
        for axis in range(2):
            here = position[agent, axis]
            row[axis] = memory.velocity[env, agent, axis]
            row[2 + axis] = here
            for mark in range(num_agents):
                row[4 + 2 * mark + axis] = landmark[mark, axis] - here
            place = 4 + 2 * num_agents + axis
            for other in range(num_agents):
                if other != agent:
                    row[place] = position[other, axis] - here
                    place += 2


@njit(cache=True)
def _restart(memory: _Memory, env: int) -> None:
    """Begin a new episode in `env`: all at rest, uniform in the square of [-1, 1)."""
    for points in (memory.position[env], memory.landmark[env]):
        for i in range(len(points)):
            for axis in range(2):
                points[i, axis] = 2.0 * next_uniform(memory.rng, env) - 1.0
    memory.velocity[env] = 0.0
    memory.clock[env] = 0


@njit(cache=True)
def _draw_all(memory: _Memory, obs: np.ndarray) -> None:
    """Write what is seen in every env now into obs [E, N, O]."""
    for env in range(memory.clock.shape[0]):
        _draw(memory, env, obs)


@njit(cache=True)
def _restart_all(memory: _Memory, obs: np.ndarray) -> None:
    """Begin a new episode in every env and draw it into obs [E, N, O]."""
    for env in range(memory.clock.shape[0]):
        _restart(memory, env)
    _draw_all(memory, obs)


@njit(cache=True)
def _remember(memory: _Memory, ends: _Memory, env: int) -> None:
    """Keep how the episode of `env` ended, for its picture."""
    ends.position[env] = memory.position[env]
    ends.landmark[env] = memory.landmark[env]
    ends.clock[env] = memory.clock[env]


@njit(cache=True)
def _step_all(
    action: np.ndarray, memory: _Memory, ends: _Memory, episode_length: int, out: _Out
) -> None:
    """Play one step in every env and restart those that ended; action: [E, N]."""
    force = np.empty(memory.position.shape[1:])
    for env in range(memory.clock.shape[0]):
        _move(memory.position[env], memory.velocity[env], action[env], force)
        reward, covered = _judge(memory.position[env], memory.landmark[env])
        memory.clock[env] += 1
        ended = memory.clock[env] >= episode_length
        out.reward[env] = reward
        out.truncated[env] = ended
        out.success[env] = ended and covered
        _draw(memory, env, out.final_obs)
        if ended:
            _remember(memory, ends, env)
            _restart(memory, env)
            _draw(memory, env, out.obs)
        else:
            out.obs[env] = out.final_obs[env]


class SimpleSpread:
    """`num_envs` games of simple_spread (see the module's text for the rules).

    Actions: 0 nothing, 1 left, 2 right, 3 down, 4 up.
    Observation of an agent: its velocity and position, the landmarks' and the other agents'
    positions as seen from it, and 2 zeros for every other agent, where mpe2 puts what the agents
    say: in this game, nothing. O = 6 N.
    State: the agents' observations, one after the other. Nothing tells the time.
    Success: the episode's last step leaves every landmark with an agent within 0.1.

    The arrays of an `EnvView` or `EnvStep` belong to the env and are written again by the next
    `step`, `reset` or `set_state`: read them before, or copy what must last.
    """

    def __init__(self, num_envs: int, episode_length: int = 100, num_agents: int = 3) -> None:
        """Make the envs; `reset` or `set_state` starts them.

        Args:
            num_envs: number of games, at least 1.
            episode_length: steps after which an episode is truncated, at least 1.
            num_agents: N, agents and landmarks of each game, at least 1.

        Raises:
            ValueError: a number is below 1.
        """
        numbers = {"num_envs": num_envs, "episode_length": episode_length, "num_agents": num_agents}
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1")
        self.num_envs = num_envs
        self.first_env = 0
        self.episode_length = episode_length
        self.num_agents = num_agents
        self.obs_size = 6 * num_agents
        self.state_size = num_agents * self.obs_size
        self.action_space: Space = Discrete(NUM_ACTIONS)
        self._started = False
        self._memory = _make_memory(num_envs, num_agents)
        self._ends = _make_memory(num_envs, num_agents)  # of episodes that the last step ended
        self._out = _Out(
            obs=np.zeros((num_envs, num_agents, self.obs_size), dtype=np.float32),
            final_obs=np.zeros((num_envs, num_agents, self.obs_size), dtype=np.float32),
            reward=np.zeros(num_envs, dtype=np.float32),
            terminated=np.zeros(num_envs, dtype=np.bool_),
            truncated=np.zeros(num_envs, dtype=np.bool_),
            success=np.zeros(num_envs, dtype=np.bool_),
        )

    def reset(self, seed: int) -> EnvView:
        """Start new episodes; what env e does depends on (seed, first_env + e) alone."""
        self._memory.rng[:] = seed_states(seed, self.num_envs, self.first_env)
        _restart_all(self._memory, self._out.obs)
        self._start()
        return EnvView(self._out.obs, self._join(self._out.obs))

    def step(self, action: np.ndarray) -> EnvStep:
        """Play one step in all envs and restart those that ended; action: [E, N] integers 0..4.

        Raises:
            ValueError: the actions' shape, type or a value is wrong; nothing was played then.
            RuntimeError: the env was not started.
        """
        if not self._started:
            raise RuntimeError("step() before reset(): call reset(seed) or set_state(state) first")
        out = self._out
        action = check_actions(action, (self.num_envs, self.num_agents), NUM_ACTIONS)
        _step_all(action, self._memory, self._ends, self.episode_length, out)
        return EnvStep(
            view=EnvView(out.obs, self._join(out.obs)),
            reward=out.reward,
            terminated=out.terminated,
            truncated=out.truncated,
            final_obs=out.final_obs,
            final_state=self._join(out.final_obs),
            success=out.success,
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of all that `set_state` needs to go on exactly from here.

        Returns:
            position, velocity and landmark [E, N, 2] float64, clock [E] int64, rng [E] uint64.
        """
        return {name: array.copy() for name, array in self._memory._asdict().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on exactly from where `get_state` was called, on an env of as many games and agents.

        Raises:
            ValueError: a name, a shape, a type or a value is not what `get_state` returns.
        """
        memory = self._memory._asdict()
        check_saved(memory, state)
        check_saved_clock(state["clock"], self.episode_length)
        for name in ("position", "velocity", "landmark"):
            if not np.isfinite(state[name]).all():
                raise ValueError(f"the env's state: {name} has a number that is not finite")
        for name, array in memory.items():
            array[:] = state[name]
        _draw_all(self._memory, self._out.obs)
        self._start()

    def render(self, index: int = 0) -> np.ndarray:
        """Picture of game `index`: [440, 400, 3] uint8."""
        if not 0 <= index < self.num_envs:
            raise ValueError(f"there is no env {index} to draw: there are {self.num_envs} envs")
        memory = self._ends if self._out.truncated[index] else self._memory
        return draw_picture(
            memory.position[index],
            memory.landmark[index],
            (AGENT_RADIUS, COVER_RADIUS),
            (int(memory.clock[index]), self.episode_length),
        )

    def close(self) -> None:
        """Give back what the env holds: nothing but memory."""

    def _start(self) -> None:
        """All games begin or go on from here: none has ended with the last step."""
        self._out.truncated[:] = False
        self._started = True

    def _join(self, obs: np.ndarray) -> np.ndarray:
        """The agents' observations as the state: [E, N, O] -> [E, N * O], no copy."""
        return obs.reshape(self.num_envs, self.state_size)


def _make_memory(num_envs: int, num_agents: int) -> _Memory:
    """New arrays for the memory of `num_envs` games."""
    return _Memory(
        position=np.zeros((num_envs, num_agents, 2)),
        velocity=np.zeros((num_envs, num_agents, 2)),
        landmark=np.zeros((num_envs, num_agents, 2)),
        clock=np.zeros(num_envs, dtype=np.int64),
        rng=np.zeros(num_envs, dtype=np.uint64),
    )
