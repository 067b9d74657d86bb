"""Floating-point operations of the matrix products of a round's update, counted from the shapes.

A product [rows, inner] x [inner, columns] is 2 · rows · inner · columns operations. A gradient step
is three such products for every one of the forward pass: itself, and in the backward pass the
gradients of its two factors. Only these are counted: what the update does besides (gates, norms,
losses, Adam) is what keeps it below the machine's limit.
"""

from __future__ import annotations

from itertools import pairwise

from hmasd.config import Config
from hmasd.envs.base import BatchedEnv

NETWORKS = ("coordinator", "actor", "critic", "team discriminator", "individual discriminator")
PASSES = 3  # forward, and two products backward


def linear(*sizes: int) -> int:
    """Of one row through linear layers of these widths, forward."""
    return sum(2 * a * b for a, b in pairwise(sizes))


def gru(width: int) -> int:
    """Of one row through one step: three gates, from the input and from the state."""
    return 2 * linear(width, 3 * width)


def attention(width: int, tokens: int) -> int:
    """Of one token: query, key, value and output, then its scores and the mean they weigh."""
    return 4 * linear(width, width) + 2 * linear(width, tokens)


def coordinator(config: Config, env: BatchedEnv, obs_size: int) -> int:
    """Of one segment, forward: the transformer over one team token and one for every agent."""
    d, agents = config.hidden_size, env.num_agents
    tokens = agents + 1
    mlp = linear(d, d, d)
    encoder = config.coordinator_blocks * (attention(d, tokens) + mlp)
    decoder = config.coordinator_blocks * (2 * attention(d, tokens) + mlp)
    per_token = encoder + decoder + linear(d, d, 1) + linear(d, d)
    embeddings = linear(env.state_size, d) + agents * linear(obs_size, d)
    heads = linear(d, config.num_team_skills) + agents * linear(d, config.num_agent_skills)
    return tokens * per_token + embeddings + heads


def words(config: Config) -> int:
    """Of one pass of the coordinator, however many segments: each word is embedded once."""
    vocabulary = 1 + config.num_team_skills + config.num_agent_skills
    return vocabulary * linear(vocabulary, config.hidden_size)


def forward(config: Config, env: BatchedEnv) -> dict[str, int]:
    """Of one env step (coordinator: one segment, without `words`) through each network, forward."""
    d, agents, actions = config.hidden_size, env.num_agents, env.action_space
    team, individual = config.num_team_skills, config.num_agent_skills
    at_input = config.skill_input == "input"
    obs_size = env.obs_size + (agents if config.agent_id else 0)
    outputs = int(actions.n) if hasattr(actions, "n") else actions.shape[0]
    values = agents * individual if config.critic_head == "skill" else 1
    actor_input = obs_size + (individual if at_input else 0)
    critic_input = env.state_size + (team if at_input else 0)
    return {
        "coordinator": coordinator(config, env, obs_size),
        "actor": agents * (linear(actor_input, d, d) + gru(d) + linear(d, outputs)),
        "critic": linear(critic_input, d, d) + gru(d) + linear(d, values),
        "team discriminator": linear(env.state_size, d, d, team),
        "individual discriminator": agents * linear(obs_size + team, d, d, individual),
    }


def update(config: Config, env: BatchedEnv, segments: float) -> dict[str, float]:
    """Of all gradient steps of one round, per network; segments: the coordinator's batch, or 0."""
    per_row = forward(config, env)
    pairs = 1 if config.discriminator_smoothness == 0 else 2  # before and after each step
    rows = {
        "coordinator": segments * config.coordinator_epochs,
        "actor": config.batch_size * config.discoverer_epochs,
        "critic": config.batch_size * config.discoverer_epochs,
        "team discriminator": pairs * config.batch_size * config.discriminator_epochs,
        "individual discriminator": pairs * config.batch_size * config.discriminator_epochs,
    }
    products = {name: rows[name] * per_row[name] for name in NETWORKS}
    if segments > 0:
        products["coordinator"] += config.coordinator_epochs * words(config)
    return {name: PASSES * count for name, count in products.items()}
