"""Stop 6, high level: the skill coordinator's advantages and its PPO update (HMASD eq. 6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hmasd.algorithm import losses
from hmasd.algorithm.optimization import (
    Learner,
    Means,
    Metrics,
    Part,
    apply_together,
    in_parts,
    largest,
    slices,
    total_weight,
)
from hmasd.algorithm.returns import (
    generalized_advantage,
    segment_slots,
    standardize,
    weighted_mean,
)
from hmasd.config import Config
from hmasd.distributed import ALONE, Ranks
from hmasd.kernels.transfer import to_device, to_host
from hmasd.modules.normalization import ValueNormalizer
from hmasd.networks import SkillCoordinator
from hmasd.types import HighBatch, HighRollout

METRICS = ("policy_loss", "value_loss", "kl", "clip_fraction", "entropy_team", "entropy_agent")


class Coordinator:
    """The high level's network with its optimizer and value normaliser."""

    def __init__(
        self,
        config: Config,
        network: SkillCoordinator,
        normalizer: ValueNormalizer,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.network = network
        self.normalizer = normalizer
        self.entropy_coef = config.high_entropy_coef
        self.learner = Learner("coordinator", network, config, ranks)
        self._first = self.learner.optimizer.flat.detach().clone()

    def begin_anew(self) -> None:
        """Forget all that was learned."""
        self.learner.begin_anew(self._first)
        self.normalizer.forget()

    def prepare(self, segments: HighRollout, bonus: Tensor | None = None) -> HighBatch:
        """Advantages and targets of a batch of segments, one per token.

        Args:
            segments: of one coordinator version.
            bonus: [D], what each segment gets beside the team's reward; None: nothing.
        """
        with torch.no_grad():
            value, next_value = (
                self.network.value(self.network.encode(state, obs))
                for state, obs in (
                    (segments.state, segments.obs),
                    (segments.next_state, segments.next_obs),
                )
            )  # [D, N+1], normalised units
        if bonus is not None:
            segments = segments._replace(reward=segments.reward + to_host(bonus))
        real_value = self.normalizer.denormalize(value)
        advantage = self._advantage(segments, real_value, self.normalizer.denormalize(next_value))
        target = advantage + real_value
        weight = None
        if not segments.alive.all():
            weight = torch.cat([torch.ones_like(segments.alive[:, :1]), segments.alive], dim=1)
            weight = to_device(weight, value.device, value.dtype)
        self.normalizer.update(target, weight, self.ranks)
        # Before the first reward all advantages are the critic's noise. Scaled up to 1 they would
        # make the coordinator drift to some skills for no reason.
        floor = self.config.advantage_floor * self.normalizer.statistics()[1]
        return HighBatch(
            state=segments.state,
            obs=segments.obs,
            team_skill=segments.team_skill,
            agent_skills=segments.agent_skills,
            logp=segments.logp,
            advantage=standardize(advantage, weight, floor, ranks=self.ranks),
            value=value,
            target=self.normalizer.normalize(target),
            weight=weight,
            mask=segments.mask,
        )

    def _advantage(self, segments: HighRollout, value: Tensor, next_value: Tensor) -> Tensor:
        """GAE along each env's segments: [D, N+1]."""
        if len(segments.env) == 0:  # this rank's envs were lost
            return torch.zeros_like(value)
        slot, env = segment_slots(segments.env), segments.env
        shape = (int(slot.max()) + 1, int(env.max()) + 1)
        at = to_device(slot, value.device), to_device(env, value.device)

        def lay_out(x: Tensor) -> Tensor:  # [D, ...] -> [K, E, ...]
            padded = x.new_zeros(*shape, *x.shape[1:])
            padded[at] = x
            return padded

        discount = torch.full_like(segments.reward, self.config.gamma)
        if self.config.high_discount == "smdp":
            discount = discount**segments.length
        reward, terminated, ended, discount = (
            lay_out(to_device(x, value.device)).unsqueeze(-1)
            for x in (segments.reward, segments.terminated, segments.ended, discount)
        )
        advantage = generalized_advantage(
            reward,
            lay_out(value),
            lay_out(next_value),
            terminated,
            ended,
            discount=discount,
            gae_lambda=self.config.gae_lambda,
        )
        return advantage[at]

    def update(self, batch: HighBatch, epochs: int) -> Metrics:
        """All PPO epochs over one batch of segments; returns the metrics `high/...`.

        Args:
            batch: of `prepare`.
            epochs: at most so many.
        """
        parts, means = self._parts(batch), Means(*METRICS, ranks=self.ranks)
        ratio_errors: list[Tensor] = []
        steps = 0
        for _ in range(epochs):
            moved: list[Tensor] = []
            self.learner.accumulate(self._losses(parts, means, ratio_errors, moved))
            if steps and self._has_moved_far(moved):
                break
            apply_together(self.learner)
            steps += 1
        explained = losses.explained_variance(batch.value, batch.target, batch.weight, self.ranks)
        return {
            "high/grad_norm": self.learner.mean_norm(),
            **means.result("high"),
            "high/epochs": float(steps),
            "high/ratio_start": 1.0 + largest(ratio_errors[: len(parts)], self.ranks),
            "high/explained_variance": explained,
        }

    def _has_moved_far(self, moved: list[Tensor]) -> bool:
        """Whether its KL on all ranks' segments, of which these are shares, is beyond the limit."""
        limit = self.config.coordinator_kl_limit
        if limit == 0:
            return False
        here = float(to_host(torch.stack(moved).sum())) if moved else 0.0
        return self.ranks.total(here) > limit

    def _parts(self, batch: HighBatch) -> list[Part[HighBatch]]:
        """The batch as it goes through the network, a segment counting as a sample."""
        cut = []
        for rows in slices(len(batch.state), self.config.samples_at_once):
            part: list[Any] = [None if x is None else x[rows] for x in batch]
            cut.append(HighBatch(*part))
        weighed = ((part, total_weight(part.weight, part.target)) for part in cut)
        return in_parts(weighed, self.ranks)

    def _losses(
        self,
        parts: list[Part[HighBatch]],
        means: Means,
        ratio_errors: list[Tensor],
        moved: list[Tensor],
    ) -> Iterator[tuple[Tensor, float]]:
        """The loss of each part and its share; notes what it is made of, and each part's KL."""
        config = self.config
        for batch, weight, share in parts:
            scores = self.network.evaluate(
                batch.state, batch.obs, batch.team_skill, batch.agent_skills, batch.mask
            )
            policy = losses.policy_loss(
                scores.logp, batch.logp, batch.advantage, config.clip, batch.weight
            )
            value = losses.value_loss(
                scores.value,
                batch.value,
                batch.target,
                config.clip,
                config.huber_delta,
                batch.weight,
            )
            entropy = weighted_mean(scores.entropy, batch.weight)
            loss = policy.loss + config.value_coef * value - self.entropy_coef * entropy
            yield loss, share
            ratio_errors.append(policy.ratio_error)
            moved.append(share * policy.kl)
            means.add(
                weight,
                policy_loss=policy.loss,
                value_loss=value,
                kl=policy.kl,
                clip_fraction=policy.clip_fraction,
            )
            self._note_entropies(scores.entropy, batch.weight, means)

    @staticmethod
    def _note_entropies(entropy: Tensor, weight: Tensor | None, means: Means) -> None:
        """Of the team's choices, and of the agents' who live; entropy, weight: [D, N+1]."""
        agents, living = entropy[:, 1:], None if weight is None else weight[:, 1:]
        means.add(float(len(entropy)), entropy_team=entropy[:, 0].mean())
        means.add(total_weight(living, agents), entropy_agent=weighted_mean(agents, living))
