"""A team that plays: coordinator, clock and actor together. Training and evaluation both use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmasd.config import Config
from hmasd.kernels.transfer import to_device, to_host
from hmasd.modules import distributions
from hmasd.networks import SkillActor, SkillCoordinator
from hmasd.rollout.skill_clock import SkillClock
from hmasd.types import Decision, EnvShare, EnvView, TensorView


class TeamAction(NamedTuple):
    """What all agents do in one step."""

    action: Tensor  # [E, N] or [E, N, A]
    logp: Tensor  # [E, N]
    hidden: Tensor  # [E, N, d] GRU state before the step (before a restart)
    restart: Tensor  # [E] bool on the host, the GRU state restarted before the step


class Generators(NamedTuple):
    """Randomness of a team's choices; None: greedy play.

    `clock` is the host's, as `SkillClock` is: of whether skills persist, which training alone asks.
    """

    skill: torch.Generator | None
    action: torch.Generator | None
    clock: torch.Generator | None = None

    @classmethod
    def of_seed(cls, seed: int, device: torch.device) -> Generators:
        """Of skills and of actions, from one seed; no skill goes on for another interval."""
        return cls(*(torch.Generator(device).manual_seed(2 * seed + i) for i in range(2)))

    def greedy(self, config: Config) -> Generators:
        """Only what greedy play needs: skills that are chosen by chance alone stay so."""
        return Generators(self.skill if config.high_level == "random" else None, None)


def training_generators(seed: int, device: torch.device) -> dict[str, torch.Generator]:
    """Those of a run by name: of a team's choices, and of the order in which it is learned from.

    That of the clock is the host's on every device, and its seed is no run's other one (those are
    below 2^32 for all seeds up to a billion).
    """
    names = ("skill", "action", "shuffle")
    found = {
        name: torch.Generator(device).manual_seed(seed * len(names) + i)
        for i, name in enumerate(names)
    }
    return found | {"clock": torch.Generator().manual_seed((seed + 1) << 32)}


class Team:
    """E teams of N agents that share two networks; holds what they remember between steps."""

    def __init__(
        self,
        config: Config,
        coordinator: SkillCoordinator,
        actor: SkillActor,
        shape: tuple[int, int],
        generators: Generators,
        share: EnvShare | None = None,
    ) -> None:
        """Teams that have just met.

        Args:
            config: settings of the run.
            coordinator: chooses the skills.
            actor: chooses the actions.
            shape: (E, N).
            generators: of both choices.
            share: which of a run's envs these are. Random numbers are drawn for all of the run's,
                so that a team's choices do not depend on who else plays in this process. None: all.
        """
        self.config = config
        self.coordinator = coordinator
        self.actor = actor
        self.generators = generators
        self.share = share or EnvShare(0, shape[0], shape[0])
        self.chooses_by_chance = False  # for now, to see what that leads to
        self.persistence = 0.0  # chance that skills whose interval is over go on for another
        self.forced: Sequence[int | None] | None = None  # skills given: see SkillCoordinator.act
        self.skills_are_actions = config.low_level == "action"
        example = next(actor.parameters())
        self.device, self.dtype = example.device, example.dtype
        self.clock = SkillClock(*shape, config.skill_interval, self.device)
        self.hidden = example.new_zeros(*shape, config.hidden_size).detach()  # [E, N, d]
        self.restart = torch.ones(shape[0], dtype=torch.bool)  # [E] on the host
        agent_number = torch.eye(shape[1], dtype=self.dtype, device=self.device)
        self._agent_number = agent_number.expand(shape[0], -1, -1)  # [E, N, N]

    def observe(self, view: EnvView) -> TensorView:
        """Copy what an env shows, for envs reuse their memory; see `TensorView` for where to."""
        obs = to_device(torch.from_numpy(view.obs), self.device, self.dtype)
        if self.config.agent_id:
            obs = torch.cat([obs, self._agent_number], dim=-1)
        state = to_device(torch.from_numpy(view.state), self.device, self.dtype)
        mask, alive = view.action_mask, view.alive
        return TensorView(
            obs,
            state,
            None if mask is None else to_device(torch.from_numpy(mask), self.device),
            None if alive is None else torch.from_numpy(alive).clone(),
        )

    @torch.no_grad()
    def decide(self, view: TensorView) -> Decision | None:
        """Choose skills where the clock is due; None where it is due nowhere."""
        # Before it is known whether anything is due here: elsewhere it may be, see `_noise`.
        numbers = self._noise(self.generators.skill, (self.hidden.shape[1] + 1,))
        if not bool(self.clock.due.any()):
            return None
        envs = self.clock.due.nonzero().squeeze(-1)
        index = to_device(envs, self.device)
        uniform = None if numbers is None else numbers[index]
        mask = None
        if self.skills_are_actions and view.action_mask is not None:
            mask = view.action_mask[index]
        if self.chooses_by_chance or self.config.high_level == "random":
            decision = self._draw_skills(envs, uniform, mask)
        else:
            choice = self.coordinator.act(
                view.state[index], view.obs[index], uniform, mask, self.forced
            )
            decision = Decision(envs, *choice, mask)
        self.clock.start(decision)
        if self.config.reset_hidden_on_skill:
            self.restart[envs] = True
        return decision

    def _noise(
        self, generator: torch.Generator | None, shape: tuple[int, ...], normal: bool = False
    ) -> Tensor | None:
        """Random numbers [E, *shape], uniform in [0, 1) or of N(0, 1); None without generator.

        Drawn for all of the run's envs, of which this share takes its own: what is due in one share
        decides no draw of another.
        """
        if generator is None:
            return None
        draw = torch.randn if normal else torch.rand
        size = (self.share.total, *shape)
        numbers = draw(size, generator=generator, device=self.device, dtype=self.dtype)
        return numbers[self.share.rows]

    def _draw_skills(self, envs: Tensor, uniform: Tensor | None, mask: Tensor | None) -> Decision:
        """All allowed skills equally likely.

        Args:
            envs: [n] those that choose.
            uniform: [n, N+1] numbers in [0, 1), or None for the first allowed ones.
            mask: [n, N, n_z] bool, those that agents may choose, or None for all.
        """
        config, num_agents = self.config, self.hidden.shape[1]
        tokens = (
            (slice(0, 1), config.num_team_skills, None),
            (slice(1, num_agents + 1), self.coordinator.num_agent_skills, mask),
        )
        team, agents = (
            distributions.sample_categorical(
                distributions.mask_logits(
                    self.hidden.new_zeros(len(envs), token.stop - token.start, num), allowed
                ),
                None if uniform is None else uniform[:, token],
            )
            for token, num, allowed in tokens
        )
        skills = torch.cat([team.choice, agents.choice], dim=1)  # [n, N+1]
        for token, given in enumerate(self.forced or ()):
            if given is not None:
                skills[:, token] = given
        logp = torch.cat([team.logp, agents.logp], dim=1)
        return Decision(envs, skills[:, 0], skills[:, 1:], logp, mask)

    @torch.no_grad()
    def act(self, view: TensorView) -> TeamAction:
        """Choose all agents' actions under the skills in force; the GRU state moves on.

        A skill that is the action leaves no choice: its log-probability is 0.
        """
        before, restart = self.hidden, self.restart
        if self.skills_are_actions:
            action = self.clock.agent_skills.clone()
            return TeamAction(action, before.new_zeros(action.shape), before, restart)
        rows = before.shape[:2]  # E, N
        mask = view.action_mask
        discrete = self.actor.discrete
        choices = () if discrete else tuple(self.actor.log_std.shape)
        noise = self._noise(self.generators.action, (rows[1], *choices), not discrete)
        drawn, state = self.actor.act(
            view.obs.flatten(0, 1),
            self.clock.agent_skills.flatten(),
            before.flatten(0, 1),
            (~restart).to(self.dtype).repeat_interleave(rows[1]),
            None if mask is None else mask.flatten(0, 1),
            None if noise is None else noise.flatten(0, 1),
        )
        self.hidden = state.unflatten(0, rows)
        return TeamAction(
            drawn.choice.unflatten(0, rows), drawn.logp.unflatten(0, rows), before, restart
        )

    def play(self, view: EnvView) -> np.ndarray:
        """Look, choose skills where they are due, and act: [E, N] int64 or [E, N, A] float32."""
        seen = self.observe(view)
        self.decide(seen)
        return to_host(self.act(seen).action).numpy()

    def advance(self, ended: Tensor) -> Tensor:
        """Count one step; ended: [E] bool on the host, the episode is over.

        Returns:
            [E] bool on the host, the envs whose segment ended with this step.
        """
        self.restart = ended.clone()
        return self.clock.advance(ended, self._persists())

    def _persists(self) -> Tensor | None:
        """[E] bool on the host, skills that would go on for another interval; None: none would."""
        if self.generators.clock is None or self.persistence == 0:
            return None
        # In every step and for all of the run's envs, as `_noise`: no share decides another's.
        numbers = torch.rand(self.share.total, generator=self.generators.clock)
        return numbers[self.share.rows] < self.persistence

    def state_dict(self) -> dict[str, object]:
        """What the teams remember; the networks and generators are saved elsewhere."""
        return {
            "clock": self.clock.state_dict(),
            "hidden": self.hidden.clone(),
            "restart": self.restart.clone(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on exactly from `state_dict`."""
        self.clock.load_state_dict(state["clock"])
        self.hidden = state["hidden"].to(self.device, copy=True)
        self.restart = state["restart"].clone()
