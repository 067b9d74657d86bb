"""One gradient step, the same for all networks, and means over the steps of an update."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from hmasd.config import Config
from hmasd.kernels.adam import ClippedAdam


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


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

    def step(self, loss: Tensor) -> Tensor:
        """Backward, clip, step; returns the gradient's norm before clipping.

        Nothing here waits for the device. If a loss or its gradient is not finite, this step and
        those that follow change nothing until `check`, which raises; the norm is not finite then.
        """
        self.gradient.zero_()
        self.backward(loss)
        return self.apply()

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient to what is there already."""
        loss.backward()
        self._losses.append(loss.detach())
        self._spoil_unless_finite(self._losses[-1])

    def apply(self) -> Tensor:
        """Clip and step along the gradient that is there; returns its norm before clipping."""
        for norm in self._norms[-1:]:
            self._spoil_unless_finite(norm)
        self._norms.append(self.optimizer.step())
        return self._norms[-1]

    def check(self) -> None:
        """Look at all losses and norms since the last check, in one wait for the device.

        Raises:
            TrainingError: one is not finite; no parameter has been changed from there on.
        """
        num_losses, values = len(self._losses), [*self._losses, *self._norms]
        self._losses, self._norms = [], []
        for place, value in enumerate(torch.stack(values).tolist() if values else []):
            if not math.isfinite(value):
                what = "loss" if place < num_losses else "gradient norm"
                raise TrainingError(self._diverged(what, value))

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
    """Means of scalars over the steps of one update; read once, at its end."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, **values: Tensor) -> None:
        """Take in one step's scalars."""
        for name, value in values.items():
            self._values[name].append(value.detach())

    def result(self, prefix: str) -> dict[str, float]:
        """`{prefix/name: mean}`; the only moment at which the device is waited for."""
        names = list(self._values)
        if not names:
            return {}
        means = torch.stack([torch.stack(self._values[name]).mean() for name in names])
        return {f"{prefix}/{n}": v for n, v in zip(names, means.tolist(), strict=True)}
