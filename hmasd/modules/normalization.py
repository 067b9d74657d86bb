"""Value normalisation: the critic learns targets of mean 0 and variance 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hmasd.distributed import ALONE, Ranks

MIN_VARIANCE = 1e-2


class ValueNormalizer(nn.Module):
    """Running mean and variance of the targets, exponentially weighted and debiased."""

    mean: Tensor
    mean_square: Tensor
    debias: Tensor

    def __init__(self, beta: float = 0.99999) -> None:
        super().__init__()
        self.beta = beta
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean_square", torch.zeros((), dtype=torch.float64))
        self.register_buffer("debias", torch.zeros((), dtype=torch.float64))

    def forget(self) -> None:
        """As before the first update."""
        for buffer in self.buffers():
            buffer.zero_()

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Debiased mean and standard deviation, scalars; 0 and 1 before the first update."""
        debias = self.debias.clamp(min=torch.finfo(self.debias.dtype).tiny)
        mean = self.mean / debias
        variance = (self.mean_square / debias - mean.square()).clamp(min=MIN_VARIANCE)
        # A choice that the device makes by itself: an `if` here would wait for it.
        return mean, torch.where(self.debias == 0, 1.0, variance.sqrt())

    @torch.no_grad()
    def update(self, targets: Tensor, weight: Tensor | None = None, ranks: Ranks = ALONE) -> None:
        """Take in one batch of targets.

        Args:
            targets: any shape.
            weight: of that shape, 0 for dead agents; None: all count.
            ranks: whose targets are all taken in.
        """
        targets = targets.double()
        mean, mean_square = ranks.means((targets, weight), (targets.square(), weight))
        self.mean.lerp_(mean, 1 - self.beta)
        self.mean_square.lerp_(mean_square, 1 - self.beta)
        self.debias.lerp_(torch.ones_like(self.debias), 1 - self.beta)

    def normalize(self, value: Tensor) -> Tensor:
        """Real units -> normalised units."""
        mean, std = self.statistics()
        return (value - mean) / std

    def denormalize(self, value: Tensor) -> Tensor:
        """Normalised units -> real units."""
        mean, std = self.statistics()
        return value * std + mean
