"""Real rounds of small agents: the data that updates get, made by the shipped collection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.envs.base import BatchedEnv
from hmasd.types import EnvView

SMALL = Config(
    num_envs=4,
    batch_size=48,  # 12 steps per env
    skill_interval=5,
    num_team_skills=2,
    num_agent_skills=3,
    chunk_length=4,
    hidden_size=8,
    coordinator_heads=2,
    coordinator_epochs=2,
    discoverer_epochs=2,
    discriminator_epochs=2,
    discriminator_rounds=3,
    high_level_batch_size=8,
)


def make_loud(networks: nn.Module, seed: int = 0) -> None:
    """Weights of ordinary size: with the last layers' gain of 0.01 mistakes would barely show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in networks.parameters():
            shift = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter += 0.4 * shift


class Player:
    """An agent in its env, round after round, as the training loop would play it."""

    def __init__(self, config: Config, env: BatchedEnv, *, loud: bool = True) -> None:
        self.env = env
        self.agent = HMASDAgent(config, env)
        if loud:
            make_loud(self.agent.networks)
        self.view: EnvView = env.reset(config.seed)

    def collect(self) -> None:
        """Play until the round is full."""
        while not self.agent.should_sync_update():
            seen = self.agent.observe(self.view)
            acting = self.agent.act(seen)
            step = self.env.step(acting.action.numpy())
            assert self.agent.store_transition(seen, acting, step)
            self.view = step.view


@contextmanager
def captured(owner: object, name: str, monkeypatch) -> Iterator[list[tuple]]:
    """The arguments of every call of `owner.name`, which still runs."""
    original, calls = getattr(owner, name), []

    def spy(*args: object) -> object:
        calls.append(args)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, spy)
        yield calls
