"""Envs that fail in a round: collected = learned + discarded, and nobody learns from what is lost.

Rounds have 4 lock-steps in 3 envs (`tiny_config`); lock-steps count from 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.envs import registry
from hmasd.presets import CHANGES
from hmasd.rollout.segments import SegmentStorage
from hmasd.rollout.skill_clock import SkillClock
from hmasd.types import EnvStep
from tests.helpers.envs import Lossy
from tests.helpers.ledger import check_partition, keep_books
from tests.helpers.rounds import captured
from tests.helpers.runs import (
    differences,
    is_finite,
    make_agent,
    play,
    play_rounds,
    snapshot,
    tiny_config,
)

LOSSES = [
    {1: (0,)},  # the first step of all
    {4: (2,), 8: (1,)},  # the last step of a round
    {6: (0, 2), 7: (0,)},  # an env twice in a round
    {9: (1,), 13: (1,), 17: (1,)},  # an env in every round
    {5: (0,), 6: (1,), 7: (2,)},  # all envs of a round, one by one
    {10: (0, 1, 2)},
    {4 * n + n % 4 + 1: (n % 3,) for n in range(8)},
]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    """A run in which nothing fails until `losing` says so."""
    losing(monkeypatch, {})
    return tiny_config(env="lossy", discoverer_epochs=1)


def losing(monkeypatch: pytest.MonkeyPatch, losses: dict[int, tuple[int, ...]]) -> None:
    """From here on, new envs fail as told."""
    monkeypatch.setitem(
        registry._MAKERS, "lossy", lambda num_envs, length: Lossy(num_envs, length, losses)
    )


# --- conservation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize(("interval", "batch"), [(3, 7), (1, 1)])
def test_segments_and_discarded_steps_are_all_that_was_played(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    losses: dict[int, tuple[int, ...]],
    interval: int,
    batch: int,
) -> None:
    losing(monkeypatch, losses)
    config = dataclasses.replace(config, skill_interval=interval, high_level_batch_size=batch)
    books = keep_books(config, rounds=8, extra_steps=1)
    rounds = {((step - 1) // 4, env) for step, envs in losses.items() for env in envs}
    assert len(books.discarded) >= 4 * len(rounds)
    check_partition(books)


def keep_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentStorage, "discard", lambda self, lost: None)


def forget_earlier_rounds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentStorage, "end_round", lambda self: None)


def go_on_with_the_skill(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt = SkillClock.interrupt
    monkeypatch.setattr(
        SkillClock, "interrupt", lambda self, envs=None: interrupt(self) if envs is None else None
    )


def chain_over_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    discard = SegmentStorage.discard

    def forgetful(self: SegmentStorage, lost: torch.Tensor) -> None:
        ended = {}
        for part in self._closed:
            for env, state, end in zip(part.env, part.state, part.ended, strict=True):
                ended[int(env), tuple(state.tolist())] = bool(end)
        discard(self, lost)
        for part in self._closed:
            for i, (env, state) in enumerate(zip(part.env, part.state, strict=True)):
                part.ended[i] = ended[int(env), tuple(state.tolist())]

    monkeypatch.setattr(SegmentStorage, "discard", forgetful)


@pytest.mark.parametrize(
    "plant",
    [keep_what_was_lost, forget_earlier_rounds_too, go_on_with_the_skill, chain_over_the_gap],
)
def test_a_planted_bug_is_caught_by_the_books(config: Config, plant: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        losing(patch, LOSSES[-1])
        plant(patch)
        with pytest.raises(AssertionError):
            check_partition(
                keep_books(
                    dataclasses.replace(config, high_level_batch_size=12, skill_persistence=0.0),
                    rounds=8,
                )
            )


@pytest.mark.parametrize("losses", LOSSES)
def test_the_low_level_learns_from_all_other_rows(
    config: Config, monkeypatch: pytest.MonkeyPatch, losses: dict[int, tuple[int, ...]]
) -> None:
    losing(monkeypatch, losses)
    agent, env, view = make_agent(config)
    for number in range(4):
        lost = {e for step in range(4 * number + 1, 4 * number + 5) for e in losses.get(step, ())}
        played, view = play(agent, env, view, 4)
        with captured(agent.discoverer, "update", monkeypatch) as calls:
            metrics = agent.sync_update()
        assert metrics["sync/discarded_samples"] == 4 * len(lost)
        assert metrics["Buffer/SamplesCollected"] == 12
        if len(lost) == 3:
            assert not calls
            continue
        ((actor_batch, critic_batch),) = calls
        weight = torch.ones(()) if actor_batch.weight is None else actor_batch.weight
        rows = weight.expand_as(actor_batch.advantage) > 0
        seen = {tuple(row) for row in actor_batch.obs[rows][:, :3].int().tolist()}
        wanted = {
            tuple(row.view.state[e].int().tolist())
            for row in played
            for e in range(3)
            if e not in lost
        }
        assert seen == wanted and int(rows.sum()) == 2 * len(wanted)
        assert critic_batch.weight is None or bool(
            (critic_batch.weight.sum() == actor_batch.weight.sum()).all()
        )


# --- nobody learns from it ------------------------------------------------------------------------


class Disturbed(Lossy):
    """Env 1 shows and pays something else by `strength`, so that learning from it would show."""

    def __init__(self, losses: dict[int, tuple[int, ...]], strength: float) -> None:
        super().__init__(3, 7, losses)
        self.strength = strength

    def step(self, action: np.ndarray) -> EnvStep:
        step = super().step(action)
        for array in (
            step.reward,
            step.view.obs,
            step.view.state,
            step.final_obs,
            step.final_state,
        ):
            array[1] += self.strength
        return step


def parameters_after_a_round(
    config: Config, losses: dict[int, tuple[int, ...]], strength: float
) -> tuple[dict[str, Any], dict[str, float]]:
    env = Disturbed(losses, strength)
    agent = HMASDAgent(config, env)
    play(agent, env, env.reset(1), 4)
    metrics = agent.sync_update()
    return snapshot(agent)["networks"], metrics


@pytest.mark.parametrize("rounds_kept", [1, 2])
def test_what_a_lost_env_showed_changes_no_parameter(config: Config, rounds_kept: int) -> None:
    config = dataclasses.replace(
        config, high_level_batch_size=1, discriminator_rounds=rounds_kept, discoverer_epochs=2
    )
    losses = {3: (1,)}
    one, metrics = parameters_after_a_round(config, losses, 0.0)
    other, disturbed = parameters_after_a_round(config, losses, 7.0)
    assert metrics["high/segments"] >= 1 and metrics["sync/discarded_samples"] == 4
    assert differences(one, other) == []
    assert disturbed == metrics
    fine, _ = parameters_after_a_round(config, {}, 0.0)
    shown, _ = parameters_after_a_round(config, {}, 7.0)
    changed = {name.split(".")[0] for name in differences(fine, shown)}  # the control
    discriminators = {"team_discriminator", "individual_discriminator"}
    assert changed >= {"coordinator", "actor", "critic"} | discriminators


BASELINES = {  # and what they train
    "mappo": {"actor", "critic"},
    "ippo": {"actor", "critic"},
    "mat": {"coordinator"},
}


@pytest.mark.parametrize("name", BASELINES)
def test_the_baselines_leave_lost_envs_out(config: Config, name: str) -> None:
    config = dataclasses.replace(config, **CHANGES[name])
    one, metrics = parameters_after_a_round(config, {3: (1,)}, 0.0)
    other, disturbed = parameters_after_a_round(config, {3: (1,)}, 7.0)
    assert metrics["sync/discarded_samples"] == 4 and disturbed == metrics
    assert differences(one, other) == []
    fine, _ = parameters_after_a_round(config, {}, 0.0)
    shown, _ = parameters_after_a_round(config, {}, 7.0)
    assert {name.split(".")[0] for name in differences(fine, shown)} >= BASELINES[name]


def test_a_round_that_loses_every_env_changes_no_low_level_network(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(monkeypatch, {6: (0, 1, 2)})
    agent, env, view = make_agent(dataclasses.replace(config, high_level_batch_size=100))
    _, view = play_rounds(agent, env, view, 1)
    before = snapshot(agent)["networks"]
    _, view = play(agent, env, view, 4)
    metrics = agent.sync_update()
    assert metrics["sync/discarded_samples"] == 12 and agent.policy_version == 2
    assert differences(before, snapshot(agent)["networks"]) == []
    assert is_finite(metrics) and "low/policy_loss" not in metrics
    _, view = play(agent, env, view, 4)
    assert agent.sync_update()["sync/discarded_samples"] == 0
    assert differences(before, snapshot(agent)["networks"]) != []


@pytest.mark.parametrize(
    "left_out", [None, ("low_storage", "discarded", None), ("high_storage", "closed_before", 0)]
)
def test_a_loss_in_a_saved_half_round_is_remembered(
    config: Config, monkeypatch: pytest.MonkeyPatch, left_out: tuple[str, str, Any] | None
) -> None:
    losing(monkeypatch, {6: (2,)})
    agent, env, view = make_agent(dataclasses.replace(config, high_level_batch_size=100))
    _, view = play_rounds(agent, env, view, 1)
    _, view = play(agent, env, view, 2)
    saved = snapshot(agent)
    if left_out is not None:
        room, name, blank = left_out
        saved[room][name] = blank
    twin, twin_env, _ = make_agent(agent.config)
    twin.load_state_dict(saved)
    twin_env.set_state(env.get_state())
    for each, its_env in ((agent, env), (twin, twin_env)):
        play(each, its_env, view, 2)
        each.sync_update()
    assert (differences(snapshot(agent), snapshot(twin)) == []) == (left_out is None)


def test_the_metric_is_zero_where_nothing_fails(config: Config) -> None:
    agent, env, view = make_agent(config)
    play(agent, env, view, 4)
    assert agent.sync_update()["sync/discarded_samples"] == 0
