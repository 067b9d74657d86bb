"""How the skills are used: shares and their entropy; pure."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def usage(
    skill: Tensor, num_skills: int, prefix: str, weight: Tensor | None = None
) -> dict[str, Tensor]:
    """Share of steps under each skill, and the entropy of the shares over log n (1: all equal).

    Args:
        skill: int64 of any shape.
        num_skills: n.
        prefix: tags become `{prefix}_usage_{i}` and `{prefix}_usage_entropy`.
        weight: of the same shape, how often each entry counts; None: once.
    """
    every = torch.arange(num_skills, device=skill.device)
    is_skill = (skill.flatten().unsqueeze(-1) == every).double()  # [M, n]
    if weight is not None:
        is_skill *= weight.flatten().unsqueeze(-1)
    shares = is_skill.sum(0) / is_skill.sum()
    metrics = {f"{prefix}_usage_{i}": share for i, share in enumerate(shares.unbind())}
    if num_skills > 1:
        metrics[f"{prefix}_usage_entropy"] = torch.special.entr(shares).sum() / math.log(num_skills)
    return metrics
