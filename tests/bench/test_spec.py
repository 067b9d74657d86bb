"""Files of comparisons: what is read, and what is refused with which words."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from hmasd.bench.spec import RunKey, budget, config_of, read_spec, run_keys
from hmasd.config import Config
from hmasd.presets import PRESETS
from hmasd.settings import ConfigError

ROOT = Path(__file__).parents[2]
GOOD = """
env_steps: 200000
eval_interval: 50000
eval_episodes: 32
seeds: 2
tasks:
  exact: {env: alice_and_bob}
  longer: {env: alice_and_bob, total_steps: 400000, episode_length: 200}
algorithms:
  ours: {}
  paper: {preset: paper_alice_and_bob, clip: 0.1}
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "bench.yaml"
        path.write_text(text)
        return read_spec(path)

    return read


def test_a_file_becomes_configurations(read):
    spec = read(GOOD)
    assert (budget(spec, "exact"), budget(spec, "longer")) == (200_000, 400_000)
    ours = config_of(spec, RunKey("exact", "ours", 2), Path("x"))
    shared = {"total_steps": 200_000, "eval_interval": 50_000, "eval_episodes": 32}
    own = {"checkpoint_interval": 50_000, "keep_policies": True, "threads": 1}
    assert ours == dataclasses.replace(Config(), seed=2, output_dir="x", **shared, **own)
    paper = config_of(spec, RunKey("longer", "paper", 1), Path("x"))
    assert (paper.clip, paper.skill_interval, paper.total_steps) == (0.1, 50, 400_000)
    assert paper.episode_length == 200  # the task's, not the preset's
    assert paper.batch_size == PRESETS["paper_alice_and_bob"]["batch_size"]


def test_a_later_preset_counts_more(read):
    spec = read(GOOD.replace("paper_alice_and_bob", '"paper_alice_and_bob,paper_3m"'))
    both = config_of(spec, RunKey("exact", "paper", 1), Path("x"))
    expected = PRESETS["paper_alice_and_bob"] | PRESETS["paper_3m"]
    assert both.skill_interval == expected["skill_interval"] == 25
    assert both.env == "alice_and_bob"


def test_config_1_of_the_folder_does_not_count(read, tmp_path, monkeypatch):
    (tmp_path / "config_1.py").write_text("gamma = 0.5\n")
    monkeypatch.chdir(tmp_path)
    assert config_of(read(GOOD), RunKey("exact", "ours", 1), tmp_path).gamma == Config().gamma


def test_all_runs_seed_by_seed(read):
    keys = run_keys(read(GOOD))
    assert len(keys) == len(set(keys)) == 8
    assert [key.seed for key in keys] == [1] * 4 + [2] * 4
    assert keys[0].folder == "exact/ours/seed_1"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.yaml")), ids=lambda x: x.stem)
def test_the_files_of_the_project_are_good(path, any_device):
    assert run_keys(read_spec(path))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("eval_interval", "eval_intervall", "did you mean 'eval_interval'"),
        ("clip: 0.1", "clipp: 0.1", "did you mean 'clip'"),
        ("clip: 0.1", "clip: high", "clip = 'high': expected a number"),
        (
            "preset: paper_alice_and_bob",
            "preset: paper_alice",
            "did you mean 'paper_alice_and_bob'",
        ),
        ("env: alice_and_bob}", "env: alice_and_bab}", "did you mean 'alice_and_bob'"),
        ("clip: 0.1", "total_steps: 400000", "an unequal budget"),
        ("clip: 0.1", "eval_episodes: 100", "all runs share it; set eval_episodes on top"),
        ("clip: 0.1", "seed: 3", "all runs share it; set seeds on top"),
        ("clip: 0.1", "threads: 2", "the comparison decides it"),
        ("clip: 0.1", "episode_length: 50", "both set episode_length"),
        (
            "{preset: paper_alice_and_bob, clip: 0.1}",
            "{preset: paper_cramped_room}",  # names a game and its length; the task only a game
            "episode_length is 100 for ours, 400 for paper",
        ),
        ("clip: 0.1", "team_reward: mean", "team_reward is 'sum' for ours, 'mean' for paper"),
        ("clip: 0.1", "eval_mode: process", "the comparison decides it"),
        ("eval_episodes: 32", "eval_episodes: 31", "eval_episodes = 31 is below 32"),
        ("env_steps: 200000", "env_steps: 210000", "210000 env steps are no multiple"),
        ("eval_interval: 50000", "eval_interval: 2000", "a round is 3200 env steps, more than"),
        ("seeds: 2", "seeds: [1, 1]", "a seed twice"),
        ("seeds: 2", "seeds: 0", "expected a number of at least 1 or a list"),
        ("seeds: 2", "seeds: 20261127", "the one seed of this number is [20261127]"),
        ("seeds: 2", "seeds: 1" + 20 * "0", "the limit is 10000"),
        ("seeds: 2", "seeds: " + 3000 * "[" + 3000 * "]", "is nested too deeply"),
        ("seeds: 2", "seeds: [1, -1]", "a seed must be at least 0"),
        ("seeds: 2", "seeds: [1, 2147483648]", "at most 2147483647"),
        ("env_steps: 200000", "env_steps: 2e5", "expected a whole number, written in digits"),
        ("env_steps: 200000", "env_steps: 0", "0 env steps must be at least 1"),
        ("  ours: {}", "  ours: {}\n  ours: {clip: 0.3}", "ours is set a second time"),
        ("clip: 0.1", "clip: 0.1, clip: 0.3", "clip is set a second time"),
        ("  ours: {}", "  010: {}", "YAML reads the name 8 as no text: put it in quotes"),
        ("clip: 0.1", "on: 0.1", "YAML reads the name True as no text"),
        ("  ours: {}", f"  {'o' * 101}: {{}}", "at most 100 letters"),
        ("{env: alice_and_bob}", "{env: alice_and_bob, preset: mappo}", "that makes an algorithm"),
        ("total_steps: 400000", "total_steps: 4e5", "total_steps = '4e5': expected a whole number"),
        ("seeds: 2", "", "seeds is missing"),
        ("seeds: 2", "seeds: 2\nmetric: reward", "expected 'success' or 'return'"),
        ("  ours: {}", "  ../ours: {}", "it is a folder"),
        ("  ours: {}", "  ours: 3", "must hold settings"),
    ],
)
def test_what_is_wrong_is_said(read, old, new, words):
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read(GOOD.replace(old, new))
    assert words in str(caught.value)
    read(GOOD)  # control: the file itself is fine


def test_budgets_that_differ_by_rounding_alone_are_refused_where_it_matters(read):
    small = GOOD.replace("200000", "6144").replace("total_steps: 400000, ", "")
    small = small.replace("eval_interval: 50000", "eval_interval: 6144")
    with pytest.raises(ConfigError, match="paper takes up to 6400 env steps and ours 6144"):
        read(small)


def test_a_round_that_may_grow_may_make_budgets_unequal(read):
    """6,144 steps are six rounds of 1,024; one that grew to 4,096 may end 4,095 steps later."""
    small = GOOD.replace("200000", "6144").replace("total_steps: 400000, ", "")
    small = small.replace("eval_interval: 50000", "eval_interval: 6144")
    growing = small.replace("{preset: paper_alice_and_bob, clip: 0.1}", "{batch_schedule: noise}")
    with pytest.raises(ConfigError, match="paper takes up to 10239 env steps and ours 6144"):
        read(growing)
    with pytest.raises(ConfigError, match="ours takes up to 10239 env steps and"):
        read(growing.replace("ours: {}", "ours: {batch_schedule: noise}"))
    read(growing.replace("6144", "614400"))  # control: less than 1 % of these
    read(growing.replace("noise}", "noise, max_batch_factor: 1}"))  # control: it stays as it is


def test_presets_and_arguments_may_be_written_as_lists_and_mappings(read):
    spec = read(
        GOOD.replace("preset: paper_alice_and_bob", "preset: [mappo, no_intrinsic]").replace(
            "exact: {env: alice_and_bob}",
            "exact: {env: smax_3m, env_args: {reward: shaped, enemy_shoots: false}}",
        )
    )
    config = config_of(spec, RunKey("exact", "paper", 1), Path("x"))
    assert (config.num_agent_skills, config.individual_coef) == (1, 0.0)
    assert yaml.safe_load(config.env_args) == {"reward": "shaped", "enemy_shoots": False}
    spaced = read(GOOD.replace("preset: paper_alice_and_bob", "preset: 'mappo, no_intrinsic'"))
    assert config_of(spaced, RunKey("exact", "paper", 1), Path("x")).high_level == "random"
