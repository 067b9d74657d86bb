"""Bad settings are refused, all at once, with numbers and a remedy."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmasd import validation
from hmasd.batch_schedule import next_batch_size
from hmasd.config import Config
from hmasd.presets import PRESETS
from hmasd.settings import field_types
from hmasd.validation import ConfigError, describe, first_coordinator_update, validate


@pytest.fixture
def good(tmp_path):
    return Config(output_dir=str(tmp_path))


def problems(config):
    with pytest.raises(ConfigError) as raised:
        validate(config)
    return str(raised.value)


def test_good_settings_pass(good):
    validate(good)
    for preset in ("alice_and_bob", "paper_alice_and_bob"):
        validate(dataclasses.replace(good, **PRESETS[preset]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"batch_size": 1000}, "1000 = 31 x 32 [+] 8.*: 992, 1024"),
        ({"batch_size": 5}, "the nearest that are: 32$"),
        ({"skill_interval": 0}, "skill_interval = 0 must be at least 1"),
        ({"chunk_length": 10}, "1024 / 32 = 32: choose one of 1, 2, 4, 8, 16, 32"),
        ({"num_envs": 0}, "num_envs = 0 must be at least 1"),
        ({"threads": 0}, "threads = 0 must be at least 1"),
        ({"eval_interval": -1}, "eval_interval = -1 must be at least 0"),
        ({"seed": 2**31}, "seed = 2147483648 must be at most 2147483647"),
        ({"team_coef": -0.1}, "team_coef = -0.1 must be at least 0"),
        ({"team_coef": float("nan")}, "team_coef = nan must be a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate = inf must be a finite number"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0 must be more than 0"),
        ({"clip": 0.0}, "clip = 0.0 must be more than 0"),
        ({"gamma": 1.01}, "gamma = 1.01 must be at most 1"),
        ({"gae_lambda": -0.1}, "gae_lambda = -0.1 must be at least 0"),
        (
            {"coordinator_heads": 3},
            "hidden_size = 64 .* coordinator_heads = 3.* hidden_size 63 or 66, ",
        ),
        ({"coordinator_heads": 3}, "hidden_size = 64 .*, or coordinator_heads 2 or 4$"),
        ({"coordinator_heads": 99}, "choose hidden_size 99, or coordinator_heads 64$"),
        ({"winning_extrinsic_coef": 0.0}, "no other: set winning_intrinsic = 1, or winning_ext"),
        ({"survey_interval": 1}, "survey_interval = 1 is too short, .* 2 or more, or to 0"),
        ({"num_agent_skills": 1}, "num_agent_skills = 1 leaves nothing .* individual_coef = 0, or"),
        ({"device": "cuda:99"}, "device = 'cuda:99'.*--device cpu"),
        ({"device": "nonsense"}, "device = 'nonsense'"),
        ({"device": "meta"}, "device = 'meta'"),
        ({"sync_mode": False, "chunk_length": 48}, "a multiple of 48 up to 1536"),
        ({"sync_mode": False, "batch_size": 256, "env_restarts": 2}, "set env_restarts = 0"),
        ({"sync_mode": False, "batch_size": 512}, "a multiple of 8 up to 256"),
        ({"sync_mode": False, "chunk_length": 24, "batch_size": 96}, "must divide num_envs = 32"),
        ({"sync_mode": False, "batch_schedule": "linear"}, "'linear' lets the synchronous round"),
        ({"num_envs": 1, "batch_schedule": "noise"}, "num_envs = 1: set num_envs to 2"),
        (
            {"batch_schedule": "noise", "low_level": "action"},
            "low_level = 'action' has no discoverer: set batch_schedule = 'linear'",
        ),
        ({"max_batch_factor": 0}, "max_batch_factor = 0 must be at least 1"),
        ({"env": "alice_and_bop"}, "did you mean 'alice_and_bob'"),
        ({"env": "smac_3m"}, "env = 'smac_3m' does not exist"),
        ({"eval_only": True}, "give --model-path"),
        ({"model_path": "none.pth"}, "model_path = 'none.pth': there is no such file"),
    ],
)
def test_each_problem_is_named(good, change, expected):
    assert re.search(expected, problems(dataclasses.replace(good, **change)))


def test_skills_by_chance_are_described_without_a_coordinators_clock(good):
    assert "chosen by chance" in describe(dataclasses.replace(good, high_level="random"))
    assert "chosen by chance" not in describe(good)


def test_asynchronous_training_is_described(good):
    config = dataclasses.replace(good, **PRESETS["asynchronous"])
    validate(config)
    assert "every 128 env steps, on 4 fragments of 32 steps" in describe(config)
    assert "over 8 updates" in describe(config)
    assert "asynchronous" not in describe(good)


def test_all_problems_are_listed(good):
    bad = dataclasses.replace(good, batch_size=1000, skill_interval=0, env="x", clip=-1.0)
    text = problems(bad)
    assert len(text.splitlines()) == 4
    for name in ("batch_size", "skill_interval", "env", "clip"):
        assert name in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_envs": 9, "batch_size": 288}, "choose 8 or 10"),
        ({"eval_only": True}, "start it without torchrun"),
        ({"sync_mode": False}, "trains in one process, not in 2"),
        ({"device": "cuda:0"}, "one GPU for all 2 processes: --device cuda gives each its own"),
    ],
)
def test_what_several_processes_cannot_do_is_named(good, any_device, change, expected):
    config = dataclasses.replace(good, **change)
    with pytest.raises(ConfigError, match=re.escape(expected)):
        validate(config, world_size=2)
    assert list(validation._rank_problems(config, world_size=1)) == []


def test_a_folder_that_cannot_be_written_is_refused_and_none_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    text = problems(Config(output_dir=str(tmp_path / "file" / "below")))
    assert "output_dir" in text and str(tmp_path / "file") in text
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "logs").write_text("")
    assert str(tmp_path / "out" / "logs") in problems(Config(output_dir=str(tmp_path / "out")))
    validate(Config(output_dir=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


def test_the_sets_of_limits_name_fields_of_their_type():
    kinds = field_types()
    assert all(kinds[name] is int for name in validation.AT_LEAST_ZERO)
    assert all(kinds[name] is float for name in validation.POSITIVE | validation.FRACTIONS)


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
