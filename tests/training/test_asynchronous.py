"""Asynchronous training: which rows a batch holds, how stale they are, and that nothing is lost."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from hmasd.config import Config
from hmasd.envs.base import BatchedEnv
from hmasd.envs.registry import make_env
from hmasd.rollout.storage import StorageError
from hmasd.training.asynchronous import AsynchronousAgent, make_agent, off_policy
from hmasd.types import LowRollout
from tests.helpers.rounds import captured, make_loud
from tests.helpers.runs import Played, play

LENGTH, BATCH = 4, 8  # steps of a fragment, samples of an update: two fragments of four envs


@pytest.fixture
def small(config: Config) -> Config:
    """Four envs that finish a fragment of four steps one after the other."""
    return dataclasses.replace(
        config, sync_mode=False, num_envs=4, chunk_length=LENGTH, batch_size=BATCH
    )


def trained(
    config: Config, lock_steps: int
) -> tuple[AsynchronousAgent, list[Played], list[dict[str, float]], list[LowRollout]]:
    """Play, updating as soon as it is due; returns steps, and metrics and batch of each update."""
    env: BatchedEnv = make_env(config.env, config.num_envs, config.episode_length)
    agent = make_agent(config, env)
    assert isinstance(agent, AsynchronousAgent)
    make_loud(agent.networks)
    view, played, metrics, batches = env.reset(config.seed), [], [], []
    for _ in range(lock_steps):
        some, view = play(agent, env, view, 1)
        played += [some[0]._replace(step=_copied(some[0].step))]
        while agent.should_sync_update():
            batches.append(agent.fragments.rollout(agent.policy_version))
            metrics.append(agent.sync_update())
    return agent, played, metrics, batches


def _copied(step: Any) -> Any:
    return step._replace(
        **{name: getattr(step, name).copy() for name in ("reward", "terminated", "truncated")}
    )


def test_the_share_of_old_samples_is_the_one_counted_by_hand(small: Config) -> None:
    """An update comes every two lock-steps, on a fragment just finished and one a step older.

    The rows of the last two lock-steps are of the current version, those of the two before of the
    last one, and so on: versions behind are 0 0 1 1 in the one fragment and 0 1 1 2 in the other.
    """
    agent, _, metrics, batches = trained(small, 20)
    late = metrics[4:]
    assert late
    for row, batch in zip(late, batches[4:], strict=True):
        assert batch.reward.shape == (LENGTH, 2)
        assert row["async/off_policy_share"] == 5 / 8
        assert row["async/lag_mean"] == 6 / 8
        assert row["async/lag_max"] == row["sync/policy_lag"] == 2
    assert metrics[0]["async/lag_max"] == 0  # all was played before the first update
    assert agent.policy_version == len(metrics) == 8  # after lock-steps 5, 7, ..., 19


def test_lag_by_hand() -> None:
    found = off_policy(7, torch.tensor([[7, 7, 6], [4, 7, 5]]), "coordinator_")
    assert found == {
        "async/coordinator_off_policy_share": 3 / 6,
        "async/coordinator_lag_mean": pytest.approx(6 / 6),
        "async/coordinator_lag_max": 3,
    }


def test_every_step_is_learned_from_once_and_in_its_order(small: Config) -> None:
    """`Counter` shows episode, time and env: fragments go on exactly where the last one ended."""
    _, played, _, batches = trained(small, 41)
    seen: dict[int, list[list[float]]] = {env: [] for env in range(4)}
    for batch in batches:
        for column in range(2):
            (env,) = set(batch.state[:, column, 2].int().tolist())
            seen[env] += batch.state[:, column].tolist()
    for env, states in seen.items():
        every = [row.view.state[env].tolist() for row in played]
        first = every.index(states[0])
        assert first < LENGTH
        assert states == every[first : first + len(states)]
        assert len(states) >= 32


def test_last_values_stand_on_the_next_steps_skills(
    small: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hmasd.training import asynchronous

    with captured(asynchronous, "RoundTail", monkeypatch) as calls:
        _, played, _, batches = trained(small, 40)
    by_state = {
        tuple(row.view.state[e].tolist()): (row.acting, e) for row in played for e in range(4)
    }
    skills_changed = 0
    for batch, (_, team_skill, agent_skills, restart) in zip(batches, calls, strict=True):
        for column in range(2):
            ended = batch.terminated[-1, column] | batch.truncated[-1, column]
            following = by_state.get(tuple(batch.next_state[-1, column].tolist()))
            assert bool(restart[column]) == bool(ended)
            if ended or following is None:  # the next step is of another episode, or not played
                continue
            acting, env = following
            assert team_skill[column] == acting.team_skill[env]
            assert torch.equal(agent_skills[column], acting.agent_skills[env])
            skills_changed += int((agent_skills[column] != batch.agent_skills[-1, column]).any())
    assert skills_changed > 0


def test_values_go_on_over_the_fragments_of_an_env(small: Config, float64: None) -> None:
    """With a step size of nothing, an env's fragments have the values of one unbroken pass."""
    config = dataclasses.replace(small, learning_rate=1e-300, high_level_batch_size=10_000)
    agent, _, _, batches = trained(config, 40)
    critic = agent.networks.critic
    columns: dict[int, list[LowRollout]] = {env: [] for env in range(4)}
    for batch in batches:
        for column in range(2):
            one = LowRollout(*(None if x is None else x[:, column : column + 1] for x in batch))
            columns[int(one.state[0, 0, 2])].append(one)
    for env, parts in columns.items():
        whole = [torch.cat(x) for x in zip(*(part[:8] for part in parts), strict=True)]
        rollout = dict(zip(LowRollout._fields, whole, strict=False))
        keep = (~rollout["restart"]).double()
        skills = (rollout["team_skill"], rollout["agent_skills"])
        _, states = critic(rollout["state"], *skills, torch.zeros(1, 8), keep)
        torch.testing.assert_close(agent.critic_hidden[env], states[-1, 0], rtol=0, atol=1e-10)


def test_open_segments_outlive_the_coordinators_updates(small: Config) -> None:
    config = dataclasses.replace(small, skill_interval=5, high_level_batch_size=3)
    agent, _, metrics, _ = trained(config, 60)
    updates = [row for row in metrics if "high/segments" in row]
    assert agent.coordinator_version == len(updates) > 5
    assert all(row["high/cut_share"] == 0 for row in updates)
    late = updates[3:]
    assert max(row["async/coordinator_lag_max"] for row in late) >= 1
    for row in late:
        share, mean = (row[f"async/coordinator_{x}"] for x in ("off_policy_share", "lag_mean"))
        assert 0 <= share <= mean or (share == mean == 0)


def test_the_ratio_shows_what_synchronous_training_avoids(small: Config) -> None:
    _, _, metrics, _ = trained(small, 40)
    assert metrics[0]["low/ratio_start"] == pytest.approx(1, abs=1e-5)
    assert max(row["low/ratio_start"] for row in metrics[3:]) > 1.001
    synchronous = dataclasses.replace(small, sync_mode=True, batch_size=16)
    env = make_env(synchronous.env, 4, synchronous.episode_length)
    agent, view = make_agent(synchronous, env), env.reset(1)
    for _ in range(4):
        _, view = play(agent, env, view, LENGTH)
        row = agent.sync_update()
        assert row["low/ratio_start"] == pytest.approx(1, abs=1e-5)
        assert not any(tag.startswith("async/") for tag in row)


def test_an_early_update_a_newer_row_and_a_step_twice_are_refused(small: Config) -> None:
    env = make_env(small.env, 4, small.episode_length)
    agent, view = make_agent(small, env), env.reset(1)
    assert agent.sync_mode is False
    played, _ = play(agent, env, view, LENGTH)
    with pytest.raises(StorageError, match="1 fragments are finished, an update needs 2"):
        agent.low_storage.rollout(0)
    with pytest.raises(StorageError, match="stored before"):
        agent.store_transition(played[-1].view, played[-1].acting, played[-1].step)
    play(agent, env, played[-1].step.view, 1)
    with pytest.raises(StorageError, match="newer than the policy"):
        agent.low_storage.rollout(-1)


def test_lost_envs_are_refused(small: Config) -> None:
    env = make_env(small.env, 4, small.episode_length)
    agent, view = make_agent(small, env), env.reset(1)
    seen = agent.observe(view)
    acting = agent.act(seen)
    step = env.step(acting.action.numpy())._replace(lost=np.array([False, True, False, True]))
    with pytest.raises(StorageError, match=r"envs \[1, 3\] failed.*sync_mode = True"):
        agent.store_transition(seen, acting, step)


def test_actions_as_skills_are_learned_asynchronously_too(small: Config) -> None:
    config = dataclasses.replace(
        small,
        **{"low_level": "action", "skill_interval": 1, "skill_persistence": 0.0},
        **{"high_level_batch_size": 1, "env": "masked"},
    )
    _, _, metrics, _ = trained(config, 20)
    assert len(metrics) == 8
    assert [row["high/segments"] for row in metrics] == [5 * 4] + 7 * [2 * 4]
    assert {row["async/coordinator_lag_max"] for row in metrics} == {0, 1}
