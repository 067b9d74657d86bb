"""Books kept beside the agent: who did what in which step, to hold its storages against.

All from the ids in the `Counter` env's observations: (episode, t, env) names a step of training.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.types import HighRollout
from tests.helpers.envs import Counter
from tests.helpers.runs import Played, make_agent, play

StepId = tuple[int, int, int]  # episode, t, env


class Entry(NamedTuple):
    """What happened in one step of one env."""

    team_skill: int
    agent_skills: tuple[int, ...]
    reward: float
    terminated: bool
    truncated: bool
    coordinator_version: int


class Batch(NamedTuple):
    """Segments that the coordinator was trained on."""

    segments: HighRollout
    after: int  # lock-steps played before


class Books(NamedTuple):
    """A whole run of the agent, played by hand."""

    agent: HMASDAgent
    entries: dict[StepId, Entry]
    batches: list[Batch]
    last_state: torch.Tensor  # [E, S]
    discarded: frozenset[StepId]  # of envs that failed in their round, or cut off by that


def keep_books(config: Config, rounds: int, extra_steps: int = 0) -> Books:
    """Play rounds and some steps more, and record every step and every batch of segments."""
    agent, env, view = make_agent(config)
    prepare, batches, played = agent.coordinator.prepare, [], []

    def record(segments: HighRollout, *more):
        batches.append(Batch(segments, len(played)))
        return prepare(segments, *more)

    agent.coordinator.prepare = record
    discarded: list[StepId] = []
    for _ in range(rounds):
        opened = agent.high_storage._open
        carried = opened["length"].tolist() if opened else [0] * config.num_envs  # so many steps
        some, view = play(agent, env, view, config.rollout_length)
        discarded += _discarded(played, some, carried)
        played += some
        agent.sync_update()
    some, view = play(agent, env, view, extra_steps)
    played += some
    entries: dict[StepId, Entry] = {}
    for row in played:
        _enter(entries, row)
    last_state = torch.from_numpy(view.state)
    return Books(agent, entries, batches, last_state, frozenset(discarded))


def _discarded(before: list[Played], played: list[Played], carried: list[int]) -> list[StepId]:
    """The steps of a round's lost envs, and those of their segments that were open before it."""
    lost = {e for row in played if row.step.lost is not None for e in np.flatnonzero(row.step.lost)}
    steps = []
    for e in lost:
        rows = [*before[len(before) - carried[e] :], *played]
        steps += [tuple(row.view.state[e].int().tolist()) for row in rows]
    return steps


def _enter(entries: dict[StepId, Entry], row: Played) -> None:
    for e, (episode, t, env) in enumerate(row.view.state.int().tolist()):
        assert env == e and (episode, t, env) not in entries
        entries[episode, t, env] = Entry(
            int(row.acting.team_skill[e]),
            tuple(row.acting.agent_skills[e].tolist()),
            float(row.step.reward[e]),
            bool(row.step.terminated[e]),
            bool(row.step.truncated[e]),
            row.coordinator_version,
        )


def all_segments(books: Books) -> list[HighRollout]:
    """Trained, closed and open segments, the open ones as if they were cut now."""
    storage = books.agent.high_storage
    found = [batch.segments for batch in books.batches] + list(storage._closed)
    opened = storage._open
    envs = opened["length"].nonzero().squeeze(-1)
    unknown = {
        "env": envs,
        "terminated": torch.zeros(len(envs), dtype=torch.bool),
        "ended": torch.ones(len(envs), dtype=torch.bool),
        "cut": torch.ones(len(envs), dtype=torch.bool),
        "next_state": books.last_state[envs],
        "next_obs": torch.zeros(len(envs), *opened["obs"].shape[1:]),
    }
    return [*found, HighRollout(**unknown, **{name: x[envs] for name, x in opened.items()})]


def check_partition(books: Books) -> None:
    """Segments cover every step once, but for the discarded ones, and say what the steps say."""
    config, left = books.agent.config, dict(books.entries)
    for segments in all_segments(books):
        for i in range(len(segments.env)):
            _check_segment(segments, i, config, left, books.discarded)
    assert set(left) == books.discarded, "steps in no segment that are not discarded, or vice versa"


def _check_segment(
    segments: HighRollout,
    i: int,
    config: Config,
    left: dict[StepId, Entry],
    discarded: frozenset[StepId],
) -> None:
    """Take a segment's steps out of `left`; what is not there was never played, or used before."""
    episode, start, env = segments.state[i].int().tolist()
    length = int(segments.length[i])
    assert env == int(segments.env[i])
    assert length >= 1
    if config.skill_persistence == 0:
        assert length <= config.skill_interval, "a skill outlives its interval"
    if not segments.ended[i]:
        assert length % config.skill_interval == 0, "a skill ends within an interval"
    ids = [(episode, start + p, env) for p in range(length)]
    assert discarded.isdisjoint(ids), "a segment holds a step of an env that failed in its round"
    steps = [left.pop(step, None) for step in ids]
    assert None not in steps, f"a step of {(episode, start, env)} is missing or in two segments"
    assert segments.next_state[i].int().tolist() == [episode, start + length, env]
    discount = config.gamma if config.high_discount == "smdp" else 1.0
    expected = sum(step.reward * discount**p for p, step in enumerate(steps))
    assert abs(float(segments.reward[i]) - expected) < 1e-4, (
        "the segment's reward is not its steps'"
    )
    skills = (int(segments.team_skill[i]), tuple(segments.agent_skills[i].tolist()))
    version = int(segments.coordinator_version[i])
    for step in steps:
        assert (step.team_skill, step.agent_skills) == skills, "skills change inside a segment"
        assert step.coordinator_version == version, "a segment spans two coordinators"
    assert not any(step.terminated or step.truncated for step in steps[:-1])
    last = steps[-1]
    assert bool(segments.terminated[i]) == last.terminated
    over = last.terminated or last.truncated
    cut = bool(segments.cut[i])
    breaks_off = (episode, start + length, env) in discarded
    chained = bool((segments.env[i + 1 :] == env).any())  # a later segment would continue it
    if not breaks_off or chained:
        assert bool(segments.ended[i]) == (over or cut or breaks_off)


def reward_of(state: torch.Tensor) -> torch.Tensor:
    """The reward of the step taken in a state of `Counter`: [..., 3] -> [...]."""
    episode, t, env = state.int().unbind(-1)
    return torch.as_tensor(Counter.reward_of(episode, t, env))
