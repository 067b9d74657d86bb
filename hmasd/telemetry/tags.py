"""Every metric with its meaning in one line; ``docs/metrics.md`` says more.

``{i}`` in a tag stands for the number of a skill, from 0.
"""

from __future__ import annotations

import re

TAGS: dict[str, str] = {
    "Sync/BatchSize": "samples of the round; it grows where batch_schedule says so",
    "Sync/PolicyVersion": "version of the policy that collected the round",
    "Sync/CollectionTime": "seconds that the round's collection took",
    "Sync/UpdateTime": "seconds that the round's update took",
    "Buffer/SamplesCollected": "samples in the round when its update began",
    "Buffer/low_level_buffer_size": "rows of the low level's memory when the update began",
    "Buffer/high_level_buffer_size": "closed segments waiting for the coordinator's update",
    "rollout/return": "mean sum of the team reward over the last 100 episodes that ended",
    "rollout/length": "mean length of the last 100 episodes that ended",
    "rollout/success": "share of the last 100 episodes that ended which reached their goal",
    "rollout/episodes": "episodes that ended since the start of training",
    "reward/extrinsic": "mean team reward per step, weighted with lambda_e",
    "reward/team": "mean team part of the discoverer's reward, weighted with lambda_D",
    "reward/individual": "mean individual part of the discoverer's reward, weighted with lambda_d",
    "high/policy_loss": "clipped surrogate of the coordinator",
    "high/value_loss": "clipped Huber loss of the coordinator's values",
    "high/entropy_team": "entropy of the choice of the team skill",
    "high/entropy_agent": "mean entropy of the choices of the individual skills",
    "high/kl": "divergence of the coordinator from the one that chose",
    "high/clip_fraction": "share of the coordinator's ratios outside the clip range",
    "high/explained_variance": "share of the variance of the returns that V_h explains",
    "high/grad_norm": "norm of the coordinator's gradient before clipping",
    "high/ratio_start": "1 + largest |ratio - 1| of the coordinator before its first gradient step",
    "high/epochs": "passes of the coordinator's update, fewer where coordinator_kl_limit ended it",
    "high/novelty": "mean novelty of what segments passed through, 1 to 0",
    "high/surveys": "surveys of what is usual, by chance and since",
    "high/segments": "segments in the coordinator's batch",
    "high/segment_length": "mean steps of a segment",
    "high/cut_share": "share of the segments that the coordinator's update cut short",
    "high/explores": "1 where the coordinator explored in the round (exploration_start), else 0",
    "high/begins_anew": "1 where a coordinator that had explored for few wins forgot all it knew",
    "low/policy_loss": "clipped surrogate of the discoverer's actor",
    "low/value_loss": "clipped Huber loss of the discoverer's critic",
    "low/entropy": "mean entropy of the actions",
    "low/sharpness": "power of the actions' probabilities, in the round",
    "low/kl": "divergence of the actor from the one that acted",
    "low/clip_fraction": "share of the actor's ratios outside the clip range",
    "low/explained_variance": "share of the variance of the returns that V_l explains",
    "low/actor_grad_norm": "norm of the actor's gradient before clipping",
    "low/critic_grad_norm": "norm of the critic's gradient before clipping",
    "low/ratio_start": "1 + largest |ratio - 1| of the actor before its first gradient step",
    "low/gradient_signal": "squared norm of the actor's gradient without its noise",
    "low/gradient_noise": "variance of one sample's gradient of the actor",
    "low/noise_scale": "samples at which the actor's gradient is as much signal as noise",
    "disc/team_loss": "cross-entropy of the team discriminator",
    "disc/team_accuracy": "how often the team discriminator names the team skill",
    "disc/team_chance": "accuracy of guessing the team skill blindly",
    "disc/team_roughness": "how far steps change the team discriminator's logits beyond the limit",
    "disc/team_grad_norm": "norm of the team discriminator's gradient before clipping",
    "disc/individual_loss": "cross-entropy of the individual discriminator",
    "disc/individual_accuracy": "how often the individual discriminator names the skill",
    "disc/individual_chance": "accuracy of guessing the individual skill blindly",
    "disc/individual_roughness": "how far steps change the individual's logits beyond the limit",
    "disc/individual_grad_norm": "norm of the individual discriminator's gradient before clipping",
    "skill/team_usage_{i}": "share of steps under team skill i",
    "skill/agent_usage_{i}": "share of steps and agents under individual skill i",
    "skill/team_usage_entropy": "entropy of the usage of team skills over its maximum",
    "skill/agent_usage_entropy": "entropy of the usage of individual skills over its maximum",
    "sync/policy_lag": "policy versions between acting and learning; 0 by construction",
    "sync/discarded_samples": "samples of the round that nobody learns from, because envs failed",
    "sync/coordinator_version": "updates of the coordinator so far",
    "async/off_policy_share": "share of the batch that older versions of the policy made",
    "async/lag_mean": "mean number of versions between acting and learning",
    "async/lag_max": "largest number of versions between acting and learning",
    "async/coordinator_off_policy_share": "share of the segments that older coordinators decided",
    "async/coordinator_lag_mean": "mean number of coordinator versions between choice and learning",
    "async/coordinator_lag_max": "largest number of coordinator versions between the two",
    "time/steps_per_second": "env steps per second of the whole training",
    "time/collect_steps_per_second": "env steps per second of collection alone",
    "time/reduce": "seconds that the round's reductions over processes took, waiting included",
    "time/update_steps_per_second": "env steps per second of updates alone",
    "time/evaluation_seconds": "seconds that the evaluation took",
    "time/evaluation_lag_steps": "env steps trained until the evaluation's result was there",
    "time/evaluations_waiting": "policies whose evaluation is not done yet",
    "time/evaluations_lost": "evaluations that gave no result since the program was started",
    "eval/greedy_success": "share of evaluation episodes won by the most probable choices",
    "eval/greedy_return": "mean return of greedy evaluation episodes",
    "eval/greedy_length": "mean length of greedy evaluation episodes",
    "eval/stochastic_success": "share of evaluation episodes won by sampled choices",
    "eval/stochastic_return": "mean return of stochastic evaluation episodes",
    "eval/stochastic_length": "mean length of stochastic evaluation episodes",
}
"""Tag to its meaning."""

_NUMBERED = re.compile(r"_\d+$")


def meaning(tag: str) -> str | None:
    """Returns what a tag means, e.g. of ``skill/team_usage_2``; None if the tag is not known."""
    return TAGS.get(tag) or TAGS.get(_NUMBERED.sub("_{i}", tag))


def usage_tags(num_team_skills: int, num_agent_skills: int) -> list[str]:
    """Returns the tags of skill usage for n_Z team skills and n_z individual skills."""
    team = [f"skill/team_usage_{i}" for i in range(num_team_skills)]
    return team + [f"skill/agent_usage_{i}" for i in range(num_agent_skills)]
