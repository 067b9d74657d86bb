"""The coordinator explores from a step on, in turn with training as before, until it wins."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hmasd.algorithm.exploration import Exploration
from hmasd.algorithm.wins import Wins
from hmasd.config import Config
from tests.helpers.envs import Counter, NeverWon
from tests.helpers.rounds import SMALL, Player


def exploration(start: int, **settings: float | str) -> Exploration:
    config = Config(exploration_start=start, **settings)
    return Exploration(config, Wins(config))


def heard(found: Exploration, env_steps: int, won: int) -> bool:
    """Whether it explores after a round with a hundred episodes, of which so many were won."""
    found.wins.hear(ended=100, won=won)
    found.begin_or_end(env_steps)
    return found.is_on


def test_it_explores_for_twice_as_long_as_it_trains_before_over_and_over() -> None:
    found = exploration(100)
    on = [steps for steps in range(5, 1001, 5) if heard(found, steps, won=0)]
    assert on == [*range(100, 300, 5), *range(400, 600, 5), *range(700, 900, 5), 1000]


def test_a_start_of_0_is_never() -> None:
    found = exploration(0)
    assert not any(heard(found, steps, won=0) for steps in range(1, 5000, 50))


def test_who_has_no_coordinator_never_explores() -> None:
    found = exploration(100, high_level="random")
    assert not heard(found, 100, won=0)


def test_it_begins_where_few_are_won_and_ends_where_most_are() -> None:
    found = exploration(1000)
    assert not heard(found, 1000, won=10)  # one in ten: it learns without
    assert heard(found, 1100, won=9)
    assert heard(found, 1200, won=89)
    assert not heard(found, 1300, won=90)
    assert not heard(found, 1400, won=50)
    assert heard(found, 1500, won=5)


def test_it_goes_on_after_its_time_where_something_is_won() -> None:
    for won, goes_on in ((1, True), (0, False)):
        found = exploration(1000)
        assert heard(found, 2900, won)
        assert heard(found, 3000, won) == goes_on
        assert heard(found, 3500, won) == goes_on
        assert heard(found, 4000, won)  # its next time


def test_it_is_stuck_where_it_has_explored_for_few_wins_for_long() -> None:
    found = exploration(1000)
    for env_steps, won, stuck in (
        (1500, 0, False),  # it begins late
        (2499, 9, False),
        (2500, 9, True),
        (2600, 11, False),  # more are won
        (2700, 0, False),  # it has not been without for long
        (3000, 5, False),  # its time is over, though it goes on
        (3600, 5, False),
        (4000, 5, True),  # its next time
        (5000, 0, True),
    ):
        heard(found, env_steps, won)
        assert found.is_stuck(env_steps) == stuck, env_steps
    found.restart(5000)
    assert not found.is_stuck(5999)


def test_skills_pause_in_its_time_until_some_are_won() -> None:
    found = exploration(1000)
    for env_steps, won, pauses in (
        (999, 0, False),
        (1000, 9, True),
        (2000, 11, False),
        (2999, 9, True),
        (3000, 9, False),
    ):
        heard(found, env_steps, won)
        assert found.pauses_skills(env_steps) == pauses, env_steps
    earning = exploration(1000, extrinsic_coef=0.5)
    assert heard(earning, 1000, won=0)
    assert not earning.pauses_skills(1000)


def test_the_bonus_fades_with_the_wins() -> None:
    found = exploration(1000, novelty_coef=2.0)
    heard(found, 1000, won=25)
    assert found.novelty_coef == pytest.approx(1.5)


def test_skills_persist_less_the_more_is_won_and_never_while_exploring() -> None:
    found = exploration(1000, skill_persistence=0.5)
    assert found.persistence == 0.5  # from the first step on
    heard(found, 10, won=60)
    assert found.persistence == pytest.approx(0.2)
    heard(found, 20, won=0)
    assert found.persistence == pytest.approx(0.2, abs=0.01)  # the wins that last count
    found = exploration(1000, skill_persistence=0.5)
    assert heard(found, 1000, won=0)
    assert found.persistence == 0


def test_who_is_told_never_to_explore_stops() -> None:
    """As after a checkpoint of a run that did."""
    found = exploration(0)
    found.load_state_dict({"is_on": True, "since": 0})
    assert not heard(found, 1500, won=50)


def test_it_goes_on_exactly_from_what_was_saved() -> None:
    found, other = exploration(1000), exploration(1000)
    heard(found, 1700, won=0)
    heard(found, 2999, won=0)
    other.load_state_dict(found.state_dict())  # nothing was won, as the other has it
    assert found.is_stuck(2999) and other.is_stuck(2700) and not other.is_stuck(2699)
    other.load_state_dict(found.state_dict())
    assert heard(other, 3001, won=20) and heard(found, 3001, won=20)
    assert heard(other, 3002, won=2) and heard(found, 3002, won=2)
    assert not heard(exploration(1000), 3001, won=20)  # control


# --- in the agent --------------------------------------------------------------------------------

ROUND = SMALL.batch_size
EVERY_ROUND = replace(
    SMALL, high_level_batch_size=1, exploration_batch_size=1, exploration_start=2 * ROUND
)
LOW = ("actor", "critic", "low_normalizer", "team_discriminator", "individual_discriminator")


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
    assert explores == [0, 1, 1, 1, 1, 0, 0, 1]  # a round counts by the step that it ends at
    for (_, before, _), (_, networks, metrics) in itertools.pairwise(after):
        changed, pauses = moved(before, networks), bool(metrics["high/explores"])
        assert changed.isdisjoint(LOW) if pauses else changed.issuperset(LOW)
        assert ("low/policy_loss" in metrics) == ("disc/team_loss" in metrics) != pauses
    learned = ["coordinator" in moved(a[1], b[1]) for a, b in itertools.pairwise(after)]
    # Not from its survey, at whose end it begins anew: two rounds of exploring are over.
    assert learned == [True, False, True, True, True, True, True]


def test_skills_that_earn_the_team_reward_go_on_learning() -> None:
    config = replace(EVERY_ROUND, exploration_start=ROUND)
    (*_, paused), (*_, learned) = (
        rounds(replace(config, extrinsic_coef=coef, winning_extrinsic_coef=5.0), 1)[0]
        for coef in (0.0, 1.0)
    )
    assert paused["high/explores"] == learned["high/explores"] == 1
    assert "low/policy_loss" not in paused  # it would earn something only if it won
    assert "low/policy_loss" in learned


def test_who_wins_or_has_no_coordinator_does_not_explore() -> None:
    assert explored(EVERY_ROUND, 4) == [0, 1, 1, 1]
    won = replace(EVERY_ROUND, exploration_start=40 * ROUND)
    assert explored(won, 40, AlwaysWon)[-1] == 0
    assert explored(won, 40)[-1] == 1  # control
    assert explored(replace(EVERY_ROUND, high_level="random"), 4) == [None] * 4


def test_a_coordinator_that_explored_for_nothing_begins_anew() -> None:
    """It explores from the second round on, and at the fourth has done so for two rounds."""
    config = replace(EVERY_ROUND, learning_rate=0.01, exploration_epochs=2, survey_interval=2)
    player = Player(config, NeverWon(4), loud=False)
    coordinator, first = player.agent.coordinator, {}
    told, is_first = [], []
    for name, x in player.agent.networks.state_dict().items():
        first[name] = x.clone()
    for _ in range(5):
        player.collect()
        told.append(player.agent.sync_update().get("high/begins_anew"))
        changed = moved(first, player.agent.networks.state_dict())
        is_first.append(changed.isdisjoint({"coordinator", "high_normalizer"}))
        assert LOW[0] in changed  # skills keep what they learned
        (moments,) = coordinator.learner.state_dict()["state"].values()
        assert (moments["step"] == 0) == is_first[-1]
        assert (moments["exp_avg"].abs().sum() == 0) == is_first[-1]
    assert told == [None, 0, 0, 1, 0]
    assert is_first == [False, False, False, True, False]
    novelty = player.agent.explorer.novelty  # its first survey tells of the skills, which stayed
    assert (len(novelty.surveys), novelty.updates) == (1, 1)


def test_an_exploring_coordinator_has_batches_and_passes_of_its_own() -> None:
    """Four envs close eight segments or so in a round; it explores from the third round on."""
    config = replace(
        SMALL,
        novelty_coef=0.0,
        high_level_batch_size=1,
        exploration_batch_size=12,
        exploration_epochs=5,
        exploration_start=3 * ROUND,
    )
    epochs = [metrics.get("high/epochs") for *_, metrics in rounds(config, 6)]
    assert epochs == [2, 2, None, 5, None, 5]
    config = replace(config, novelty_coef=1.0, exploration_start=5 * ROUND)  # with two surveys
    epochs = [metrics.get("high/epochs") for *_, metrics in rounds(config, 12)]
    assert epochs == [2, 2, 2, 2, None, 5, *[None] * 5, 5]


def test_the_critics_memory_goes_on_through_a_pause() -> None:
    """Its state after a round is the same whether the round's update follows or not."""
    (paused, *_), (learned, *_) = (
        rounds(replace(EVERY_ROUND, exploration_start=start), 1)[0] for start in (ROUND, 0)
    )
    assert torch.equal(paused.agent.critic_hidden, learned.agent.critic_hidden)
    assert paused.agent.critic_hidden.abs().sum() > 0


@pytest.mark.parametrize(
    ("env", "step_size", "entropy", "extrinsic", "sharpness"),
    [(AlwaysWon, 0.25, 0.2, 5.0, 3.0), (NeverWon, 1, 0.1, 1.0, 1.0)],
)
def test_who_wins_learns_carefully_is_paid_for_it_and_keeps_all_skills_in_use(
    env: type[Counter], step_size: float, entropy: float, extrinsic: float, sharpness: float
) -> None:
    settings = {"winning_step": 0.25, "losing_entropy": 0.5, "high_entropy_coef": 0.2}
    settings |= {"extrinsic_coef": 1.0, "winning_extrinsic_coef": 4.0, "winning_sharpness": 3.0}
    settings |= {"winning_intrinsic": 0.4}
    config = replace(SMALL, learning_rate=0.01, **settings)
    *before, (player, *_) = rounds(config, 100, env)
    agent = player.agent
    for actor in (agent.networks.actor, agent.played.actor):
        assert float(actor.sharpness) == pytest.approx(sharpness, rel=0.1)
    found = [metrics["low/ratio_start"] for *_, metrics in before]
    assert found == pytest.approx([1.0] * 99, abs=1e-4)  # what is learned from is what acted
    assert agent.wins.success == pytest.approx(float(env is AlwaysWon), abs=0.1)
    for learner in agent._learners:
        size = learner.optimizer.adam.param_groups[0]["lr"]
        assert size == pytest.approx(0.01 * step_size, rel=0.3)
    assert agent.coordinator.entropy_coef == pytest.approx(entropy, rel=0.1)
    player.collect()
    rollout = agent.low_storage.rollout(agent.policy_version)
    paid = agent.discriminators.rewards(rollout)
    torch.testing.assert_close(paid.extrinsic, extrinsic * rollout.reward, rtol=0.1, atol=1e-6)
    assert rollout.reward.abs().sum() > 0
    persists = 0.0 if env is AlwaysWon else 0.5
    assert agent.team.persistence == pytest.approx(persists, abs=0.1)
    share = agent.wins.intrinsic_share
    assert share == pytest.approx(0.4 if env is AlwaysWon else 1.0, abs=0.05)
    team, individual = agent.discriminators.certainty(rollout)
    torch.testing.assert_close(paid.team, share * config.team_coef * team)
    torch.testing.assert_close(paid.individual, share * config.individual_coef * individual)
    *_, (player, *_) = rounds(replace(config, winning_step=1.0, losing_entropy=1.0), 20, env)
    assert player.agent.coordinator.entropy_coef == 0.2
    for learner in player.agent._learners:
        assert learner.optimizer.adam.param_groups[0]["lr"] == 0.01
