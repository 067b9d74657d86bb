"""Every command and flag of the documents is one that the project knows."""

import re

import pytest

from hmasd import cli, validation
from hmasd.envs import user_env
from tests.helpers.pages import ROOT, blocks, each_page, text_of
from tests.helpers.typed_commands import (
    FOREIGN_FLAGS,
    UnknownCommandError,
    check_command,
    commands,
    own_flags,
    setting_flags,
)


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
def test_every_flag_is_a_setting_or_a_programs_own(page):
    programs = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "hmasd").rglob("*.py")]
    known = setting_flags().union(FOREIGN_FLAGS, *(own_flags(text_of(p)) for p in programs))
    named = set(re.findall(r"(?<![\w!-])--([a-z][a-z0-9-]*)", text_of(page)))
    assert not named - known
