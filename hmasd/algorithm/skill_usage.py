"""How the skills are used: shares and their entropy; pure."""

from __future__ import annotations

import torch
from torch import Tensor


def usage(skill: Tensor, num_skills: int, prefix: str) -> dict[str, float]:
    """Share of steps under each skill, and the entropy of the shares over log n (1: all equal).

    Args:
        skill: int64 of any shape.
        num_skills: n.
        prefix: tags become `{prefix}_usage_{i}` and `{prefix}_usage_entropy`.
    """
    shares = torch.bincount(skill.flatten(), minlength=num_skills).double() / skill.numel()
    metrics = {f"{prefix}_usage_{i}": share for i, share in enumerate(shares.tolist())}
    if num_skills > 1:
        entropy = torch.special.entr(shares).sum() / torch.log(torch.tensor(float(num_skills)))
        metrics[f"{prefix}_usage_entropy"] = float(entropy)
    return metrics
