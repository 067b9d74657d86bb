"""Stop 4: the discoverer's reward (HMASD eq. 4), once per round, batched."""

from __future__ import annotations

import math

from torch import Tensor

from hmasd.types import RewardParts


def mix_rewards(
    reward: Tensor,
    team_logp: Tensor,
    individual_logp: Tensor,
    *,
    extrinsic_coef: float,
    team_coef: float,
    individual_coef: float,
) -> RewardParts:
    """r_l^i = λ_e r_t + λ_D log q_D(Z | s_{t+1}) + λ_d log q_d(z^i | o^i_{t+1}, Z).

    Args:
        reward: [T, E] team reward.
        team_logp: [T, E] log q_D of the team skill in force.
        individual_logp: [T, E, N] log q_d of each agent's skill in force.
        extrinsic_coef: λ_e.
        team_coef: λ_D.
        individual_coef: λ_d.
    """
    extrinsic = extrinsic_coef * reward
    team = team_coef * team_logp
    individual = individual_coef * individual_logp
    return RewardParts(extrinsic, team, individual, (extrinsic + team).unsqueeze(-1) + individual)


def chance_offset(offset: str, num_skills: int) -> float:
    """What is added to log q: 0 (paper), or log n so that guessing at random is worth 0."""
    return math.log(num_skills) if offset == "log_n" else 0.0
