"""Stop 4: the discoverer's reward (HMASD eq. 4), once per round, batched."""

from __future__ import annotations

import math

from torch import Tensor

from hmasd.types import RewardParts


def log_odds(logits: Tensor, choice: Tensor) -> Tensor:
    """Log q - log(1 - q) of choices under softmax(logits): [..., n], [...] int64 -> [...].

    Where n - 1 others are as likely as each other it is f - f' - log(n - 1), f and f' the logits:
    it goes on growing where log q levels off near 0. Of n = 1 it is infinite.
    """
    at = choice.unsqueeze(-1)
    others = logits.scatter(-1, at, -math.inf).logsumexp(-1)
    return logits.gather(-1, at).squeeze(-1) - others


def mix_rewards(
    reward: Tensor,
    team: Tensor,
    individual: Tensor,
    *,
    extrinsic_coef: float,
    team_coef: float,
    individual_coef: float,
) -> RewardParts:
    """r_l^i = λ_e r_t + λ_D log q_D(Z | s_{t+1}) + λ_d log q_d(z^i | o^i_{t+1}, Z), or log-odds.

    Args:
        reward: [T, E] team reward.
        team: [T, E] log q_D of the team skill in force.
        individual: [T, E, N] log q_d of each agent's skill in force, or its log-odds.
        extrinsic_coef: λ_e.
        team_coef: λ_D.
        individual_coef: λ_d.
    """
    extrinsic = extrinsic_coef * reward
    team = team_coef * team
    individual = individual_coef * individual
    return RewardParts(extrinsic, team, individual, (extrinsic + team).unsqueeze(-1) + individual)


def chance_offset(offset: str, num_skills: int, kind: str = "log_q") -> float:
    """What is added so that guessing at random is worth 0, or 0 (paper).

    Args:
        offset: "log_n", or "none" for 0.
        num_skills: n.
        kind: "log_q", log(1 / n) by chance; or "log_odds", log(1 / (n - 1)).
    """
    if offset == "none":
        return 0.0
    return math.log(num_skills if kind == "log_q" else num_skills - 1)
