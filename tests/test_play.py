"""`hmasd play`: what is shown is what was played, and errors say what to do."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hmasd import commands, play
from hmasd.config import Config
from hmasd.envs import registry
from hmasd.envs.user_env import parse_env_args
from hmasd.play import Skills, parse_skills, play_episode
from hmasd.trained_team import TrainedTeam
from hmasd.training.evaluation import play_episodes
from tests.helpers.envs import Counter
from tests.helpers.runs import make_agent, register_small_envs, tiny_config


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    register_small_envs(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tiny_config(output_dir=str(tmp_path))


@pytest.fixture
def path(config: Config) -> Path:
    agent, _, _ = make_agent(config)
    agent.save_model(Path("team.pth"), config=dataclasses.asdict(config))
    return Path("team.pth")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("mode", ["greedy", "stochastic"])
def test_it_tells_and_shows_what_evaluation_plays(config: Config, path: Path, capsys, mode) -> None:
    words = ["play", "--model-path", str(path), "--episodes", "3", "--seed", "4"]
    assert commands.main([*words, *(["--stochastic"] if mode == "stochastic" else [])]) == 0
    told = [line for line in lines(capsys) if line.startswith("episode")]
    networks = TrainedTeam.load(path)._networks
    frames = 0
    for number, line in enumerate(told):
        (episode,) = play_episodes(config, networks, mode, 1, seed=4 + number)
        success = "success" if episode.success else "no success"
        assert line == (
            f"episode {number} (seed {4 + number}): {success}, "
            f"return {episode.episode_return:.4g}, {episode.length} steps"
        )
        frames += episode.length + 1
    assert len(told) == 3
    with Image.open("game.gif") as gif:
        assert gif.n_frames == frames


def test_frames_show_each_step_up_to_the_end(config: Config, path: Path) -> None:
    team = TrainedTeam.load(path)
    env = registry.make_env("counter", 1, 7)
    played = play_episode(env, team, number=2, seed=0)
    length = played.outcome.length
    assert [frame.picture[0, 0, 0] for frame in played.frames] == list(range(length + 1))
    assert [frame.is_last for frame in played.frames] == [False] * length + [True]
    assert played.frames[0].title == "episode 2   step 0   reward 0"
    rewards = [float(frame.title.split()[-1]) for frame in played.frames]
    assert sum(rewards) == played.outcome.episode_return
    steps = dict(played.skills)
    assert min(steps) == 0 and set(steps) <= set(range(0, length, config.skill_interval))
    shown = [Skills(frame.team_skill, frame.agent_skills) for frame in played.frames]
    for step, skills in steps.items():
        assert shown[step] == skills


def test_forced_skills_are_what_is_played(config: Config, path: Path, capsys) -> None:
    words = ["--model-path", str(path), "--episodes", "2", "--force-skill", "Z=1,z=0,2"]
    assert play.main(words) == 0
    told = [line.split()[-1] for line in lines(capsys) if line.startswith("  step")]
    assert told == ["Z=1,z=0,2"] * 2


def test_episodes_can_be_cut(path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(
        registry._MAKERS, "counter", lambda n, length: Counter(n, 2, length, (0.0, 0.0))
    )
    assert play.main(["--model-path", str(path), "--max-steps", "3", "--out", "a/b.gif"]) == 0
    told = lines(capsys)
    assert told[0].endswith("3 steps") and told[-1].startswith("a/b.gif: 4 frames of ")
    assert play.main(["--model-path", str(path)]) == 0
    assert lines(capsys)[0].endswith("7 steps"), "the checkpoint's episode_length"


@pytest.mark.parametrize(
    ("text", "skills"),
    [
        ("Z=1", Skills(1, None)),
        ("z=0,2", Skills(None, (0, 2))),
        ("Z=1,z=0,12", Skills(1, (0, 12))),
        ("Z=1, z=3", Skills(1, (3,))),
    ],
)
def test_skills_are_read_as_they_are_written(text: str, skills: Skills) -> None:
    assert parse_skills(text) == skills
    assert str(skills) == text.replace(" ", "")


@pytest.mark.parametrize("text", ["", "1", "Z=", "Z=1z=2", "z=1,,2", "Z=-1", "Z=1,", "z=1,Z=0"])
def test_control_other_writing_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write Z=1"):
        parse_skills(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--force-skill", "Z=2"], "Z = 2 does not exist: this team has 0..1"),
        (["--force-skill", "z=0"], "1 agent skills (0,) for 2 agents"),
        (["--force-skill", "Z1"], "write Z=1"),
        (["--env", "masked"], "agents: 3 there, 2 in the team's training"),
        (["--env", "point"], "actions: (1,) continuous there, one of 3 in"),
        (["--env", "no_env"], "env = 'no_env' does not exist"),
        (["--out", "game.mp4"], "must end in .gif"),
        (["--episodes", "0"], "0 is less than 1"),
        (["--fps", "400"], "400 is not in the range 0..50"),
        (["--model-path", "none.pth"], "there is no such file"),
    ],
    ids=str,
)
def test_bad_input_is_explained_and_nothing_is_written(path: Path, words, message, capsys) -> None:
    assert play.main(["--model-path", str(path), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("*.gif"))


def test_the_envs_arguments_are_those_of_the_training_or_those_given(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    made = []

    def make(name, num_envs, episode_length, options):
        made.append((name, options.env_args, options.workers))
        return registry.make_env("counter", num_envs, episode_length)

    monkeypatch.setattr(play, "make_env", make)
    agent, _, _ = make_agent(config)
    trained = dataclasses.asdict(config) | {"env_args": "{a: 1}", "env_workers": 2}
    agent.save_model(Path("a.pth"), config=trained)
    for words in ([], ["--env", "other"], ["--env-args", "{b: 2}"]):
        assert play.main(["--model-path", "a.pth", *words]) == 0
    assert made == [("counter", "{a: 1}", 0), ("other", "", 0), ("counter", "{b: 2}", 0)]


@pytest.mark.parametrize(
    ("words", "args"),
    [
        (["--env", "gym:a"], {"render_mode": "rgb_array"}),
        (["--env", "gym:a", "--env-args", "{b: 2}"], {"render_mode": "rgb_array", "b": 2}),
        (["--env", "pettingzoo:a", "--env-args", "{render_mode: x}"], {"render_mode": "x"}),
        (["--env", "my_game:Meeting"], {}),
    ],
)
def test_envs_of_packages_are_asked_to_draw(
    path: Path, words: list[str], args: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(name, num_envs, episode_length, options):
        made.append(parse_env_args(options.env_args))
        return registry.make_env("counter", num_envs, episode_length)

    monkeypatch.setattr(play, "make_env", make)
    assert play.main(["--model-path", str(path), *words]) == 0
    assert made == [args]


def refuse(index: int = 0) -> np.ndarray:
    raise NotImplementedError("no display")


def ask(index: int = 0) -> np.ndarray:
    raise ValueError("use render_mode")


@pytest.mark.parametrize(
    ("render", "message"),
    [
        (refuse, "draws no pictures (no display)"),
        (ask, "draws no pictures (use render_mode)"),
        (lambda index: None, "gave NoneType of shape ()"),
        (lambda index: np.zeros((4, 4)), "gave float64 of shape (4, 4)"),
    ],
)
def test_an_env_without_pictures_is_named(path: Path, monkeypatch, render, message, capsys) -> None:
    monkeypatch.setattr(Counter, "render", staticmethod(render))
    assert play.main(["--model-path", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_an_env_that_fails_is_told_apart_from_bad_input(path: Path, monkeypatch, capsys) -> None:
    def fail(self, action):
        raise RuntimeError("the game crashed")

    monkeypatch.setattr(Counter, "step", fail)
    assert play.main(["--model-path", str(path)]) == 1
    assert "RuntimeError: the game crashed" in capsys.readouterr().err


@pytest.mark.parametrize("trouble", [None, "it draws no picture", "another size"])
def test_the_env_is_closed_whatever_happens(
    path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str | None
) -> None:
    """A game of a package may hold a window or a process."""
    closed: list[Counter] = []
    monkeypatch.setattr(Counter, "close", lambda self: closed.append(self))
    if trouble == "it draws no picture":
        monkeypatch.setattr(Counter, "render", lambda self, env: np.zeros((2, 2), np.float32))
    elif trouble == "another size":
        monkeypatch.setattr(play, "make_env", lambda *_: Counter(1, 5, 7, (0.1, 0.1)))
    code = commands.main(["play", "--model-path", str(path)])
    assert code == (0 if trouble is None else 2)
    assert len(closed) == 1
