"""The size of the next round: whole multiples within limits, and plans that tell it beforehand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmasd.batch_schedule import Rounds, next_batch_size, planned_rounds, rounds_until
from hmasd.config import Config

LINEAR = Config(batch_schedule="linear", total_steps=1_000_000)
NOISE = Config(batch_schedule="noise")


def test_a_constant_round_stays_as_it_is() -> None:
    config = Config()
    assert next_batch_size(config, 1024, 10**9, math.inf) == 1024
    assert next_batch_size(config, 3072, 0, None) == 3072  # gone on with after it grew
    assert config.largest_batch_size == 1024


@pytest.mark.parametrize(
    ("env_steps", "size"),
    [
        (0, 1024),
        (249_999, 1024),
        (250_000, 2048),
        (500_000, 3072),
        (749_999, 3072),
        (750_000, 4096),
        (2_000_000, 4096),
    ],
)
def test_linear_gives_each_size_an_equal_share_of_the_steps(env_steps: int, size: int) -> None:
    assert next_batch_size(LINEAR, 1024, env_steps, None) == size
    assert LINEAR.largest_batch_size == 4096


def test_a_run_that_goes_on_for_more_steps_keeps_its_round() -> None:
    assert next_batch_size(LINEAR, 4096, 250_000, None) == 4096


@pytest.mark.parametrize(
    ("current", "noise_scale", "size"),
    [
        (1024, None, 1024),
        (1024, -5.0, 1024),
        (1024, 700.0, 1024),
        (1024, 2047.9, 1024),
        (1024, 2048.0, 2048),
        (1024, 3500.0, 3072),
        (1024, 1e9, 4096),
        (1024, math.inf, 4096),
        (3072, 1500.0, 3072),  # it never shrinks
    ],
)
def test_noise_lets_the_round_grow_up_to_the_scale(
    current: int, noise_scale: float | None, size: int
) -> None:
    assert next_batch_size(NOISE, current, 0, noise_scale) == size


def played(config: Config) -> list[Rounds]:
    """The plan by counting: round after round until all steps are taken."""
    sizes, steps = [], 0
    while steps < config.total_steps:
        sizes.append(next_batch_size(config, config.batch_size, steps, None))
        steps += sizes[-1]
    return [Rounds(size, sizes.count(size)) for size in sorted(set(sizes))]


@given(
    st.integers(1, 40),
    st.integers(1, 6),
    st.integers(1, 2000),
    st.sampled_from(["constant", "linear", "noise"]),
)
def test_the_plan_equals_counting(batch_size: int, most: int, total: int, schedule) -> None:
    config = Config(
        num_envs=1,
        batch_size=batch_size,
        batch_schedule=schedule,
        max_batch_factor=most,
        total_steps=total,
    )
    assert [rounds for rounds in planned_rounds(config) if rounds.number] == played(config)


def test_the_round_in_which_a_step_lies() -> None:
    """Rounds of 32 steps up to step 7840, then of 64."""
    assert rounds_until(LINEAR, 1) == (1, 32)
    assert rounds_until(LINEAR, 32) == (1, 32)
    assert rounds_until(LINEAR, 33) == (2, 64)
    assert rounds_until(LINEAR, 7840) == (245, 7840)
    assert rounds_until(LINEAR, 7841) == (246, 7904)
    assert rounds_until(Config(total_steps=1024), 320) == (10, 320)  # longer than the run
