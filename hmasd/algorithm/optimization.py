"""One gradient step, the same for all networks, and means over the steps of an update."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class Learner:
    """A network with its Adam, clipped and guarded against losses that are not finite."""

    def __init__(
        self, name: str, network: nn.Module, *, learning_rate: float, eps: float, max_norm: float
    ) -> None:
        self.name = name
        self.network = network
        self.max_norm = max_norm
        self.adam = torch.optim.Adam(network.parameters(), lr=learning_rate, eps=eps, fused=True)

    def step(self, loss: Tensor) -> Tensor:
        """Backward, clip, step; returns the gradient's norm before clipping.

        Raises:
            TrainingError: the loss or its gradient is not finite; no parameter has been changed.
        """
        self.adam.zero_grad(set_to_none=True)
        if not torch.isfinite(loss):
            raise TrainingError(self._diverged("loss", float(loss.detach())))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        if not torch.isfinite(norm):
            raise TrainingError(self._diverged("gradient norm", float(norm)))
        self.adam.step()
        return norm

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over Adam's moments; step size and epsilon stay those of this configuration."""
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self._groups()]
        self.adam.load_state_dict(state)
        for group, own in zip(self._groups(), settings, strict=True):
            group.update(own)

    def _groups(self) -> list[dict[str, Any]]:
        return self.adam.param_groups

    def _diverged(self, what: str, value: float) -> str:
        return (
            f"the {self.name}'s {what} is {value}: stopped before the optimizer step, parameters "
            "and checkpoints are untouched. Lower --learning-rate, or look at the last metrics "
            "in runs/ for the reward or observation that grew."
        )


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
