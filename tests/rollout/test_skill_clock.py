"""The skill clock: decisions come when they are due, at no other time, for each env by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hmasd.rollout.skill_clock import SkillClock
from hmasd.types import Decision

E, N, K = 4, 2, 3


def make_clock() -> SkillClock:
    return SkillClock(E, N, K, torch.device("cpu"))


def decide(clock: SkillClock, envs: list[int], skill: int) -> None:
    n = len(envs)
    clock.start(
        Decision(
            torch.tensor(envs, dtype=torch.int64),
            torch.full((n,), skill),
            torch.full((n, N), skill + 1),
            torch.zeros(n, N + 1),
        )
    )


def ends(*envs: int) -> Tensor:
    ended = torch.zeros(E, dtype=torch.bool)
    ended[list(envs)] = True
    return ended


def check_clock() -> None:
    """A skill that outlived its interval or its episode would mix two decisions' rewards."""
    clock = make_clock()
    assert clock.due.tolist() == [True] * E
    decide(clock, [0, 1, 2, 3], 1)
    assert clock.due.tolist() == [False] * E
    assert clock.advance(ends()).tolist() == [False] * E
    assert clock.advance(ends(2)).tolist() == [False, False, True, False]
    decide(clock, [2], 0)  # env 2 starts an episode: its clock restarts, the others' go on
    assert clock.team_skill.tolist() == [1, 1, 0, 1]
    assert clock.agent_skills.tolist() == [[2, 2], [2, 2], [1, 1], [2, 2]]
    assert clock.advance(ends()).tolist() == [True, True, False, True]
    decide(clock, [0, 1, 3], 0)
    assert clock.age.tolist() == [0, 0, 1, 0]
    assert clock.advance(ends()).tolist() == [False] * E
    assert clock.advance(ends()).tolist() == [False, False, True, False]
    clock.interrupt()
    assert clock.due.tolist() == [True] * E


def test_skills_that_persist_go_on_for_another_interval() -> None:
    """Only where theirs is over, and not into the next episode."""
    clock = make_clock()
    decide(clock, [0, 1, 2, 3], 1)
    persists = torch.tensor([True, False, True, True])
    assert clock.advance(ends(), persists).tolist() == [False] * E
    assert clock.advance(ends(2), persists).tolist() == [False, False, True, False]
    decide(clock, [2], 0)
    assert clock.advance(ends(3), persists).tolist() == [False, True, False, True]
    decide(clock, [1, 3], 0)
    assert clock.age.tolist() == [0, 0, 1, 0]
    assert clock.team_skill.tolist() == [1, 0, 0, 0]
    assert clock.advance(ends()).tolist() == [False] * E  # control: none persists
    assert clock.advance(ends()).tolist() == [False, False, True, False]
    decide(clock, [2], 0)
    assert clock.advance(ends()).tolist() == [True, True, False, True]


def test_decisions_are_due_at_start_interval_and_episode_end() -> None:
    check_clock()


def test_an_interrupt_makes_every_env_decide_anew() -> None:
    clock = make_clock()
    decide(clock, [0, 1, 2, 3], 1)
    clock.advance(ends())
    clock.interrupt()
    assert clock.due.all()


def test_clock_goes_on_exactly_from_its_state() -> None:
    clock, other = make_clock(), make_clock()
    decide(clock, [0, 1, 2, 3], 1)
    clock.advance(ends(1))
    other.load_state_dict(clock.state_dict())
    for one in (clock, other):
        one.advance(ends())
        one.advance(ends())
    assert clock.due.tolist() == other.due.tolist() == [True, True, True, True]
    assert clock.age.tolist() == other.age.tolist()


def deaf_to_ends(clock: SkillClock, ended: Tensor) -> Tensor:
    clock.age += 1
    clock.due = clock.age >= clock.interval
    return clock.due


def one_step_late(clock: SkillClock, ended: Tensor) -> Tensor:
    clock.age += 1
    clock.due = ended | (clock.age > clock.interval)
    return clock.due


@pytest.mark.parametrize("advance", [deaf_to_ends, one_step_late])
def test_control_a_wrong_clock_is_caught(monkeypatch: pytest.MonkeyPatch, advance) -> None:
    monkeypatch.setattr(SkillClock, "advance", advance)
    with pytest.raises(AssertionError):
        check_clock()


def test_control_a_clock_that_never_restarts_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(clock: SkillClock, decision: Decision) -> None:
        clock.team_skill[decision.envs] = decision.team_skill
        clock.agent_skills[decision.envs] = decision.agent_skills
        clock.due[decision.envs] = False

    monkeypatch.setattr(SkillClock, "start", start)
    with pytest.raises(AssertionError):
        check_clock()
