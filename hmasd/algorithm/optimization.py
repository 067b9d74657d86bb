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

    def step(self, loss: Tensor) -> Tensor:
        """Backward, clip, step; returns the gradient's norm before clipping.

        Raises:
            TrainingError: the loss or its gradient is not finite; no parameter has been changed.
        """
        gradient = self.optimizer.flat.grad
        assert gradient is not None, "made with the flat parameters"
        gradient.zero_()
        if not math.isfinite(loss.item()):
            raise TrainingError(self._diverged("loss", loss.item()))
        loss.backward()
        norm = self.optimizer.step()
        if not math.isfinite(norm.item()):
            raise TrainingError(self._diverged("gradient norm", norm.item()))
        return norm

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
