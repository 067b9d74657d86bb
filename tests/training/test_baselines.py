"""Other algorithms and ablations are settings of the one loop: what each computes, and what not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hmasd.agent import HMASDAgent
from hmasd.algorithm.discoverer import RoundTail, critic_pass
from hmasd.algorithm.discriminators import Discriminators
from hmasd.config import Config
from hmasd.networks import SkillActor, SkillCoordinator
from hmasd.presets import CHANGES
from hmasd.training.evaluation import play_episodes
from tests.helpers.rounds import make_loud
from tests.helpers.runs import differences, make_agent, play, play_rounds, snapshot


def changed(config: Config, name: str, **more: Any) -> Config:
    """A configuration with one of the named changes."""
    return dataclasses.replace(config, **(CHANGES[name] | more))


def low_level(agent: HMASDAgent) -> dict[str, dict[str, Tensor]]:
    """Actor, critic and their normaliser."""
    nets = agent.networks
    modules = {"actor": nets.actor, "critic": nets.critic, "normalizer": nets.low_normalizer}
    return {name: module.state_dict() for name, module in modules.items()}


def trained(config: Config, rounds: int = 4) -> HMASDAgent:
    """An agent after some rounds."""
    agent, env, view = make_agent(config)
    play_rounds(agent, env, view, rounds)
    return agent


def test_mappo_is_hmasd_with_one_skill_and_the_team_reward_alone(config: Config) -> None:
    """Hand-set, with a coordinator that decides and learns: not a bit of the policy differs."""
    mappo = trained(changed(config, "mappo"))
    by_hand = changed(config, "mappo", high_level="coordinator")
    hmasd = trained(by_hand)
    assert hmasd.coordinator_version > 0 and mappo.coordinator_version == 0
    assert differences(low_level(mappo), low_level(hmasd)) == []
    other = trained(dataclasses.replace(by_hand, num_agent_skills=2))
    assert differences(low_level(mappo), low_level(other)) != []


@pytest.mark.parametrize("name", ["mappo", "ippo", "mat", "no_intrinsic", "no_high_level"])
def test_what_is_not_used_is_not_computed(
    name: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = set()

    def spy(owner: type, method: str) -> None:
        original = getattr(owner, method)

        def call(self: Any, *args: Any) -> Any:
            called.add(owner.__name__)
            return original(self, *args)

        monkeypatch.setattr(owner, method, call)

    spy(SkillCoordinator, "encode")
    spy(Discriminators, "_score")
    spy(SkillActor, "forward")
    agent, env, view = make_agent(changed(config, name))
    before = snapshot(agent)
    _, view = play(agent, env, view, config.rollout_length)
    metrics = agent.sync_update()
    used = {
        "mat": {"SkillCoordinator"},
        "no_intrinsic": {"SkillCoordinator", "SkillActor"},
        "no_high_level": {"Discriminators", "SkillActor"},
    }
    assert called == used.get(name, {"SkillActor"})
    groups = {tag.split("/")[0] for tag in metrics}
    assert ("disc" in groups) == ("Discriminators" in called)
    assert ("low" in groups) == ("SkillActor" in called)
    nets = agent.state_dict()["networks"]
    learned = {path.split(".")[0] for path in differences(before["networks"], nets)}
    assert ("actor" in learned) == ("critic" in learned) == ("SkillActor" in called)
    assert ("team_discriminator" in learned) == ("Discriminators" in called)
    assert ("coordinator" in learned) == (name == "mat")  # the other's batch is not full yet
    assert (agent.high_storage._open == {}) == ("SkillCoordinator" not in called)


def test_a_discriminator_that_does_not_count_changes_nothing_else(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked and trained in spite of its weight 0, it alone would differ."""
    config = dataclasses.replace(config, team_coef=0.0, discriminator_rounds=1)
    plain = snapshot(trained(config))
    init = Discriminators.__init__

    def always(self: Discriminators, *args: Any) -> None:
        init(self, *args)
        self.team_counts = True

    monkeypatch.setattr(Discriminators, "__init__", always)
    paths = differences(plain["networks"], snapshot(trained(config))["networks"])
    assert paths
    assert {path.split(".")[0] for path in paths} == {"team_discriminator"}


def later(seen: Tensor) -> Tensor:
    """What `Counter` shows, five steps on (a shift of all features is lost in a LayerNorm)."""
    return seen + 5 * torch.eye(seen.shape[-1])[1]


# --- IPPO -----------------------------------------------------------------------------------------


def values_of(agent: HMASDAgent, **changes: Tensor) -> Tensor:
    """The critic's values [T, E, V] of the agent's full round, some of its data exchanged."""
    rollout = agent.low_storage.rollout(agent.policy_version)._replace(**changes)
    clock = agent.team.clock
    tail = RoundTail(agent.critic_hidden, clock.team_skill, clock.agent_skills, agent.team.restart)
    return critic_pass(agent.networks.critic, rollout, tail).value


@pytest.mark.parametrize("critic_head", ["team", "skill"])
def test_ippos_critic_sees_one_agent_alone(config: Config, critic_head: str) -> None:
    config = dataclasses.replace(config, critic_input="obs", critic_head=critic_head)
    agent, env, view = make_agent(config)
    make_loud(agent.networks)
    play(agent, env, view, config.rollout_length)
    rollout = agent.low_storage.rollout(0)
    plain = values_of(agent)
    assert plain.shape == (*rollout.reward.shape, 2)
    obs = rollout.obs.clone()
    obs[:, :, 1, 1] += 5  # the other agent's clock
    moved = values_of(agent, obs=obs, state=later(rollout.state))
    assert torch.equal(moved[..., 0], plain[..., 0])
    assert (moved[..., 1] != plain[..., 1]).all()
    skills = rollout.agent_skills.clone()
    skills[:, :, 1] = (skills[:, :, 1] + 1) % config.num_agent_skills
    reskilled = values_of(agent, agent_skills=skills)
    assert torch.equal(reskilled[..., 0], plain[..., 0])
    assert torch.equal(reskilled[..., 1], plain[..., 1]) == (critic_head == "team")


def test_control_the_usual_critic_sees_the_state(config: Config) -> None:
    agent, env, view = make_agent(config)
    make_loud(agent.networks)
    play(agent, env, view, config.rollout_length)
    rollout = agent.low_storage.rollout(0)
    assert torch.equal(values_of(agent, obs=later(rollout.obs)), values_of(agent))
    assert (values_of(agent, state=later(rollout.state)) != values_of(agent)).all()


def test_ippos_values_are_those_of_single_steps(config: Config, float64: None) -> None:
    """The round's batched pass equals the critic run step by step for each agent alone."""
    config = dataclasses.replace(config, critic_input="obs")
    agent, env, view = make_agent(config)
    make_loud(agent.networks)
    _, view = play_rounds(agent, env, view, 2)
    play(agent, env, view, config.rollout_length)
    rollout, critic = agent.low_storage.rollout(2), agent.networks.critic
    plain = values_of(agent)
    for n in range(2):
        hidden = agent.critic_hidden[:, n : n + 1]
        for t in range(config.rollout_length):
            value, states = critic(
                rollout.obs[t, :, n : n + 1].unsqueeze(0),
                rollout.team_skill[t].unsqueeze(0),
                rollout.agent_skills[t, :, n : n + 1].unsqueeze(0),
                hidden,
                (~rollout.restart[t]).to(plain.dtype).unsqueeze(0),
            )
            hidden = states[0]
            torch.testing.assert_close(value[0, :, 0], plain[t, :, n], rtol=0, atol=1e-10)


def test_ippo_replays_what_it_played(config: Config) -> None:
    agent, env, view = make_agent(changed(config, "ippo", env="masked"))
    for _ in range(3):
        _, view = play(agent, env, view, config.rollout_length)
        metrics = agent.sync_update()
        assert metrics["low/ratio_start"] == pytest.approx(1, abs=1e-5)
    assert agent.critic_hidden.shape == (3, 3, config.hidden_size)


# --- skills by chance -----------------------------------------------------------------------------


def test_skills_by_chance_are_uniform_and_last_an_episode(config: Config) -> None:
    config = changed(config, "no_high_level", num_envs=100, batch_size=400)
    agent, env, view = make_agent(config)
    counts, changes = torch.zeros(2), 0
    skills = None
    for _ in range(15):
        played, view = play(agent, env, view, config.rollout_length)
        agent.sync_update()
        for row in played:
            new = row.view.state[:, 1] == 0  # the first step of an episode
            if skills is not None:
                assert torch.equal(row.acting.agent_skills[~new], skills[~new])
                changes += int((row.acting.agent_skills[new] != skills[new]).any(dim=1).sum())
            skills = row.acting.agent_skills
            counts += torch.bincount(row.acting.team_skill[new], minlength=2)
    total = counts.sum()
    assert total > 500 and changes > 400
    assert abs(counts[0] - total / 2) < 4 * math.sqrt(total / 4)


def test_greedy_play_keeps_the_chance_of_the_skills(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy means the actions: else one skill of many would be all that is ever measured."""
    config = changed(config, "no_high_level", num_agent_skills=3)
    agent, _, _ = make_agent(config)
    drawn = []
    start = agent.team.clock.__class__.start

    def spy(self: Any, decision: Any) -> None:
        drawn.append(decision.agent_skills)
        start(self, decision)

    monkeypatch.setattr(agent.team.clock.__class__, "start", spy)
    before = torch.get_rng_state()
    one, again = (play_episodes(config, agent.networks, "greedy", 40, seed=5) for _ in range(2))
    assert one == again
    assert torch.equal(torch.get_rng_state(), before)
    assert set(torch.cat(drawn).flatten().tolist()) == {0, 1, 2}


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mappo", "ippo", "mat"])
def test_learns_what_pays_though_it_is_masked_and_dies(name: str, config: Config) -> None:
    """In `MaskedAgents` the paid action can be told from an agent's own observation."""
    config = changed(
        config,
        name,
        env="masked",
        num_envs=16,
        batch_size=128,
        chunk_length=8,
        hidden_size=32,
        discoverer_epochs=8,
        coordinator_epochs=8,
        learning_rate=5e-3,
    )
    agent, env, view = make_agent(config)
    rewards = []
    for _ in range(40):
        played, view = play(agent, env, view, config.rollout_length)
        rewards.append(sum(row.step.reward.mean() for row in played) / config.rollout_length)
        agent.sync_update()
    assert rewards[0] < 0.5
    assert sum(rewards[-5:]) / 5 > 0.7
