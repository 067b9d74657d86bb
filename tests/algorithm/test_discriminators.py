"""The discriminators' data and update: a pair put together wrongly teaches the wrong skill."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from hmasd.algorithm.discriminators import PairHistory
from hmasd.algorithm.optimization import TrainingError, read
from hmasd.types import LowRollout
from tests.helpers.envs import Counter, MaskedAgents
from tests.helpers.rounds import SMALL, Player


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def identifiable(round_number: int, steps: int = 4, envs: int = 3, agents: int = 2) -> LowRollout:
    """Every field of row r says r + 100 · round; agents add half of a number."""
    row = 100.0 * round_number + torch.arange(steps * envs).view(steps, envs)
    skill = row.long()
    agent = torch.arange(agents)
    fields = dict.fromkeys(LowRollout._fields)
    return LowRollout(
        **fields
        | {
            "state": row.unsqueeze(-1) - 0.25,  # what was before the step
            "obs": (row.unsqueeze(-1) + 0.5 * agent - 0.25).unsqueeze(-1),
            "next_state": row.unsqueeze(-1),
            "next_obs": (row.unsqueeze(-1) + 0.5 * agent).unsqueeze(-1),
            "team_skill": skill,
            "agent_skills": 2 * skill.unsqueeze(-1) + agent,
        }
    )


def aligned(pairs: dict[str, Tensor]) -> bool:
    """Whether state, obs, Z and z of each row tell of the same step."""
    row = pairs["state"][:, 0]
    return (
        torch.equal(pairs["team_skill"], row.long())
        and torch.equal(pairs["state_before"], pairs["state"] - 0.25)
        and torch.equal(pairs["obs_before"], pairs["obs"] - 0.25)
        and torch.equal(pairs["obs"][..., 0], row.unsqueeze(-1) + 0.5 * torch.arange(2))
        and torch.equal(pairs["agent_skills"], 2 * row.long().unsqueeze(-1) + torch.arange(2))
    )


@pytest.mark.parametrize("num_rounds", [1, 2, 3])
def test_history_keeps_the_last_rounds(num_rounds: int) -> None:
    """Trap 6 and decision 6: never a round that is older, and always all that are not."""
    history, rng = PairHistory(num_rounds), generator()
    for number in range(7):
        history.add(identifiable(number))
        drawn = [history.at(history.draw(rng)) for _ in range(40)]
        assert all(len(pairs["state"]) == 12 and aligned(pairs) for pairs in drawn)
        rounds = {int(r) // 100 for pairs in drawn for r in pairs["team_skill"]}
        assert rounds == set(range(max(0, number - num_rounds + 1), number + 1))


@pytest.mark.parametrize("num_rounds", [1, 2, 3])
def test_history_follows_the_rounds_size(num_rounds: int) -> None:
    """Rounds of 12, 24 and 8 pairs: always the latest, as many as there is room for, each once."""
    history, rng = PairHistory(num_rounds), generator()
    held: list[int] = []
    for number, steps in enumerate([4] * 4 + [8] * 3 + [3] * 4):
        history.add(identifiable(number, steps))
        held = [*held, *(100 * number + r for r in range(steps * 3))][-num_rounds * steps * 3 :]
        drawn = [history.at(history.draw(rng)) for _ in range(80)]
        assert all(len(pairs["state"]) == steps * 3 and aligned(pairs) for pairs in drawn)
        assert {int(r) for pairs in drawn for r in pairs["team_skill"]} == set(held)
        if num_rounds == 1:
            assert sorted(drawn[0]["team_skill"].tolist()) == held


def test_misaligned_pairs_would_be_seen() -> None:
    """Control of the alignment itself."""
    history = PairHistory(2)
    history.add(identifiable(0))
    pairs = history.at(history.draw(generator()))
    for name in pairs:
        assert not aligned(pairs | {name: pairs[name].roll(1, 0)})


@pytest.mark.parametrize("rounds_added", [1, 2, 5])
def test_samples_are_uniform_over_what_is_stored(rounds_added: int) -> None:
    """Also before the memory is full: blank rows must never be drawn."""
    history, rng = PairHistory(3), generator(rounds_added)
    for number in range(rounds_added):
        history.add(identifiable(number))
    drawn = torch.cat([history.at(history.draw(rng))["team_skill"] for _ in range(1000)])
    stored = [100 * n + r for n in range(max(0, rounds_added - 3), rounds_added) for r in range(12)]
    counts = torch.tensor([int((drawn == row).sum()) for row in stored])
    assert counts.sum() == len(drawn) == 12_000
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    skewed = counts.clone()
    skewed[: len(skewed) // 2] += counts[: len(skewed) // 2] // 5
    assert stats.chisquare(skewed.numpy()).pvalue < 1e-3  # control


def test_one_round_is_taken_whole_and_in_order() -> None:
    """The paper's own way: the round's data, every pair once."""
    history = PairHistory(1)
    for number in range(2):
        history.add(identifiable(number))
        rows = history.at(history.draw(generator()))["team_skill"]
        assert rows.tolist() == [100 * number + r for r in range(12)]


def test_history_copies_what_it_is_given() -> None:
    """The round's memory is written again at once: a view of it would change the past."""
    history, rollout = PairHistory(2), identifiable(0)
    history.add(rollout)
    rollout.next_state.fill_(-1)
    assert aligned(history.at(history.draw(generator())))


def test_rounds_that_did_not_say_who_lives_count_whole() -> None:
    """An env may fail in one round only: the rounds before and after it had everybody alive."""
    history = PairHistory(3)
    alive = torch.rand(4, 3, 2, generator=generator()) < 0.5
    for number in range(3):
        rollout = identifiable(number)
        history.add(rollout._replace(alive=alive) if number == 1 else rollout)
    pairs = history.at(history.draw(generator()))
    drawn = pairs["team_skill"]
    second = drawn // 100 == 1
    assert 0 < int(second.sum()) < len(drawn)
    assert bool(pairs["alive"][~second].all())
    assert torch.equal(pairs["alive"][second], alive.flatten(0, 1)[drawn[second] - 100])


def test_history_goes_on_exactly() -> None:
    history, copy = PairHistory(2), PairHistory(2)
    history.add(identifiable(0))
    copy.load_state_dict(history.state_dict())
    for number in range(1, 4):
        for one in (history, copy):
            one.add(identifiable(number))
        a, b = (one.at(one.draw(generator(number))) for one in (history, copy))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_pairs_of_real_rounds_belong_together() -> None:
    """Trap 6: (episode, t, env) of what was reached, and the skills in force when it was."""
    player = Player(replace(SMALL, discriminator_rounds=2), Counter(4, end_chances=(0.1, 0.1)))
    seen: dict[tuple[int, ...], tuple[int, list[int]]] = {}
    for _ in range(4):
        while not player.agent.should_sync_update():
            view = player.agent.observe(player.view)
            acting = player.agent.act(view)
            skills = acting.team_skill.tolist(), acting.agent_skills.tolist()
            step = player.env.step(acting.action.numpy())
            player.agent.store_transition(view, acting, step)
            for e, (episode, time, env) in enumerate(view.state.long().tolist()):
                seen[episode, time + 1, env] = skills[0][e], skills[1][e]
            player.view = step.view
        player.agent.sync_update()
    rows = player.agent.discriminators.history.state_dict()["memory"]
    assert len(rows["state"]) == 96
    for i, key in enumerate(rows["state"].long().tolist()):
        assert (int(rows["team_skill"][i]), rows["agent_skills"][i].tolist()) == seen[tuple(key)]
        assert rows["obs"][i].long().tolist() == [[*key, agent] for agent in range(2)]


# --- scores and updates --------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    """Rows 0 to 3 of two envs; Z = row, z = 2 row and 2 row + 1; agents that died do not count."""
    rollout = identifiable(0, steps=2, envs=2)
    history, kinds = PairHistory(1), (4, 8)
    history.add(rollout)
    assert history.counts(None, kinds).tolist() == [1.0] * 12
    assert history.counts(torch.tensor([0, 3, 3]), kinds).tolist() == [
        *(1, 0, 0, 2),
        *(1, 1, 0, 0, 0, 0, 2, 2),
    ]
    alive = torch.tensor([[[1, 1], [1, 0]], [[0, 0], [0, 1]]], dtype=torch.bool)
    history.add(rollout._replace(alive=alive))
    assert history.counts(None, kinds).tolist() == [1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("balance", [True, False])
def test_a_skill_that_is_seldom_chosen_counts_like_the_others(balance: bool) -> None:
    """In one place with 95 % of skill 0: balanced discriminators cannot tell, others guess it."""
    config = replace(SMALL, num_agent_skills=2, discriminator_balance=balance, learning_rate=0.01)
    config = replace(config, individual_reward="log_q")
    player = Player(replace(config, discriminator_epochs=60, discriminator_rounds=1), Counter(4))
    rollout = full_round(player)
    seldom = torch.rand(rollout.agent_skills.shape, generator=generator()) < 0.05
    same = rollout._replace(
        agent_skills=seldom.long(),
        team_skill=(torch.rand(rollout.team_skill.shape, generator=generator(1)) < 0.05).long(),
        next_obs=torch.ones_like(rollout.next_obs),
        next_state=torch.ones_like(rollout.next_state),
    )
    discriminators = player.agent.discriminators
    discriminators.update(same, generator())
    for logp, skill in zip(
        discriminators.certainty(same), (same.team_skill, same.agent_skills), strict=True
    ):
        rare = float(logp[skill == 1].exp().mean())
        assert rare == pytest.approx(0.5 if balance else 0.05, abs=0.1 if balance else 0.05)


def full_round(player: Player) -> LowRollout:
    player.collect()
    return player.agent.low_storage.rollout(player.agent.policy_version)


@pytest.mark.parametrize("kind", ["log_q", "log_odds"])
def test_scores_are_those_of_the_skill_in_force(float64: None, kind: Any) -> None:
    """Cell by cell: log q_D(Z | s_{t+1}), log q_d(z^i | o^i_{t+1}, Z) or its log-odds."""
    player = Player(replace(SMALL, individual_reward=kind), Counter(4, end_chances=(0.1, 0.1)))
    rollout = full_round(player)
    discriminators = player.agent.discriminators
    team, individual = discriminators.certainty(rollout)
    assert (team.shape, individual.shape) == ((12, 4), (12, 4, 2))
    with torch.no_grad():
        for t in range(12):
            for e in range(4):
                skill = rollout.team_skill[t, e]
                expected = discriminators.team(rollout.next_state[t, e]).log_softmax(-1)[skill]
                torch.testing.assert_close(team[t, e], expected)
                for n in range(2):
                    logits = discriminators.individual(rollout.next_obs[t, e, n], skill)
                    q = logits.softmax(-1)[rollout.agent_skills[t, e, n]]
                    expected = q.log() - (1 - q).log() if kind == "log_odds" else q.log()
                    torch.testing.assert_close(individual[t, e, n], expected)
    before = discriminators.certainty(
        rollout._replace(next_state=rollout.state, next_obs=rollout.obs)
    )
    assert (before[0] - team).abs().max() > 1e-3  # control: s_t in place of s_{t+1}
    assert (before[1] - individual).abs().max() > 1e-3


def test_scores_carry_no_gradient() -> None:
    player = Player(SMALL, Counter(4))
    assert not any(
        x.requires_grad for x in player.agent.discriminators.certainty(full_round(player))
    )


def trained_accuracy(*, told: bool) -> dict[str, float]:
    """Metrics of the last of many updates on rounds whose skills the observation tells, or not."""
    player = Player(
        replace(SMALL, learning_rate=0.01, discriminator_epochs=15), Counter(4), loud=False
    )
    rollout, rng = full_round(player), generator(5)
    for _ in range(8):
        team = torch.randint(2, rollout.team_skill.shape, generator=rng)
        agents = torch.randint(3, rollout.agent_skills.shape, generator=rng)
        state = torch.randn(rollout.next_state.shape, generator=rng)
        obs = torch.randn(rollout.next_obs.shape, generator=rng)
        if told:
            state[..., 0] += 8 * team
            obs[..., 0] += 8 * (agents == 1)
            obs[..., 1] += 8 * (agents == 2)
        made_up = rollout._replace(
            team_skill=team, agent_skills=agents, next_state=state, next_obs=obs
        )
        metrics = read(player.agent.discriminators.update(made_up, rng))
    return metrics


def test_discriminators_learn_what_can_be_told() -> None:
    metrics = trained_accuracy(told=True)
    assert metrics["disc/team_accuracy"] > 0.9
    assert metrics["disc/individual_accuracy"] > 0.85
    assert metrics["disc/team_chance"] == 0.5
    assert metrics["disc/individual_chance"] == pytest.approx(1 / 3)


def test_discriminators_stay_near_chance_where_nothing_tells() -> None:
    """Control: on noise they may memorise some of 144 rows, no more."""
    metrics = trained_accuracy(told=False)
    assert metrics["disc/individual_accuracy"] < 0.75


def updated_on_dead(*, garbage: bool, obey: bool = True) -> tuple[dict[str, float], list[Tensor]]:
    player = Player(SMALL, MaskedAgents(4, episode_length=7))
    rollout = full_round(player)
    dead = ~rollout.alive
    assert 0 < dead.sum() < dead.numel() / 2
    if garbage:
        rollout.next_obs[dead] += torch.tensor([9.0, -5.0, 2.0], dtype=rollout.obs.dtype)
        rollout.agent_skills[dead] = (rollout.agent_skills[dead] + 1) % 3
    if not obey:
        rollout = rollout._replace(alive=None)
    metrics = read(player.agent.discriminators.update(rollout, generator(2)))
    return metrics, list(player.agent.networks.individual_discriminator.parameters())


def test_dead_agents_teach_nothing(float64: None) -> None:
    """Trap 12: garbage in their rows moves no parameter and no metric."""
    (plain, before), (spoiled, after) = (updated_on_dead(garbage=g) for g in (False, True))
    assert plain == pytest.approx(spoiled, abs=1e-10)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_forgotten_deaths_would_be_seen(float64: None) -> None:
    """Control: with nobody declared dead the same garbage does move them."""
    (plain, _), (spoiled, _) = (updated_on_dead(garbage=g, obey=False) for g in (False, True))
    for name in ("loss", "accuracy", "grad_norm"):
        assert plain[f"disc/individual_{name}"] != spoiled[f"disc/individual_{name}"]
        assert plain[f"disc/team_{name}"] == spoiled[f"disc/team_{name}"]


def test_a_bad_observation_stops_before_the_step() -> None:
    player = Player(SMALL, Counter(4))
    rollout = full_round(player)
    rollout.next_state[...] = float("nan")
    before = [x.detach().clone() for x in player.agent.networks.team_discriminator.parameters()]
    player.agent.discriminators.update(rollout, generator())
    with pytest.raises(TrainingError, match="team discriminator's loss is nan"):
        read({}, [player.agent.discriminators.team_learner])
    after = player.agent.networks.team_discriminator.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
