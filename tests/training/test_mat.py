"""MAT: the coordinator chooses every agent's action in every step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hmasd.config import Config
from hmasd.presets import CHANGES
from hmasd.settings import ConfigError
from hmasd.validation import validate
from tests.helpers.oracles import advantage_by_definition
from tests.helpers.rounds import make_loud
from tests.helpers.runs import make_agent, play, play_rounds


@pytest.fixture
def mat(config: Config) -> Config:
    """A tiny run of MAT, in the env with masks and deaths."""
    return dataclasses.replace(config, **CHANGES["mat"], env="masked")


def test_skills_are_the_actions_one_after_the_other(mat: Config) -> None:
    agent, env, view = make_agent(mat)
    played, _ = play_rounds(agent, env, view, 3)
    for row in played:
        assert torch.equal(row.acting.action, row.acting.agent_skills)
        assert (row.acting.logp == 0).all()
    assert agent.networks.coordinator.num_agent_skills == env.num_actions != mat.num_agent_skills
    assert agent.coordinator_version == 3  # every round, and all its segments last a step


def test_scores_what_it_chose_under_the_masks(mat: Config, float64: None) -> None:
    """Trap 1 and 2: the teacher-forced pass gives the log-probabilities of the choices made."""
    agent, env, view = make_agent(mat)
    make_loud(agent.networks)
    play(agent, env, view, mat.rollout_length)
    segments = agent.high_storage.rollout(0)
    assert segments.mask is not None and not segments.mask.all()
    seen = (segments.state, segments.obs, segments.team_skill, segments.agent_skills)
    network = agent.networks.coordinator
    scores = network.evaluate(*seen, segments.mask)
    torch.testing.assert_close(scores.logp, segments.logp, rtol=0, atol=1e-10)
    unmasked = network.evaluate(*seen)
    assert (unmasked.logp[:, 1:] - segments.logp[:, 1:]).abs().max() > 1e-3
    barred = segments.agent_skills.clone()
    barred[:, 0] = (~segments.mask[:, 0]).int().argmax(dim=-1)  # an action that was not allowed
    barred_scores = network.evaluate(*seen[:3], barred, segments.mask)
    assert (barred_scores.logp[:, 1] < -1e9).all()
    assert torch.isfinite(barred_scores.entropy).all()
    metrics = agent.sync_update()
    assert metrics["high/ratio_start"] == pytest.approx(1, abs=1e-10)
    assert metrics["high/cut_share"] == 0


def test_a_later_agent_sees_the_earlier_ones_choice(mat: Config, float64: None) -> None:
    agent, env, view = make_agent(mat)
    make_loud(agent.networks)
    play(agent, env, view, mat.rollout_length)
    segments = agent.high_storage.rollout(0)
    network, seen = agent.networks.coordinator, (segments.state, segments.obs, segments.team_skill)
    other = segments.agent_skills.clone()
    other[:, 0] = (other[:, 0] + 1) % 4
    one = network.evaluate(*seen, segments.agent_skills).logp
    moved = network.evaluate(*seen, other).logp
    assert torch.equal(one[:, 0], moved[:, 0])
    assert (one[:, 2:] != moved[:, 2:]).all(dim=1).float().mean() > 0.9


def test_advantages_are_those_of_flat_steps(config: Config, float64: None) -> None:
    """With one step per segment each token's advantage is the plain GAE over the env's steps."""
    config = dataclasses.replace(config, **CHANGES["mat"], num_envs=2, batch_size=24)
    agent, env, view = make_agent(config)
    make_loud(agent.networks)
    played, _ = play(agent, env, view, config.rollout_length)
    segments, network = agent.high_storage.rollout(0), agent.networks.coordinator
    value, next_value = (
        network.value(network.encode(*seen)).detach()
        for seen in (
            (segments.state, segments.obs),
            (segments.next_state, segments.next_obs),
        )
    )
    found = agent.coordinator._advantage(segments, value, next_value)
    shape = (config.rollout_length, config.num_envs)
    steps = [row.step for row in played]
    reward, terminated, truncated = (
        np.array([getattr(step, name) for step in steps])
        for name in ("reward", "terminated", "truncated")
    )
    assert terminated.any() and truncated.any()
    for e in range(config.num_envs):
        expected = advantage_by_definition(
            reward[:, e],
            *(x[:, 0].reshape(shape)[:, e].numpy() for x in (value, next_value)),
            terminated[:, e],
            (terminated | truncated)[:, e],
            np.full(len(steps), config.gamma),
            config.gae_lambda,
        )
        np.testing.assert_allclose(found[:, 0].reshape(shape)[:, e], expected, atol=1e-6)


def test_a_survey_by_chance_obeys_the_masks_too(mat: Config) -> None:
    agent, env, view = make_agent(mat)
    agent.team.chooses_by_chance = True
    play(agent, env, view, mat.rollout_length)
    segments = agent.high_storage.rollout(0)
    assert segments.mask is not None and not segments.mask.all()
    assert segments.mask.gather(-1, segments.agent_skills.unsqueeze(-1)).all()
    chance = -segments.mask.sum(-1).float().log()
    torch.testing.assert_close(segments.logp[:, 1:], chance)


def test_continuous_actions_and_chance_are_refused(mat: Config) -> None:
    with pytest.raises(ValueError, match=r"low_level = 'action'.*Box.*use low_level"):
        make_agent(dataclasses.replace(mat, env="point"))
    with pytest.raises(ConfigError, match="learns nothing"):
        validate(dataclasses.replace(mat, high_level="random"))
