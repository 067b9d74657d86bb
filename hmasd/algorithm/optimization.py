"""One gradient step, the same for all networks, and means over the steps of an update.

A batch may go through its network in parts, whose gradients add up to the whole batch's: each part
counts as much as it has of the batch's weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from hmasd.config import Config
from hmasd.kernels.adam import ClippedAdam

Batch = TypeVar("Batch")


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class Part(NamedTuple, Generic[Batch]):
    """Rows of a batch that go through a network at once."""

    batch: Batch
    weight: float  # how many of its entries count
    share: float  # of what counts in the whole batch: the weight of this part's mean loss


def in_parts(batches: Iterable[tuple[Batch, float]]) -> list[Part[Batch]]:
    """The parts of a batch, with how much each weighs; one in which nobody counts is left out."""
    counting = [(batch, weight) for batch, weight in batches if weight > 0]
    total = sum(weight for _, weight in counting)
    return [Part(batch, weight, weight / total) for batch, weight in counting]


def slices(num_rows: int, most: int) -> Iterator[slice]:
    """Consecutive slices that cover all rows, `most` in each but the last; 0: all in one."""
    size = most or num_rows
    return (slice(start, start + size) for start in range(0, num_rows, size))


def total_weight(weight: Tensor | None, like: Tensor) -> float:
    """How many entries count: all of `like`, or the sum of their weights."""
    return float(like.numel() if weight is None else weight.sum())


class Learner:
    """A network with its Adam, clipped and guarded against losses that are not finite.

    The parameters become views of one flat tensor, and so do their gradients: clipping and Adam are
    then one operation on one tensor instead of a few on each of dozens of small ones.
    """

    def __init__(self, name: str, network: nn.Module, config: Config) -> None:
        """`name` stands in error messages and in checkpoints."""
        self.name = name
        self.network = network
        self.optimizer = ClippedAdam(
            _flatten(network), config.max_grad_norm, config.learning_rate, config.adam_eps
        )
        self._losses: list[Tensor] = []  # since the last `check`, as are the norms
        self._norms: list[Tensor] = []

    @property
    def gradient(self) -> Tensor:
        """The gradient of all parameters: one flat tensor, of which theirs are views."""
        gradient = self.optimizer.flat.grad
        assert gradient is not None, "made with the flat parameters"
        return gradient

    def step(self, losses: Iterable[tuple[Tensor, float]]) -> None:
        """Backward each part's loss, clip, step.

        Nothing here waits for the device. If a loss or its gradient is not finite, this step and
        those that follow change nothing until `check`, which raises.

        Args:
            losses: mean loss of each part and its share of the whole. The next part is not asked
                for before this one's backward: one part's intermediate results live at a time.
        """
        self.gradient.zero_()
        for loss, share in losses:
            self.backward(loss, share)
        self.apply()

    def backward(self, loss: Tensor, share: float = 1.0) -> None:
        """Add a loss's gradient, times what it counts, to what is there already."""
        loss.backward(torch.full_like(loss, share))
        self._losses.append(loss.detach())
        self._spoil_unless_finite(self._losses[-1])

    def apply(self) -> None:
        """Clip and step along the gradient that is there."""
        for norm in self._norms[-1:]:
            self._spoil_unless_finite(norm)
        self._norms.append(self.optimizer.step())

    def check(self) -> float:
        """Look at all losses and norms since the last check, in one wait for the device.

        Returns:
            Mean norm of the gradients before clipping.

        Raises:
            TrainingError: one is not finite; no parameter has been changed from there on.
        """
        num_losses, values = len(self._losses), [*self._losses, *self._norms]
        self._losses, self._norms = [], []
        numbers = torch.stack(values).tolist()
        for place, value in enumerate(numbers):
            if not math.isfinite(value):
                what = "loss" if place < num_losses else "gradient norm"
                raise TrainingError(self._diverged(what, value))
        norms = numbers[num_losses:]
        return sum(norms) / len(norms)

    def _spoil_unless_finite(self, number: Tensor) -> None:
        """Keep Adam from moving: 0 · x is NaN where x is not finite, and nobody has to look."""
        self.gradient[0].add_(0 * number)

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments and its count of steps."""
        return self.optimizer.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over Adam's moments; step size and epsilon stay those of this configuration."""
        adam = self.optimizer.adam
        (group,) = adam.param_groups
        settings = {name: value for name, value in group.items() if name != "params"}
        adam.load_state_dict(state)
        adam.param_groups[0].update(settings)

    def _diverged(self, what: str, value: float) -> str:
        return (
            f"the {self.name}'s {what} is {value}: stopped before the optimizer step, parameters "
            "and checkpoints are untouched. Lower --learning-rate, or look at the last metrics "
            "in runs/ for the reward or observation that grew."
        )


def _flatten(network: nn.Module) -> nn.Parameter:
    """Move a network's parameters and gradients into one tensor each, of which they are views."""
    parameters = list(network.parameters())
    flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    pieces = zip(flat.detach().split(sizes), flat.grad.split(sizes), strict=True)
    for parameter, (value, gradient) in zip(parameters, pieces, strict=True):
        parameter.data = value.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return flat


class Means:
    """Weighted means of scalars over the parts and steps of one update; read once, at its end."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}
        self._weights: dict[str, list[float]] = {}

    def add(self, weight: float, **values: Tensor) -> None:
        """Take in one part's means, each over entries of this weight in all."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach())
            self._weights.setdefault(name, []).append(weight)

    def result(self, prefix: str) -> dict[str, float]:
        """`{prefix/name: mean}`; the only moment at which the device is waited for."""
        names = list(self._values)
        if not names:
            return {}
        means = torch.stack([self._mean(name) for name in names])
        return {f"{prefix}/{n}": v for n, v in zip(names, means.tolist(), strict=True)}

    def _mean(self, name: str) -> Tensor:
        values = torch.stack(self._values[name])
        weights = values.new_tensor(self._weights[name])
        return (values * weights).sum() / weights.sum()
