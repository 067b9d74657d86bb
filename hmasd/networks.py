"""The four networks of HMASD (ALGORITHM: paper section 4); all agents share them.

`SkillCoordinator` chooses skills (stop 2 of the walk); `SkillActor` and `SkillCritic` are the two
halves of the skill discoverer; the two discriminators guess skills from where they led.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor, nn
from torch.nn import functional

from hmasd.config import Config
from hmasd.modules import distributions
from hmasd.modules.attention import Caches, DecoderBlock, EncoderBlock, KeyValueCache
from hmasd.modules.distributions import Draw, Score, one_hot
from hmasd.modules.init import RELU_GAIN, SMALL_GAIN, orthogonal
from hmasd.modules.mlp import MLP
from hmasd.modules.normalization import ValueNormalizer
from hmasd.modules.skill_conditioned import SkillConditionedGRU


class NetworkSizes(NamedTuple):
    """Everything that decides the shape of a parameter."""

    num_agents: int
    obs_size: int
    state_size: int
    num_team_skills: int
    num_agent_skills: int
    hidden_size: int
    skill_input: str
    skill_gain: float
    critic_head: str
    critic_input: str
    coordinator_blocks: int
    coordinator_heads: int
    choice_residual: bool


class ChoiceScores(NamedTuple):
    """A coordinator's view of choices already made; token 0 is the team skill, 1..N the agents'."""

    logp: Tensor  # [B, N+1]
    entropy: Tensor  # [B, N+1]
    value: Tensor  # [B, N+1]


class SkillCoordinator(nn.Module):
    """High level: (s, o^1..o^N) -> Z, then z^1..z^N one after the other (a transformer)."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        width, blocks, heads = sizes.hidden_size, sizes.coordinator_blocks, sizes.coordinator_heads
        self.num_team_skills = sizes.num_team_skills
        self.num_agent_skills = sizes.num_agent_skills
        self.embed_state = self._embedding(sizes.state_size, width)
        self.embed_obs = self._embedding(sizes.obs_size, width)
        self.encoder = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(blocks)))
        self.value_head = nn.Sequential(
            orthogonal(nn.Linear(width, width), RELU_GAIN),
            nn.GELU(),
            nn.LayerNorm(width),
            orthogonal(nn.Linear(width, 1), SMALL_GAIN),
        )
        # One vocabulary for what the decoder reads: the start symbol, team skills, agent skills.
        self.vocabulary = 1 + sizes.num_team_skills + sizes.num_agent_skills
        self.embed_choice = nn.Sequential(
            orthogonal(nn.Linear(self.vocabulary, width), RELU_GAIN),
            nn.GELU(),
            nn.LayerNorm(width),
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(width, heads, sizes.choice_residual) for _ in range(blocks)
        )
        self.team_head = self._choice_head(width, sizes.num_team_skills)
        self.agent_head = self._choice_head(width, sizes.num_agent_skills)

    @staticmethod
    def _embedding(size: int, width: int) -> nn.Sequential:
        linear = orthogonal(nn.Linear(size, width), RELU_GAIN)
        return nn.Sequential(nn.LayerNorm(size), linear, nn.GELU(), nn.LayerNorm(width))

    @staticmethod
    def _choice_head(width: int, num_choices: int) -> nn.Sequential:
        return nn.Sequential(
            orthogonal(nn.Linear(width, width), RELU_GAIN),
            nn.GELU(),
            nn.LayerNorm(width),
            orthogonal(nn.Linear(width, num_choices), SMALL_GAIN),
        )

    def encode(self, state: Tensor, obs: Tensor) -> Tensor:
        """State [B, S] and observations [B, N, O] -> tokens [B, N+1, d]; token 0 is the state's."""
        tokens = torch.cat([self.embed_state(state).unsqueeze(1), self.embed_obs(obs)], dim=1)
        return self.encoder(tokens)

    def value(self, encoded: Tensor) -> Tensor:
        """V_h of every token, in normalised units: [B, N+1, d] -> [B, N+1]."""
        return self.value_head(encoded).squeeze(-1)

    def _decode(
        self, encoded: Tensor, words: Tensor, caches: Sequence[Caches | None] | None = None
    ) -> Tensor:
        """Encoder's output [B, L, d] and the L words to read [B, L] int64 -> [B, L, d].

        With caches, one pair per block, L is 1: the newest word after all those before.
        """
        # One-hots through the embedding: every word once, since there are fewer words than tokens.
        one_hots = torch.eye(self.vocabulary, dtype=encoded.dtype, device=encoded.device)
        tokens = functional.embedding(words, self.embed_choice(one_hots))
        for block, of_block in zip(self.decoder, caches or [None] * len(self.decoder), strict=True):
            tokens = block(tokens, encoded, of_block)
        return tokens

    def _words(self, team_skill: Tensor, agent_skills: Tensor) -> Tensor:
        """Choices [B] and [B, n] as what the decoder reads, start symbol first: [B, n+2]."""
        start = torch.zeros_like(team_skill).unsqueeze(-1)
        team = 1 + team_skill.unsqueeze(-1)
        return torch.cat([start, team, 1 + self.num_team_skills + agent_skills], dim=-1)

    def act(
        self,
        state: Tensor,
        obs: Tensor,
        uniform: Tensor | None,
        mask: Tensor | None = None,
        forced: Sequence[int | None] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Choose skills for B teams; without random numbers: the most likely ones.

        Args:
            state: [B, S].
            obs: [B, N, O].
            uniform: [B, N+1] in [0, 1), which decide; None: nothing is left to chance.
            mask: [B, N, n_z] bool, individual skills that may be chosen; None: all.
            forced: Z, z^1..z^N that are not chosen but given, None where they are chosen. Later
                choices know of given ones as of chosen ones. The mask does not hold them back.

        Returns:
            team_skill [B], agent_skills [B, N], logp [B, N+1].
        """
        encoded = self.encode(state, obs)
        word = torch.zeros(len(state), dtype=torch.int64, device=state.device)
        caches = [(KeyValueCache(), KeyValueCache()) for _ in self.decoder]
        choices, logps = [], []
        for token in range(encoded.shape[1]):
            of_token = encoded[:, token : token + 1]
            decoded = self._decode(of_token, word.unsqueeze(-1), caches).squeeze(1)
            head = self.agent_head if token else self.team_head
            allowed = mask[:, token - 1] if token and mask is not None else None
            logits = distributions.mask_logits(head(decoded), allowed)
            number = None if uniform is None else uniform[:, token]
            choice, logp = distributions.sample_categorical(logits, number)
            given = None if forced is None else forced[token]
            if given is not None:
                choice = torch.full_like(choice, given)
                logp = distributions.score_categorical(logits, choice).logp
            choices.append(choice)
            logps.append(logp)
            word = choice + (1 + self.num_team_skills if token else 1)
        return choices[0], torch.stack(choices[1:], dim=-1), torch.stack(logps, dim=-1)

    def evaluate(
        self,
        state: Tensor,
        obs: Tensor,
        team_skill: Tensor,
        agent_skills: Tensor,
        mask: Tensor | None = None,
    ) -> ChoiceScores:
        """Score choices already made, all tokens in one teacher-forced pass.

        Args:
            state: [B, S].
            obs: [B, N, O].
            team_skill: [B] int64.
            agent_skills: [B, N] int64.
            mask: [B, N, n_z] bool, individual skills that could be chosen; None: all.
        """
        encoded = self.encode(state, obs)
        decoded = self._decode(encoded, self._words(team_skill, agent_skills[:, :-1]))
        team = distributions.score_categorical(
            self.team_head(decoded[:, :1]), team_skill.unsqueeze(-1)
        )  # [B, 1]
        agents = distributions.score_categorical(
            distributions.mask_logits(self.agent_head(decoded[:, 1:]), mask), agent_skills
        )  # [B, N]
        logp, entropy = (torch.cat(pair, dim=-1) for pair in zip(team, agents, strict=True))
        return ChoiceScores(logp, entropy, self.value(encoded))


class SkillActor(nn.Module):
    """Low level: own observation and own skill z^i -> action; sees nothing else (decentralised).

    The policy is p^κ, scaled to sum to 1, p what the parameters alone would make it: logits are
    multiplied by κ, variances divided by it.
    """

    sharpness: Tensor  # κ, which is not learned

    def __init__(self, sizes: NetworkSizes, action_space: Space) -> None:
        super().__init__()
        self.register_buffer("sharpness", torch.ones(()))
        self.discrete = isinstance(action_space, Discrete)
        if isinstance(action_space, Discrete):
            num_outputs = int(action_space.n)
        elif isinstance(action_space, Box) and len(action_space.shape) == 1:
            num_outputs = action_space.shape[0]
            self.log_std = nn.Parameter(torch.zeros(num_outputs))
        else:
            raise ValueError(
                f"action space {action_space} is not supported: use Discrete or a Box of one axis"
            )
        self.body = SkillConditionedGRU(
            sizes.obs_size,
            sizes.num_agent_skills,
            num_outputs,
            sizes.hidden_size,
            skill_at_input=sizes.skill_input == "input",
            gains=(SMALL_GAIN, sizes.skill_gain),
        )

    def forward(
        self, obs: Tensor, skill: Tensor, hidden: Tensor, keep: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Action distribution of every step.

        Args:
            obs: [L, B, O].
            skill: [L, B] int64.
            hidden: [B, d].
            keep: [L, B].
            mask: [L, B, A] bool or None.

        Returns:
            Logits (discrete) or means (continuous) [L, B, A], GRU states [L, B, d].
        """
        output, states = self.body(obs, skill, hidden, keep)
        if self.discrete:
            output = distributions.mask_logits(output * self.sharpness, mask)
        return output, states

    def sample(self, output: Tensor, noise: Tensor | None) -> Draw:
        """Draw actions from `forward`'s output [..., A]; without noise: the most likely.

        Noise: uniform in [0, 1), [...], for discrete actions; of N(0, 1), [..., A], for others.
        """
        if self.discrete:
            return distributions.sample_categorical(output, noise)
        return distributions.sample_gaussian(output, self._sharp_log_std, noise)

    def act(
        self,
        obs: Tensor,
        skill: Tensor,
        hidden: Tensor,
        keep: Tensor,
        mask: Tensor | None,
        noise: Tensor | None,
    ) -> tuple[Draw, Tensor]:
        """One step of B agents: `forward` and `sample` without the axis of time.

        Returns:
            The draw, [B, ...], and the GRU state after the step [B, d].
        """
        if self.discrete and noise is not None:
            sharpness = self.sharpness
            choice, logp, state = self.body.act(obs, skill, hidden, keep, mask, noise, sharpness)
            return Draw(choice, logp), state
        obs, skill, keep = (x.unsqueeze(0) for x in (obs, skill, keep))
        mask = None if mask is None else mask.unsqueeze(0)
        output, states = self(obs, skill, hidden, keep, mask)
        return self.sample(output.squeeze(0), noise), states.squeeze(0)

    def score(self, output: Tensor, action: Tensor) -> Score:
        """Log-probability of actions under `forward`'s output [..., A], and its entropy: [...]."""
        if self.discrete:
            return distributions.score_categorical(output, action)
        return Score(
            distributions.gaussian_log_prob(output, self._sharp_log_std, action),
            distributions.gaussian_entropy(output, self._sharp_log_std),
        )

    @property
    def _sharp_log_std(self) -> Tensor:
        """Log standard deviation of p^κ, of continuous actions: [A]."""
        return self.log_std - 0.5 * self.sharpness.log()


class SkillCritic(nn.Module):
    """Low level: values in normalised units, computed once per env from (s, Z).

    With `critic_head` "team" one value V_l(s, Z) for all agents (the paper's). With "skill" one
    value per agent and individual skill, of which the one in force is read: V_l^i(s, Z, z^i).
    With `critic_input` "obs" every agent is a sequence of its own, its observation in place of s.
    """

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        self.per_skill = sizes.critic_head == "skill"
        self.sees_own = sizes.critic_input == "obs"
        agents = 1 if self.sees_own else sizes.num_agents
        self.heads = (agents, sizes.num_agent_skills) if self.per_skill else (1, 1)
        num_values = self.heads[0] * self.heads[1]
        input_size = sizes.obs_size if self.sees_own else sizes.state_size
        self.body = SkillConditionedGRU(
            input_size,
            sizes.num_team_skills,
            num_values,
            sizes.hidden_size,
            skill_at_input=sizes.skill_input == "input",
            gains=(1.0, 1.0),
        )

    def forward(
        self,
        state: Tensor,
        team_skill: Tensor,
        agent_skills: Tensor,
        hidden: Tensor,
        keep: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run L steps of B sequences.

        Args:
            state: [L, B, S]; with `critic_input` "obs" the observations [L, B, N, O].
            team_skill: [L, B] int64.
            agent_skills: [L, B, N] int64.
            hidden: [B, d] (or [B, N, d]) GRU state before the first step.
            keep: [L, B], 0 where the GRU state restarts.

        Returns:
            Values [L, B, V], V = N or (one for all agents) 1; GRU state after each step [L, B, d]
            (or [L, B, N, d]).
        """
        if not self.sees_own:
            return self._values(state, team_skill, agent_skills, hidden, keep)
        rows = agent_skills.shape[1:]  # B, N
        per_agent = (x.unsqueeze(-1).expand_as(agent_skills).flatten(1) for x in (team_skill, keep))
        team_skill, keep = per_agent
        value, states = self._values(
            state.flatten(1, 2),
            team_skill,
            agent_skills.flatten(1).unsqueeze(-1),  # [L, B * N, 1]
            hidden.flatten(0, 1),
            keep,
        )
        return value.squeeze(-1).unflatten(1, rows), states.unflatten(1, rows)

    def _values(
        self,
        state: Tensor,
        team_skill: Tensor,
        agent_skills: Tensor,
        hidden: Tensor,
        keep: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """`forward` for sequences that are envs, or single agents."""
        value, states = self.body(state, team_skill, hidden, keep)
        if self.per_skill:
            skill = agent_skills.unsqueeze(-1)
            value = value.unflatten(-1, self.heads).gather(-1, skill).squeeze(-1)
        return value, states


class TeamDiscriminator(nn.Module):
    """q_D(Z | s)."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        self.mlp = MLP(sizes.state_size, sizes.hidden_size, num_outputs=sizes.num_team_skills)

    def forward(self, state: Tensor) -> Tensor:
        """[..., S] -> logits [..., n_Z]."""
        return self.mlp(state)


class IndividualDiscriminator(nn.Module):
    """q_d(z^i | o^i, Z)."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        self.num_team_skills = sizes.num_team_skills
        input_size = sizes.obs_size + sizes.num_team_skills
        self.mlp = MLP(input_size, sizes.hidden_size, num_outputs=sizes.num_agent_skills)

    def forward(self, obs: Tensor, team_skill: Tensor) -> Tensor:
        """Observations [..., O] and team skills [...] -> logits [..., n_z]."""
        skill_hot = one_hot(team_skill, self.num_team_skills, obs.dtype)
        return self.mlp(torch.cat([obs, skill_hot], dim=-1))


class HMASDNetworks(nn.Module):
    """All networks of a team, with the value normalisers of both levels."""

    def __init__(self, sizes: NetworkSizes, action_space: Space) -> None:
        super().__init__()
        self.coordinator = SkillCoordinator(sizes)
        self.actor = SkillActor(sizes, action_space)
        self.critic = SkillCritic(sizes)
        self.team_discriminator = TeamDiscriminator(sizes)
        self.individual_discriminator = IndividualDiscriminator(sizes)
        self.high_normalizer = ValueNormalizer()
        self.low_normalizer = ValueNormalizer()


def make_networks(
    config: Config, num_agents: int, obs_size: int, state_size: int, action_space: Space
) -> HMASDNetworks:
    """Networks for an env of these sizes; the first weights depend on `config.seed` alone."""
    sizes = NetworkSizes(
        num_agents=num_agents,
        obs_size=obs_size + (num_agents if config.agent_id else 0),
        state_size=state_size,
        num_team_skills=config.num_team_skills,
        num_agent_skills=_num_agent_skills(config, action_space),
        hidden_size=config.hidden_size,
        skill_input=config.skill_input,
        skill_gain=config.skill_gain,
        critic_head=config.critic_head,
        critic_input=config.critic_input,
        coordinator_blocks=config.coordinator_blocks,
        coordinator_heads=config.coordinator_heads,
        choice_residual=config.choice_residual,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return HMASDNetworks(sizes, action_space).to(config.device)


def _num_agent_skills(config: Config, action_space: Space) -> int:
    """n_z: the setting, or the number of actions where the skills are the actions.

    Raises:
        ValueError: the actions cannot be counted.
    """
    if config.low_level == "discoverer":
        return config.num_agent_skills
    if not isinstance(action_space, Discrete):
        raise ValueError(
            f"low_level = 'action' chooses among a number of actions, but {config.env} has "
            f"{action_space}; use low_level = 'discoverer'"
        )
    return int(action_space.n)
