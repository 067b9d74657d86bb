"""What a run says at its start follows from its settings."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmasd.batch_schedule import next_batch_size
from hmasd.config import Config
from hmasd.description import describe, first_coordinator_update
from hmasd.presets import PRESETS
from hmasd.validation import validate


@pytest.fixture
def good(tmp_path):
    return Config(output_dir=str(tmp_path))


def test_skills_by_chance_are_described_without_a_coordinators_clock(good):
    assert "chosen by chance" in describe(dataclasses.replace(good, high_level="random"))
    assert "chosen by chance" not in describe(good)


def test_asynchronous_training_is_described(good):
    config = dataclasses.replace(good, **PRESETS["asynchronous"])
    validate(config)
    assert "every 128 env steps, on 4 fragments of 32 steps" in describe(config)
    assert "over 8 updates" in describe(config)
    assert "asynchronous" not in describe(good)


def counted(config):
    """The same by playing it: one env, step by step, each round as long as the schedule says."""
    step = age = episode = closed = rounds = end = 0
    while True:
        if step == end:
            taken = step * config.num_envs
            end += next_batch_size(config, config.batch_size, taken, None) // config.num_envs
            rounds += 1
        step, age, episode = step + 1, age + 1, episode + 1
        ended = episode == config.episode_length
        if age == config.skill_interval or ended:
            closed, age = closed + 1, 0
        episode = 0 if ended else episode
        if step == end and closed * config.num_envs >= config.high_level_batch_size:
            envs = config.num_envs
            return rounds, closed * envs, (age > 0) * envs


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 30), st.integers(1, 40), st.data())
def test_the_first_update_of_the_coordinator_equals_counting(envs, steps, length, interval, data):
    config = Config(
        num_envs=envs,
        batch_size=envs * steps,
        episode_length=length,
        skill_interval=interval,
        high_level_batch_size=data.draw(st.integers(1, 60)),
        batch_schedule=data.draw(st.sampled_from(["constant", "linear", "noise"])),
        max_batch_factor=data.draw(st.integers(1, 5)),
        total_steps=data.draw(st.integers(1, 3000)),
    )
    assert first_coordinator_update(config) == counted(config)


def test_describe_states_the_arithmetic(good):
    preset = dataclasses.replace(good, **PRESETS["paper_alice_and_bob"])
    text = describe(preset)
    assert "32 envs x 100 steps = 3,200 samples" in text
    assert "938 rounds x 3,200 = 3,001,600 env steps" in text
    assert "ceil(100 / 50) = 2 segments" in text
    assert "after 1 round(s), with 64 closed segments and 0 more cut" in text


def test_describe_tells_the_rounds_that_grow(good):
    linear = dataclasses.replace(good, batch_schedule="linear", total_steps=1_000_000)
    assert "245 rounds x 1,024 + 122 rounds x 2,048 + 82 rounds x 3,072 + 61" in describe(linear)
    noise = dataclasses.replace(linear, batch_schedule="noise")
    assert "up to 4,096; 245 to 977 rounds" in describe(noise)


def test_describe_says_nothing_of_rounds_where_nothing_is_learned(good):
    assert len(describe(dataclasses.replace(good, eval_only=True)).splitlines()) == 1


def test_describe_notes_what_is_allowed_but_odd(good):
    assert "longer than an episode" in describe(dataclasses.replace(good, skill_interval=101))
    assert "may never learn" in describe(dataclasses.replace(good, total_steps=1024))
    assert "note" not in describe(good)
