"""Stop 6, low level: the skill discoverer's advantages and its PPO update (HMASD eq. 7)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from hmasd.algorithm import losses
from hmasd.algorithm.noise_scale import NoiseScale, gradient_moments
from hmasd.algorithm.optimization import (
    Learner,
    Means,
    Metrics,
    Part,
    in_parts,
    largest,
    slices,
    step_together,
    total_weight,
)
from hmasd.algorithm.returns import generalized_advantage, standardize, weighted_mean
from hmasd.config import Config
from hmasd.distributed import ALONE, Ranks
from hmasd.kernels.transfer import to_device
from hmasd.modules.normalization import ValueNormalizer
from hmasd.networks import SkillActor, SkillCritic
from hmasd.types import ActorBatch, CriticBatch, LowRollout


class RoundTail(NamedTuple):
    """What the round's last values bootstrap from."""

    critic_hidden: Tensor  # [E, d] (or [E, N, d]) GRU state before the round's first step
    team_skill: Tensor  # [E] in force at the step after the round
    agent_skills: Tensor  # [E, N] likewise
    restart: Tensor  # [E] bool, host: the GRU state restarts before it though the episode goes on


class CriticPass(NamedTuple):
    """The critic over a whole round, weights frozen."""

    value: Tensor  # [T, E, V] normalised units; V = N, or 1 for all agents
    next_value: Tensor  # [T, E, V] normalised units, of the state that each step reached
    hidden: Tensor  # [T, E, d] (or [T, E, N, d]) GRU state before each step (before a restart)
    last_hidden: Tensor  # [E, d] (or [E, N, d]) GRU state after the round


@torch.no_grad()
def critic_pass(critic: SkillCritic, rollout: LowRollout, tail: RoundTail) -> CriticPass:
    """Values of a round and of what it bootstraps from, in two batched forward passes."""
    keep = (~rollout.restart).to(rollout.state.dtype)
    skills = (rollout.team_skill, rollout.agent_skills)
    seen, next_seen = seen_by(critic, rollout)
    value, states = critic(seen, *skills, tail.critic_hidden, keep)
    hidden = torch.cat([tail.critic_hidden.unsqueeze(0), states[:-1]])
    next_value = torch.cat([value[1:], torch.zeros_like(value[:1])])

    # Steps whose next state is not in the round: truncated ones, and the last ones.
    beyond = rollout.truncated.clone()
    beyond[-1] |= ~rollout.terminated[-1]
    t, e = beyond.nonzero(as_tuple=True)
    at_round_end = (t == len(value) - 1) & ~rollout.truncated[t, e]
    goes_on = (~(at_round_end & tail.restart[e])).to(value.dtype)
    t, e, at_round_end = (to_device(x, value.device) for x in (t, e, at_round_end))
    team_skill = torch.where(at_round_end, tail.team_skill[e], rollout.team_skill[t, e])
    agent_skills = torch.where(
        at_round_end.unsqueeze(-1), tail.agent_skills[e], rollout.agent_skills[t, e]
    )
    bootstrap, _ = critic(
        next_seen[t, e].unsqueeze(0),
        team_skill.unsqueeze(0),
        agent_skills.unsqueeze(0),
        states[t, e],
        goes_on.unsqueeze(0),
    )
    next_value[t, e] = bootstrap[0]
    return CriticPass(value, next_value, hidden, states[-1])


def seen_by(critic: SkillCritic, rollout: LowRollout) -> tuple[Tensor, Tensor]:
    """What the critic looks at before and after each step: [T, E, S], or [T, E, N, O] each."""
    if critic.sees_own:
        return rollout.obs, rollout.next_obs
    return rollout.state, rollout.next_state


def to_chunks(x: Tensor, chunk: int) -> Tensor:
    """[T, ...rows, *feature] -> [L, T / L, ...rows, *feature]: time inside a chunk comes first."""
    return x.unflatten(0, (-1, chunk)).transpose(0, 1)


METRICS = ("policy_loss", "entropy", "kl", "clip_fraction", "value_loss")
Chunks = TypeVar("Chunks", ActorBatch, CriticBatch)


def cut_chunks(batch: Chunks, most: int) -> Iterator[Chunks]:
    """The batch in parts of `most` recurrent chunks each, the last smaller; 0: in one."""
    for rows in slices(len(batch.hidden), most):
        part: Any = {
            name: x[rows] if name == "hidden" else x[:, rows]
            for name, x in batch._asdict().items()
            if x is not None
        }
        yield batch._replace(**part)


def split_by_env(batch: ActorBatch, num_chunks: int, num_envs: int) -> Iterator[ActorBatch]:
    """The batch in equal parts of whole envs: four, or the next number that divides num_envs."""
    count = next((n for n in range(4, num_envs) if num_envs % n == 0), num_envs)

    def part_of(x: Tensor, axis: int, part: int) -> Tensor:
        # [..., T / L * E * N, ...] -> [..., T / L, K, E / K * N, ...], of which the k-th of K
        rows = x.unflatten(axis, (num_chunks, count, -1)).select(axis + 1, part)
        return rows.flatten(axis, axis + 1)

    for k in range(count):
        part: Any = {
            name: part_of(x, 0 if name == "hidden" else 1, k)
            for name, x in batch._asdict().items()
            if x is not None
        }
        yield batch._replace(**part)


class Discoverer:
    """Actor and critic of the low level with their optimizers."""

    def __init__(
        self,
        config: Config,
        actor: SkillActor,
        critic: SkillCritic,
        normalizer: ValueNormalizer,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.actor = actor
        self.critic = critic
        self.normalizer = normalizer
        self.actor_learner = Learner("actor", actor, config, ranks)
        self.critic_learner = Learner("critic", critic, config, ranks)
        self.noise_scale = NoiseScale()

    def prepare(
        self, rollout: LowRollout, reward: Tensor, passed: CriticPass
    ) -> tuple[ActorBatch, CriticBatch]:
        """Advantages, targets and recurrent chunks of a round; reward: [T, E, N]."""
        device, weight = reward.device, None
        if rollout.alive is not None:
            weight = to_device(rollout.alive, device, reward.dtype)
        terminated, truncated = (
            to_device(x, device) for x in (rollout.terminated, rollout.truncated)
        )
        value = self.normalizer.denormalize(passed.value)  # [T, E, V]
        advantage = generalized_advantage(
            reward,
            value,
            self.normalizer.denormalize(passed.next_value),
            terminated.unsqueeze(-1),
            (terminated | truncated).unsqueeze(-1),
            discount=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
        )  # [T, E, N]
        target = advantage + value
        self.normalizer.update(target, weight, self.ranks)
        advantage = standardize(advantage, weight, ranks=self.ranks)
        actor_batch = self._actor_batch(rollout, advantage, weight)
        return actor_batch, self._critic_batch(rollout, target, passed, weight)

    def _actor_batch(
        self, rollout: LowRollout, advantage: Tensor, weight: Tensor | None
    ) -> ActorBatch:
        chunk = self.config.chunk_length

        def rows(x: Tensor) -> Tensor:  # [T, E, N, ...] -> [L, T / L * E * N, ...]
            return to_chunks(x, chunk).flatten(1, 3)

        keep = (~rollout.restart).to(advantage.dtype).unsqueeze(-1).expand_as(advantage)
        return ActorBatch(
            obs=rows(rollout.obs),
            skill=rows(rollout.agent_skills),
            hidden=rollout.actor_hidden.flatten(0, 2),
            keep=rows(keep),
            action_mask=None if rollout.action_mask is None else rows(rollout.action_mask),
            action=rows(rollout.action),
            logp=rows(rollout.logp),
            advantage=rows(advantage),
            weight=None if weight is None else rows(weight),
        )

    def _critic_batch(
        self,
        rollout: LowRollout,
        target: Tensor,
        passed: CriticPass,
        weight: Tensor | None,
    ) -> CriticBatch:
        chunk = self.config.chunk_length

        def rows(x: Tensor) -> Tensor:  # [T, E, ...] -> [L, T / L * E, ...]
            return to_chunks(x, chunk).flatten(1, 2)

        return CriticBatch(
            state=rows(seen_by(self.critic, rollout)[0]),
            team_skill=rows(rollout.team_skill),
            agent_skills=rows(rollout.agent_skills),
            hidden=passed.hidden[::chunk].flatten(0, 1),
            keep=rows((~rollout.restart).to(target.dtype)),
            value=rows(passed.value),
            target=self.normalizer.normalize(rows(target)),
            weight=None if weight is None else rows(weight),
        )

    def measure_noise(self, batch: ActorBatch, num_chunks: int, num_envs: int) -> Metrics:
        """Take in how noisy the actor's gradient is before its first step; metrics `low/...`.

        The gradient's parts are of some envs each: the steps of one env are not independent.
        """
        agents = len(batch.hidden) // (num_chunks * num_envs)
        split = split_by_env(batch, num_chunks, num_envs)
        weighed = ((part, total_weight(part.weight, part.logp)) for part in split)
        parts = in_parts(weighed, self.ranks)
        if self.ranks.total(len(parts)) < 2:  # hardly anybody lives
            return {}
        whole = self.actor_learner.gradient
        gradients = whole.new_zeros(len(parts), len(whole))
        for row, part in zip(gradients, parts, strict=True):
            row.copy_(self._actor_gradient(part.batch, agents))
        share = gradients.new_tensor([part.share for part in parts])
        samples = num_chunks * num_envs * self.config.chunk_length * self.ranks.world_size
        moments = gradient_moments(gradients, share, samples, self.ranks)
        self.noise_scale.add(moments)
        metrics: Metrics = {
            "low/gradient_signal": moments.signal,
            "low/gradient_noise": moments.noise,
        }
        scale = self.noise_scale.value
        if scale is not None and math.isfinite(scale):
            metrics["low/noise_scale"] = scale
        return metrics

    def _actor_gradient(self, batch: ActorBatch, agents: int) -> Tensor:
        """[P], without a step along it."""
        parameters = list(self.actor.parameters())
        gradient = torch.zeros_like(self.actor_learner.gradient)
        parts = self._actor_parts(batch, agents, ALONE)
        for loss, share in self._actor_losses(parts, Means(*METRICS), []):
            pieces = torch.autograd.grad(loss, parameters)
            gradient += share * torch.cat([piece.flatten() for piece in pieces])
        return gradient

    def update(self, actor_batch: ActorBatch, critic_batch: CriticBatch) -> Metrics:
        """All PPO epochs over one round; returns the metrics `low/...`."""
        actor_parts, critic_parts = self._parts(actor_batch, critic_batch)
        means = Means(*METRICS, ranks=self.ranks)
        ratio_errors: list[Tensor] = []
        for _ in range(self.config.discoverer_epochs):
            step_together(
                (self.actor_learner, self._actor_losses(actor_parts, means, ratio_errors)),
                (self.critic_learner, self._critic_losses(critic_parts, means)),
            )
        explained = losses.explained_variance(
            critic_batch.value, critic_batch.target, critic_batch.weight, self.ranks
        )
        return {
            "low/sharpness": self.actor.sharpness.clone(),
            "low/actor_grad_norm": self.actor_learner.mean_norm(),
            "low/critic_grad_norm": self.critic_learner.mean_norm(),
            **means.result("low"),
            "low/ratio_start": 1.0 + largest(ratio_errors[: len(actor_parts)], self.ranks),
            "low/explained_variance": explained,
        }

    def _parts(self, actor: ActorBatch, critic: CriticBatch) -> tuple[list[Any], list[Any]]:
        """Both batches as they go through the networks: whole chunks, of all agents alike."""
        chunks = self.config.samples_at_once // self.config.chunk_length
        critic_parts = in_parts(
            ((part, total_weight(part.weight, part.target)) for part in cut_chunks(critic, chunks)),
            self.ranks,
        )
        agents = actor.hidden.shape[0] // critic.hidden.shape[0]
        return self._actor_parts(actor, agents, self.ranks), critic_parts

    def _actor_parts(self, batch: ActorBatch, agents: int, ranks: Ranks) -> list[Part[ActorBatch]]:
        """The batch as it goes through the actor."""
        chunks = self.config.samples_at_once // self.config.chunk_length
        return in_parts(
            (
                (part, total_weight(part.weight, part.logp))
                for part in cut_chunks(batch, chunks * agents)
            ),
            ranks,
        )

    def _actor_losses(
        self, parts: list[Part[ActorBatch]], means: Means, ratio_errors: list[Tensor]
    ) -> Iterator[tuple[Tensor, float]]:
        """The loss of each part and its share; notes what it is made of."""
        for batch, weight, share in parts:
            output, _ = self.actor(
                batch.obs, batch.skill, batch.hidden, batch.keep, batch.action_mask
            )
            logp, entropies = self.actor.score(output, batch.action)
            policy = losses.policy_loss(
                logp, batch.logp, batch.advantage, self.config.clip, batch.weight
            )
            entropy = weighted_mean(entropies, batch.weight)
            yield policy.loss - self.config.low_entropy_coef * entropy, share
            ratio_errors.append(policy.ratio_error)
            means.add(
                weight,
                policy_loss=policy.loss,
                entropy=entropy,
                kl=policy.kl,
                clip_fraction=policy.clip_fraction,
            )

    def _critic_losses(
        self, parts: list[Part[CriticBatch]], means: Means
    ) -> Iterator[tuple[Tensor, float]]:
        """The loss of each part and its share."""
        config = self.config
        for batch, weight, share in parts:
            skills = (batch.team_skill, batch.agent_skills)
            value, _ = self.critic(batch.state, *skills, batch.hidden, batch.keep)
            loss = losses.value_loss(
                value, batch.value, batch.target, config.clip, config.huber_delta, batch.weight
            )
            yield config.value_coef * loss, share
            means.add(weight, value_loss=loss)
