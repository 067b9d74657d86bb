"""The four networks: who sees what, what is shared, and choices scored as they were made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from torch import Tensor, nn

from hmasd import networks
from hmasd.agent import HMASDAgent
from hmasd.modules.attention import DecoderBlock
from hmasd.networks import SkillActor, SkillCoordinator, SkillCritic
from tests.helpers.envs import Counter
from tests.helpers.rounds import SMALL, make_loud

STATE, OBS = 3, 4  # of Counter


class Sized(Counter):
    """Counter, with any action space: it is only asked for its sizes here."""

    def __init__(self, num_agents: int, action_space: Space) -> None:
        super().__init__(SMALL.num_envs, num_agents)
        self.action_space = action_space


def nets(
    num_agents: int = 3, action_space: Space | None = None, *, loud: bool = True, **settings: Any
) -> nn.ModuleDict:
    """All networks of an agent; loud: weights of ordinary size."""
    env = Sized(num_agents, action_space or Discrete(5))
    modules = HMASDAgent(replace(SMALL, **settings), env).networks
    if loud:
        make_loud(modules)
    return modules


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed))


def scene(batch: int = 6, num_agents: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, STATE), torch.randn(batch, num_agents, OBS)


# --- coordinator (trap 2) ------------------------------------------------------------------------

SHAPES = [  # N, n_Z, n_z, blocks, heads
    (1, 2, 2, 1, 1),
    (2, 2, 4, 1, 1),
    (3, 3, 2, 2, 2),
    (5, 1, 3, 1, 4),
    (4, 4, 1, 3, 1),
]


def coordinator(n: int, team: int, agent: int, blocks: int, heads: int) -> SkillCoordinator:
    return nets(
        n,
        num_team_skills=team,
        num_agent_skills=agent,
        coordinator_blocks=blocks,
        coordinator_heads=heads,
    ).coordinator


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("greedy", [True, False])
def test_sampling_and_scoring_agree_token_by_token(
    shape: tuple[int, ...], greedy: bool, float64: None
) -> None:
    """Trap 2: N+1 rounds of sampling and one teacher-forced pass give the same log-probs."""
    net, (state, obs) = coordinator(*shape), scene(20, shape[0])
    with torch.no_grad():
        team, agents, logp = net.act(state, obs, None if greedy else uniform(20, shape[0] + 1))
        scores = net.evaluate(state, obs, team, agents)
    assert (team.shape, agents.shape) == ((20,), (20, shape[0]))
    assert logp.shape == scores.logp.shape == scores.value.shape == (20, shape[0] + 1)
    assert team.max() < shape[1]
    assert agents.max() < shape[2]
    torch.testing.assert_close(scores.logp, logp, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bug", ["shifted", "no start symbol", "leaking", "skills mixed up"])
def test_wrong_scoring_would_be_seen(
    bug: str, monkeypatch: pytest.MonkeyPatch, float64: None
) -> None:
    """Control: the usual mistakes of teacher forcing."""
    net, (state, obs) = coordinator(3, 2, 3, 1, 1), scene(20)
    with torch.no_grad():
        team, agents, logp = net.act(state, obs, uniform(20, 4))
        words = SkillCoordinator._words
        if bug == "shifted":
            monkeypatch.setattr(net, "_words", lambda t, z: words(net, t, z).roll(1, -1))
        elif bug == "no start symbol":
            monkeypatch.setattr(net, "_words", lambda t, z: words(net, t, z).clamp(min=1))
        elif bug == "skills mixed up":
            monkeypatch.setattr(net, "_words", lambda t, z: words(net, t, z.flip(-1)))
        else:
            for block in net.decoder:
                assert isinstance(block, DecoderBlock)
                block.self_attention.causal = block.cross_attention.causal = False
        scores = net.evaluate(state, obs, team, agents)
    assert (scores.logp - logp).abs().max() > 1e-4


def share_apart_after(updates: int, seed: int, *, residual: bool) -> float:
    """Plain policy gradient, advantage 1 for two skills that differ; then how often greedy ones."""
    shape = {"hidden_size": 64, "num_agent_skills": 12, "coordinator_heads": 1}
    net = nets(2, loud=False, choice_residual=residual, seed=seed, **shape).coordinator
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for update in range(updates):
        state, obs = scene(128, 2)
        with torch.no_grad():
            team, agents, _ = net.act(state, obs, uniform(128, 3, seed=update))
        apart = (agents[:, 0] != agents[:, 1]).float()
        gain = (apart - apart.mean()) / apart.std()
        for _ in range(6):
            loss = -(net.evaluate(state, obs, team, agents).logp * gain.unsqueeze(-1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        _, agents, _ = net.act(*scene(512, 2), None)
    return float((agents[:, 0] != agents[:, 1]).float().mean())


@pytest.mark.parametrize("seed", range(3))
def test_agents_soon_learn_to_differ(seed: int) -> None:
    """Control: a decoder that hears the first skill by attention alone is not there by then."""
    assert share_apart_after(10, seed, residual=True) == 1
    assert share_apart_after(10, seed, residual=False) < 0.9


@pytest.mark.parametrize("position", range(4))
def test_a_choice_changes_nothing_before_it(position: int, float64: None) -> None:
    """Trap 2: another choice at token j leaves 0..j-1 bit-equal and moves what comes after."""
    net, (state, obs) = coordinator(3, 3, 3, 2, 2), scene(10)
    choices = torch.randint(3, (10, 4), generator=generator())
    changed = choices.clone()
    changed[:, position] = (changed[:, position] + 1) % 3

    def scores(tokens: Tensor) -> networks.ChoiceScores:
        with torch.no_grad():
            return net.evaluate(state, obs, tokens[:, 0], tokens[:, 1:])

    before, after = scores(choices), scores(changed)
    assert torch.equal(before.logp[:, :position], after.logp[:, :position])
    assert torch.equal(before.entropy[:, : position + 1], after.entropy[:, : position + 1])
    assert ((before.logp - after.logp)[:, position].abs() > 1e-6).all()
    if position < 3:
        assert ((before.entropy - after.entropy)[:, position + 1 :].abs() > 1e-9).all()
    assert torch.equal(before.value, after.value)  # V_h knows no choice


def test_sampled_skills_follow_the_scored_probabilities(float64: None) -> None:
    """One scene, many draws: how often a whole team choice comes is what evaluate says."""
    net, (state, obs) = coordinator(2, 2, 2, 1, 1), scene(1, 2)
    draws = 20_000
    with torch.no_grad():
        many = state.expand(draws, -1), obs.expand(draws, -1, -1)
        team, agents, _ = net.act(*many, uniform(draws, 3, seed=3))
        counts = torch.bincount(4 * team + 2 * agents[:, 0] + agents[:, 1], minlength=8)
        every = torch.cartesian_prod(*[torch.arange(2)] * 3)
        scores = net.evaluate(state.expand(8, -1), obs.expand(8, -1, -1), every[:, 0], every[:, 1:])
    expected = scores.logp.sum(-1).exp()
    assert float(expected.sum()) == pytest.approx(1)
    deviation = (draws * expected * (1 - expected)).sqrt()
    assert ((counts - draws * expected).abs() < 4 * deviation + 1).all()


def test_entropy_of_each_choice_against_torch(float64: None) -> None:
    """Entropy of token i, from the log-probs of all its choices under the same tokens before."""
    net, (state, obs) = coordinator(2, 3, 3, 1, 1), scene(4, 2)
    choices = torch.randint(3, (4, 3), generator=generator())
    with torch.no_grad():
        entropy = net.evaluate(state, obs, choices[:, 0], choices[:, 1:]).entropy
        for token in range(3):
            columns = []
            for choice in range(3):
                tokens = choices.clone()
                tokens[:, token] = choice
                columns.append(net.evaluate(state, obs, tokens[:, 0], tokens[:, 1:]).logp[:, token])
            oracle = torch.distributions.Categorical(logits=torch.stack(columns, -1)).entropy()
            torch.testing.assert_close(entropy[:, token], oracle)


def test_first_coordinator_is_close_to_uniform() -> None:
    """The gain of 0.01: no skill is preferred before anything was learned."""
    net, (state, obs) = (
        nets(num_team_skills=2, num_agent_skills=4, loud=False).coordinator,
        scene(),
    )
    with torch.no_grad():
        team, agents, _ = net.act(state, obs, uniform(6, 4))
        entropy = net.evaluate(state, obs, team, agents).entropy
    torch.testing.assert_close(
        entropy[:, 0], torch.full((6,), np.log(2.0)).float(), atol=1e-3, rtol=0
    )
    assert (entropy[:, 1:] - np.log(4.0)).abs().max() < 1e-3


def test_coordinator_treats_agents_alike(float64: None) -> None:
    """Parameters are shared: swapping two agents swaps their values, and the team's stays."""
    net, (state, obs) = coordinator(3, 2, 3, 2, 1), scene()
    with torch.no_grad():
        value = net.value(net.encode(state, obs))
        swapped = net.value(net.encode(state, obs[:, [1, 0, 2]]))
    torch.testing.assert_close(swapped[:, [0, 2, 1, 3]], value)
    assert (swapped - value)[:, 1].abs().min() > 1e-6  # control: the agents do differ


# --- actor ---------------------------------------------------------------------------------------


def actor_call(
    actor: SkillActor, obs: Tensor, skill: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """From a state of zeros: obs [L, B, O], skill [L, B]."""
    steps, rows = skill.shape
    keep = torch.ones(steps, rows)
    return actor(obs, skill, torch.zeros(rows, SMALL.hidden_size), keep, mask)


@pytest.mark.parametrize("skill_input", ["input", "output"])
def test_actor_sees_its_own_observation_and_skill_alone(skill_input: str, float64: None) -> None:
    """Decentralised: the gradient by any other agent's observation is exactly 0."""
    actor = nets(skill_input=skill_input).actor
    obs = torch.randn(4, 3, OBS, requires_grad=True)  # 4 steps of 3 agents
    skill = torch.randint(3, (4, 3), generator=generator())
    output, _ = actor_call(actor, obs, skill)
    for agent in range(3):
        (gradient,) = torch.autograd.grad(output[-1, agent].square().sum(), obs, retain_graph=True)
        others = [i for i in range(3) if i != agent]
        assert (gradient[:, others] == 0).all()
        assert (gradient[:, agent] != 0).any()  # control: its own does count
        changed = skill.clone()
        changed[:, others] = (changed[:, others] + 1) % 3
        moved, _ = actor_call(actor, obs, changed)
        assert torch.equal(moved[:, agent], output[:, agent])
        assert not torch.equal(moved[:, others], output[:, others])


def test_agents_share_one_actor(float64: None) -> None:
    """Agents that see the same under the same skill act the same; and no size depends on N."""
    actor = nets(3).actor
    obs = torch.randn(4, 1, OBS).expand(4, 3, OBS)
    output, _ = actor_call(actor, obs, torch.ones(4, 3, dtype=torch.int64))
    assert torch.equal(output[:, 0], output[:, 1])
    sizes = [{name: x.shape for name, x in nets(n).actor.state_dict().items()} for n in (2, 5)]
    assert sizes[0] == sizes[1]


def test_output_skill_adds_a_preference_that_no_state_changes(float64: None) -> None:
    """Joined to the last layer, z shifts the logits by the same amount in every state."""
    for skill_input, fixed in (("output", True), ("input", False)):
        actor = nets(skill_input=skill_input).actor
        obs = torch.randn(1, 30, OBS)
        one, two = (
            actor.body(obs, torch.full((1, 30), z), torch.zeros(30, 8), torch.ones(1, 30))[0]
            for z in (0, 2)
        )
        spread = (one - two)[0].std(0)
        assert (spread < 1e-9).all() if fixed else (spread > 1e-3).all()


def test_joined_skill_is_the_head_over_a_wider_input(float64: None) -> None:
    """The look-up of a column equals the linear layer over features and one-hot."""
    body = nets(skill_input="output").actor.body
    obs, skill = torch.randn(2, 5, OBS), torch.randint(3, (2, 5))
    output, states = body(obs, skill, torch.zeros(5, 8), torch.ones(2, 5))
    joined = torch.cat([body.norm(states), torch.eye(3)[skill]], dim=-1)
    torch.testing.assert_close(output, body.head(joined))
    other = torch.cat([body.norm(states), torch.eye(3)[(skill + 1) % 3]], dim=-1)
    assert (output - body.head(other)).abs().max() > 1e-2  # control


def test_masked_actions_have_no_probability_and_no_gradient() -> None:
    """Trap 12, through the whole actor."""
    actor = nets().actor
    obs, skill = torch.randn(2, 50, OBS), torch.randint(3, (2, 50))
    mask = torch.rand(2, 50, 5) < 0.5
    mask[..., 2] = True
    mask[..., 4] = False
    output, _ = actor_call(actor, obs, skill, mask)
    assert (output.softmax(-1)[~mask] == 0).all()
    drawn = actor.sample(output, uniform(2, 50)).choice
    assert mask.gather(-1, drawn.unsqueeze(-1)).all()
    logp, entropy = actor.score(output, drawn)
    loss = (logp + entropy).sum()
    loss.backward()
    gradient = actor.body.head.bias.grad
    assert gradient[4] == 0
    assert (gradient[:4] != 0).all()
    unmasked, _ = actor_call(actor, obs, skill)
    assert (unmasked.softmax(-1)[~mask] > 0).all()  # control


def test_continuous_actor(float64: None) -> None:
    actor = nets(action_space=Box(-1, 1, (2,))).actor
    obs, skill = torch.randn(2, 5, OBS), torch.randint(3, (2, 5))
    mean, states = actor_call(actor, obs, skill)
    assert (mean.shape, states.shape) == ((2, 5, 2), (2, 5, 8))
    oracle = torch.distributions.Normal(mean, actor.log_std.exp())
    action, drawn_logp = actor.sample(mean, torch.randn(2, 5, 2))
    logp, entropy = actor.score(mean, action)
    torch.testing.assert_close(logp, oracle.log_prob(action).sum(-1))
    torch.testing.assert_close(drawn_logp, logp)
    torch.testing.assert_close(entropy, oracle.entropy().sum(-1))
    assert torch.equal(actor.sample(mean, None).choice, mean)
    assert not torch.equal(action, mean)


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_a_sharp_policy_is_a_power_of_the_plain_one(masked: bool, float64: None) -> None:
    """Of p it is p³ / Σ p³, where it is scored and where it acts."""
    actor = nets().actor
    obs, skill = torch.randn(1, 50, OBS), torch.randint(3, (1, 50))
    mask = torch.tensor([[True, False, True, True, True]]).expand(1, 50, 5) if masked else None
    plain = actor_call(actor, obs, skill, mask)[0].softmax(-1)
    actor.sharpness.fill_(3.0)
    cubed = plain**3 / (plain**3).sum(-1, keepdim=True)
    sharp, _ = actor_call(actor, obs, skill, mask)
    torch.testing.assert_close(sharp.softmax(-1), cubed)
    rows = obs[0], skill[0], torch.zeros(50, SMALL.hidden_size), torch.ones(50)
    drawn, _ = actor.act(*rows, None if mask is None else mask[0], uniform(50))
    chosen = drawn.choice.unsqueeze(-1)
    torch.testing.assert_close(drawn.logp.exp(), cubed[0].gather(-1, chosen).squeeze(-1))
    assert (cubed - plain).abs().max() > 0.1  # control


def test_a_sharp_continuous_policy_is_a_power_of_the_plain_one(float64: None) -> None:
    """So log-densities differ three times as much from place to place, and around one mean."""
    actor = nets(action_space=Box(-1, 1, (2,))).actor
    mean, one, other = torch.randn(3, 5, 2)
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([-0.5, 0.3]))
    plain = actor.score(mean, one).logp - actor.score(mean, other).logp
    actor.sharpness.fill_(3.0)
    sharp = actor.score(mean, one).logp - actor.score(mean, other).logp
    torch.testing.assert_close(sharp, 3 * plain)
    drawn = actor.sample(mean, torch.randn(5, 2))
    torch.testing.assert_close(actor.score(mean, drawn.choice).logp, drawn.logp)
    assert torch.equal(actor.sample(mean, None).choice, mean)


def test_discrete_actor_is_greedy_without_noise() -> None:
    actor = nets().actor
    output, _ = actor_call(actor, torch.randn(2, 50, OBS), torch.randint(3, (2, 50)))
    assert torch.equal(actor.sample(output, None).choice, output.argmax(-1))
    assert not torch.equal(actor.sample(output, uniform(2, 50)).choice, output.argmax(-1))


@pytest.mark.parametrize("space", [MultiDiscrete([2, 3]), Box(-1, 1, (2, 2))])
def test_other_action_spaces_are_refused(space: Space) -> None:
    with pytest.raises(ValueError, match="is not supported: use Discrete or a Box of one axis"):
        nets(action_space=space)


# --- critic --------------------------------------------------------------------------------------


def critic_call(
    critic: SkillCritic, state: Tensor, team: Tensor, agents: Tensor
) -> tuple[Tensor, Tensor]:
    steps, rows = team.shape
    return critic(state, team, agents, torch.zeros(rows, 8), torch.ones(steps, rows))


@pytest.mark.parametrize("skill_input", ["input", "output"])
@pytest.mark.parametrize(("head", "values"), [("team", 1), ("skill", 3)])
def test_critic_reads_the_skills_in_force(
    head: str, values: int, skill_input: str, float64: None
) -> None:
    """'skill': V of agent i moves with z^i and Z alone; 'team': one value, of Z alone."""
    critic = nets(critic_head=head, skill_input=skill_input).critic
    state, team = torch.randn(4, 6, STATE), torch.randint(2, (4, 6))
    agents = torch.randint(3, (4, 6, 3))
    value, states = critic_call(critic, state, team, agents)
    assert (value.shape, states.shape) == ((4, 6, values), (4, 6, 8))
    for agent in range(3):
        other = agents.clone()
        other[..., agent] = (other[..., agent] + 1) % 3
        changed, _ = critic_call(critic, state, team, other)
        moved = (changed != value).flatten(0, 1)
        expected = torch.arange(values) == agent if head == "skill" else torch.zeros(1).bool()
        assert torch.equal(moved.any(0), expected)
        assert torch.equal(moved.all(0), expected)
    changed, _ = critic_call(critic, state, 1 - team, agents)
    assert (changed != value).all()


def test_team_skill_at_the_output_is_an_additive_constant(float64: None) -> None:
    critic = nets(critic_head="team", skill_input="output").critic
    state, agents = torch.randn(1, 30, STATE), torch.zeros(1, 30, 3, dtype=torch.int64)
    values = [critic_call(critic, state, torch.full((1, 30), z), agents)[0] for z in (0, 1)]
    assert (values[0] - values[1]).std() < 1e-9
    assert values[0].std() > 1e-3


# --- discriminators ------------------------------------------------------------------------------


def test_discriminators_tell_all_skills(float64: None) -> None:
    modules = nets(num_team_skills=2, num_agent_skills=4)
    state, obs = torch.randn(3, 5, STATE), torch.randn(3, 5, 2, OBS)
    skill = torch.randint(2, (3, 5, 2))
    team = modules.team_discriminator(state)
    individual = modules.individual_discriminator(obs, skill)
    assert (team.shape, individual.shape) == ((3, 5, 2), (3, 5, 2, 4))
    other = modules.individual_discriminator(obs, 1 - skill)
    assert (other - individual).abs().amax(-1).min() > 1e-6  # q_d does read Z
    moved = obs.clone()
    moved[:, :, 0] += torch.tensor([1.0, -1.0, 0.0, 2.0])
    changed = modules.individual_discriminator(moved, skill) != individual
    assert changed[:, :, 0].all()
    assert not changed[:, :, 1].any()  # an agent is told by its own observation


# --- all -----------------------------------------------------------------------------------------


def test_one_seed_gives_one_set_of_weights() -> None:
    """And making them leaves torch's global generator where it was."""
    before = torch.get_rng_state()
    first, again, other = (nets(seed=seed, loud=False).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_networks_see_agent_numbers_only_where_asked() -> None:
    plain, told = nets(agent_id=False), nets(agent_id=True)
    for name in ("actor", "coordinator", "individual_discriminator"):
        wide = sum(x.numel() for x in getattr(told, name).parameters())
        assert wide > sum(x.numel() for x in getattr(plain, name).parameters())
    assert sum(x.numel() for x in told.critic.parameters()) == sum(
        x.numel() for x in plain.critic.parameters()
    )
