"""Tells the arithmetic behind a run, as its first lines show it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hmasd.batch_schedule import planned_rounds, rounds_until
from hmasd.config import Config


def describe(config: Config, world_size: int = 1) -> str:
    """The numbers that follow from a valid configuration, a few lines to print at the start."""
    first = f"{config.env}, seed {config.seed}, {config.device}, {config.threads} thread(s)"
    if config.eval_only:
        return first
    envs, length, interval = config.num_envs, config.episode_length, config.skill_interval
    per_episode = -(-length // interval)
    lines = [
        first,
        _describe_rounds(config)
        if config.sync_mode
        else f"asynchronous: an update every {config.batch_size:,} env steps, on "
        f"{config.batch_size // config.chunk_length} fragments of {config.chunk_length} steps, "
        f"each of them finished over {config.chunk_length * envs / config.batch_size:.3g} updates",
        f"skills: a new decision every {interval} steps and at each episode's start, so an episode "
        f"of {length} steps has ceil({length} / {interval}) = {per_episode} segments"
        + _describe_persistence(config),
        *_describe_coordinator(config),
    ]
    if world_size > 1:
        lines.append(
            f"{world_size} processes with {envs // world_size} envs each, which collect and learn "
            "as one"
        )
    if interval > length:
        lines.append(
            f"note: skill_interval {interval} is longer than an episode ({length} steps): every "
            "segment is a whole episode"
        )
    cores = os.cpu_count() or 1
    if config.eval_mode == "process" and config.threads >= cores:
        lines.append(
            f"note: eval_mode process needs a core of its own, but training's {config.threads} "
            f"thread(s) take all {cores} of this machine: evaluations will take long"
        )
    return "\n".join(lines)


def _describe_persistence(config: Config) -> str:
    """How often skills last longer, if they do."""
    if config.skill_persistence == 0:
        return ""
    return f"; while nothing is won {config.skill_persistence:.0%} of them go on for another one"


def _describe_rounds(config: Config) -> str:
    """How large they are and how many."""
    first = (
        f"round: {config.num_envs} envs x {config.rollout_length} steps = {config.batch_size:,} "
        "samples"
    )
    if config.batch_schedule == "noise":
        fewest, most = (
            -(-config.total_steps // size)
            for size in (config.largest_batch_size, config.batch_size)
        )
        return (
            f"{first}, growing with the noise scale up to {config.largest_batch_size:,}; "
            f"{fewest:,} to {most:,} rounds"
        )
    rounds = planned_rounds(config)
    parts = " + ".join(f"{number:,} rounds x {size:,}" for size, number in rounds)
    return f"{first}; {parts} = {sum(size * number for size, number in rounds):,} env steps"


def _describe_coordinator(config: Config) -> Iterator[str]:
    """When it learns, if it does."""
    if config.high_level == "random":
        yield "coordinator: none, skills are chosen by chance"
        return
    if not config.sync_mode:
        yield (
            f"coordinator: updated when {config.high_level_batch_size:,} segments are closed; the "
            "open ones run on"
        )
        return
    after, closed, cut = first_coordinator_update(config)
    rounds = sum(number for _, number in planned_rounds(config))
    yield (
        f"coordinator: updated when {config.high_level_batch_size:,} segments are closed; if no "
        f"episode ends early and no skill goes on that is first after {after:,} round(s), with "
        f"{closed:,} closed segments and {cut} more cut by the update"
    )
    if 0 < config.exploration_start < config.total_steps:
        yield (
            f"exploration: from {config.exploration_start:,} env steps on, if few episodes are won "
            f"by then; the coordinator is updated when {config.exploration_batch_size:,} segments "
            "are closed"
        )
    if after > rounds:
        yield (
            f"note: {after:,} rounds are more than the run's {rounds:,}: the coordinator may never "
            f"learn; lower high_level_batch_size or raise total_steps"
        )


def first_coordinator_update(config: Config) -> tuple[int, int, int]:
    """When the coordinator is first updated.

    If no episode ends early, no skill persists, and noise lets no round grow.

    Returns:
        The number of rounds, the segments that are closed by then, and the open ones that the
        update cuts.
    """
    envs, length, interval = config.num_envs, config.episode_length, config.longest_segment
    per_episode = -(-length // interval)
    needed = -(-config.high_level_batch_size // envs)  # segments of each env
    episodes, more = divmod(needed - 1, per_episode)
    # the env step at which the last segment needed closes; the episode's last one may be shorter
    step = episodes * length + min((more + 1) * interval, length)
    rounds, step = rounds_until(config, step)
    episodes, age = divmod(step, length)
    closed = episodes * per_episode + age // interval
    cut = age % interval != 0
    return rounds, closed * envs, cut * envs
