"""Small environments with known answers; all of them follow `hmasd.envs.base.BatchedEnv`.

* `Counter`: every observation tells episode, time, env and agent, so data can be traced.
* `ConstantReward`: reward 1 for ever, ended by the task or by the clock.
* `ContinuousPoint`: continuous actions, each agent must move to a target.
* `MaskedAgents`: action masks, and one agent that dies.

They hand out new arrays in every step.
"""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from hmasd.envs.random_state import seed_states
from hmasd.types import EnvStep, EnvView


class ToyEnv:
    """The clock, the random numbers, the restarts and the saving that all small envs share.

    A subclass keeps what decides its future in arrays [E, ...] of `self.memory`, and writes
    `_begin`, `_play` and `_view`.
    """

    def __init__(
        self,
        num_envs: int,
        num_agents: int,
        sizes: tuple[int, int],
        action_space: Space,
        episode_length: int,
    ) -> None:
        """Make the envs; sizes: of an observation and of the state."""
        self.num_envs = num_envs
        self.num_agents = num_agents
        self.obs_size, self.state_size = sizes
        self.action_space = action_space
        self.episode_length = episode_length
        self.memory: dict[str, np.ndarray] = {
            "clock": np.zeros(num_envs, dtype=np.int64),
            "episode": np.zeros(num_envs, dtype=np.int64),
            "rng": np.zeros(num_envs, dtype=np.uint64),
        }

    def reset(self, seed: int) -> EnvView:
        """Start new episodes; what env e does depends on (seed, e) alone."""
        for array in self.memory.values():
            array[...] = 0
        self.memory["rng"][:] = seed_states(seed, self.num_envs)
        self._begin(np.ones(self.num_envs, dtype=bool))
        self.shown_clock = self.memory["clock"].copy()
        return self._view()

    def step(self, action: np.ndarray) -> EnvStep:
        """Play one step in all envs and restart those that ended."""
        shape = (self.num_envs, self.num_agents, *self.action_space.shape)
        if np.shape(action) != shape:
            raise ValueError(f"actions must have shape {shape}, got {np.shape(action)}")
        reward, terminated, cut = self._play(np.asarray(action))
        clock = self.memory["clock"]
        clock += 1
        truncated = (cut | (clock >= self.episode_length)) & ~terminated
        final = self._view()
        ended = terminated | truncated
        self.shown_clock = clock.copy()
        clock[ended] = 0
        self.memory["episode"][ended] += 1
        self._begin(ended)
        return EnvStep(
            view=self._view(),
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            final_obs=final.obs,
            final_state=final.state,
            success=terminated.copy(),
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of all that decides the future."""
        return {name: array.copy() for name, array in self.memory.items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from `get_state`; raises ValueError on other names or shapes."""
        if set(state) != set(self.memory):
            raise ValueError(f"the state has {sorted(state)}, not {sorted(self.memory)}")
        for name, array in self.memory.items():
            if state[name].shape != array.shape:
                raise ValueError(f"{name} has shape {state[name].shape}, not {array.shape}")
            array[...] = state[name]
        self.shown_clock = self.memory["clock"].copy()

    def render(self, index: int = 0) -> np.ndarray:
        """One grey picture whose shade is the steps of the episode: [16, 16, 3] uint8."""
        return np.full((16, 16, 3), self.shown_clock[index] % 256, dtype=np.uint8)

    def close(self) -> None:
        """Nothing to give back."""

    def _uniform(self) -> np.ndarray:
        """One random number in [0, 1) of each env: [E] (splitmix64)."""
        rng = self.memory["rng"]
        rng += np.uint64(0x9E3779B97F4A7C15)
        value = (rng ^ (rng >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((value ^ (value >> np.uint64(31))) >> np.uint64(11)) / 2.0**53

    def _begin(self, mask: np.ndarray) -> None:
        """Set up the new episodes where mask [E]; the clock is 0 there already."""

    def _play(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Play; returns reward, terminated and (truncated before the clock says so), all [E]."""
        raise NotImplementedError

    def _view(self) -> EnvView:
        """What is seen now, in new arrays."""
        raise NotImplementedError


class Counter(ToyEnv):
    """Identifiable data, with random ends.

    Observation of an agent: (episode, t, env, agent). State: (episode, t, env). Episodes count
    from 0 in each env, t is 0 at the start. Reward: `reward_of`, whole numbers.
    """

    def __init__(
        self,
        num_envs: int,
        num_agents: int = 2,
        episode_length: int = 100,
        end_chances: tuple[float, float] = (0.05, 0.05),
        num_actions: int = 3,
    ) -> None:
        """end_chances: of termination and of truncation, in every step."""
        super().__init__(num_envs, num_agents, (4, 3), Discrete(num_actions), episode_length)
        self.end_chances = end_chances

    @staticmethod
    def reward_of(episode: np.ndarray, time: np.ndarray, env: np.ndarray) -> np.ndarray:
        """The reward of the step taken at `time`: whole numbers 0..10, any shape."""
        return (7 * episode + 3 * time + 5 * env) % 11

    def _play(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        memory, chance = self.memory, self._uniform()
        reward = self.reward_of(memory["episode"], memory["clock"], np.arange(self.num_envs))
        terminate, truncate = self.end_chances
        return reward, chance < terminate, chance >= 1.0 - truncate

    def _view(self) -> EnvView:
        envs = np.arange(self.num_envs)
        state = np.stack([self.memory["episode"], self.memory["clock"], envs], axis=-1)
        obs = np.empty((self.num_envs, self.num_agents, 4), dtype=np.float32)
        obs[:, :, :3] = state[:, None, :]
        obs[:, :, 3] = np.arange(self.num_agents)
        return EnvView(obs, state.astype(np.float32))


class NeverWon(Counter):
    """Ends without success."""

    def step(self, action: np.ndarray) -> EnvStep:
        """No episode reaches the goal."""
        step = super().step(action)
        return step._replace(success=step.success & False)


class Lossy(Counter):
    """`Counter` of which some envs fail: in their lock-steps (from 1) they are replaced."""

    def __init__(
        self, num_envs: int, episode_length: int, losses: dict[int, tuple[int, ...]]
    ) -> None:
        """losses: lock-step to the envs that fail in it."""
        super().__init__(num_envs, 2, episode_length, (0.1, 0.1))
        self.losses = losses
        self.lock_step = 0

    def step(self, action: np.ndarray) -> EnvStep:
        """As `Counter`'s; a failed env begins its next episode, and no outcome of it counts."""
        step = super().step(action)
        self.lock_step += 1
        if self.lock_step not in self.losses:
            return step
        lost = np.isin(np.arange(self.num_envs), self.losses[self.lock_step])
        goes_on = lost & ~(step.terminated | step.truncated)
        self.memory["episode"][goes_on] += 1
        self.memory["clock"][goes_on] = 0
        view = self._view()
        step.final_obs[lost], step.final_state[lost] = view.obs[lost], view.state[lost]
        return step._replace(
            view=view,
            reward=step.reward * ~lost,
            terminated=step.terminated & ~lost,
            truncated=step.truncated | lost,
            success=step.success & ~lost,
            lost=lost,
        )


class ConstantReward(ToyEnv):
    """Reward 1 in every step; after `episode_length` steps the task or the clock ends.

    With `terminates` a state at time t is worth (1 - γ^(h-t)) / (1 - γ), else 1 / (1 - γ).
    Observation and state: (1, t / h), or (1, 0) without `show_time`.
    """

    def __init__(
        self,
        num_envs: int,
        num_agents: int = 2,
        episode_length: int = 10,
        *,
        terminates: bool,
        show_time: bool = True,
    ) -> None:
        """terminates: whether the episode's end is a termination, else a truncation."""
        super().__init__(num_envs, num_agents, (2, 2), Discrete(2), episode_length)
        self.terminates = terminates
        self.show_time = show_time

    def _play(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        last = self.memory["clock"] + 1 >= self.episode_length
        return np.ones(self.num_envs), last & self.terminates, last & (not self.terminates)

    def _view(self) -> EnvView:
        state = np.ones((self.num_envs, 2), dtype=np.float32)
        state[:, 1] = self.memory["clock"] / self.episode_length * self.show_time
        return EnvView(np.repeat(state[:, None], self.num_agents, axis=1), state)


class ContinuousPoint(ToyEnv):
    """Each agent moves along [-1, 1] by 0.2 x its action (clipped to [-1, 1]) towards a target.

    Observation of an agent: (position, target). State: all positions, then the target. Reward:
    minus the agents' mean distance. Terminates (success) when all are within 0.1.
    """

    def __init__(self, num_envs: int, num_agents: int = 2, episode_length: int = 25) -> None:
        """Agents start at 0."""
        space = Box(-1.0, 1.0, (1,), np.float32)
        super().__init__(num_envs, num_agents, (2, num_agents + 1), space, episode_length)
        self.memory["position"] = np.zeros((num_envs, num_agents))
        self.memory["target"] = np.zeros(num_envs)

    def _begin(self, mask: np.ndarray) -> None:
        if mask.any():
            self.memory["position"][mask] = 0.0
            self.memory["target"][mask] = 2.0 * self._uniform()[mask] - 1.0

    def _play(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position = self.memory["position"]
        position += 0.2 * np.clip(action[:, :, 0], -1.0, 1.0)
        np.clip(position, -1.0, 1.0, out=position)
        distance = np.abs(position - self.memory["target"][:, None])  # [E, N]
        reached = (distance < 0.1).all(axis=1)
        return -distance.mean(axis=1), reached, np.zeros_like(reached)

    def _view(self) -> EnvView:
        position, target = self.memory["position"], self.memory["target"][:, None]
        obs = np.stack([position, np.broadcast_to(target, position.shape)], axis=-1)
        state = np.concatenate([position, target], axis=1)
        return EnvView(obs.astype(np.float32), state.astype(np.float32))


class MaskedAgents(ToyEnv):
    """At time t agent i may not take action (t + i) mod A, and is paid for (t + i + 1) mod A.

    One random agent dies at a random time of each episode (`memory["victim"]`, `["death"]`): from
    then on it sees zeros, may only take action 0 and earns nothing. Reward: paid agents / N.
    Observation of an agent: (t / h, (t + i) mod A, alive). State: t / h and all agents' alive.
    """

    def __init__(
        self, num_envs: int, num_agents: int = 3, episode_length: int = 20, num_actions: int = 4
    ) -> None:
        """num_actions: A, at least 2."""
        sizes = (3, num_agents + 1)
        super().__init__(num_envs, num_agents, sizes, Discrete(num_actions), episode_length)
        self.num_actions = num_actions
        self.memory["victim"] = np.zeros(num_envs, dtype=np.int64)
        self.memory["death"] = np.zeros(num_envs, dtype=np.int64)

    def _begin(self, mask: np.ndarray) -> None:
        victim = (self._uniform() * self.num_agents).astype(np.int64)
        death = 1 + (self._uniform() * self.episode_length).astype(np.int64)
        self.memory["victim"][mask] = victim[mask]
        self.memory["death"][mask] = death[mask]

    def _play(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        view = self._view()
        allowed = np.take_along_axis(view.action_mask, action[:, :, None], axis=2)[:, :, 0]
        for env, agent in np.argwhere(~allowed)[:1]:
            raise ValueError(f"env {env}, agent {agent}: action {action[env, agent]} is masked")
        paid = (action == (self._phase() + 1) % self.num_actions) & view.alive
        never = np.zeros(self.num_envs, dtype=bool)
        return paid.mean(axis=1), never, never.copy()

    def _phase(self) -> np.ndarray:
        """The forbidden action of each agent: [E, N]."""
        return (self.memory["clock"][:, None] + np.arange(self.num_agents)) % self.num_actions

    def _view(self) -> EnvView:
        clock, agents = self.memory["clock"][:, None], np.arange(self.num_agents)
        dead = (agents == self.memory["victim"][:, None]) & (clock >= self.memory["death"][:, None])
        time = np.broadcast_to(clock / self.episode_length, dead.shape)
        obs = np.stack([time, self._phase(), np.ones_like(time)], axis=-1) * ~dead[:, :, None]
        state = np.concatenate([time[:, :1], ~dead], axis=1)
        mask = np.arange(self.num_actions) != self._phase()[:, :, None]  # [E, N, A]
        mask[dead] = np.arange(self.num_actions) == 0
        return EnvView(obs.astype(np.float32), state.astype(np.float32), mask, ~dead)
