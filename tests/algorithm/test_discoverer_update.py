"""The low level's whole updates: dead agents, time limits, gradients."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hmasd.algorithm.discoverer import (
    CriticPass,
    RoundTail,
    critic_pass,
)
from hmasd.algorithm.optimization import TrainingError, read
from hmasd.types import LowRollout
from tests.algorithm.test_discoverer import synthetic_round
from tests.helpers.envs import ConstantReward, ContinuousPoint, Counter, MaskedAgents
from tests.helpers.rounds import SMALL, Player, captured

ENVS = {
    "ends anywhere": lambda: Counter(4, end_chances=(0.1, 0.1)),
    "masks and deaths": lambda: MaskedAgents(4, episode_length=7),
    "continuous": lambda: ContinuousPoint(4, episode_length=5),
}


# --- trap 12: dead agents ------------------------------------------------------------------------


def update_with(rollout: LowRollout, reward: Tensor, passed: CriticPass) -> tuple[dict, list]:
    """Metrics and parameters after an update on this round."""
    player = Player(replace(SMALL, chunk_length=1), Counter(4, num_actions=3))
    discoverer = player.agent.discoverer
    metrics = read(discoverer.update(*discoverer.prepare(rollout, reward, passed)))
    modules = (discoverer.actor, discoverer.critic, discoverer.normalizer)
    return metrics, [x for module in modules for x in module.state_dict().values()]


def dead_round(*, garbage: bool, obey: bool = True) -> tuple[LowRollout, Tensor, CriticPass]:
    """Every episode is one step long, so that no agent is both alive and dead in one."""
    rollout, reward, passed = synthetic_round()
    rollout = rollout._replace(
        obs=torch.randn((*rollout.obs.shape[:-1], 4), generator=torch.Generator().manual_seed(0)),
        action_mask=None,
        terminated=torch.ones_like(rollout.terminated),
        truncated=torch.zeros_like(rollout.truncated),
        restart=torch.ones_like(rollout.restart),
    )
    if garbage:
        dead = ~rollout.alive
        rollout.obs[dead] += 5
        rollout.logp[dead] -= 1
        rollout.action[dead] = (rollout.action[dead] + 1) % 3
        reward[dead] += 100
    if not obey:
        rollout = rollout._replace(alive=None)
    return rollout, reward, passed


def test_dead_agents_change_no_parameter_and_no_metric(float64: None) -> None:
    """Garbage in dead agents' rows: two epochs, both networks, the normaliser, every metric."""
    plain, garbage = (update_with(*dead_round(garbage=g)) for g in (False, True))
    assert plain[0] == pytest.approx(garbage[0], abs=1e-9)
    for a, b in zip(plain[1], garbage[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_forgotten_deaths_would_be_seen(float64: None) -> None:
    """Control: the same garbage with nobody declared dead moves every metric that is learned."""
    plain, garbage = (update_with(*dead_round(garbage=g, obey=False)) for g in (False, True))
    assert plain[0].pop("low/sharpness") == garbage[0]["low/sharpness"] == 1
    for name, value in plain[0].items():
        assert abs(garbage[0][name] - value) > 1e-6, name


# --- trap 5: what a time limit is worth ----------------------------------------------------------

HORIZON, GAMMA = 3, 0.6
FOR_EVER = 1 / (1 - GAMMA)
TO_THE_END = [(1 - GAMMA ** (HORIZON - t)) / (1 - GAMMA) for t in range(HORIZON)]


@functools.cache
def learned_values(*, terminates: bool, confuse: bool) -> np.ndarray:
    """Train the critic on reward 1 per step; its values at each time of an episode: [h]."""
    config = replace(
        SMALL,
        chunk_length=3,
        gamma=GAMMA,
        extrinsic_coef=1.0,
        team_coef=0.0,
        individual_coef=0.0,
        learning_rate=5e-3,
        discoverer_epochs=6,
        hidden_size=16,
    )
    env = ConstantReward(4, episode_length=HORIZON, terminates=terminates)
    player = Player(config, env, loud=False)
    agent = player.agent
    player.collect()
    rollout = agent.low_storage.rollout(0)
    if confuse:
        rollout = rollout._replace(terminated=rollout.truncated, truncated=rollout.terminated)
    clock = agent.team.clock
    tail = RoundTail(agent.critic_hidden, clock.team_skill, clock.agent_skills, agent.team.restart)
    reward = rollout.reward.unsqueeze(-1).expand_as(rollout.logp)
    for _ in range(40):
        passed = critic_pass(agent.networks.critic, rollout, tail)
        agent.discoverer.update(*agent.discoverer.prepare(rollout, reward, passed))
    value = critic_pass(agent.networks.critic, rollout, tail).value
    real = agent.discoverer.normalizer.denormalize(value).mean(-1)  # [T, E]
    time = (rollout.state[..., 1] * HORIZON).round().long()
    return np.array([float(real[time == t].mean()) for t in range(HORIZON)])


def test_a_time_limit_is_not_an_end() -> None:
    """Truncated: 1 / (1 - γ) at every time. Terminated: (1 - γ^left) / (1 - γ)."""
    np.testing.assert_allclose(learned_values(terminates=False, confuse=False), FOR_EVER, rtol=0.06)
    np.testing.assert_allclose(
        learned_values(terminates=True, confuse=False), TO_THE_END, rtol=0.06
    )


def test_one_taken_for_the_other_would_be_seen() -> None:
    """Control: with the two flags swapped the critic learns the other task's values."""
    swapped = learned_values(terminates=False, confuse=True)
    np.testing.assert_allclose(swapped, TO_THE_END, rtol=0.06)
    assert (np.abs(swapped - FOR_EVER) > 0.4).all()


# --- whole updates -------------------------------------------------------------------------------


@pytest.mark.parametrize("skill_input", ["input", "output"])
@pytest.mark.parametrize("env", ENVS)
def test_gradient_reaches_every_parameter(env: str, skill_input: str) -> None:
    """A parameter without gradient is a part of the network that never learns."""
    config = replace(SMALL, skill_input=skill_input, high_level_batch_size=1)
    player = Player(config, ENVS[env]())
    player.collect()
    player.agent.sync_update()
    for name, parameter in player.agent.networks.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_reward_stops_before_the_step(bad: float) -> None:
    """The error names the network, and no parameter of it has moved."""
    player = Player(replace(SMALL, extrinsic_coef=1.0), Counter(4))
    player.collect()
    player.agent.low_storage._memory["reward"][3, 1] = bad
    before = {
        name: x.clone()
        for name, x in player.agent.networks.named_parameters()
        if name.startswith(("actor", "critic"))
    }
    with pytest.raises(TrainingError, match="actor"):
        player.agent.sync_update()
    after = dict(player.agent.networks.named_parameters())
    for name, value in before.items():
        assert torch.equal(after[name], value), name


def test_critic_runs_once_per_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the critic's batch: T / L · E, without a factor N."""
    player = Player(SMALL, Counter(4, num_agents=3))
    player.collect()
    with captured(player.agent.discoverer, "_critic_losses", monkeypatch) as calls:
        player.agent.sync_update()
    ((batch, _, share),) = calls[0][0]
    assert share == 1
    assert batch.state.shape[:2] == (4, 12)
    assert batch.value.shape == (4, 12, 3)
