"""Surveys in training: chance chooses, and what it hardly ever leads to is worth something then."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hmasd.agent import HMASDAgent
from hmasd.algorithm.novelty import (
    Novelty,
)
from hmasd.config import Config
from hmasd.training.asynchronous import make_agent
from hmasd.types import EnvView, HighRollout
from tests.helpers.envs import NeverWon
from tests.helpers.rounds import SMALL, Player, captured, make_loud

CPU = torch.device("cpu")
EXPLORES = replace(
    SMALL, high_level_batch_size=1, exploration_batch_size=1, exploration_start=3 * SMALL.batch_size
)


class Learned(NamedTuple):
    """What one update's segments were, and what the coordinator was rewarded for."""

    segments: HighRollout
    reward: Tensor | None  # None: it was not asked to learn
    metrics: dict[str, float]


def updates(
    config: Config,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    agents: list[HMASDAgent] | None = None,
) -> list[Learned]:
    """What happened in so many rounds; the agent goes into `agents`."""
    player, found = Player(config, NeverWon(4)), []
    agent = player.agent
    if agents is not None:
        agents.append(agent)
    for _ in range(number):
        player.collect()
        with (
            captured(agent, "_learn_from", monkeypatch) as closed,
            captured(agent.coordinator, "_advantage", monkeypatch) as rewarded,
        ):
            metrics = agent.sync_update()
        reward = rewarded[0][0].reward if rewarded else None
        found.append(Learned(closed[0][0], reward, metrics))
    return found


def test_the_bonus_is_the_rise_and_of_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for it is from the third round to the eighth: one update as ever, two of a survey."""
    found = updates(replace(EXPLORES, novelty_coef=0.25), 9, monkeypatch)
    memory = Novelty(found[0].segments.state.shape[1], SMALL.seed, CPU)
    for plain in (*found[:3], found[8]):
        assert torch.equal(plain.reward, plain.segments.reward)
    for survey in found[3:5]:
        assert survey.reward is None
        assert "high/policy_loss" not in survey.metrics
        memory.take_in(survey.segments)
    for one in found[5:8]:
        risen = memory.rise(one.segments)
        torch.testing.assert_close(one.reward, one.segments.reward + 0.25 * risen)
        expected = float(memory.new_to_chance(one.segments.mean_state).mean())
        assert one.metrics["high/novelty"] == pytest.approx(expected, rel=1e-5)
    assert max(float((one.reward - one.segments.reward).max()) for one in found[5:8]) > 1e-3


def test_surveys_go_on_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the sixth round on it explores: one update as ever, two of chance, four that learn."""
    config = replace(EXPLORES, survey_interval=2, exploration_start=6 * SMALL.batch_size)
    found = updates(config, 12, monkeypatch)
    first, *later = [one for one in found if "high/explores" in one.metrics and one.reward is None]
    learned = [one for one in found if "high/surveys" in one.metrics]
    assert [one.metrics["high/surveys"] for one in learned] == [1, 2, 2, 3]
    size = first.segments.state.shape[1]
    climbs, stays = (Novelty(size, SMALL.seed, CPU, interval=interval) for interval in (2, 0))
    for memory in (climbs, stays):
        for one in (first, *later):
            memory.take_in(one.segments)
    for one in learned:
        assert one.reward is not None
        bonus = one.reward - one.segments.reward
        torch.testing.assert_close(bonus, climbs.rise(one.segments), rtol=1e-4, atol=1e-5)
        climbs.follow(one.segments)
    assert (bonus - stays.rise(one.segments)).abs().max() > 1e-3  # control: chance's alone


def test_nothing_new_becomes_usual_while_something_is_won() -> None:
    """What leads there has to stay worth something. It learns from the 12th round on, and wins
    when half of a survey is over, which then is for nothing."""
    config = replace(EXPLORES, survey_interval=2, exploration_start=9 * SMALL.batch_size)
    player, surveys = Player(config, NeverWon(4)), []
    for success in (*[0.0] * 12, 0.02, 0.02, 0.0, 0.0, 0.0):
        player.collect()
        player.agent.wins.success = success
        surveys.append(player.agent.sync_update().get("high/surveys"))
    assert surveys == [None] * 11 + [1, 1, 1, 1, 2, 2]


def test_what_is_new_counts_the_less_the_more_is_won_and_nothing_when_most_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The coordinator explores from the third round on and learns from the sixth."""
    player = Player(EXPLORES, NeverWon(4))
    agent, largest = player.agent, []
    for success in (*[0.0] * 5, 0.5, 0.95):
        player.collect()
        agent.wins.success = success
        novelty = copy.deepcopy(agent.explorer.novelty)
        with (
            captured(agent, "_learn_from", monkeypatch) as closed,
            captured(agent.coordinator, "_advantage", monkeypatch) as rewarded,
        ):
            agent.sync_update()
        if success:
            bonus = rewarded[0][0].reward - closed[0][0].reward
            share = 1 - agent.wins.success if success == 0.5 else 0.0
            risen = novelty.rise(closed[0][0])
            torch.testing.assert_close(bonus, share * risen, rtol=1e-4, atol=1e-5)
            largest.append(float(risen.abs().max()))
    assert min(largest) > 1e-3  # control: there was something new each time


def test_a_coordinator_that_begins_anew_keeps_the_survey_by_chance_alone() -> None:
    """It explores from the fourth round on, learns from the seventh, begins anew at the eighth."""
    config = replace(EXPLORES, survey_interval=2, exploration_start=4 * SMALL.batch_size)
    player, found = Player(config, NeverWon(4)), []
    novelty = player.agent.explorer.novelty
    assert novelty is not None
    for _ in range(9):
        player.collect()
        player.agent.sync_update()
        found.append((len(novelty.surveys), novelty.updates))
    assert found == [(0, 0)] * 5 + [(1, 0), (1, 1), (1, 0), (1, 1)]


def test_chance_chooses_during_the_survey_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    found = updates(EXPLORES, 9, monkeypatch)
    chance = -torch.tensor([2.0, 3.0, 3.0]).log()
    by_chance = [torch.allclose(one.segments.logp, chance) for one in found]
    assert by_chance == [3 <= i < 5 for i in range(9)]
    versions = [one.segments.coordinator_version.unique().tolist() for one in found]
    assert versions == [[i] for i in range(9)]


def test_a_later_time_surveys_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds 3 to 8 are time for it, and 12 to 17; by chance are the second and third of each."""
    chance = -torch.tensor([2.0, 3.0, 3.0]).log()
    found = updates(EXPLORES, 16, monkeypatch)
    by_chance = [i for i, one in enumerate(found, 1) if torch.allclose(one.segments.logp, chance)]
    assert by_chance == [4, 5, 13, 14]


def test_a_survey_that_the_time_cuts_short_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for it are the rounds 1 and 2; the second is of chance, and so is the third."""
    agents: list[HMASDAgent] = []
    config = replace(EXPLORES, exploration_start=SMALL.batch_size)
    found = updates(config, 3, monkeypatch, agents)
    assert [one.reward is None for one in found] == [False, True, True]
    assert not agents[0].team.chooses_by_chance
    novelty = agents[0].explorer.novelty
    assert novelty is not None and not novelty.is_known and novelty.begun is None


@pytest.mark.parametrize("never", [{"novelty_coef": 0.0}, {"exploration_start": 0}])
def test_nobody_learns_from_a_survey_that_is_switched_off(never: dict[str, float]) -> None:
    player = Player(EXPLORES, NeverWon(4))
    for _ in range(4):
        player.collect()
        player.agent.sync_update()
    assert player.agent.team.chooses_by_chance
    player.collect()
    other = Player(replace(EXPLORES, **never), NeverWon(4))
    other.agent.load_state_dict(player.agent.state_dict())
    before = {name: x.clone() for name, x in other.agent.networks.state_dict().items()}
    metrics = other.agent.sync_update()
    after = other.agent.networks.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items() if "coord" in name)
    assert metrics["high/segments"] > 0 and not other.agent.team.chooses_by_chance


def train(agent: HMASDAgent, env: NeverWon, view: EnvView, env_steps: int) -> None:
    """Asynchronous training: an update as soon as there is a batch."""
    while agent.env_steps < env_steps:
        seen = agent.observe(view)
        acting = agent.act(seen)
        step = env.step(acting.action.numpy())
        agent.store_transition(seen, acting, step)
        view = step.view
        while agent.should_sync_update():
            agent.sync_update()


def test_chance_and_the_coordinator_share_no_batch_in_asynchronous_training() -> None:
    """All segments of a survey are equally likely, and none after it."""
    config = replace(EXPLORES, sync_mode=False, batch_size=16, exploration_start=96)
    env = NeverWon(4)
    agent, view = make_agent(config, env), env.reset(0)
    make_loud(agent.networks)
    chance, kinds, learn = -torch.tensor([2.0, 3.0, 3.0]).log(), [], agent._learn_from

    def look(segments: HighRollout) -> dict[str, Any]:
        alike = torch.isclose(segments.logp, chance).all(-1)
        kinds.append((agent.team.chooses_by_chance, alike.any().item(), alike.all().item()))
        return learn(segments)

    agent._learn_from = look
    train(agent, env, view, 600)
    assert sum(surveys for surveys, *_ in kinds) >= 2
    assert all(every if surveys else not some for surveys, some, every in kinds)


def test_what_a_coordinator_chose_that_began_anew_is_forgotten_in_asynchronous_training() -> None:
    """Its open segments are, too; other updates leave them to the next batch (control)."""
    config = replace(EXPLORES, sync_mode=False, batch_size=16, exploration_start=96)
    config = replace(config, novelty_coef=0.0, skill_interval=7)
    env = NeverWon(4)
    agent, view = make_agent(config, env), env.reset(0)
    learn, fresh, oldest = agent._learn_from, [0], []

    def look(segments: HighRollout) -> dict[str, Any]:
        version = agent.coordinator_version
        oldest.append((int(segments.coordinator_version.min()), fresh[-1], version))
        metrics = learn(segments)
        if metrics.get("high/begins_anew"):
            fresh.append(version + 1)
        return metrics

    agent._learn_from = look
    train(agent, env, view, 900)
    assert len(fresh) > 2
    assert all(old >= since for old, since, _ in oldest)
    assert any(old < version for old, _, version in oldest)  # control


def test_without_weight_there_is_no_survey_and_no_bonus(monkeypatch: pytest.MonkeyPatch) -> None:
    for learned in updates(replace(EXPLORES, novelty_coef=0.0), 7, monkeypatch):
        assert torch.equal(learned.reward, learned.segments.reward)
        assert "high/novelty" not in learned.metrics
