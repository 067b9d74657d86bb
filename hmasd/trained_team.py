"""A trained team outside the trainer: load a checkpoint and act, numpy in and numpy out.

    team = TrainedTeam.load("models/hmasd_sync_enhanced_final.pth")
    team.reset(num_envs=1)
    action = team.act(obs, state)  # and so on; after a step that ended an episode:
    action = team.act(obs, state, ended=[True])

It acts as evaluation does to the last bit: both play `hmasd.rollout.team.Team`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from numpy.typing import ArrayLike

from hmasd import checkpoint
from hmasd.checkpoint import CheckpointError
from hmasd.config import Config
from hmasd.networks import HMASDNetworks, make_networks
from hmasd.rollout.team import Generators, Team
from hmasd.settings import stored_config
from hmasd.types import EnvView


class _Sizes(NamedTuple):
    """What networks must know of an env: the last arguments of `make_networks`."""

    num_agents: int
    obs_size: int
    state_size: int
    action_space: Space  # of one agent


class TrainedTeam:
    """E teams of one policy, each in an env of its own; keeps their skills and GRU states.

    `num_agents`, `obs_size`, `state_size` and `action_space` are those of the envs that it was
    trained in (the bounds of a Box are not known). `config` holds the settings of its training.
    """

    def __init__(self, config: Config, networks: HMASDNetworks, sizes: _Sizes) -> None:
        """Use `load`."""
        self.config = config
        self.num_agents, self.obs_size, self.state_size, self.action_space = sizes
        self._networks = networks
        self._forced: list[int | None] = [None] * (1 + self.num_agents)
        self.reset()

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu") -> TrainedTeam:
        """Read a checkpoint or a policy file; no env is made, nothing of training is loaded.

        Args:
            path: The file.
            device: torch device to act on, whatever it was trained on.

        Raises:
            CheckpointError: The file is missing, damaged, or holds no trained team.
            ConfigError: It was trained with a setting that is unknown here.
        """
        content = checkpoint.load(Path(path))
        if not {"agent", "config"} <= content.keys():
            raise CheckpointError(f"{path} holds no trained team: it was not saved by training")
        config = dataclasses.replace(stored_config(content["config"], Path(path)), device=device)
        state = content["agent"]["played"]
        sizes = _sizes(content["agent"], config)
        networks = make_networks(config, *sizes)
        checkpoint.load_module("networks", networks, state)
        return cls(config, networks, sizes)

    def reset(self, num_envs: int = 1, seed: int | None = None) -> None:
        """Forget everything but forced skills: `num_envs` new episodes begin.

        Args:
            num_envs: E.
            seed: None: greedy play, the most likely choices (skills that training chose by chance
                are drawn as with seed 0); a number: choices are drawn.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, but must be at least 1")
        generators = Generators.of_seed(seed or 0, torch.device(self.config.device))
        self._team = Team(
            self.config,
            self._networks.coordinator,
            self._networks.actor,
            (num_envs, self.num_agents),
            generators.greedy(self.config) if seed is None else generators,
        )
        self._team.forced = self._forced
        self._num_envs = num_envs
        self._has_acted = False
        self._decide_anew = False

    def force(
        self, team_skill: int | None = None, agent_skills: Sequence[int] | None = None
    ) -> None:
        """Play these skills from the next action on; what is None the coordinator chooses.

        Args:
            team_skill: Z of all envs.
            agent_skills: z of each agent, in all envs.

        Raises:
            ValueError: There is no such skill, or not one for each agent.
        """
        agents, coordinator = [None] * self.num_agents, self._networks.coordinator
        given = agents if agent_skills is None else list(agent_skills)
        if len(given) != self.num_agents:
            raise ValueError(
                f"{len(given)} agent skills {tuple(given)} for {self.num_agents} agents: give one "
                "for each"
            )
        _check_skill("team skill Z", team_skill, coordinator.num_team_skills)
        for agent, skill in enumerate(given):
            _check_skill(f"agent {agent}'s skill z", skill, coordinator.num_agent_skills)
        self._forced = [team_skill, *given]
        self._team.forced = self._forced
        self._decide_anew = True

    @property
    def team_skill(self) -> np.ndarray:
        """Z in force: [E] int64."""
        return self._team.clock.team_skill.cpu().numpy().copy()

    @property
    def agent_skills(self) -> np.ndarray:
        """Each agent's z in force: [E, N] int64."""
        return self._team.clock.agent_skills.cpu().numpy().copy()

    def act(
        self,
        obs: ArrayLike,
        state: ArrayLike,
        action_mask: ArrayLike | None = None,
        ended: ArrayLike | None = None,
    ) -> np.ndarray:
        """Choose skills where they are due, and every agent's action.

        Args:
            obs: What each agent sees, [E, N, O].
            state: What the coordinator sees, [E, S].
            action_mask: [E, N, A] bool, True where an action is allowed; None: all are.
            ended: [E] bool, where the last step ended an episode, so that `obs` shows the next
                one's start; None: nowhere.

        Returns:
            Actions, [E, N] int64 or [E, N, A] float32.

        Raises:
            ValueError: An array has another shape, or a number is not finite; nothing was done.
        """
        shape = (self._num_envs, self.num_agents)
        view = EnvView(
            _checked("obs", obs, (*shape, self.obs_size), np.float32),
            _checked("state", state, (shape[0], self.state_size), np.float32),
            None if action_mask is None else self._checked_mask(action_mask),
        )
        over = np.zeros(shape[0], bool)
        if ended is not None:
            over = _checked("ended", ended, shape[:1], np.bool_)
        if self._has_acted:
            self._team.advance(torch.from_numpy(over))
        if self._decide_anew:
            self._team.clock.interrupt()
        self._has_acted, self._decide_anew = True, False
        return self._team.play(view)

    def _checked_mask(self, action_mask: ArrayLike) -> np.ndarray:
        if not isinstance(self.action_space, Discrete):
            raise ValueError("this team's actions are continuous: leave action_mask out")
        shape = (self._num_envs, self.num_agents, int(self.action_space.n))
        return _checked("action_mask", action_mask, shape, np.bool_)


def _sizes(agent: Mapping[str, Any], config: Config) -> _Sizes:
    """What the env of a checkpoint was like, told by the shapes of what it holds."""
    parameters = agent["played"]
    obs_size = len(parameters["coordinator.embed_obs.0.weight"])
    state_size = len(parameters["coordinator.embed_state.0.weight"])
    num_outputs = len(parameters["actor.body.head.bias"])
    is_continuous = "actor.log_std" in parameters
    space = Box(-np.inf, np.inf, (num_outputs,)) if is_continuous else Discrete(num_outputs)
    num_agents = agent["num_agents"]
    return _Sizes(num_agents, obs_size - (num_agents if config.agent_id else 0), state_size, space)


def _check_skill(what: str, skill: int | None, number: int) -> None:
    """Refuse a skill outside 0..number-1."""
    if skill is not None and not 0 <= skill < number:
        raise ValueError(f"{what} = {skill} does not exist: this team has 0..{number - 1}")


def _checked(
    name: str, given: ArrayLike, shape: tuple[int, ...], dtype: type[np.generic]
) -> np.ndarray:
    """The array, copied, or the error that says what is wrong with it."""
    array = np.array(given, dtype=dtype)
    if array.shape != shape:
        raise ValueError(
            f"{name} has shape {array.shape}, but must have {shape}: envs come first "
            f"({name}[None] makes one env a batch), and there are as many as reset(num_envs) says"
        )
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name}{list(place)} is {array[place]}: only finite numbers can be used")
    return array
