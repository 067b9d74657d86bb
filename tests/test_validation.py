"""Bad settings are refused, all at once, with numbers and a remedy."""

import dataclasses
import re

import pytest

from hmasd import validation
from hmasd.config import Config
from hmasd.presets import PRESETS
from hmasd.settings import ConfigError, field_types
from hmasd.validation import validate


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
