"""Every environment of others that docs/environments.md lists keeps the contract; some by hand."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from hmasd.check_env import parse
from hmasd.envs import check_process
from hmasd.envs.extras import install_line
from hmasd.envs.registry import make_env
from hmasd.envs.user_env import _EXTRAS, make_single
from hmasd.types import EnvOptions

PAGE = Path(__file__).parents[2] / "docs" / "environments.md"
LISTED = re.findall(
    r"^hmasd check-env ((?:gym|pettingzoo|vmas):.*)$", PAGE.read_text(), re.MULTILINE
)
SLOW_IMPORTS = {"multiwalker": "Box2D", "pistonball": "pymunk", "cooperative_pong": "pygame"}


def need(spec: str) -> None:
    """Skip where a package that the env stands on is missing, with the line that installs it."""
    packages = [name for game, name in SLOW_IMPORTS.items() if game in spec]
    head, place = spec.split(":")[:2]
    for name in [head if head == "vmas" else place.split(".")[0], *packages]:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: {install_line(_EXTRAS[name])}")


def test_at_least_twelve_are_listed() -> None:
    assert len({line.split()[0] for line in LISTED}) >= 12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("line", LISTED)
def test_keeps_the_contract(line: str, monkeypatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    words = shlex.split(line)
    need(words[0])
    steps = "12" if "butterfly" in words[0] else "30"
    request, _ = parse([*words, "--num-envs", "2", "--steps", steps])
    report = check_process.check(request, lambda now, told: None)
    assert not report.faults and report.problem is None
    assert report.seen[-1].startswith("ok: no fault in")


def foraging(*args: str) -> object:
    need("gym:lbforaging")
    return make_single("gym:lbforaging:Foraging-8x8-2p-2f-coop-v3", EnvOptions(*args))


def test_foragings_own_limit_is_a_truncation() -> None:
    team = foraging()
    team.reset(1)
    steps = [team.step(np.zeros(2, int)) for _ in range(50)]  # nobody moves
    assert not any(step.terminated or step.truncated for step in steps[:-1])
    assert steps[-1].truncated and not steps[-1].terminated and not steps[-1].success


def test_foraging_succeeds_when_all_food_is_loaded() -> None:
    team = foraging()
    view = team.reset(1)
    game = team._game
    food = np.argwhere(game.field)
    game.field[tuple(food[0])] = 0  # one is left; both stand beside it and load
    row, column = map(int, food[1])
    game.field[row, column] = 2
    free = [(row, column - 1), (row, column + 1)]
    for player, place in zip(game.players, free, strict=True):
        player.position, player.level = place, 1
    game._gen_valid_moves()
    step = team.step(np.array([5, 5]))
    assert step.terminated and step.success and not step.truncated
    assert step.reward > 0
    assert view.obs.shape == (2, 12) and view.state.shape == (24,)


def test_foraging_starts_by_its_seed_alone() -> None:
    """Its own reset starts nobody where an agent of the last episode still stands."""
    team = foraging()
    first = team.reset(0).obs.copy()
    taken = team._game.players[0].position
    for _ in range(3):
        team._game.players[1].position = taken
        np.testing.assert_array_equal(team.reset(0).obs, first)
    team._game.players[1].position = taken
    observations, _ = team._env.reset(seed=0)
    assert (np.stack(observations) != first).any()  # control: the package's reset alone


def test_the_warehouses_own_limit_is_a_truncation() -> None:
    need("gym:rware")
    team = make_single("gym:rware:rware-tiny-2ag-v2", EnvOptions("{max_steps: 7}"))
    team.reset(0)
    ends = [(s.terminated, s.truncated) for s in (team.step(np.zeros(2, int)) for _ in range(7))]
    assert ends == [(False, False)] * 6 + [(False, True)]


def test_simple_spread_shows_what_the_package_shows() -> None:
    need("pettingzoo:mpe2.simple_spread_v3")
    from mpe2 import simple_spread_v3

    team = make_single("pettingzoo:mpe2.simple_spread_v3", EnvOptions())
    raw = simple_spread_v3.parallel_env()
    view = team.reset(4)
    seen, _ = raw.reset(seed=4)
    rng = np.random.default_rng(0)
    for number in range(25):
        np.testing.assert_array_equal(view.obs, np.stack([seen[name] for name in raw.agents]))
        np.testing.assert_array_equal(view.state, raw.state())
        action = rng.integers(0, 5, 3)
        names = list(raw.agents)
        step = team.step(action)
        seen, rewards, _, cut, _ = raw.step(dict(zip(names, action, strict=True)))
        assert step.reward == pytest.approx(sum(rewards.values()))
        assert step.truncated == all(cut.values()) == (number == 24)
        view = step.view
        if step.truncated:
            np.testing.assert_array_equal(view.obs, np.stack([seen[name] for name in names]))


def test_the_speaker_and_the_listener_are_filled_up() -> None:
    need("pettingzoo:mpe2.simple_speaker_listener_v4")
    env = make_env("pettingzoo:mpe2.simple_speaker_listener_v4", 2, 25)
    view = env.reset(0)
    assert (view.obs[:, 0, 3:] == 0).all() and (view.obs[:, 0].sum(axis=1) != 0).all()
    assert view.action_mask[0].tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert env.state_size == 14  # 3 + 11, without the fillers
