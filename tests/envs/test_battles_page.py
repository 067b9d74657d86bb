"""The page's way to play SMAC, against a stand-in with SMAC's methods in the place of the game."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hmasd.envs.contract import check_env
from hmasd.envs.pettingzoo_parallel import PettingZooTeam
from hmasd.envs.registry import make_env

PAGE = Path(__file__).parents[2] / "docs" / "environments.md"
LIMIT = 12
NO_OP, STOP, ATTACK = range(3)


class StandIn:
    """Two soldiers; an attack takes 1 of the enemy's health of 5; at step 4 the first one dies."""

    def __init__(self, map_name: str) -> None:
        assert map_name == "3m"

    def get_env_info(self) -> dict[str, int]:
        return {"n_agents": 2, "obs_shape": 3, "state_shape": 2, "n_actions": 3}

    def reset(self) -> None:
        self.health, self.time = 5, 0

    def step(self, actions: list[int]) -> tuple[float, bool, dict]:
        for agent, action in enumerate(actions):
            assert self.get_avail_agent_actions(agent)[action] == 1
        self.time += 1
        self.health -= sum(action == ATTACK for action in actions)
        won, late = self.health <= 0, self.time >= LIMIT
        told = {"battle_won": won} | ({"episode_limit": True} if late and not won else {})
        return -7.0, won or late, told

    def get_avail_agent_actions(self, agent: int) -> list[int]:
        return [1, 0, 0] if agent == 0 and self.time >= 4 else [0, 1, 1]

    def get_obs(self) -> list[np.ndarray]:
        return [np.array([agent, self.health / 5, self.time / LIMIT]) for agent in range(2)]

    def get_state(self) -> np.ndarray:
        return np.array([self.health / 5, self.time / LIMIT])


@pytest.fixture
def battles(tmp_path, monkeypatch) -> ModuleType:
    """The page's file, importable, with the stand-in as SMAC's class."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "class Battle" in block]
    (tmp_path / "battles.py").write_text(code, encoding="utf-8")
    smac = ModuleType("smac.env")
    smac.StarCraft2Env = StandIn
    monkeypatch.setitem(sys.modules, "smac", ModuleType("smac"))
    monkeypatch.setitem(sys.modules, "smac.env", smac)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("battles")
    sys.modules.pop("battles")


def test_a_battle_follows_the_contract(battles: ModuleType) -> None:
    env = make_env("battles:Battle", 3, LIMIT)
    assert (env.num_agents, env.obs_size, env.state_size) == (2, 3, 2)
    assert check_env(env, steps=60, seed=1) == []


def test_only_a_win_is_paid_and_the_dead_do_nothing(battles: ModuleType) -> None:
    team = PettingZooTeam(battles.Battle())
    team.reset(0)
    steps = [team.step(np.array(pair)) for pair in ([1, 2], [2, 1], [2, 2], [1, 1], [1, 2])]
    assert [step.reward for step in steps] == [0, 0, 0, 0, 1]
    assert [step.success for step in steps] == [False] * 4 + [True]
    assert steps[-1].terminated
    assert not steps[-1].truncated
    assert steps[3].view.alive.tolist() == [False, True]


def test_the_time_limit_is_a_truncation(battles: ModuleType) -> None:
    team = PettingZooTeam(battles.Battle())
    team.reset(0)
    steps = [team.step(np.array([STOP, STOP])) for _ in range(LIMIT)]
    assert [step.truncated for step in steps] == [False] * (LIMIT - 1) + [True]
    assert not any(step.terminated or step.reward for step in steps)
