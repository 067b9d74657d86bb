"""How many samples the next round has: always as many, or more while training goes on."""

from __future__ import annotations

from typing import NamedTuple

from hmasd.config import Config


class Rounds(NamedTuple):
    """Some rounds of one size, one after the other."""

    batch_size: int  # samples of each
    number: int


def next_batch_size(config: Config, current: int, env_steps: int, noise_scale: float | None) -> int:
    """Samples of the round that begins now: batch_size times 1 to max_batch_factor.

    A round is never smaller than the one before, also where a run goes on with other settings.

    Args:
        config: `batch_schedule` decides; 'constant' leaves the round as it is.
        current: samples of the round before.
        env_steps: taken so far. 'linear': of total_steps, each size has an equal share.
        noise_scale: in samples; None: not known well enough. 'noise': the round is the largest that
            is not above it.
    """
    factor, most = 1, config.max_batch_factor
    if config.batch_schedule == "linear":
        factor = min(1 + env_steps * most // config.total_steps, most)
    elif config.batch_schedule == "noise" and noise_scale is not None:
        factor = int(min(noise_scale / config.batch_size, most))
    return max(current, factor * config.batch_size)


def planned_rounds(config: Config) -> list[Rounds]:
    """All rounds of a run; with the schedule 'noise' those of a run whose round never grows."""
    linear = config.batch_schedule == "linear"
    sizes = config.max_batch_factor if linear else 1
    plan, steps = [], 0
    for factor in range(1, sizes + 1):
        batch_size, end = factor * config.batch_size, -(-factor * config.total_steps // sizes)
        number = max(0, -(-(end - steps) // batch_size))
        plan.append(Rounds(batch_size, number))
        steps += number * batch_size
    return plan


def rounds_until(config: Config, lock_steps: int) -> tuple[int, int]:
    """The first round that ends after so many steps of each env, however long the run is.

    Returns:
        Its number, from 1, and the steps of each env at its end.
    """
    rounds = steps = 0
    *early, last = planned_rounds(config)
    for batch_size, number in early:
        length = batch_size // config.num_envs
        taken = min(number, -(-(lock_steps - steps) // length))
        rounds, steps = rounds + taken, steps + taken * length
    length = last.batch_size // config.num_envs
    more = -(-(lock_steps - steps) // length)
    return rounds + more, steps + more * length
