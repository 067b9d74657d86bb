"""Stop 6, high level: the skill coordinator's advantages and its PPO update (HMASD eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from hmasd.algorithm import losses
from hmasd.algorithm.optimization import Learner, Means
from hmasd.algorithm.returns import (
    generalized_advantage,
    segment_slots,
    standardize,
    weighted_mean,
)
from hmasd.config import Config
from hmasd.modules.normalization import ValueNormalizer
from hmasd.networks import SkillCoordinator
from hmasd.types import HighBatch, HighRollout


class Coordinator:
    """The high level's network with its optimizer and value normaliser."""

    def __init__(
        self, config: Config, network: SkillCoordinator, normalizer: ValueNormalizer
    ) -> None:
        self.config = config
        self.network = network
        self.normalizer = normalizer
        self.learner = Learner("coordinator", network, config)

    def prepare(self, segments: HighRollout) -> HighBatch:
        """Advantages and targets of a batch of segments, one per token."""
        with torch.no_grad():
            value, next_value = (
                self.network.value(self.network.encode(state, obs))
                for state, obs in (
                    (segments.state, segments.obs),
                    (segments.next_state, segments.next_obs),
                )
            )  # [D, N+1], normalised units
        real_value = self.normalizer.denormalize(value)
        advantage = self._advantage(segments, real_value, self.normalizer.denormalize(next_value))
        target = advantage + real_value
        weight = None
        if not segments.alive.all():
            weight = torch.cat([torch.ones_like(segments.alive[:, :1]), segments.alive], dim=1)
            weight = weight.to(value.dtype)
        self.normalizer.update(target, weight)
        # Before the first reward all advantages are the critic's noise. Scaled up to 1 they would
        # make the coordinator drift to some skills for no reason.
        floor = self.config.advantage_floor * float(self.normalizer.statistics()[1])
        return HighBatch(
            state=segments.state,
            obs=segments.obs,
            team_skill=segments.team_skill,
            agent_skills=segments.agent_skills,
            logp=segments.logp,
            advantage=standardize(advantage, weight, floor),
            value=value,
            target=self.normalizer.normalize(target),
            weight=weight,
            mask=segments.mask,
        )

    def _advantage(self, segments: HighRollout, value: Tensor, next_value: Tensor) -> Tensor:
        """GAE along each env's segments: [D, N+1]."""
        slot, env = segment_slots(segments.env), segments.env
        shape = (int(slot.max()) + 1, int(env.max()) + 1)

        def lay_out(x: Tensor) -> Tensor:  # [D, ...] -> [K, E, ...]
            padded = x.new_zeros(*shape, *x.shape[1:])
            padded[slot, env] = x
            return padded

        discount = torch.full_like(segments.reward, self.config.gamma)
        if self.config.high_discount == "smdp":
            discount = discount**segments.length
        advantage = generalized_advantage(
            lay_out(segments.reward).unsqueeze(-1),
            lay_out(value),
            lay_out(next_value),
            lay_out(segments.terminated).unsqueeze(-1),
            lay_out(segments.ended).unsqueeze(-1),
            discount=lay_out(discount).unsqueeze(-1),
            gae_lambda=self.config.gae_lambda,
        )
        return advantage[slot, env]

    def update(self, batch: HighBatch) -> dict[str, float]:
        """All PPO epochs over one batch of segments; returns the metrics `high/...`."""
        means = Means()
        ratio_start = None
        for _ in range(self.config.coordinator_epochs):
            ratio_error = self._step(batch, means)
            ratio_start = ratio_error if ratio_start is None else ratio_start
        self.learner.check()
        metrics = means.result("high")
        if ratio_start is not None:
            metrics["high/ratio_start"] = 1.0 + float(ratio_start)
        explained = losses.explained_variance(batch.value, batch.target, batch.weight)
        return metrics | {"high/explained_variance": float(explained)}

    def _step(self, batch: HighBatch, means: Means) -> Tensor:
        config = self.config
        scores = self.network.evaluate(
            batch.state, batch.obs, batch.team_skill, batch.agent_skills, batch.mask
        )
        policy = losses.policy_loss(
            scores.logp, batch.logp, batch.advantage, config.clip, batch.weight
        )
        value = losses.value_loss(
            scores.value, batch.value, batch.target, config.clip, config.huber_delta, batch.weight
        )
        entropy = weighted_mean(scores.entropy, batch.weight)
        norm = self.learner.step(
            policy.loss + config.value_coef * value - config.high_entropy_coef * entropy
        )
        means.add(
            policy_loss=policy.loss,
            value_loss=value,
            entropy_team=scores.entropy[:, 0].mean(),
            entropy_agent=weighted_mean(
                scores.entropy[:, 1:], None if batch.weight is None else batch.weight[:, 1:]
            ),
            kl=policy.kl,
            clip_fraction=policy.clip_fraction,
            grad_norm=norm,
        )
        return policy.ratio_error
