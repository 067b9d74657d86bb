"""Books kept beside the agent: who did what in which step, to hold its storages against.

All from the ids in the `Counter` env's observations: (episode, t, env) names a step of training.
"""

from __future__ import annotations

from typing import NamedTuple

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


def keep_books(config: Config, rounds: int, extra_steps: int = 0) -> Books:
    """Play rounds and some steps more, and record every step and every batch of segments."""
    agent, env, view = make_agent(config)
    prepare, batches, played = agent.coordinator.prepare, [], []

    def record(segments: HighRollout):
        batches.append(Batch(segments, len(played)))
        return prepare(segments)

    agent.coordinator.prepare = record
    for _ in range(rounds):
        some, view = play(agent, env, view, config.rollout_length)
        played += some
        agent.sync_update()
    some, view = play(agent, env, view, extra_steps)
    played += some
    entries: dict[StepId, Entry] = {}
    for row in played:
        _enter(entries, row)
    return Books(agent, entries, batches, torch.from_numpy(view.state))


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
    """Trained, closed and open segments, the open ones as if they were closed now."""
    storage = books.agent.high_storage
    found = [batch.segments for batch in books.batches] + list(storage._closed)
    opened = storage._open
    envs = opened["length"].nonzero().squeeze(-1)
    unknown = {
        "env": envs,
        "terminated": torch.zeros(len(envs), dtype=torch.bool),
        "ended": torch.zeros(len(envs), dtype=torch.bool),
        "cut": torch.zeros(len(envs), dtype=torch.bool),
        "next_state": books.last_state[envs],
        "next_obs": torch.zeros(len(envs), *opened["obs"].shape[1:]),
    }
    return [*found, HighRollout(**unknown, **{name: x[envs] for name, x in opened.items()})]


def check_partition(books: Books) -> None:
    """Segments cover every step once; sums, lengths, skills, ends and versions are the steps'."""
    config, left = books.agent.config, dict(books.entries)
    for segments in all_segments(books):
        for i in range(len(segments.env)):
            _check_segment(segments, i, config, left)
    assert not left, f"steps in no segment: {sorted(left)[:5]}"


def _check_segment(
    segments: HighRollout, i: int, config: Config, left: dict[StepId, Entry]
) -> None:
    """Take a segment's steps out of `left`; what is not there was never played, or used before."""
    episode, start, env = segments.state[i].int().tolist()
    length = int(segments.length[i])
    assert env == int(segments.env[i])
    assert 1 <= length <= config.skill_interval, "a skill outlives its interval"
    steps = [left.pop((episode, start + p, env), None) for p in range(length)]
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
    assert bool(segments.ended[i]) == (over or cut)


def reward_of(state: torch.Tensor) -> torch.Tensor:
    """The reward of the step taken in a state of `Counter`: [..., 3] -> [...]."""
    episode, t, env = state.int().unbind(-1)
    return torch.as_tensor(Counter.reward_of(episode, t, env))
