"""The documents: every link, name, example and file in them is one that exists."""

import ast
import dataclasses
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from hmasd import checkpoint, cli
from hmasd.agent import HMASDAgent
from hmasd.bench.spec import read_spec
from hmasd.commands import main
from hmasd.config import Config
from hmasd.disk import EXIT_FULL
from hmasd.envs.registry import make_env
from hmasd.settings import Entry, changed
from hmasd.training.signals import StopRequest
from tests.helpers.pages import GUIDE, README, ROOT, blocks, each_page, explained_metrics, text_of

GUIDE_COMMANDS = (  # the guide's own, word for word
    "python train_sync_enhanced.py",
    "python train_sync_enhanced.py --log-level DEBUG",
    "python train_sync_enhanced.py --model-path models/hmasd_sync_enhanced_320000.pth",
    "python train_sync_enhanced.py --eval-only --model-path models/hmasd_sync_enhanced_final.pth",
    "tensorboard --logdir tf-logs/",
)
GUIDE_SECTIONS = [
    "概述",
    "同步训练的优势",
    "核心实现",
    "配置调整",
    "使用方法",
    "训练流程",
    "性能监控",
    "预期效果",
    "故障排除",
    "与原版本对比",
    "文件结构",
    "下一步优化",
    "总结",
]
GUIDE_TAGS = [
    "Sync/BatchSize",
    "Sync/PolicyVersion",
    "Sync/CollectionTime",
    "Sync/UpdateTime",
    "Buffer/SamplesCollected",
    "Buffer/low_level_buffer_size",
    "Buffer/high_level_buffer_size",
]


@each_page
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)|src=\"([^\"]+)\"", text_of(page))
    for link in ("".join(pair) for pair in links):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.split("#")[0]).exists(), link


@each_page
def test_every_name_in_backticks_occurs_in_the_code(page):
    folders = ("hmasd", "benchmarks", "tests")
    files = [file for name in folders for file in (ROOT / name).rglob("*.py")]
    code = "\n".join(text_of(file) for file in [*files, ROOT / "config_1.py", ROOT / "Makefile"])
    words = set(re.findall(r"\w+", code))
    named = re.findall(r"`([A-Za-z]+(?:_[a-z0-9]+)+)(?:\(.*?\))?`", text_of(page))
    assert not set(named) - words


@each_page
def test_examples_of_settings_and_programs_are_valid(page, tmp_path):
    for block in blocks(page, "yaml"):
        settings = yaml.safe_load(block)
        if "algorithms" in settings:
            (tmp_path / "bench.yaml").write_text(block, encoding="utf-8")
            read_spec(tmp_path / "bench.yaml")
        else:
            changed(Config(), {name: Entry(x, page.name) for name, x in settings.items()})
    for block in blocks(page, "python"):
        ast.parse(block)


def test_the_guide_has_its_sections_commands_and_tags():
    text = text_of(GUIDE)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == GUIDE_SECTIONS
    lines = "\n".join(blocks(GUIDE, "bash")).splitlines()
    assert not set(GUIDE_COMMANDS) - set(lines)
    assert all(f"**{tag}**" in text for tag in GUIDE_TAGS)


@pytest.mark.parametrize("page", [README, GUIDE], ids=lambda page: page.name)
def test_every_metric_exists(page):
    groups = "Sync|Buffer|rollout|reward|high|low|disc|skill|sync|time|eval"
    named = set(re.findall(rf"[`*]((?:{groups})/\w+)[`*]", text_of(page)))
    assert named <= explained_metrics()


def test_every_file_of_the_guides_tree_exists():
    (tree,) = [block for block in blocks(GUIDE) if block.startswith(".\n")]
    made_by_training = re.findall(r"^/(.+/)$", text_of(ROOT / ".gitignore"), re.MULTILINE)
    folders = []
    for line in tree.splitlines()[1:]:
        branch, name = re.match(r"([│ ]*)[├└]── (\S+)", line).groups()
        del folders[len(branch) // 4 :]
        path = "".join(folders) + name
        folders.append(name)
        assert (ROOT / path).exists() or path in made_by_training, path
        assert name.endswith("/") == (ROOT / path).is_dir() or path in made_by_training, path


def test_the_guides_table_of_settings_is_true(monkeypatch):
    monkeypatch.chdir(ROOT)
    table = text_of(GUIDE).partition("| 设置 |")[2].partition("\n\n")[0]
    header, _, *rows = table.splitlines()
    default, *presets = re.findall(r"`([\w.]+)`", header)
    assert (default, len(presets)) == ("config_1.py", 2)
    configs = [cli.load_config(argv) for argv in ([], *(["--preset", x] for x in presets))]
    for row in rows:
        name, *values = (cell.strip().strip("`") for cell in row.strip("|").split("|"))
        assert values == [str(getattr(config, name)) for config in configs], name
    assert len(rows) > 15


def test_the_guides_exit_codes_are_those_of_the_program():
    codes = {0, cli.EXIT_FAILED, cli.EXIT_BAD_INPUT, EXIT_FULL}
    for number in StopRequest.SIGNALS:
        request = StopRequest()
        request.signal = number
        codes.add(int(request.exit_code))
    assert {int(x) for x in re.findall(r"^\| (\d+) \|", text_of(GUIDE), re.MULTILINE)} == codes


def test_the_environment_of_the_example_is_checked_and_trained_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    page = ROOT / "docs" / "environments.md"
    (game,) = [block for block in blocks(page, "python") if "class Meeting" in block]
    Path("my_game.py").write_text(game, encoding="utf-8")
    assert main(["check-env", "my_game:Meeting", "--steps", "60", "--episode-length", "20"]) == 0
    told = capsys.readouterr().out
    assert "observation 2, state 4, actions Discrete(3)" in told and "with success" in told
    small = "--num-envs 4 --batch-size 32 --total-steps 64 --eval-episodes 4 --hidden-size 8"
    train = f"train --env my_game:Meeting --env-args {{cells:\\ 5}} --episode-length 20 {small}"
    assert main(shlex.split(train)) == 0
    (final,) = Path("models").glob("*_final.pth")
    assert main(["train", "--eval-only", "--model-path", str(final)]) == 0
    (report,) = Path("runs").glob("*/evaluation.json")
    assert json.loads(report.read_text())["config"]["env_args"] == "{cells: 5}"


def test_the_readmes_program_plays_a_trained_team(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = Config(num_envs=2, batch_size=16, skill_interval=3, hidden_size=8)
    agent = HMASDAgent(config, make_env(config.env, config.num_envs, config.episode_length))
    path = checkpoint.checkpoint_path(Path("models"), None)
    agent.save_model(path, config=dataclasses.asdict(config))
    (program,) = [block for block in blocks(README, "python") if "TrainedTeam" in block]
    namespace = {}
    exec(compile(program, str(README), "exec"), namespace)
    step = namespace["step"]
    assert step.view.obs.shape == (1, 2, 11), "one env, played to the end of its loop"
    assert str(path) in program


def test_the_guides_program_shows_where_each_skill_leads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = Config(num_envs=2, batch_size=16, skill_interval=3, num_agent_skills=3, hidden_size=8)
    agent = HMASDAgent(config, make_env(config.env, config.num_envs, config.episode_length))
    path = checkpoint.checkpoint_path(Path("models"), None)
    agent.save_model(path, config=dataclasses.asdict(config))
    (program,) = [block for block in blocks(GUIDE, "python") if "load_model" in block]
    exec(compile(program, str(GUIDE), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    for row, column in re.findall(r"\((\d+), (\d+)\)", "".join(lines)):
        assert 1 <= int(row) <= 8 and 1 <= int(column) <= 8
