"""Tells how an update's time divides into networks, from outside of the code that it times."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from hmasd.agent import HMASDAgent


class NetworkClock:
    """Adds up the seconds of each network's gradient steps: forward, loss, backward and Adam.

    The time from a network's forward pass with gradients to the end of its optimizer's step is
    that network's; a forward pass or a step of another one ends it. What is left of an update is
    preparation: rewards, values, advantages, batches.
    """

    def __init__(self, agent: HMASDAgent) -> None:
        """Listen to the agent's networks and optimizers."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._on_gpu = agent.device.type == "cuda"
        self._running: str | None = None
        self._since = 0.0
        nets = agent.networks
        for learner, network in (
            (agent.coordinator.learner, nets.coordinator),
            (agent.discoverer.actor_learner, nets.actor),
            (agent.discoverer.critic_learner, nets.critic),
            (agent.discriminators.team_learner, nets.team_discriminator),
            (agent.discriminators.individual_learner, nets.individual_discriminator),
        ):
            self._listen(learner, network)

    def pop(self) -> dict[str, float]:
        """Seconds per network since the last call."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds

    def _listen(self, learner: Any, network: nn.Module) -> None:
        name, apply = learner.name, learner.apply

        def forward_begins(*_: object) -> None:
            if torch.is_grad_enabled():
                self._switch(name)

        def timed_apply() -> None:
            self._switch(name)
            apply()
            self._switch(None)

        learner.apply = timed_apply
        # The coordinator is scored by a method of its own, whose first module is this one.
        first = getattr(network, "embed_state", network)
        first.register_forward_pre_hook(forward_begins)

    def _switch(self, name: str | None) -> None:
        if self._on_gpu:  # whose queue would otherwise be charged to whoever waits for it
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._running is not None:
            self.seconds[self._running] += now - self._since
        self._running, self._since = name, now
