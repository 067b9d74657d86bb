"""The presets against the paper's tables, typed here as the paper prints them."""

import pytest

from hmasd.config import Config
from hmasd.presets import CHANGES, PRESETS
from hmasd.settings import Entry, checked, field_types
from hmasd.validation import validate

TABLE_2 = {  # lr, episode length, env steps, eval episodes, skill at, discriminators' steps
    "alice_and_bob": "5e-4 100 3e6 100 output",
    "smac": "1e-4 100 2e6 100 input",
    "overcooked": "1e-4 400 1e7 32 output",
}
TABLE_3 = """
task          scenario              | k  n_Z n_z λ_h   λ_l  λ_e λ_D  λ_d | steps segments
alice_and_bob alice_and_bob         | 50 2   4   0.1   0.01 0   0.1  0.2 | 15    64
smac          3m                    | 25 3   3   0.001 0.01 100 0.1  0.5 | 5     128
smac          2s_vs_1sc             | 25 2   5   0.03  0.01 100 0.1  1   | 5     128
smac          2m_vs_1z              | 50 3   2   0.005 0.01 100 0.1  1   | 5     64
overcooked    cramped_room          | 25 3   3   0.01  0.01 100 1    0.5 | 15    512
overcooked    asymmetric_advantages | 25 3   3   0.01  0.01 100 0.1  0.1 | 5     512
overcooked    coordination_ring     | 10 3   3   0.1   0.01 100 0.15 0.1 | 5     1280
"""
ROWS = [line.replace("|", " ").split() for line in TABLE_3.strip().splitlines()[1:]]


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_paper_preset_equals_the_tables(row):
    task, scenario, *numbers = row
    config = Config(**PRESETS[f"paper_{scenario}"])
    assert config.env == (scenario if task == "alice_and_bob" else f"{task}_{scenario}")
    skills = (config.skill_interval, config.num_team_skills, config.num_agent_skills)
    coefs = (config.high_entropy_coef, config.low_entropy_coef, config.extrinsic_coef)
    coefs += (config.team_coef, config.individual_coef)
    rest = (config.discriminator_epochs, config.high_level_batch_size)
    assert skills + coefs + rest == tuple(float(number) for number in numbers)
    *values, skill_at = TABLE_2[task].split()
    found = (config.learning_rate, config.episode_length, config.total_steps, config.eval_episodes)
    assert found == tuple(float(value) for value in values)
    assert config.skill_input == skill_at
    assert config.rollout_length == config.episode_length


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_paper_preset_has_table_1(row):
    config = Config(**PRESETS[f"paper_{row[1]}"])
    assert (config.num_envs, config.hidden_size, config.adam_eps, config.clip) == (
        32,
        64,
        1e-5,
        0.2,
    )
    assert (config.coordinator_epochs, config.discoverer_epochs, config.value_coef) == (15, 15, 1)
    assert (config.gae_lambda, config.gamma, config.huber_delta) == (0.95, 0.99, 10)
    assert (config.max_grad_norm, config.chunk_length) == (10, 10)
    assert (config.critic_head, config.discriminator_rounds) == ("team", 1)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_names_fields_and_gives_their_types(name):
    assert set(PRESETS[name]) <= set(field_types())
    values = checked({key: Entry(x, name) for key, x in PRESETS[name].items()})
    assert values == PRESETS[name]


def test_the_presets_are_the_papers_seven_ours_and_changes_to_them():
    tasks = {f"paper_{row[1]}" for row in ROWS} | {"alice_and_bob"}
    assert set(PRESETS) == tasks | set(CHANGES)
    assert not tasks & set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_fits_every_task(name, tmp_path):
    for task in ("paper_alice_and_bob", "alice_and_bob"):
        settings = PRESETS[task] | CHANGES[name]
        validate(Config(**settings, output_dir=str(tmp_path)))
        assert settings != PRESETS[task] or name == "no_extrinsic"  # these have no lambda_e


OFF = {  # what the paper does not have, and the value with which it is not there
    **{"skill_gain": 0.01, "discriminator_smoothness": 0, "discriminator_balance": False},
    **{"advantage_floor": 0, "agent_id": False, "reset_hidden_on_skill": False},
    **{"individual_reward": "log_q", "intrinsic_offset": "none", "high_discount": "paper"},
    **{"coordinator_kl_limit": 0, "choice_residual": False, "skill_persistence": 0},
    **{"exploration_start": 0, "winning_step": 1, "losing_entropy": 1},
    **{"winning_extrinsic_coef": 0, "winning_intrinsic": 1},
    **{"winning_sharpness": 1, "policy_average": 1},
    **{"critic_input": "state", "high_level": "coordinator", "low_level": "discoverer"},
    **{"batch_schedule": "constant", "sync_mode": True, "team_reward": "sum"},
}
HOW_IT_RUNS = {
    *("env_args", "env_restarts", "env_timeout", "env_workers", "rank_timeout", "reduce_timeout"),
    *("eval_interval", "eval_mode", "eval_only", "eval_timeout", "keep_policies", "model_path"),
    *("checkpoint_interval", "auto_resume", "output_dir", "log_level", "compare_interval"),
    *("seed", "device", "threads", "matmul_precision", "samples_at_once"),
}
UNUSED = {
    *("novelty_coef", "exploration_batch_size", "exploration_epochs", "survey_interval"),
    "max_batch_factor",
}


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_a_new_default_cannot_change_the_papers_setting(row):
    """Every setting is the preset's own, off, unused then, or no part of the algorithm."""
    preset = PRESETS[f"paper_{row[1]}"]
    config = Config(**preset)
    assert {name: getattr(config, name) for name in OFF} == OFF
    assert set(field_types()) == set(preset) | set(OFF) | HOW_IT_RUNS | UNUSED


ONE_SKILL = {"num_team_skills": 1, "num_agent_skills": 1, "high_level": "random"}
TEAM_REWARD_ALONE = {
    **{"extrinsic_coef": 1, "winning_extrinsic_coef": 0},
    **{"team_coef": 0, "individual_coef": 0},
}
CENTRAL_CRITIC = {"critic_head": "team", "critic_input": "state"}
NO_HABITS = {
    **{"winning_step": 1, "winning_sharpness": 1},
    **{"skill_gain": 0.01, "policy_average": 1},
}
EVERY_STEP = {"low_level": "action", "skill_interval": 1, "num_team_skills": 1}
PLAIN_COORDINATOR = {
    **{"advantage_floor": 0, "exploration_start": 0, "coordinator_kl_limit": 0},
    "choice_residual": False,
    **{"winning_step": 1, "losing_entropy": 1, "high_level_batch_size": 1, "policy_average": 1},
}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mappo", ONE_SKILL | TEAM_REWARD_ALONE | CENTRAL_CRITIC | NO_HABITS),
        (
            "ippo",
            ONE_SKILL | TEAM_REWARD_ALONE | CENTRAL_CRITIC | NO_HABITS | {"critic_input": "obs"},
        ),
        ("mat", EVERY_STEP | PLAIN_COORDINATOR),
        ("no_team_skill", {"num_team_skills": 1, "team_coef": 0, "num_agent_skills": 24}),
        ("no_individual_skill", {"num_agent_skills": 1, "individual_coef": 0, "team_coef": 0.1}),
        (
            "no_extrinsic",
            {"extrinsic_coef": 0, "winning_extrinsic_coef": 0, "winning_intrinsic": 1},
        ),
        ("no_intrinsic", TEAM_REWARD_ALONE | {"high_level": "coordinator"}),
        ("no_high_level", {"high_level": "random", "num_agent_skills": 24, "team_coef": 0.1}),
        ("asynchronous", {"sync_mode": False, "batch_size": 128}),
    ],
)
def test_each_change_is_what_its_name_says(name, meant):
    """Laid over the default."""
    config = Config(**CHANGES[name])
    assert {key: getattr(config, key) for key in meant} == meant
    assert name != "no_high_level" or config.skill_interval >= config.episode_length
