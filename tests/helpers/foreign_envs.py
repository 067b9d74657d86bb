"""Small games with the APIs of others: PettingZoo's, parallel and turn by turn, and gymnasium's."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from pettingzoo import AECEnv, ParallelEnv


class Relay(ParallelEnv):
    """A runner and a coach who differ in all their spaces; the runner leaves at `leave`.

    The runner sees (place, time) and may step 0, 1 or 2 on; the coach sees one of four signs and
    may do 0 or 1. Rewards: the runner's step, and 10 for the coach's 1. The clock ends it at
    `length`; from place 6 on the runner has won, which ends it for both.
    """

    metadata = {"name": "relay", "is_parallelizable": True}  # noqa: RUF012

    def __init__(self, leave: int = 4, length: int = 6, info_key: str = "won") -> None:
        self.possible_agents = ["runner", "coach"]
        self.leave, self.length, self.info_key = leave, length, info_key
        self.spaces = {
            "runner": (Box(-9, 9, (2,), np.float64), Discrete(3, start=-1)),
            "coach": (Discrete(4), Discrete(2)),
        }

    def observation_space(self, agent: str) -> Any:
        return self.spaces[agent][0]

    def action_space(self, agent: str) -> Any:
        return self.spaces[agent][1]

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = list(self.possible_agents)
        self.rng = np.random.default_rng(seed)
        self.place, self.time = int(self.rng.integers(2)), 0
        return self._observe(self.agents), {name: {} for name in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        assert set(actions) == set(self.agents)
        assert all(self.action_space(name).contains(x) for name, x in actions.items())
        playing, self.time = self.agents, self.time + 1
        rewards = dict.fromkeys(playing, 0.0)
        if "runner" in actions:
            self.place += actions["runner"] + 1
            rewards["runner"] = float(actions["runner"] + 1)
        rewards["coach"] = 10.0 * actions["coach"]
        won, late = self.place >= 6, self.time >= self.length
        terminated = {name: won for name in playing}
        if "runner" in terminated:
            terminated["runner"] |= self.time >= self.leave
        truncated = dict.fromkeys(playing, late)
        infos = {name: {self.info_key: won} for name in playing}
        self.agents = [x for x in playing if not terminated[x] and not truncated[x]]
        return self._observe(playing), rewards, terminated, truncated, infos

    def _observe(self, names: list[str]) -> dict[str, Any]:
        seen = {"runner": np.array([self.place, self.time], float), "coach": self.place % 4}
        return {name: seen[name] for name in names}


class StatefulRelay(Relay):
    """A `Relay` with a state of its own: (place, time, leave)."""

    def state(self) -> np.ndarray:
        return np.array([[self.place, self.time, self.leave]])


class MaskedRelay(Relay):
    """A `Relay` that tells allowed actions: the runner's beside its observation, the coach's info.

    The runner may not go back on what it did last; the coach may only say 1 at even times.
    """

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        place, actions = self.spaces["runner"]
        mask = Box(0, 1, (3,), np.int8)
        self.spaces["runner"] = (Dict(observation=place, action_mask=mask), actions)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.last = None
        observations, infos = super().reset(seed, options)
        return self._with_masks(observations), self._infos(infos)

    def step(self, actions: dict[str, Any]) -> Any:
        self.last = actions.get("runner")
        observations, *rest, infos = super().step(actions)
        return self._with_masks(observations), *rest, self._infos(infos)

    def _with_masks(self, observations: Any) -> Any:
        if "runner" in observations:
            mask = np.array([x != self.last for x in (-1, 0, 1)], np.int8)
            observations["runner"] = {"observation": observations["runner"], "action_mask": mask}
        return observations

    def _infos(self, infos: Any) -> Any:
        if "coach" in infos:
            infos["coach"]["action_mask"] = np.array([True, self.time % 2 == 0])
        return infos


class Turns(AECEnv):
    """Two agents add their numbers one after the other; the cycle's end pays both their sum."""

    def __init__(self, parallelizable: bool = True) -> None:
        super().__init__()
        self.metadata = {"name": "turns", "is_parallelizable": parallelizable}
        self.possible_agents = ["first", "second"]
        self.render_mode = None

    def observation_space(self, agent: str) -> Any:
        return Box(0, 100, (1,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Discrete(3)

    def observe(self, agent: str) -> np.ndarray:
        return np.array([self.total], np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = list(self.possible_agents)
        self.total, self.cycles, self.pending = 0, 0, 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {name: {} for name in self.agents}
        self.agent_selection = "first"

    def step(self, action: Any) -> None:
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            self._was_dead_step(action)
            return
        self.pending += int(action)
        self._clear_rewards()
        if self.agent_selection == "second":
            self.total, self.cycles = self.total + self.pending, self.cycles + 1
            self.rewards = dict.fromkeys(self.agents, float(self.pending))
            self.pending = 0
            self.truncations = dict.fromkeys(self.agents, self.cycles == 5)
        self.agent_selection = "second" if self.agent_selection == "first" else "first"


class Carriers(gymnasium.Env):
    """Two agents with continuous moves in bounds [0, 4] x [-1, 1]; ends at a sum of places of 20.

    The second also observes two bytes. `listed`: spaces and rewards as lists instead of tuples.
    """

    def __init__(self, listed: bool = False, shared_reward: bool = False) -> None:
        low, high = np.array([0, -1], np.float32), np.array([4, 1], np.float32)
        spaces = [Box(low, high), Box(low, high)]
        seen = [Box(-99, 99, (1,)), Tuple((Box(-99, 99, (1,)), Box(0, 255, (2,), np.uint8)))]
        self.action_space = spaces if listed else Tuple(spaces)
        self.observation_space = seen if listed else Tuple(seen)
        self.shared_reward = shared_reward
        self.render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.places = self.np_random.random(2).astype(np.float32)
        return self._observe(), {}

    def step(self, actions: Any) -> Any:
        assert all(Box.contains(self.action_space[i], x) for i, x in enumerate(actions))
        moves = np.array([float(x[0] + x[1]) for x in actions], np.float32)
        self.places += moves
        done = bool(self.places.sum() >= 20)
        rewards = float(moves.sum()) if self.shared_reward else [float(x) for x in moves]
        return self._observe(), rewards, done, False, {"is_success": done}

    def render(self) -> np.ndarray:
        return np.full((4, 6, 4), 7.0)

    def _observe(self) -> Any:
        places = self.places[:, None].copy()
        return places[0], (places[1], np.array([0, 255], np.uint8))


class Codes(gymnasium.Env):
    """One agent with a `MultiDiscrete` action and one with a `Discrete` one."""

    observation_space = Tuple((MultiDiscrete([2, 3]), Discrete(2)))
    action_space = Tuple((MultiDiscrete([2, 3]), Discrete(4)))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return (np.array([1, 2]), 0), {}

    def step(self, actions: Any) -> Any:
        assert self.action_space.contains(tuple(actions))
        self.seen = actions
        return (actions[0], actions[1] % 2), [0.0, 1.0], False, False, {}
