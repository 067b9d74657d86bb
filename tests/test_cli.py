"""The command line: precedence of the layers, unknown names, wrong types, help, exit codes."""

import dataclasses
import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hmasd import cli
from hmasd.config import Config
from hmasd.presets import PRESETS
from hmasd.settings import ConfigError

ROOT = Path(__file__).parents[1]
FIELDS = [field.name for field in dataclasses.fields(Config)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder, with an empty config_1.py so that the project's own is not used."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config_1.py").write_text('"""Nothing."""\n')
    return tmp_path


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


def test_without_anything_the_defaults_count(folder):
    assert cli.load_config([]) == Config()


def test_the_projects_config_1_counts_in_any_folder_without_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = cli.load_config([])
    assert (config.num_envs, config.batch_size, config.env) == (32, 1024, "alice_and_bob")


def test_each_layer_counts_more_than_the_ones_before(folder):
    write(folder, "config_1.py", "seed = 2\nnum_envs = 4\nhidden_size = 8\n")
    yaml = write(folder, "a.yaml", "num_envs: 5\nhidden_size: 16\n")
    config = cli.load_config(["--config", yaml, "--hidden-size", "32"])
    assert (config.seed, config.num_envs, config.hidden_size) == (2, 5, 32)
    assert config.clip == Config().clip


def test_a_preset_stands_in_for_config_1(folder):
    write(folder, "config_1.py", "seed = 2\nskill_interval = 7\n")
    config = cli.load_config(["--preset", "paper_alice_and_bob", "--num-envs", "16"])
    assert config.seed == Config().seed
    assert (config.skill_interval, config.num_envs) == (50, 16)


def test_of_several_presets_the_last_counts_most(folder):
    config = cli.load_config(["--preset", "paper_alice_and_bob,mappo", "--clip", "0.3"])
    assert (config.skill_input, config.discoverer_epochs) == ("output", 15)
    assert (config.num_agent_skills, config.extrinsic_coef, config.clip) == (1, 1.0, 0.3)
    swapped = cli.load_config(["--preset", "mappo,paper_alice_and_bob"])
    assert (swapped.num_agent_skills, swapped.extrinsic_coef) == (4, 0.0)
    with pytest.raises(ConfigError, match=r"no preset 'mapo'.*did you mean 'mappo'"):
        cli.load_config(["--preset", "alice_and_bob,mapo"])


def test_a_checkpoints_settings_stand_in_for_config_1(folder):
    write(folder, "config_1.py", "seed = 2\nclip = 0.3\n")
    yaml = write(folder, "a.yaml", "gamma: 0.5\n")
    stored = dataclasses.asdict(Config(seed=9, clip=0.4, model_path="older.pth"))
    config = cli.load_config(
        ["--model-path", "m.pth", "--config", yaml, "--total-steps", "77"], stored=lambda _: stored
    )
    assert config == Config(seed=9, clip=0.4, gamma=0.5, total_steps=77, model_path="m.pth")


def test_model_path_in_yaml_brings_the_checkpoints_settings_too(folder):
    yaml = write(folder, "a.yaml", "model_path: m.pth\n")
    config = cli.load_config(["--config", yaml], stored=lambda _: {"seed": 9})
    assert config == Config(seed=9, model_path="m.pth")


def test_a_checkpoint_refuses_a_preset_another_shape_and_config_1s_model_path(folder):
    with pytest.raises(ConfigError, match="exclude each other"):
        cli.load_config(["--model-path", "m.pth", "--preset", "alice_and_bob"], lambda _: {})
    with pytest.raises(ConfigError, match="hidden_size: 64 -> 128"):
        cli.load_config(["--model-path", "m.pth", "--hidden-size", "128"], lambda _: {})
    write(folder, "config_1.py", "model_path = 'm.pth'\n")
    with pytest.raises(ConfigError, match="use --model-path"):
        cli.load_config([])


@pytest.mark.parametrize(
    ("flag", "value"),
    [("num-envs", "16"), ("batch-size", "2048"), ("chunk-length", "4"), ("env", "other")],
)
def test_training_on_keeps_the_shape_of_the_round_but_evaluation_may_change_it(folder, flag, value):
    """A started round, stored pairs and envs of another shape would fail deep inside training."""
    argv = ["--model-path", "m.pth", f"--{flag}", value]
    with pytest.raises(ConfigError, match="a round of another shape"):
        cli.load_config(argv, lambda _: {})
    assert cli.load_config([*argv, "--eval-only"], lambda _: {}).eval_only


def test_training_goes_on_in_a_harder_game_of_the_same_sizes(folder):
    argv = ["--model-path", "m.pth", "--env-args", "{enemy_shoots: true}"]
    settings = {"env": "smax_3m", "env_args": "{enemy_shoots: false}"}
    config = cli.load_config(argv, lambda _: settings)
    assert (config.env, config.env_args) == ("smax_3m", "{enemy_shoots: true}")


def test_a_missing_checkpoint_is_bad_input(folder, capsys):
    assert cli.main(["--eval-only", "--model-path", "models/none.pth"]) == 2
    assert "models/none.pth" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.yaml", "config_1.py"])
def test_an_unknown_key_is_named_with_its_place_and_the_nearest(folder, name):
    text = "seed: 1\nbath_size: 3\n" if name == "a.yaml" else "seed = 1\nbath_size = 3\n"
    path = write(folder, name, text)
    argv = ["--config", path] if name == "a.yaml" else []
    with pytest.raises(ConfigError, match=rf"{name}, line 2: .*'bath_size'.*'batch_size'"):
        cli.load_config(argv)


def test_an_unknown_flag_is_named_with_the_nearest(folder, capsys):
    assert cli.main(["--bath-size", "3"]) == 2
    error = capsys.readouterr().err
    assert "--bath-size" in error and "--batch-size" in error


def test_an_unknown_preset_is_named_with_the_nearest(folder, capsys):
    assert cli.main(["--preset", "paper_2m"]) == 2
    assert "'paper_3m'" in capsys.readouterr().err or "'paper_2m_vs_1z'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("num_envs: many", "num_envs = 'many': expected a whole number"),
        ("num_envs: 3.5", "num_envs = 3.5: expected a whole number"),
        ("num_envs: true", "num_envs = True: expected a whole number"),
        ("gamma: fast", "gamma = 'fast': expected a number"),
        ("gamma: true", "gamma = True: expected a number"),
        ("agent_id: 1", "agent_id = 1: expected true or false"),
        ("env: 3", "env = 3: expected text"),
        ("model_path: 3", "model_path = 3: expected text"),
        ("skill_input: inputt", "skill_input = 'inputt': expected one of .*mean 'input'"),
        ("seed: 1\nseed: 2", "line 2: seed is set a second time"),
        ("env_args: {size: 3, size: 4}", "line 1: size is set a second time"),
        ("a: &a {b: *a, b: 1}", "b is set a second time"),
        ("a: [{b: 1, b: 2}]", "b is set a second time"),
        ("- seed", "must hold lines 'name: value'"),
        ("seed: [", "is not YAML"),
        ("seed: !!python/object/apply:os.getpid []", "is not YAML"),
    ],
)
def test_wrong_values_in_yaml_are_named(folder, line, expected):
    with pytest.raises(ConfigError, match=expected):
        cli.load_config(["--config", write(folder, "a.yaml", line)])


def test_yaml_values_that_read_as_text_or_whole_numbers_become_floats(folder):
    config = cli.load_config(
        ["--config", write(folder, "a.yaml", "learning_rate: 7e-4\nclip: 1\nmodel_path: null\n")]
    )
    assert (config.learning_rate, config.clip, config.model_path) == (7e-4, 1.0, None)
    assert isinstance(config.clip, float)


def test_an_empty_yaml_file_changes_nothing_and_a_missing_one_is_an_error(folder):
    assert cli.load_config(["--config", write(folder, "a.yaml", "")]) == Config()
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        cli.load_config(["--config", "none.yaml"])


@pytest.mark.parametrize(
    "line", ["import os", "seed = len('x')", "seed, clip = 1, 2", "print(3)", "seed = = 1"]
)
def test_config_1_holds_values_only_and_runs_nothing(folder, line):
    write(folder, "config_1.py", f"clip = 0.1\n{line}\n")
    with pytest.raises(ConfigError, match=r"config_1\.py, line 2"):
        cli.load_config([])


def test_wrong_types_on_the_command_line_exit_with_2(folder, capsys):
    assert cli.main(["--num-envs", "many"]) == 2
    assert "--num-envs" in capsys.readouterr().err


def test_help_explains_every_field(folder, capsys):
    assert cli.main(["--help"]) == 0
    text = re.sub(r"[│─╭╮╰╯\s]+", " ", capsys.readouterr().out)
    for name in FIELDS:
        flag = "--" + name.replace("_", "-")
        found = re.search(rf"{flag}\b(?!-)(.*?)\(default", text)
        assert found, f"{flag} is missing or has no default"
        assert re.search(r"[A-Za-z]{4,}.*\.", found[1]), f"{flag} is not explained"
    for word in (*PRESETS, "Exit codes", "alice_and_bob", "130", "143"):
        assert word in text


def test_the_guides_flags(folder):
    assert cli.load_config(["--log-level", "DEBUG"]).log_level == "DEBUG"
    config = cli.load_config(["--eval-only", "--model-path", "m.pth"], stored=lambda _: {})
    assert config.eval_only and config.model_path == "m.pth"


def test_a_full_disk_has_an_exit_code_of_its_own(folder, monkeypatch, capsys):
    from hmasd.training import loop

    def fail(config, ranks):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("cannot write checkpoint") from error

    monkeypatch.setattr(loop, "train", fail)
    assert cli.main(["--output-dir", str(folder)]) == 4
    assert "training failed: RuntimeError: cannot write checkpoint" in capsys.readouterr().err


def test_a_failing_training_is_a_message_and_exit_code_1(folder, monkeypatch, capsys):
    from hmasd.training import loop

    def fail(config, ranks):
        raise RuntimeError("loss is NaN")

    monkeypatch.setattr(loop, "train", fail)
    assert cli.main(["--output-dir", str(folder)]) == 1
    assert "training failed: RuntimeError: loss is NaN" in capsys.readouterr().err


def test_the_code_of_training_is_the_programs(folder, monkeypatch, capsys):
    from hmasd.training import loop

    monkeypatch.setattr(loop, "train", lambda config, ranks: 130)
    assert cli.main(["--output-dir", str(folder)]) == 130
    assert "= 1,024 samples" in capsys.readouterr().out


def test_the_script_refuses_bad_input_without_a_traceback(folder):
    done = subprocess.run(
        [sys.executable, ROOT / "train_sync_enhanced.py", "--batch-size", "1000"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "batch_size = 1000" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--agent-id", "True"], ["--agent_id=false"]])
def test_a_value_after_a_switch_is_named_with_both_ways_to_write_it(folder, capsys, words):
    assert cli.main(words) == cli.EXIT_BAD_INPUT
    told = capsys.readouterr().err
    assert "is a switch" in told and "write --agent-id for yes, --no-agent-id for no" in told


def test_control_a_switch_before_another_flag_or_last_has_no_value(folder):
    config = cli.load_config(["--agent-id", "--seed", "3", "--no-reset-hidden-on-skill"])
    assert (config.agent_id, config.seed, config.reset_hidden_on_skill) == (True, 3, False)


@pytest.mark.parametrize(
    ("path", "words", "wanted"),
    [
        ("runs/a/models/m.pth", [], "runs/a"),
        ("models/m.pth", [], "."),
        ("runs/a/models/m.pth", ["--output-dir", "b"], "b"),
        ("elsewhere/m.pth", [], "old"),
    ],
)
def test_a_run_goes_on_in_the_folder_where_its_checkpoint_lies(folder, path, words, wanted):
    words = ["--model-path", path, *words]
    config = cli.load_config(words, stored=lambda _: {"output_dir": "old"})
    assert config.output_dir == wanted


def test_a_folder_as_model_path_is_named(folder, capsys):
    assert cli.main(["--model-path", str(folder)]) == cli.EXIT_BAD_INPUT
    assert f"{folder}: it is a folder, and a checkpoint is a file" in capsys.readouterr().err
