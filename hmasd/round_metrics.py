"""What a round tells of rewards, skills and segments, over all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from hmasd.algorithm.skill_usage import usage
from hmasd.distributed import ALONE, Ranks
from hmasd.kernels.transfer import to_device
from hmasd.types import HighRollout, LowRollout, RewardParts

Weights = tuple[Tensor | None, Tensor | None]  # of the team's steps [T, E], of agents' [T, E, N]


def counting(rollout: LowRollout, device: torch.device, dtype: torch.dtype) -> Weights:
    """What counts of a round: the team's steps in which any agent lives, and the living agents'."""
    if rollout.alive is None:
        return None, None
    weight = to_device(rollout.alive, device, dtype)
    return weight.amax(-1), weight


def skill_metrics(
    rollout: LowRollout, num_skills: tuple[int, int], weights: Weights, ranks: Ranks = ALONE
) -> dict[str, Tensor]:
    """Shares of the skills among those who live, of whom there is one at least.

    Args:
        rollout: this rank's round.
        num_skills: of the team, and of each agent.
        weights: of the team's steps and of agents'.
        ranks: whose skills are all counted.
    """
    return usage(rollout.team_skill, num_skills[0], "skill/team", weights[0], ranks) | usage(
        rollout.agent_skills, num_skills[1], "skill/agent", weights[1], ranks
    )


def reward_metrics(
    parts: RewardParts, weights: Weights, ranks: Ranks = ALONE
) -> dict[str, Tensor | float]:
    """Mean of each part of the discoverer's reward; weights: of the team's steps and of agents'."""
    means = ranks.means(
        (parts.extrinsic, weights[0]), (parts.team, weights[0]), (parts.individual, weights[1])
    )
    names = ("extrinsic", "team", "individual")
    return {f"reward/{name}": mean for name, mean in zip(names, means, strict=True)}


def segment_metrics(segments: HighRollout, ranks: Ranks = ALONE) -> dict[str, float]:
    """How many segments the coordinator learned from, how many were cut, and how long they were."""
    return {
        "high/segments": ranks.total(len(segments.env)),
        "high/cut_share": float(ranks.mean(segments.cut.double())),
        "high/segment_length": float(ranks.mean(segments.length.double())),
    }
