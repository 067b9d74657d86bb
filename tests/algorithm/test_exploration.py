"""The coordinator explores from a step on, in turn with training as before, until it wins."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hmasd.algorithm.exploration import Exploration, ended_and_won
from hmasd.config import Config
from hmasd.types import LowRollout
from tests.helpers.envs import Counter
from tests.helpers.rounds import SMALL, Player


def exploration(start: int) -> Exploration:
    return Exploration(Config(exploration_start=start))


def test_it_is_on_for_half_as_long_as_the_run_has_lasted_and_off_until_that_doubles() -> None:
    found = [steps for steps in range(0, 1001, 5) if exploration(100).is_on(steps)]
    assert found == [
        *range(100, 150, 5),
        *range(200, 300, 5),
        *range(400, 600, 5),
        *range(800, 1001, 5),
    ]


def test_a_start_of_0_is_never() -> None:
    assert not any(exploration(0).is_on(steps) for steps in range(5000))


def test_success_is_the_share_of_about_the_last_hundred_episodes() -> None:
    found = exploration(1000)
    assert found.success == 0
    found.hear(ended=10, won=10)  # the ninety before count as lost
    assert found.success == pytest.approx(0.1)
    found.hear(ended=0, won=0)
    assert found.success == pytest.approx(0.1)
    found.hear(ended=400, won=100)  # all that are remembered
    assert found.success == pytest.approx(0.25)


def test_an_env_that_failed_has_neither_won_nor_lost() -> None:
    """Two steps of three envs, of which the second failed: it ends in both, and "wins" one."""
    fields = dict.fromkeys(LowRollout._fields)
    terminated = torch.tensor([[1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    truncated = torch.tensor([[0, 0, 1], [0, 1, 0]], dtype=torch.bool)
    rollout = LowRollout(
        **fields | {"terminated": terminated, "truncated": truncated, "success": terminated}
    )
    assert ended_and_won(rollout, None) == (5, 3)
    assert ended_and_won(rollout, torch.tensor([False, True, False])) == (3, 2)


def test_it_ends_where_half_is_won_and_comes_back_where_it_is_lost() -> None:
    found = exploration(1000)
    found.hear(ended=100, won=49)
    assert found.is_on(1000)
    found.hear(ended=100, won=50)
    assert not found.is_on(1000)
    found.hear(ended=100, won=30)
    assert found.is_on(1000)
    assert not found.is_on(1500)


# --- in the agent --------------------------------------------------------------------------------

ROUND = SMALL.batch_size
EVERY_ROUND = replace(SMALL, high_level_batch_size=1, exploration_start=2 * ROUND)
LOW = ("actor", "critic", "low_normalizer", "team_discriminator", "individual_discriminator")


class NeverWon(Counter):
    """Ends without success."""

    def step(self, action):
        step = super().step(action)
        return step._replace(success=step.success & False)


class AlwaysWon(Counter):
    """Ends with success, however it ends."""

    def step(self, action):
        step = super().step(action)
        return step._replace(success=step.terminated | step.truncated)


def rounds(
    config: Config, number: int, env: type[Counter] = NeverWon
) -> list[tuple[Player, dict[str, Tensor], dict[str, float]]]:
    """After each round: who played, the networks, and the round's metrics."""
    player, after = Player(config, env(4)), []
    for _ in range(number):
        player.collect()
        metrics = player.agent.sync_update()
        networks = {name: x.clone() for name, x in player.agent.networks.state_dict().items()}
        after.append((player, networks, metrics))
    return after


def explored(config: Config, number: int, env: type[Counter] = NeverWon) -> list[float | None]:
    return [metrics.get("high/explores") for *_, metrics in rounds(config, number, env)]


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Networks of which anything changed."""
    names = {name for name in before if not torch.equal(before[name], after[name])}
    return {name.split(".")[0] for name in names}


def test_the_skills_pause_while_the_coordinator_explores() -> None:
    after = rounds(EVERY_ROUND, 8)
    explores = [metrics["high/explores"] for *_, metrics in after]
    assert explores == [0, 1, 0, 1, 1, 0, 0, 1]  # a round counts by the step that it ends at
    for (_, before, _), (_, networks, metrics) in itertools.pairwise(after):
        changed, pauses = moved(before, networks), bool(metrics["high/explores"])
        assert {"coordinator", "high_normalizer"} <= changed
        assert changed.isdisjoint(LOW) if pauses else changed.issuperset(LOW)
        assert ("low/policy_loss" in metrics) == ("disc/team_loss" in metrics) != pauses
        assert ("high/novelty" in metrics) == pauses


def test_skills_that_earn_the_team_reward_go_on_learning() -> None:
    config = replace(EVERY_ROUND, exploration_start=ROUND)
    (*_, paused), (*_, learned) = (
        rounds(replace(config, extrinsic_coef=coef), 1)[0] for coef in (0.0, 1.0)
    )
    assert paused["high/explores"] == learned["high/explores"] == 1
    assert "low/policy_loss" not in paused
    assert "low/policy_loss" in learned


def test_who_wins_or_has_no_coordinator_does_not_explore() -> None:
    assert explored(EVERY_ROUND, 4) == [0, 1, 0, 1]
    won = replace(EVERY_ROUND, exploration_start=40 * ROUND)
    assert explored(won, 40, AlwaysWon)[-1] == 0
    assert explored(won, 40)[-1] == 1  # control
    assert explored(replace(EVERY_ROUND, high_level="random"), 4) == [None] * 4


def test_the_critics_memory_goes_on_through_a_pause() -> None:
    """Its state after a round is the same whether the round's update follows or not."""
    (paused, *_), (learned, *_) = (
        rounds(replace(EVERY_ROUND, exploration_start=start), 1)[0] for start in (ROUND, 0)
    )
    assert torch.equal(paused.agent.critic_hidden, learned.agent.critic_hidden)
    assert paused.agent.critic_hidden.abs().sum() > 0


@pytest.mark.parametrize(
    ("env", "step_size", "entropy"), [(AlwaysWon, 0.25, 0.2), (NeverWon, 1, 0.1)]
)
def test_who_wins_learns_carefully_and_keeps_all_skills_in_use(
    env: type[Counter], step_size: float, entropy: float
) -> None:
    settings = {"winning_step": 0.25, "losing_entropy": 0.5, "high_entropy_coef": 0.2}
    config = replace(SMALL, learning_rate=0.01, **settings)
    *_, (player, *_) = rounds(config, 100, env)
    agent = player.agent
    assert agent.exploration.success == pytest.approx(float(env is AlwaysWon), abs=0.1)
    for learner in agent._learners:
        size = learner.optimizer.adam.param_groups[0]["lr"]
        assert size == pytest.approx(0.01 * step_size, rel=0.3)
    assert agent.coordinator.entropy_coef == pytest.approx(entropy, rel=0.1)
    *_, (player, *_) = rounds(replace(config, winning_step=1.0, losing_entropy=1.0), 20, env)
    assert player.agent.coordinator.entropy_coef == 0.2
    for learner in player.agent._learners:
        assert learner.optimizer.adam.param_groups[0]["lr"] == 0.01
