"""Stop 2: when each env decides anew, and which skills are in force until then."""

from __future__ import annotations

import torch
from torch import Tensor

from hmasd.kernels.transfer import to_device
from hmasd.types import Decision


class SkillClock:
    """Counts the steps of the skills in force, per env; restarts with the episode.

    A decision is due at the start of an episode, after `interval` steps (unless the skills persist
    for another interval), and after `interrupt`. The host counts, so that it knows where to ask the
    coordinator; the skills are where it left them.
    """

    def __init__(self, num_envs: int, num_agents: int, interval: int, device: torch.device) -> None:
        self.interval = interval
        self.age = torch.zeros(num_envs, dtype=torch.int64)  # [E] steps
        self.due = torch.ones(num_envs, dtype=torch.bool)  # [E]
        self.team_skill = torch.zeros(num_envs, dtype=torch.int64, device=device)  # [E]
        self.agent_skills = torch.zeros(num_envs, num_agents, dtype=torch.int64, device=device)

    def start(self, decision: Decision) -> None:
        """Put a decision's skills in force."""
        envs = to_device(decision.envs, self.team_skill.device)
        self.team_skill[envs] = decision.team_skill
        self.agent_skills[envs] = decision.agent_skills
        self.age[decision.envs] = 0
        self.due[decision.envs] = False

    def advance(self, ended: Tensor, persists: Tensor | None = None) -> Tensor:
        """Count one step of all envs.

        Args:
            ended: [E] bool on the host, the episode is over.
            persists: [E] bool on the host, skills that go on for another interval, if theirs is
                over with this step; None: none do.

        Returns:
            [E] bool on the host, the envs whose segment ends with this step.
        """
        self.age += 1
        over = self.age >= self.interval
        if persists is not None:
            self.age[over & persists] = 0
            over &= ~persists
        self.due = ended | over
        return self.due

    def interrupt(self, envs: Tensor | None = None) -> None:
        """Make every env, or those of envs [E] bool, decide anew at its next step."""
        self.due = torch.ones_like(self.due) if envs is None else self.due | envs

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        names = ("age", "due", "team_skill", "agent_skills")
        return {name: getattr(self, name).clone() for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on exactly from `state_dict`."""
        for name, value in state.items():
            getattr(self, name).copy_(value)
