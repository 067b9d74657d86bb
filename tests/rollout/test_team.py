"""The team that plays: skills in force, the GRU state's restarts, identifiable rows (trap 6)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hmasd.agent import HMASDAgent
from hmasd.algorithm.discriminators import PairHistory
from hmasd.config import Config
from hmasd.rollout.team import Generators, Team
from hmasd.types import LowRollout
from tests.helpers.ledger import keep_books, reward_of
from tests.helpers.runs import make_agent, play, play_rounds

# --- trap 6: ids match in every stored tuple ------------------------------------------------------


def check_rows(rollout: LowRollout, num_agents: int) -> None:
    """State, observations, reward, ends and what was reached belong to one step of one env."""
    state, reached = rollout.state.int(), rollout.next_state.int()
    assert (state[:, :, 2] == torch.arange(state.shape[1])).all()
    agents = torch.arange(num_agents)
    for obs, ids in ((rollout.obs, state), (rollout.next_obs, reached)):
        assert (obs[..., :3].int() == ids.unsqueeze(2)).all()
        assert (obs[..., 3].int() == agents).all()
    step_on = torch.tensor([0, 1, 0], dtype=torch.int32)
    assert (reached == state + step_on).all(), "next_state is not the next state of its episode"
    assert torch.equal(rollout.reward, reward_of(rollout.state).to(rollout.reward.dtype))
    ended = rollout.terminated | rollout.truncated
    assert not (rollout.terminated & rollout.truncated).any()
    assert (state[1:][~ended[:-1]] == reached[:-1][~ended[:-1]]).all()
    fresh = state[1:][ended[:-1]]
    assert (fresh[:, 1] == 0).all() and (fresh[:, 0] == reached[:-1][ended[:-1]][:, 0] + 1).all()
    assert (rollout.restart == (state[:, :, 1] == 0)).all()


def check_ids(config: Config, rounds: int = 8) -> None:
    agent, env, view = make_agent(config)
    ends = 0
    for _ in range(rounds):
        _, view = play(agent, env, view, config.rollout_length)
        rollout = agent.low_storage.rollout(agent.policy_version)
        check_rows(rollout, 2)
        ends += int((rollout.terminated | rollout.truncated).sum())
        agent.sync_update()
    assert ends > 5


def next_episode_as_end(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HMASDAgent.store_transition

    def store_reset_view(self, view, acting, step):
        step = step._replace(final_obs=step.view.obs, final_state=step.view.state)
        return store(self, view, acting, step)

    monkeypatch.setattr(HMASDAgent, "store_transition", store_reset_view)


def memory_shared_with_the_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an env that writes its arrays again does to views that were not copied."""
    observe = Team.observe
    seen = []

    def late(self, view):
        seen.append(observe(self, view))
        return seen[-2] if len(seen) > 1 else seen[-1]

    monkeypatch.setattr(Team, "observe", late)


def envs_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HMASDAgent.store_transition
    monkeypatch.setattr(
        HMASDAgent,
        "store_transition",
        lambda self, view, acting, step: store(
            self, view, acting, step._replace(reward=np.roll(step.reward, 1))
        ),
    )


def test_ids_match_in_every_row(config: Config) -> None:
    check_ids(config)


@pytest.mark.parametrize("plant", [next_episode_as_end, memory_shared_with_the_env, envs_swapped])
def test_control_wrong_rows_are_caught(
    config: Config, monkeypatch: pytest.MonkeyPatch, plant
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_ids(config)


def check_pairs(config: Config, rounds: int = 7) -> None:
    """The discriminators learn which skill led where: that of the step before, same episode."""
    books = keep_books(config, rounds)
    history = books.agent.discriminators.history
    pairs = history.state_dict()["memory"]
    assert len(pairs["state"]) == config.discriminator_rounds * config.batch_size
    seen = set()
    for state, obs, team_skill, agent_skills in zip(
        *(pairs[name] for name in ("state", "obs", "team_skill", "agent_skills")), strict=True
    ):
        episode, t, env = state.int().tolist()
        entry = books.entries[episode, t - 1, env]
        assert obs.int().tolist() == [[episode, t, env, agent] for agent in range(2)]
        assert (int(team_skill), tuple(agent_skills.tolist())) == (
            entry.team_skill,
            entry.agent_skills,
        )
        seen.add((episode, t, env))
    assert len(seen) == len(pairs["state"]), "a pair is there twice"
    newest = list(books.entries)[-config.discriminator_rounds * config.batch_size :]
    assert seen == {(episode, t + 1, env) for episode, t, env in newest}, "old rounds are kept"


def test_ids_match_in_the_discriminators_pairs(config: Config) -> None:
    check_pairs(config)
    check_pairs(dataclasses.replace(config, discriminator_rounds=1))


def test_control_pairs_with_the_next_steps_skill_are_caught(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = PairHistory.add
    monkeypatch.setattr(
        PairHistory,
        "add",
        lambda self, rollout: add(
            self, rollout._replace(team_skill=rollout.team_skill.roll(-1, 0))
        ),
    )
    with pytest.raises(AssertionError):
        check_pairs(config)


def test_control_pairs_of_the_next_episode_are_caught(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_episode_as_end(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        check_pairs(config)


def test_control_a_history_that_never_forgets_is_caught(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = PairHistory.add

    def first_only(self: PairHistory, rollout: LowRollout) -> None:
        if self.pairs_added == 0 or self.pairs_added < self.capacity:
            add(self, rollout)

    monkeypatch.setattr(PairHistory, "add", first_only)
    with pytest.raises(AssertionError):
        check_pairs(config)


# --- acting ---------------------------------------------------------------------------------------


def replayed_logp(agent: HMASDAgent, rollout: LowRollout) -> torch.Tensor:
    """Log-probabilities of a round's actions, from its first hidden state on."""
    steps, envs, agents = rollout.logp.shape
    keep = (~rollout.restart).float().unsqueeze(-1).expand(steps, envs, agents)
    actor = agent.networks.actor
    with torch.no_grad():
        output, _ = actor(
            rollout.obs.flatten(1, 2),
            rollout.agent_skills.flatten(1, 2),
            rollout.actor_hidden[0].flatten(0, 1),
            keep.flatten(1, 2),
            None,
        )
        return actor.score(output, rollout.action.flatten(1, 2)).logp.view_as(rollout.logp)


@pytest.mark.parametrize("reset", [False, True])
def test_stored_rows_replay_to_the_same_log_probabilities(config: Config, reset: bool) -> None:
    """Else the first PPO ratio is not 1: a restart, a skill or a hidden state is a step off."""
    config = dataclasses.replace(config, reset_hidden_on_skill=reset)
    agent, env, view = make_agent(config)
    for _ in range(4):
        _, view = play(agent, env, view, config.rollout_length)
        rollout = agent.low_storage.rollout(agent.policy_version)
        torch.testing.assert_close(replayed_logp(agent, rollout), rollout.logp)
        wrong = rollout._replace(restart=torch.zeros_like(rollout.restart))
        if bool(rollout.restart[1:].any()):  # the control
            assert not torch.allclose(replayed_logp(agent, wrong), rollout.logp, atol=1e-6)
        agent.sync_update()


@pytest.mark.parametrize("reset", [False, True])
def test_the_gru_restarts_with_the_episode_and_with_the_skill_only_if_asked(
    config: Config, reset: bool
) -> None:
    config = dataclasses.replace(config, reset_hidden_on_skill=reset, high_level_batch_size=1000)
    agent, env, view = make_agent(config)
    at_start, at_skill, ages = 0, 0, agent.team.clock.age
    for _ in range(40):
        due = agent.team.clock.due.clone()
        played, view = play(agent, env, view, 1)
        new = played[0].view.state[:, 1] == 0
        assert torch.equal(played[0].acting.restart, due if reset else new)
        at_start += int(new.sum())
        at_skill += int((due & ~new).sum())
        if agent.should_sync_update():
            agent.low_storage.clear()
            agent.gate.samples_collected_this_round = 0
    assert at_start > 5 and at_skill > 5 and len(ages) == config.num_envs


def test_agent_id_tells_the_agents_apart(config: Config) -> None:
    agent, _, view = make_agent(dataclasses.replace(config, agent_id=True))
    seen = agent.observe(view)
    assert seen.obs.shape == (3, 2, 6)
    assert (seen.obs[:, :, 4:] == torch.eye(2)).all()
    plain, _, _ = make_agent(config)
    assert torch.equal(plain.observe(view).obs, seen.obs[:, :, :4])


def test_greedy_play_draws_nothing_and_takes_the_most_likely(config: Config) -> None:
    agent, _, view = make_agent(config)
    team = Team(
        config,
        agent.networks.coordinator,
        agent.networks.actor,
        (3, 2),
        Generators(None, None),
    )
    seen = team.observe(view)
    before = torch.get_rng_state()
    decision = team.decide(seen)
    assert decision is not None
    acted = team.act(seen)
    assert torch.equal(torch.get_rng_state(), before)
    for choice in range(3):
        other = agent.networks.actor(
            seen.obs.flatten(0, 1).unsqueeze(0),
            decision.agent_skills.flatten().unsqueeze(0),
            torch.zeros(6, config.hidden_size),
            torch.zeros(1, 6),
            None,
        )[0].log_softmax(-1)[0, :, choice]
        assert (other <= acted.logp.flatten() + 1e-6).all()


def test_masked_actions_are_never_taken_and_masks_reach_the_storage(config: Config) -> None:
    """`MaskedAgents` raises on a forbidden action."""
    config = dataclasses.replace(config, env="masked", episode_length=8)
    agent, env, view = make_agent(config)
    played, view = play(agent, env, view, config.rollout_length)
    rollout = agent.low_storage.rollout(0)
    assert rollout.action_mask is not None and rollout.alive is not None
    for t, row in enumerate(played):
        assert torch.equal(rollout.action_mask[t], row.view.action_mask)
        assert torch.equal(rollout.alive[t], row.view.alive)
    taken = rollout.action_mask.gather(-1, rollout.action.unsqueeze(-1))
    assert taken.all()
    agent.sync_update()
    _, view = play_rounds(agent, env, view, 6)
    pairs = agent.discriminators.history.state_dict()["memory"]
    assert pairs["alive"].dtype == torch.bool and not pairs["alive"].all()


# --- skills that persist --------------------------------------------------------------------------


def ended_intervals(config: Config, persistence: float, steps: int = 600) -> tuple[int, int]:
    """How many intervals of one step each were over, and after how many the skills went on."""
    agent, env, view = make_agent(dataclasses.replace(config, skill_interval=1))
    agent.team.persistence = persistence
    over = went_on = 0
    for _ in range(steps):
        step = env.step(agent.team.play(view))
        ended = torch.from_numpy(step.terminated | step.truncated)
        closing = agent.team.advance(ended)
        assert bool(closing[ended].all()), "skills go on into the next episode"
        over += int((~ended).sum())
        went_on += int((~closing[~ended]).sum())
        view = step.view
    return over, went_on


def test_skills_persist_as_often_as_they_should(config: Config) -> None:
    """A share of n independent draws: four standard errors around the chance."""
    over, went_on = ended_intervals(config, 0.3)
    assert over > 1000
    assert abs(went_on / over - 0.3) < 4 * (0.3 * 0.7 / over) ** 0.5
    assert ended_intervals(config, 0.0)[1] == 0  # control


def test_greedy_play_decides_in_every_interval(config: Config) -> None:
    agent, _, view = make_agent(config)
    shape = (config.num_envs, agent.num_agents)
    nets = agent.networks
    team = Team(config, nets.coordinator, nets.actor, shape, Generators(None, None))
    assert team.persistence == 0  # of every team that plays outside training
    team.persistence = 1.0  # and even then nothing is drawn
    team.play(view)
    none = torch.zeros(config.num_envs, dtype=torch.bool)
    closed = [team.advance(none).all() for _ in range(config.skill_interval)]
    assert closed[-1] and not any(closed[:-1])
