"""The guide's names on `HMASDAgent`, and what it refuses (trap 8)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from hmasd.agent import HMASDAgent
from hmasd.algorithm.optimization import Learner, TrainingError, read
from hmasd.checkpoint import CheckpointError
from hmasd.config import Config
from hmasd.rollout.storage import StorageError
from hmasd.round_metrics import counting, reward_metrics
from hmasd.sync import SyncError
from tests.helpers.envs import MaskedAgents
from tests.helpers.rounds import SMALL, Player
from tests.helpers.runs import (
    differences,
    is_finite,
    make_agent,
    play,
    play_rounds,
    register_small_envs,
    snapshot,
    tiny_config,
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    register_small_envs(monkeypatch)
    return tiny_config(output_dir=str(tmp_path))


def parameters(agent: HMASDAgent, name: str) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in getattr(agent.networks, name).state_dict().items()}


def test_the_guides_attributes_at_the_start(config: Config) -> None:
    agent, _, _ = make_agent(config)
    assert agent.sync_mode is True
    assert agent.collection_enabled is True
    assert agent.policy_version == 0
    assert agent.sync_batch_size == config.batch_size
    assert agent.samples_collected_this_round == 0
    assert agent.should_sync_update() is False


def test_one_round_in_the_guides_words(config: Config) -> None:
    agent, env, view = make_agent(config)
    for steps in range(1, config.rollout_length + 1):
        assert not agent.should_sync_update()
        _, view = play(agent, env, view, 1)
        assert agent.samples_collected_this_round == steps * config.num_envs
        assert agent.env_steps == steps * config.num_envs
    assert agent.should_sync_update()
    metrics = agent.sync_update()
    assert metrics["Sync/BatchSize"] == metrics["Buffer/SamplesCollected"] == config.batch_size
    assert metrics["Buffer/low_level_buffer_size"] == config.batch_size
    assert metrics["sync/policy_lag"] == 0
    assert agent.policy_version == 1
    assert agent.samples_collected_this_round == 0
    assert agent.collection_enabled and not agent.should_sync_update()
    assert agent.low_storage.steps == 0


def check_disabled(config: Config) -> None:
    agent, env, view = make_agent(config)
    _, view = play(agent, env, view, 1)
    seen = agent.observe(view)
    acting = agent.act(seen)
    step = env.step(acting.action.numpy())
    agent.disable_data_collection()
    before = snapshot(agent)
    assert agent.store_transition(seen, acting, step) is False
    assert differences(snapshot(agent), before) == []
    agent.enable_data_collection()
    assert agent.store_transition(seen, acting, step) is True
    assert agent.samples_collected_this_round == 2 * config.num_envs
    assert differences(snapshot(agent), before) != []


def test_nothing_is_stored_while_collection_is_disabled(config: Config) -> None:
    check_disabled(config)


def test_control_a_gate_that_nobody_asks_is_caught(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HMASDAgent, "collection_enabled", property(lambda self: True))
    with pytest.raises(AssertionError):
        check_disabled(config)


def test_collection_is_disabled_during_the_update(config: Config) -> None:
    agent, env, view = make_agent(config)
    played, view = play(agent, env, view, config.rollout_length)
    update, answers = agent.discoverer.update, []

    def try_to_store(*batches):
        last = played[-1]
        answers.append(agent.store_transition(last.view, last.acting, last.step))
        return update(*batches)

    agent.discoverer.update = try_to_store
    agent.sync_update()
    assert answers == [False]


def test_a_half_full_round_is_refused(config: Config) -> None:
    agent, env, view = make_agent(config)
    play(agent, env, view, config.rollout_length - 1)
    before = snapshot(agent)
    with pytest.raises(SyncError, match="full round of 12 samples, 9 are collected"):
        agent.sync_update()
    assert differences(snapshot(agent), before) == []


def test_overflow_is_refused(config: Config) -> None:
    agent, env, view = make_agent(config)
    _, view = play(agent, env, view, config.rollout_length)
    with pytest.raises(StorageError, match="call sync_update"):
        play(agent, env, view, 1)


def test_the_same_step_twice_is_refused(config: Config) -> None:
    agent, env, view = make_agent(config)
    played, _ = play(agent, env, view, 2)
    for row in played:
        before = snapshot(agent)
        with pytest.raises(StorageError, match="stored before"):
            agent.store_transition(row.view, row.acting, row.step)
        assert differences(snapshot(agent), before) == []


def test_a_step_of_the_round_before_is_refused(config: Config) -> None:
    agent, env, view = make_agent(config)
    played, view = play(agent, env, view, config.rollout_length)
    agent.sync_update()
    with pytest.raises(StorageError, match="stored before"):
        agent.store_transition(played[-1].view, played[-1].acting, played[-1].step)


def test_a_stale_row_is_refused_before_anything_is_learned(config: Config) -> None:
    """A step that was decided before the update, and stored after it, is off-policy."""
    agent, env, view = make_agent(config)
    _, view = play_rounds(agent, env, view, 1)
    seen = agent.observe(view)
    acting = agent.act(seen)._replace(policy_version=agent.policy_version - 1)
    step = env.step(acting.action.numpy())
    agent.store_transition(seen, acting, step)
    play(agent, env, step.view, config.rollout_length - 1)
    weights = {name: parameters(agent, name) for name, _ in agent.networks.named_children()}
    with pytest.raises(StorageError, match=r"policy versions \[0, 1\], the policy is at 1"):
        agent.sync_update()
    assert (
        differences(
            {name: parameters(agent, name) for name, _ in agent.networks.named_children()}, weights
        )
        == []
    )
    assert not agent.collection_enabled


def test_a_stale_segment_is_refused(config: Config) -> None:
    agent, env, view = make_agent(config)
    agent.coordinator_version = 3
    _, view = play(agent, env, view, 1)
    agent.coordinator_version = 4
    weights = parameters(agent, "coordinator")
    with pytest.raises(StorageError, match="stale segments"):
        for _ in range(10):
            _, view = play(agent, env, view, config.rollout_length - agent.low_storage.steps)
            agent.sync_update()
    assert differences(parameters(agent, "coordinator"), weights) == []


def check_two_clocks(config: Config) -> list[int]:
    """The coordinator's weights change at its own updates only; then every env decides anew."""
    agent, env, view = make_agent(config)
    updated = []
    for number in range(12):
        _, view = play(agent, env, view, config.rollout_length)
        was_due = agent.high_storage.num_closed >= config.high_level_batch_size
        version, weights = agent.coordinator_version, parameters(agent, "coordinator")
        agent.sync_update()
        changed = differences(parameters(agent, "coordinator"), weights) != []
        assert changed == was_due == (agent.coordinator_version == version + 1)
        if changed:
            updated.append(number)
            assert (agent.team.clock.age == 0).all()
            decided_by = agent.high_storage.state_dict()["open"]["coordinator_version"]
            assert (decided_by == agent.coordinator_version).all()
            assert agent.high_storage.num_closed == 0
            assert agent.high_storage._open["length"].sum() == 0
        else:
            assert not agent.team.clock.due.any(), "skills run on over the ends of rounds"
    return updated


def test_two_clocks(config: Config) -> None:
    updated = check_two_clocks(config)
    assert 3 <= len(updated) <= 9


def test_control_a_coordinator_updated_without_an_interrupt_is_caught(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hmasd.rollout.skill_clock import SkillClock

    monkeypatch.setattr(SkillClock, "interrupt", lambda self: None)
    with pytest.raises((AssertionError, StorageError)):
        check_two_clocks(config)


def test_a_loss_that_is_not_finite_closes_the_gate(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops before the optimizer step: that network's weights and moments stay as they are."""
    agent, env, view = make_agent(config)
    _, view = play_rounds(agent, env, view, 1)
    _, view = play(agent, env, view, config.rollout_length)
    step = Learner.accumulate
    learner = agent.discriminators.team_learner

    def poisoned(self: Learner, losses: Iterable[tuple[torch.Tensor, float]]) -> None:
        factor = float("nan") if self is learner else 1.0
        step(self, ((factor * loss, share) for loss, share in losses))

    monkeypatch.setattr(Learner, "accumulate", poisoned)
    weights = parameters(agent, "team_discriminator")
    moments = learner.state_dict()["state"][0]["exp_avg"].clone()
    with pytest.raises(TrainingError, match="team discriminator's loss is nan"):
        agent.sync_update()
    assert differences(parameters(agent, "team_discriminator"), weights) == []
    assert torch.equal(learner.state_dict()["state"][0]["exp_avg"], moments)
    assert not agent.collection_enabled and agent.policy_version == 1
    seen = agent.observe(view)
    acting = agent.act(seen)
    assert agent.store_transition(seen, acting, env.step(acting.action.numpy())) is False


@pytest.mark.parametrize("env_name", ["counter", "point", "masked"])
def test_every_kind_of_env_trains_with_finite_weights(config: Config, env_name: str) -> None:
    config = dataclasses.replace(config, env=env_name, agent_id=True)
    agent, env, view = make_agent(config)
    before = snapshot(agent)["networks"]
    play_rounds(agent, env, view, 5)
    after = snapshot(agent)["networks"]
    assert is_finite(after)
    assert agent.coordinator_version >= 1
    for name in (
        "coordinator",
        "actor",
        "critic",
        "team_discriminator",
        "individual_discriminator",
    ):
        assert any(path.startswith(name) for path in differences(before, after)), name


def test_saved_and_loaded_agents_go_on_alike(config: Config, tmp_path: Path) -> None:
    agent, env, view = make_agent(config)
    _, view = play_rounds(agent, env, view, 2)
    _, view = play(agent, env, view, 2)
    agent.save_model(tmp_path / "model.pth", note="kept")
    other, twin, _ = make_agent(dataclasses.replace(config, seed=99))
    twin.set_state(env.get_state())
    assert other.load_model(tmp_path / "model.pth")["note"] == "kept"
    assert differences(snapshot(agent), snapshot(other)) == []
    for one, its_env in ((agent, env), (other, twin)):
        play(one, its_env, view, 2)
        one.sync_update()
    assert differences(snapshot(agent), snapshot(other)) == []


def test_a_model_of_another_shape_is_refused_by_name(config: Config, tmp_path: Path) -> None:
    agent, _, _ = make_agent(config)
    agent.save_model(tmp_path / "model.pth")
    wider, _, _ = make_agent(dataclasses.replace(config, hidden_size=16))
    before = snapshot(wider)
    with pytest.raises(CheckpointError, match=r"\[8.*in the file.*\[16.*here"):
        wider.load_model(tmp_path / "model.pth")
    assert differences(snapshot(wider), before) == []


def test_agents_of_one_seed_are_equal_and_of_two_seeds_differ(config: Config) -> None:
    one, two = (snapshot(make_agent(config)[0]) for _ in range(2))
    assert differences(one, two) == []
    other = snapshot(make_agent(dataclasses.replace(config, seed=2))[0])
    changed = differences(one, other)
    for name in ("networks.actor", "generators.skill", "generators.action", "generators.shuffle"):
        assert any(path.startswith(name) for path in changed), name
    names = ("skill", "action", "shuffle")
    states = {bytes(one["generators"][name].numpy().tobytes()) for name in names}
    assert len(states) == len(names), "two generators would draw the same numbers"


def test_making_an_agent_leaves_the_global_generator_alone(config: Config) -> None:
    before = torch.get_rng_state()
    agent, env, view = make_agent(config)
    play_rounds(agent, env, view, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_dead_agents_count_in_no_metric_and_earn_no_individual_reward() -> None:
    """What is stored of dead agents is spoiled: no number that the round reports may change."""

    def reported(spoil: bool, who: str) -> tuple[dict[str, float], torch.Tensor]:
        player = Player(SMALL, MaskedAgents(SMALL.num_envs))
        player.collect()
        agent = player.agent
        rollout = agent.low_storage.rollout(agent.policy_version)
        assert rollout.alive is not None
        assert not rollout.alive.all(), "the case needs a death"
        spoiled = ~rollout.alive if who == "dead" else rollout.alive
        if spoil:
            rollout.agent_skills[spoiled] = (rollout.agent_skills[spoiled] + 1) % 3
            rollout.next_obs[spoiled] = 9.0
        parts = agent.discriminators.rewards(rollout)
        usage = agent._round_metrics(rollout, 1.0)
        shares = {name: value for name, value in usage.items() if "agent_usage" in name}
        rewards = reward_metrics(parts, counting(rollout, agent.device, agent.team.dtype))
        return read(shares | rewards), parts.individual[~rollout.alive]

    plain, dead_reward = reported(False, "dead")
    assert reported(True, "dead")[0] == plain
    assert (dead_reward == 0).all()
    assert reported(True, "living")[0] != plain, "control: spoiled living agents show"


# --- rounds that grow -----------------------------------------------------------------------------


def test_rounds_grow_between_updates_only(config: Config) -> None:
    """Sizes 12, 24, 36 and 48, each for a quarter of the steps; the counts are the true ones."""
    config = dataclasses.replace(config, batch_schedule="linear", total_steps=144)
    agent, env, view = make_agent(config)
    sizes, learned = [], 0
    while agent.env_steps < config.total_steps:
        size = agent.sync_batch_size
        assert agent.steps_learned == agent.env_steps == learned
        _, view = play(agent, env, view, size // config.num_envs - 1)
        assert not agent.should_sync_update() and agent.sync_batch_size == size
        _, view = play(agent, env, view, 1)
        assert agent.should_sync_update() and agent.steps_learned == learned
        metrics = agent.sync_update()
        assert metrics["Sync/BatchSize"] == metrics["Buffer/SamplesCollected"] == size
        assert metrics["Buffer/low_level_buffer_size"] == size
        assert metrics["sync/policy_lag"] == 0
        sizes.append(size)
        learned += size
    assert sizes == [12, 12, 12, 24, 24, 36, 48]
    assert agent.sync_batch_size == 48 and agent.policy_version == len(sizes)
