"""How the skills are used: shares and their entropy; pure."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hmasd.distributed import ALONE, Ranks


def usage(
    skill: Tensor,
    num_skills: int,
    prefix: str,
    weight: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Share of steps under each skill, and the entropy of the shares over log n (1: all equal).

    Args:
        skill: int64 of any shape.
        num_skills: n.
        prefix: tags become `{prefix}_usage_{i}` and `{prefix}_usage_entropy`.
        weight: of the same shape, how often each entry counts; None: once.
        ranks: whose skills are all counted.
    """
    every = torch.arange(num_skills, device=skill.device)
    is_skill = (skill.flatten().unsqueeze(-1) == every).double()  # [M, n]
    if weight is not None:
        is_skill *= weight.flatten().unsqueeze(-1)
    counts = ranks.sum(is_skill.sum(0))
    shares = counts / counts.sum()
    metrics = {f"{prefix}_usage_{i}": share for i, share in enumerate(shares.unbind())}
    if num_skills > 1:
        metrics[f"{prefix}_usage_entropy"] = torch.special.entr(shares).sum() / math.log(num_skills)
    return metrics
