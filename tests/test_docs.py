"""The documents: every command, flag, link, name and file in them is one that exists."""

import ast
import dataclasses
import importlib.util
import itertools
import json
import re
import shlex
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from torch.distributed import run as torch_run

from hmasd import checkpoint, cli, validation
from hmasd.agent import HMASDAgent
from hmasd.bench.spec import read_spec
from hmasd.commands import COMMANDS, main
from hmasd.config import Config
from hmasd.envs import user_env
from hmasd.envs.registry import make_env
from hmasd.settings import Entry, changed
from hmasd.telemetry.tags import meaning
from hmasd.training.signals import StopRequest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = ROOT / "SYNC_TRAINING_README.md"
PAGES = [README, GUIDE, *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SCRIPT = "train_sync_enhanced.py"
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
SHELL_WORDS = {"do", "done", "then", "else", "fi", "time", "nohup"}
FOREIGN_PROGRAMS = {"cd", ".", "source", "kill", "wait"}
FOREIGN_MODULES = {"pytest", "pip", "venv"}
FOREIGN_FLAGS = {"logdir", "upgrade", "depth", "recursive"} | {  # of sbatch and torchrun
    *("nodes", "cpus-per-task", "gpus-per-node", "max-restarts", "signal"),
    *("nnodes", "node-rank", "nproc-per-node", "master-addr", "master-port"),
}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


class UnknownCommandError(Exception):
    """A document tells the reader to type something that the project does not know."""


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(page, *languages):
    """Fenced blocks of some languages; without any, those without one."""
    found = re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text_of(page), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(body) for language, body in found if language in (languages or ("",))]


def commands(script):
    """The simple commands of a shell script, each a list of words; a loop runs its first turn."""
    variables = {}
    for line in script.replace("\\\n", " ").splitlines():
        line = re.sub(r"\s\d?>{1,2}\s*\S+", "", line.strip().removeprefix("$ "))
        line = re.sub(r"\$\{?(\w+)\}?", lambda m: variables.get(m[1], m[0]), line)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        command = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|"):
                if command[:1] == ["for"]:
                    variables[command[1]] = command[3]
                    command = []
                if command:
                    yield command
                command = []
            elif command or word not in SHELL_WORDS:
                assignment = None if command else re.fullmatch(r"(\w+)=(.*)", word)
                if assignment:
                    variables[assignment[1]] = assignment[2]
                else:
                    command.append(word)
                    for name, value in variables.items():  # set earlier on this line
                        command[-1] = re.sub(rf"\$\{{?{name}\b\}}?", value, command[-1])


def check_command(words):
    """Raise if the project does not know the command."""
    program, *rest = words
    program = Path(program).name or program
    if program in ("python", "python3"):
        check_python(rest)
    elif program == "make":
        check_make(rest)
    elif program == "hmasd":
        check_hmasd(rest)
    elif program == "pip":
        check_pip(rest)
    elif program == "sbatch":
        check_sbatch(rest)
    elif program == "kubectl":
        demand(any((ROOT / word).is_file() for word in rest) or rest[0] == "logs", words)
    elif program == "torchrun":
        check_torchrun(rest)
    elif program == "tensorboard":
        demand(rest[:1] == ["--logdir"] and len(rest) > 1, words)
    elif program == "git":
        demand(rest[:1] == ["clone"], words)
    else:
        demand(program in FOREIGN_PROGRAMS, words)


def demand(condition, words):
    if not condition:
        raise UnknownCommandError(shlex.join(words))


def check_python(words):
    if words[0] == SCRIPT:
        check_training(words[1:])
    elif words[0] == "-m":
        if words[1] in FOREIGN_MODULES:
            return
        demand(words[1].startswith("hmasd."), words)
        spec = importlib.util.find_spec(words[1])
        demand(spec is not None, words)
        check_program(Path(spec.origin), words[2:])
    else:
        check_program(ROOT / words[0], words[1:])


def check_training(argv):
    """The command line resolves to settings that pass every check but those of files."""
    try:
        config = cli.load_config(argv, stored=lambda _: {})
    except SystemExit as stop:
        demand(stop.code == 0, [SCRIPT, *argv])
        return
    except cli.ConfigError as error:
        raise UnknownCommandError(f"{SCRIPT} {shlex.join(argv)}: {error}") from error
    validation.validate(config)


def check_hmasd(words):
    """A command of `hmasd` exists and knows the flags; files need not exist here."""
    demand(words[:1] and words[0] in COMMANDS, ["hmasd", *words])
    name, *argv = words
    if name == "train":
        check_training(argv)
        return
    source = text_of(Path(importlib.util.find_spec(COMMANDS[name].module).origin))
    unknown = {word[2:].split("=")[0] for word in argv if word.startswith("--")} - own_flags(source)
    demand(not unknown - {"help"}, ["hmasd", *words])
    if name == "bench" and argv:
        demand((ROOT / argv[0]).is_file(), ["hmasd", *words])


def check_program(file, words):
    """A program of the project can be started and knows the flags."""
    demand(file.is_file(), [str(file), *words])
    source = file.read_text(encoding="utf-8")
    demand("__main__" in source, [str(file), *words])
    known = own_flags(source) | {"help"}
    if "load_config" in source:
        known |= setting_flags()
    unknown = {word[2:].split("=")[0] for word in words if word.startswith("--")} - known
    demand(not unknown, [str(file), *words])


def check_sbatch(words):
    """Slurm's own flags, the script, and flags of training."""
    script = next((i for i, word in enumerate(words) if word.endswith(".sh")), None)
    demand(script is not None and (ROOT / words[script]).is_file(), ["sbatch", *words])
    check_training(words[script + 1 :])


def check_torchrun(words):
    """Torchrun's own parser takes its flags; the rest is flags of training."""
    try:
        parsed = torch_run.get_args_parser().parse_args(words)
    except SystemExit:
        demand(False, ["torchrun", *words])
    demand(parsed.training_script == SCRIPT, ["torchrun", *words])
    check_training(parsed.training_script_args)


def check_make(words):
    for word in words:
        name, equals, value = word.partition("=")
        pattern = rf"^{re.escape(name)} \?=" if equals else rf"^{re.escape(name)}:"
        demand(re.search(pattern, MAKEFILE, re.MULTILINE), ["make", *words])
        if name == "ARGS" and "test" not in words:
            check_training(shlex.split(value))


def check_pip(words):
    demand(words[:1] == ["install"], ["pip", *words])
    for flag, value in itertools.pairwise(words):
        if flag in ("-c", "-r", "-e"):
            demand((ROOT / value.split("[")[0]).exists(), ["pip", *words])


def own_flags(source):
    return set(re.findall(r"""["']--([a-z][a-z0-9-]*)["']""", source))


def setting_flags():
    names = {field.name.replace("_", "-") for field in dataclasses.fields(Config)}
    return names | {f"no-{name}" for name in names} | {"preset", "config", "help"}


@pytest.fixture
def no_files(monkeypatch):
    """The files that commands name need not exist here."""
    monkeypatch.setattr(cli, "read_yaml", lambda path: {})
    monkeypatch.setattr(validation, "_file_problems", lambda config: [])
    monkeypatch.setattr(user_env, "find_factory", lambda spec: None)


@each_page
def test_every_command_is_known(page, no_files, any_device, monkeypatch):
    monkeypatch.chdir(ROOT)
    inline = re.findall(r"`((?:python3?|make|pip|tensorboard|hmasd) [^`\n]+)`", text_of(page))
    typed = [
        "\n".join(line for line in block.splitlines() if line.startswith("$ "))
        for block in blocks(page, "console")
    ]
    for script in [*blocks(page, "bash", "sh", "shell"), *typed, *inline]:
        if "..." not in script:
            for words in commands(script):
                check_command(words)


@pytest.mark.parametrize(
    "script",
    [
        "python train_sync_enhanced.py --batchsize 1024",
        "python train_sync_enhanced.py --preset alice",
        "python train_sync_enhanced.py --batch-size 1000",
        "python train_sync_enhanced.py --preset paper_3m",
        "python train_async.py",
        "python benchmarks/env_speed.py --warp 9",
        "python -m hmasd.viz.films runs/x",
        "python -m hmasd.viz.curves runs/x --colour red",
        "torchrun --processes 2 train_sync_enhanced.py",
        "torchrun --nproc-per-node 2 train_async.py",
        "torchrun --nproc-per-node 2 train_sync_enhanced.py --warp 9",
        "make teach",
        'make train ARGS="--total-step 5"',
        "make train SEED=3",
        "pip install -r requirements.txt",
        "tensorboard tf-logs/",
        "sbatch clusters/slurm.sh --num-env 4",
        "sbatch --nodes 2 clusters/pbs.sh --num-envs 4",
        "kubectl apply -f clusters/job.yaml",
        "for seed in one two; do python train_sync_enhanced.py --seed $seed; done",
        "cd hmasd && hmasd-train --fast",
        "hmasd teach",
        "hmasd bench benchmarks/nothing.yaml",
        "hmasd bench benchmarks/toy.yaml --seeds 3",
        "hmasd train --env my_game",
        "hmasd train --env my_game:make --envs 3",
        "hmasd check-env my_game:make --fast",
        "hmasd player --model-path x.pth",
        "hmasd play --model-path x.pth --colour red",
        "hmasd train --warp 9",
    ],
)
def test_control_a_made_up_command_is_refused(script, no_files, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises((UnknownCommandError, cli.ConfigError)):
        for words in commands(script):
            check_command(words)


def test_commands_are_taken_apart_as_a_shell_does():
    script = """
    # nothing
    make test   # a word
    X=1 nohup python a.py --seed $X \\
        --more "b c" > log.txt 2>&1 &
    for seed in 1 2; do
        python b.py --seed ${seed} && python c.py
    done
    """
    assert list(commands(script)) == [
        ["make", "test"],
        ["python", "a.py", "--seed", "1", "--more", "b c"],
        ["python", "b.py", "--seed", "1"],
        ["python", "c.py"],
    ]


@each_page
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)|src=\"([^\"]+)\"", text_of(page))
    for link in ("".join(pair) for pair in links):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.split("#")[0]).exists(), link


@each_page
def test_every_flag_is_a_setting_or_a_programs_own(page):
    programs = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "hmasd").rglob("*.py")]
    known = setting_flags().union(FOREIGN_FLAGS, *(own_flags(text_of(p)) for p in programs))
    named = set(re.findall(r"(?<![\w!-])--([a-z][a-z0-9-]*)", text_of(page)))
    assert not named - known


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
    for tag in re.findall(rf"[`*]((?:{groups})/\w+)[`*]", text_of(page)):
        assert meaning(tag), tag


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
    codes = {0, cli.EXIT_FAILED, cli.EXIT_BAD_INPUT}
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
