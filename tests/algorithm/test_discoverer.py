"""The low level's update: replay, bootstraps and chunks of real rounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hmasd.algorithm.discoverer import (
    CriticPass,
    Discoverer,
    RoundTail,
    critic_pass,
    to_chunks,
)
from hmasd.config import Config
from hmasd.networks import SkillCritic
from hmasd.rollout.team import Team
from hmasd.types import ActorBatch, CriticBatch, LowRollout
from tests.helpers.envs import ContinuousPoint, Counter, MaskedAgents, ToyEnv
from tests.helpers.oracles import advantage_by_definition
from tests.helpers.rounds import SMALL, Player

ENVS = {
    "ends anywhere": lambda: Counter(4, end_chances=(0.1, 0.1)),
    "masks and deaths": lambda: MaskedAgents(4, episode_length=7),
    "continuous": lambda: ContinuousPoint(4, episode_length=5),
}


def replay_error(player: Player) -> float:
    """max |ratio - 1| of a full round replayed in chunks by the weights that collected it."""
    agent = player.agent
    rollout = agent.low_storage.rollout(agent.policy_version)
    clock = agent.team.clock
    tail = RoundTail(agent.critic_hidden, clock.team_skill, clock.agent_skills, agent.team.restart)
    passed = critic_pass(agent.networks.critic, rollout, tail)
    reward = rollout.reward.unsqueeze(-1).expand_as(rollout.logp)
    batch, _ = agent.discoverer.prepare(rollout, reward, passed)
    with torch.no_grad():
        output, _ = agent.networks.actor(
            batch.obs, batch.skill, batch.hidden, batch.keep, batch.action_mask
        )
        logp = agent.networks.actor.score(output, batch.action).logp
    assert logp.std() > 1e-3, "the actor must not be uniform, or nothing would show"
    return float(((logp - batch.logp).exp() - 1).abs().max())


# --- trap 1: the ratio is 1 before the first gradient step ---------------------------------------


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("skill_input", ["input", "output"])
@pytest.mark.parametrize("agent_id", [False, True])
@pytest.mark.parametrize("reset_hidden_on_skill", [False, True])
def test_ratio_is_one_before_the_first_step(
    env: str, skill_input: str, agent_id: bool, reset_hidden_on_skill: bool, float64: None
) -> None:
    """Also in the second round, which begins in the middle of episodes and segments."""
    config = replace(
        SMALL,
        skill_input=skill_input,
        agent_id=agent_id,
        reset_hidden_on_skill=reset_hidden_on_skill,
    )
    player = Player(config, ENVS[env]())
    player.collect()
    metrics = player.agent.sync_update()
    assert abs(metrics["low/ratio_start"] - 1) <= 1e-10
    player.collect()
    assert replay_error(player) <= 1e-10


@pytest.mark.parametrize("bug", ["hidden", "restart", "mask", "skill", "late hidden"])
def test_a_wrong_replay_would_be_seen(
    bug: str, monkeypatch: pytest.MonkeyPatch, float64: None
) -> None:
    """Control: each of these breaks the ratio of an otherwise equal round."""
    original = Team.act

    def act(team: Team, view: object) -> object:
        acted = original(team, view)
        changed = {
            "hidden": lambda: acted._replace(hidden=torch.zeros_like(acted.hidden)),
            "late hidden": lambda: acted._replace(hidden=team.hidden),
            "restart": lambda: acted._replace(restart=torch.zeros_like(acted.restart)),
        }
        return changed.get(bug, lambda: acted)()

    monkeypatch.setattr(Team, "act", act)
    player = Player(replace(SMALL, chunk_length=2), MaskedAgents(4, episode_length=5))
    for _ in range(2):
        player.collect()
        memory = player.agent.low_storage._memory
        if bug == "mask":
            memory["action_mask"] = None
        elif bug == "skill":
            memory["agent_skills"].copy_(memory["agent_skills"].roll(1, 0))
        error = replay_error(player)
        if bug == "mask":
            break
        player.agent.sync_update()
    assert error > 1e-4


@pytest.mark.parametrize("env", ENVS)
def test_learning_rate_zero_moves_nothing(env: str, float64: None) -> None:
    """Through a whole update of several epochs, KL and clip fraction stay 0."""
    player = Player(replace(SMALL, learning_rate=0.0, discoverer_epochs=4), ENVS[env]())
    for _ in range(3):
        player.collect()
        metrics = player.agent.sync_update()
        assert abs(metrics["low/kl"]) <= 1e-10
        assert metrics["low/clip_fraction"] == 0
    moving = Player(replace(SMALL, learning_rate=0.05, discoverer_epochs=8), ENVS[env]())
    moving.collect()
    metrics = moving.agent.sync_update()
    assert metrics["low/kl"] > 1e-4  # control
    assert metrics["low/clip_fraction"] > 0


# --- trap 3: chunks ------------------------------------------------------------------------------


def test_to_chunks_by_hand() -> None:
    """Time within a chunk comes first; a chunk holds consecutive steps of one row."""
    x = torch.arange(6).unsqueeze(-1) * 10 + torch.arange(2)  # [T=6, rows=2]: 10 t + row
    chunks = to_chunks(x, 3)
    assert chunks.shape == (3, 2, 2)
    assert chunks[:, 0, 0].tolist() == [0, 10, 20]
    assert chunks[:, 1, 1].tolist() == [31, 41, 51]


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 6, 12])
def test_critic_replays_in_chunks_what_it_passed_in_one(chunk: int, float64: None) -> None:
    player = Player(replace(SMALL, chunk_length=chunk), ENVS["ends anywhere"]())
    batch, passed = critic_batch(player)
    critic = player.agent.networks.critic
    with torch.no_grad():
        value, _ = critic(
            batch.state, batch.team_skill, batch.agent_skills, batch.hidden, batch.keep
        )
    expected = to_chunks(passed.value, chunk).flatten(1, 2)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    if chunk < 12:  # control: state lost between chunks
        with torch.no_grad():
            lost, _ = critic(
                batch.state,
                batch.team_skill,
                batch.agent_skills,
                torch.zeros_like(batch.hidden),
                batch.keep,
            )
        assert (lost - expected).abs().max() > 1e-4


def critic_batch(player: Player) -> tuple[CriticBatch, CriticPass]:
    """Of the player's second round, so that the GRU state before it is not 0."""
    player.collect()
    player.agent.sync_update()
    player.collect()
    agent = player.agent
    rollout = agent.low_storage.rollout(agent.policy_version)
    tail = RoundTail(
        agent.critic_hidden,
        agent.team.clock.team_skill,
        agent.team.clock.agent_skills,
        agent.team.restart,
    )
    passed = critic_pass(agent.networks.critic, rollout, tail)
    reward = rollout.reward.unsqueeze(-1).expand_as(rollout.logp)
    return agent.discoverer.prepare(rollout, reward, passed)[1], passed


@pytest.mark.parametrize("chunk", [1, 3, 6, 12])
def test_rows_of_a_batch_belong_together(chunk: int, float64: None) -> None:
    """Trap 6 for the chunks: observation, skill, action, mask ... of one row have one origin."""
    rollout, reward, passed = synthetic_round(steps=12)
    rollout = rollout._replace(actor_hidden=rollout.actor_hidden[::chunk])
    discoverer = bare_discoverer(replace(SMALL, chunk_length=chunk))
    actor_batch, critic = discoverer.prepare(rollout, reward, passed)
    t, e, n = actor_batch.obs.unbind(-1)  # what the observation says about its origin
    where = (t.long(), e.long(), n.long())
    for name in ("action", "logp", "agent_skills"):
        found = actor_batch.skill if name == "agent_skills" else getattr(actor_batch, name)
        assert torch.equal(found, getattr(rollout, name)[where]), name
    assert torch.equal(actor_batch.keep == 0, rollout.restart[where[:2]])
    assert torch.equal(actor_batch.weight.bool(), rollout.alive[where])
    assert torch.equal(actor_batch.action_mask, rollout.action_mask[where])
    assert torch.equal(
        actor_batch.hidden, rollout.actor_hidden[where[0][0] // chunk, e[0].long(), n[0].long()]
    )
    t, e = critic.state[..., 0].long(), critic.state[..., 1].long()
    assert torch.equal(critic.team_skill, rollout.team_skill[t, e])
    assert torch.equal(critic.agent_skills, rollout.agent_skills[t, e])
    assert torch.equal(critic.keep == 0, rollout.restart[t, e])
    assert torch.equal(critic.weight.bool(), rollout.alive[t, e])
    assert torch.equal(critic.hidden, passed.hidden[t[0], e[0]])
    # Steps of a chunk follow each other.
    assert (critic.state[1:, :, 0] - critic.state[:-1, :, 0] == 1).all()


def synthetic_round(
    steps: int = 12, envs: int = 4, agents: int = 2
) -> tuple[LowRollout, Tensor, CriticPass]:
    """Random numbers in every field; obs says (t, e, n), state says (t, e, 1)."""
    generator = torch.Generator().manual_seed(steps)
    t = torch.arange(steps).view(-1, 1, 1).expand(steps, envs, agents)
    e = torch.arange(envs).view(1, -1, 1).expand_as(t)
    n = torch.arange(agents).expand_as(t)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def chance(share: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) < share

    ended = chance(0.3, steps, envs)
    terminated = ended & chance(0.5, steps, envs)
    mask = chance(0.5, steps, envs, agents, 3)
    rollout = LowRollout(
        obs=torch.stack([t, e, n], -1).to(torch.get_default_dtype()),
        state=torch.stack([t[..., 0], e[..., 0], 0 * e[..., 0] + 1], -1) * 1.0,
        action=torch.randint(3, (steps, envs, agents), generator=generator),
        logp=normal(steps, envs, agents),
        team_skill=torch.randint(2, (steps, envs), generator=generator),
        agent_skills=torch.randint(3, (steps, envs, agents), generator=generator),
        restart=torch.cat([chance(0.5, 1, envs), ended[:-1]]),
        reward=normal(steps, envs),
        terminated=terminated,
        truncated=ended & ~terminated,
        success=terminated,
        next_obs=normal(steps, envs, agents, 3),
        next_state=normal(steps, envs, 3),
        actor_hidden=normal(steps, envs, agents, 8),
        policy_version=torch.zeros(steps, envs, dtype=torch.int64),
        action_mask=mask,
        alive=chance(0.8, steps, envs, agents),
    )
    value, final = normal(steps, envs, agents), normal(steps, envs, agents)
    after = torch.cat([value[1:], final[-1:]])
    passed = CriticPass(
        value=value,
        next_value=torch.where(ended.unsqueeze(-1), final, after),
        hidden=normal(steps, envs, 8),
        last_hidden=normal(envs, 8),
    )
    return rollout, normal(steps, envs, agents), passed


def bare_discoverer(config: Config, env: ToyEnv | None = None) -> Discoverer:
    return Player(config, env or Counter(4), loud=False).agent.discoverer


# --- trap 4 and 9: advantages --------------------------------------------------------------------


def standardized(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    alive = x[weight > 0]
    return (x - alive.mean()) / (alive.std() + 1e-5)


@pytest.mark.parametrize("steps", [6, 12, 24])
def test_advantages_against_the_double_sum(steps: int, float64: None) -> None:
    """From the round to the standardised advantages and normalised targets, every agent and env."""
    config = replace(SMALL, chunk_length=1)
    discoverer = bare_discoverer(config)
    discoverer.normalizer.update(10 + 3 * torch.randn(100))
    mean, std = (float(x) for x in discoverer.normalizer.statistics())
    rollout, reward, passed = synthetic_round(steps)
    actor_batch, critic = discoverer.prepare(rollout, reward, passed)
    value, next_value = (
        (x * std + mean).numpy() for x in (passed.value, passed.next_value)
    )  # real units
    ended = (rollout.terminated | rollout.truncated).numpy()
    oracle = np.empty(reward.shape)
    for e in range(4):
        for n in range(2):
            oracle[:, e, n] = advantage_by_definition(
                reward[:, e, n].numpy(),
                value[:, e, n],
                next_value[:, e, n],
                rollout.terminated[:, e].numpy(),
                ended[:, e],
                np.full(steps, config.gamma),
                config.gae_lambda,
            )
    found = actor_batch.advantage.view(steps, 4, 2).numpy()
    np.testing.assert_allclose(found, standardized(oracle, rollout.alive.numpy()), atol=1e-9)
    new_mean, new_std = (float(x) for x in discoverer.normalizer.statistics())
    target = critic.target.view(steps, 4, 2).numpy() * new_std + new_mean
    np.testing.assert_allclose(target, oracle + value, atol=1e-9)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_scale_of_the_rewards_changes_no_advantage(factor: float, float64: None) -> None:
    """Trap 9: rewards x c, with the normaliser in the same units, teach exactly the same."""

    def prepared(unit: float, *, told: bool) -> tuple[ActorBatch, CriticBatch]:
        discoverer = bare_discoverer(replace(SMALL, chunk_length=1))
        rollout, reward, passed = synthetic_round()
        targets = 1000 + 300 * torch.linspace(-1, 1, 101)
        discoverer.normalizer.update(targets * (unit if told else 1.0))
        return discoverer.prepare(rollout, unit * 100 * reward, passed)

    plain, scaled, untold = (
        prepared(1.0, told=True),
        prepared(factor, told=True),
        prepared(factor, told=False),
    )
    for (a, b), c in (((plain, scaled), untold),):
        # 1e-5 is added to the deviation of the advantages: a millionth of it at most
        torch.testing.assert_close(a[0].advantage, b[0].advantage, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a[1].target, b[1].target)
        torch.testing.assert_close(a[1].value, b[1].value)
        assert (a[0].advantage - c[0].advantage).abs().max() > 1e-2  # control


def test_another_episodes_reward_reaches_no_other(float64: None) -> None:
    """+1e6 in one env after its end: raw advantages before it and of other envs bit-identical."""
    rollout, reward, passed = synthetic_round()
    ended = torch.zeros_like(rollout.terminated)
    ended[5, 1] = True
    rollout = rollout._replace(terminated=torch.zeros_like(ended), truncated=ended)
    raw = []
    for extra in (0.0, 1e6):
        changed = reward.clone()
        changed[6:, 1] += extra
        discoverer = bare_discoverer(replace(SMALL, chunk_length=12))
        critic = discoverer.prepare(rollout, changed, passed)[1]
        raw.append(discoverer.normalizer.denormalize(critic.target).view(12, 4, 2))
    kept = torch.ones(12, 4, dtype=torch.bool)
    kept[6:, 1] = False
    torch.testing.assert_close(raw[0][kept], raw[1][kept], rtol=0, atol=1e-6)
    assert (raw[1] - raw[0])[~kept].min() > 1e5


# --- bootstraps: critic_pass ---------------------------------------------------------------------


def by_hand(critic: SkillCritic, rollout: LowRollout, tail: RoundTail, t: int, e: int) -> Tensor:
    """V of what step t of env e reached: the critic run over that env alone, step by step."""
    hidden = tail.critic_hidden[e : e + 1]
    at = slice(e, e + 1)
    with torch.no_grad():
        for step in range(t + 1):
            keep = (~rollout.restart[step : step + 1, at]).to(hidden.dtype)
            _, states = critic(
                rollout.state[step : step + 1, at],
                rollout.team_skill[step : step + 1, at],
                rollout.agent_skills[step : step + 1, at],
                hidden,
                keep,
            )
            hidden = states[-1]
        goes_on = not bool(rollout.truncated[t, e]) and t + 1 < len(rollout.state)
        at_end = not bool(rollout.truncated[t, e]) and t + 1 == len(rollout.state)
        team, agents, keep = rollout.team_skill[t, e], rollout.agent_skills[t, e], 1.0
        if goes_on:
            team, agents = rollout.team_skill[t + 1, e], rollout.agent_skills[t + 1, e]
            keep = float(~rollout.restart[t + 1, e])
        elif at_end:
            team, agents, keep = tail.team_skill[e], tail.agent_skills[e], float(~tail.restart[e])
        state = rollout.state[t + 1, e] if goes_on else rollout.next_state[t, e]
        value, _ = critic(
            state.view(1, 1, -1),
            team.view(1, 1),
            agents.view(1, 1, -1),
            hidden,
            torch.full((1, 1), keep),
        )
    return value[0, 0]


@pytest.mark.parametrize("head", ["team", "skill"])
@pytest.mark.parametrize("restarts", [False, True])
def test_bootstraps_step_by_step(head: str, restarts: bool, float64: None) -> None:
    """Truncations take V(final state) under the old skill, the tail V under the next skill."""
    player = Player(replace(SMALL, critic_head=head), Counter(4))
    critic = player.agent.networks.critic
    rollout, _, _ = synthetic_round()
    rollout.truncated[-1, 0] = True  # a truncation in the round's last step is not a tail
    rollout.terminated[-1, 0] = False
    rollout.terminated[-1, 1:] = False
    rollout.truncated[-1, 1:] = False
    tail = RoundTail(
        torch.randn(4, 8),
        1 - rollout.team_skill[-1],
        (rollout.agent_skills[-1] + 1) % 3,
        torch.tensor([True, restarts, False, restarts]),
    )
    passed = critic_pass(critic, rollout, tail)
    assert passed.value.shape == (12, 4, 2 if head == "skill" else 1)
    for t in range(12):
        for e in range(4):
            if not rollout.terminated[t, e]:
                expected = by_hand(critic, rollout, tail, t, e)
                torch.testing.assert_close(passed.next_value[t, e], expected, rtol=0, atol=1e-12)
    # Controls: another skill at the tail, or a final state of another episode, would be seen.
    other = critic_pass(critic, rollout, tail._replace(team_skill=rollout.team_skill[-1]))
    assert ((other.next_value - passed.next_value)[-1, 1:].abs() > 1e-3).all()
    assert torch.equal(other.next_value[-1, 0], passed.next_value[-1, 0])
    moved = critic_pass(critic, rollout._replace(next_state=rollout.next_state + 1), tail)
    inside = ~rollout.truncated.clone()
    inside[-1] = False
    assert torch.equal(moved.next_value[inside], passed.next_value[inside])


def test_hidden_states_lie_before_their_step(float64: None) -> None:
    """`hidden[t]` replays step t; one step late and every chunk would start wrong."""
    player = Player(SMALL, Counter(4))
    rollout, _, _ = synthetic_round()
    still = torch.zeros(4, dtype=torch.bool)
    tail = RoundTail(torch.randn(4, 8), rollout.team_skill[-1], rollout.agent_skills[-1], still)
    passed = critic_pass(player.agent.networks.critic, rollout, tail)
    assert torch.equal(passed.hidden[0], tail.critic_hidden)
    for t in range(12):
        following = passed.hidden[t + 1] if t < 11 else passed.last_hidden
        keep = (~rollout.restart[t : t + 1]).double()
        skills = rollout.team_skill[t : t + 1], rollout.agent_skills[t : t + 1]
        with torch.no_grad():
            value, states = player.agent.networks.critic(
                rollout.state[t : t + 1], *skills, passed.hidden[t], keep
            )
        torch.testing.assert_close(states[0], following, rtol=0, atol=1e-12)
        torch.testing.assert_close(value[0], passed.value[t], rtol=0, atol=1e-12)
