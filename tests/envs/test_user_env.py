"""What --env may say, and what is answered to what it may not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from hmasd.envs import registry, user_env
from hmasd.envs.gymnasium_team import GymnasiumTeam
from hmasd.envs.pettingzoo_parallel import PettingZooTeam
from hmasd.envs.registry import env_problem, make_env
from hmasd.envs.user_env import find_factory, make_single, parse_env_args
from hmasd.types import EnvOptions
from tests.helpers.envs import Counter
from tests.helpers.foreign_envs import Relay
from tests.helpers.single_envs import Walk

HELPERS = "tests.helpers."


def options(args: str = "", reward: str = "sum") -> EnvOptions:
    return EnvOptions(args, reward)


def counters(num_envs: int, episode_length: int, num_agents: int = 2) -> Counter:
    return Counter(num_envs, num_agents, episode_length)


def four_counters() -> Counter:
    return Counter(4, 2, 10)


def half_a_batch(num_envs: int) -> object:
    return type("Half", (), {"num_envs": num_envs, "num_agents": 2, "reset": None})()


def a_single_agent() -> object:
    return type("Alone", (), {"action_space": Discrete(2), "observation_space": Discrete(3)})()


def not_today() -> object:
    raise RuntimeError("not today")


def leaves() -> object:
    sys.exit(0)


def fails_at_once() -> object:
    class FailsAtOnce(Relay):
        def reset(self, seed: int | None = None, options: object = None) -> object:
            raise OSError("no board")

    return FailsAtOnce()


NUMBER = 3


@pytest.mark.parametrize(
    ("spec", "args", "agents"),
    [
        (HELPERS + "single_envs:Walk", "{full: false}", 2),
        (HELPERS + "foreign_envs:Relay", "{leave: 2}", 2),
        (HELPERS + "foreign_envs:Turns", "", 2),
        (HELPERS + "foreign_envs:Carriers", '{"listed": true}', 2),
        (__name__ + ":counters", "{num_agents: 3}", 3),
        (HELPERS + "envs:Counter", "{num_agents: 5}", 5),
    ],
)
def test_makes_a_batch_of_any_kind(spec: str, args: str, agents: int) -> None:
    assert env_problem(spec, options(args)) is None
    env = make_env(spec, 3, 10, options(args))
    assert (env.num_envs, env.num_agents, env.episode_length) == (3, agents, 10)
    assert env.reset(1).obs.shape == (3, agents, env.obs_size)
    env.close()


def test_a_single_game_for_a_worker() -> None:
    assert isinstance(make_single(HELPERS + "single_envs:Walk", options()), Walk)
    assert isinstance(make_single(HELPERS + "foreign_envs:Relay", options()), PettingZooTeam)
    team = make_single(HELPERS + "foreign_envs:Carriers", options(reward="mean"))
    assert isinstance(team, GymnasiumTeam)
    team.reset(0)
    assert team.step(np.ones((2, 2), np.float32)).reward == 5.0
    with pytest.raises(ValueError, match="made a batch of envs"):
        make_single(__name__ + ":four_counters", options())


def test_the_current_folder_can_be_imported_from(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "my_own_game.py").write_text(
        "from tests.helpers.single_envs import Walk\nmake = Walk\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    assert make_env("my_own_game:make", 1, 5).num_agents == 2


@pytest.mark.parametrize(
    ("spec", "args", "words"),
    [
        ("no_such:make", "", "there is no module 'no_such': looked in /"),
        (HELPERS + "missing:make", "", "there is no module 'tests.helpers.missing'"),
        (
            HELPERS + "envs:Counted",
            "",
            "Counted does not exist; name a function .*: .*Count",
        ),
        (__name__ + ":NUMBER", "", "NUMBER is not callable"),
        (HELPERS + "envs:Counter", "{num_agents", "env_args = '{num_agents' is not YAML"),
        (HELPERS + "envs:Counter", "[1]", "must be a mapping of names, such as"),
        (HELPERS + "envs:Counter", "{1: 2}", "must be a mapping of names, such as"),
        ("alice_and_bob", "{colour: red}", "cannot be made with env_args .*'colour'"),
        ("alice_bob", "", "does not exist; did you mean 'alice_and_bob'.*my_module:make_env"),
    ],
)
def test_bad_input_is_found_before_anything_is_made(spec: str, args: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_env(spec, 4, 10, options(args))
    problem = env_problem(spec, options(args))
    assert problem is not None
    with pytest.raises(ValueError, match=words):
        raise ValueError(problem)


@pytest.mark.parametrize(
    ("factory", "args", "words"),
    [
        ("four_counters", "", "a batch whose num_envs is 4, but the setting num_envs is 3"),
        ("counters", "{colour: red}", "raised TypeError: .*colour"),
        ("half_a_batch", "", "made a Half without obs_size, state_size, .* must make a BatchedEnv"),
        ("a_single_agent", "", r"made a Alone \(.*Discrete\(2\)\), but it must make a PettingZoo"),
        ("not_today", "", "raised RuntimeError: not today"),
        ("fails_at_once", "", r"FailsAtOnce that cannot be played: OSError: no board \(test_user"),
        ("leaves", "", r"raised SystemExit: 0 \(test_user_env.py, line"),
        ("dict", "", "made a dict .*gymnasium env whose"),
    ],
)
def test_what_the_factory_does_wrong_is_named(factory: str, args: str, words: str) -> None:
    module = "builtins" if factory == "dict" else __name__
    with pytest.raises(ValueError, match=words):
        make_env(f"{module}:{factory}", 3, 10, options(args))


def test_a_module_that_fails_is_not_called_missing(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken_game.py").write_text("1 / 0\n")
    (tmp_path / "leaving_game.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "lacking_game.py").write_text("import not_installed_here\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="importing broken_game raised ZeroDivisionError"):
        find_factory("broken_game:make")
    with pytest.raises(ValueError, match="importing leaving_game raised SystemExit: 0"):
        find_factory("leaving_game:make")
    with pytest.raises(ValueError, match="no module 'not_installed_here'"):
        find_factory("lacking_game:make")
    with pytest.raises(ValueError, match=r"but has others; did you mean tests.helpers.envs\?"):
        find_factory("tests.helpers.envz:Counter")
    with pytest.raises(ValueError, match=r"tests is installed, but has others$"):
        find_factory("tests.nothing_like_it:Counter")
    with pytest.raises(ValueError, match=r"numbers is installed, but has others$"):
        find_factory("numbers.no_package:make")


@pytest.mark.parametrize(
    ("spec", "extra"),
    [("gym:lbforaging:Foraging-8x8-2p-2f-coop-v3", "lbforaging"), ("pettingzoo:mpe2.x", "mpe2")],
)
def test_a_missing_package_comes_with_its_install_line(spec, extra, monkeypatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=extra)

    monkeypatch.setattr(user_env.importlib, "import_module", missing)
    wanted = user_env._EXTRAS[extra]
    with pytest.raises(ValueError, match=rf'pip install -c constraints.txt -e "\.\[{wanted}\]"'):
        find_factory(spec)


def test_yaml_and_json_arguments_are_the_same() -> None:
    assert parse_env_args("") == {}
    assert parse_env_args("{a: 1, b: [x, 2.5]}") == parse_env_args('{"a": 1, "b": ["x", 2.5]}')
    with pytest.raises(ValueError, match="not YAML"):
        parse_env_args("!!python/object/apply:os.getcwd []")


def test_known_names_take_their_makers_arguments(monkeypatch) -> None:
    monkeypatch.setitem(registry._MAKERS, "counters", counters)
    assert make_env("counters", 2, 5, options("{num_agents: 4}")).num_agents == 4
