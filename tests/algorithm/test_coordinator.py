"""The high level's update: segments of several envs, one ratio per token, two discounts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hmasd.algorithm.coordinator import Coordinator
from hmasd.algorithm.optimization import TrainingError, read
from hmasd.config import Config
from hmasd.rollout.segments import SegmentStorage
from hmasd.types import HighBatch, HighRollout
from tests.helpers.envs import ContinuousPoint, Counter, MaskedAgents
from tests.helpers.oracles import advantage_by_definition
from tests.helpers.rounds import SMALL, Player, captured

ENVS = {
    "ends anywhere": lambda: Counter(4, end_chances=(0.1, 0.1)),
    "masks and deaths": lambda: MaskedAgents(4, episode_length=7),
    "continuous": lambda: ContinuousPoint(4, episode_length=5),
}
NOW = replace(SMALL, high_level_batch_size=1, skill_persistence=0.0)  # it learns in every round


def updated(player: Player, monkeypatch: pytest.MonkeyPatch) -> tuple[HighBatch, dict[str, float]]:
    """Collect and update; returns what the coordinator learned from, and the metrics."""
    player.collect()
    with captured(player.agent.coordinator, "update", monkeypatch) as calls:
        metrics = player.agent.sync_update()
    return calls[0][0], metrics


# --- traps 1 and 2: the ratio --------------------------------------------------------------------


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("agent_id", [False, True])
def test_ratio_is_one_before_the_first_step(
    env: str, agent_id: bool, monkeypatch: pytest.MonkeyPatch, float64: None
) -> None:
    """Three updates; the second and third learn from segments of the changed coordinator."""
    player = Player(replace(NOW, agent_id=agent_id), ENVS[env]())
    for _ in range(3):
        batch, metrics = updated(player, monkeypatch)
        assert batch.logp.std() > 1e-3, "a uniform coordinator would hide mistakes"
        assert abs(metrics["high/ratio_start"] - 1) <= 1e-10


@pytest.mark.parametrize("bug", ["agents swapped", "team skill of another segment", "late obs"])
def test_a_wrong_score_would_be_seen(
    bug: str, monkeypatch: pytest.MonkeyPatch, float64: None
) -> None:
    """Control: segments whose fields do not belong together have another ratio."""
    original = SegmentStorage.rollout

    def rollout(storage: SegmentStorage, version: int) -> HighRollout:
        segments = original(storage, version)
        changes = {
            "agents swapped": {"agent_skills": segments.agent_skills.flip(1)},
            "team skill of another segment": {"team_skill": segments.team_skill.roll(1)},
            "late obs": {"obs": segments.next_obs},
        }
        return segments._replace(**changes[bug])

    monkeypatch.setattr(SegmentStorage, "rollout", rollout)
    player = Player(NOW, ENVS["ends anywhere"]())
    metrics = updated(player, monkeypatch)[1]
    assert abs(metrics["high/ratio_start"] - 1) > 1e-4


@pytest.mark.parametrize("env", ENVS)
def test_learning_rate_zero_moves_nothing(
    env: str, monkeypatch: pytest.MonkeyPatch, float64: None
) -> None:
    still = Player(replace(NOW, learning_rate=0.0, coordinator_epochs=4), ENVS[env]())
    moving = Player(replace(NOW, learning_rate=0.05, coordinator_epochs=8), ENVS[env]())
    for _ in range(2):
        metrics = updated(still, monkeypatch)[1]
        assert abs(metrics["high/kl"]) <= 1e-10
        assert metrics["high/clip_fraction"] == 0
    metrics = updated(moving, monkeypatch)[1]
    assert metrics["high/kl"] > 1e-4  # control
    assert metrics["high/clip_fraction"] > 0


# --- trap 4: advantages over segments ------------------------------------------------------------


class TableValues(nn.Module):
    """A coordinator whose values are columns of the observation, so that they are known."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def encode(self, state: Tensor, obs: Tensor) -> Tensor:
        return torch.cat([state[:, None, :1], obs[:, :, :1]], dim=1)  # [D, N+1, 1]

    def value(self, encoded: Tensor) -> Tensor:
        return encoded[..., 0]


def segments_of_envs(
    seed: int, lengths_up_to: int = 6, steps: int = 30, envs: int = 3
) -> tuple[HighRollout, Tensor]:
    """Segments of random length with random ends, in the order in which they close.

    The value of a state is random, the same as next state of a segment and as state of the one
    that continues it. Also returns the step reward of each segment's steps [D, lengths_up_to].
    """
    rng = np.random.default_rng(seed)
    rows = []
    for env in range(envs):
        time, here = 0, rng.normal(size=3)
        while time < steps:
            length = int(rng.integers(1, lengths_up_to + 1))
            ended = bool(rng.random() < 0.4)
            terminated = ended and bool(rng.random() < 0.5)
            time += length
            there = rng.normal(size=3)
            rows.append((time, env, length, terminated, ended, here, there))
            here = rng.normal(size=3) if ended else there
    rows.sort(key=lambda row: row[0])
    _, env, length, terminated, ended, here, there = zip(*rows, strict=True)
    count = len(rows)
    here, there = torch.tensor(np.array(here)), torch.tensor(np.array(there))
    rewards = torch.from_numpy(rng.normal(size=(count, lengths_up_to)))
    length = torch.tensor(length)
    rewards *= torch.arange(lengths_up_to) < length.unsqueeze(-1)
    return HighRollout(
        env=torch.tensor(env),
        state=here[:, :1],
        obs=here[:, 1:, None],
        team_skill=torch.zeros(count, dtype=torch.int64),
        agent_skills=torch.zeros(count, 2, dtype=torch.int64),
        logp=torch.zeros(count, 3),
        reward=rewards.sum(-1),
        length=length,
        terminated=torch.tensor(terminated),
        ended=torch.tensor(ended),
        cut=torch.zeros(count, dtype=torch.bool),
        next_state=there[:, :1],
        next_obs=there[:, 1:, None],
        coordinator_version=torch.zeros(count, dtype=torch.int64),
        alive=torch.ones(count, 2, dtype=torch.bool),
        mean_state=there[:, :1],
        mean_before=here[:, :1],
        is_first=torch.zeros(count, dtype=torch.bool),
    ), rewards


def bare_coordinator(config: Config) -> Coordinator:
    """With known values, and a normaliser that does something."""
    coordinator = Player(config, Counter(4), loud=False).agent.coordinator
    coordinator.network = TableValues()
    coordinator.normalizer.update(4 + 2 * torch.randn(100))
    return coordinator


def oracle_advantage(segments: HighRollout, config: Config, mean: float, std: float) -> np.ndarray:
    """The double sum, env by env and token by token: [D, 3]."""
    here = torch.cat([segments.state, segments.obs[..., 0]], 1).numpy() * std + mean
    there = torch.cat([segments.next_state, segments.next_obs[..., 0]], 1).numpy() * std + mean
    power = segments.length.numpy() if config.high_discount == "smdp" else 1
    discount = config.gamma**power * np.ones(len(here))
    result = np.empty_like(here)
    for env in range(int(segments.env.max()) + 1):
        at = np.flatnonzero(segments.env.numpy() == env)
        for token in range(3):
            result[at, token] = advantage_by_definition(
                segments.reward.numpy()[at],
                here[at, token],
                there[at, token],
                segments.terminated.numpy()[at],
                segments.ended.numpy()[at],
                discount[at],
                config.gae_lambda,
            )
    return result


@pytest.mark.parametrize("high_discount", ["paper", "smdp"])
@pytest.mark.parametrize("gae_lambda", [0.95, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_advantages_against_the_double_sum(
    high_discount: str, gae_lambda: float, seed: int, float64: None
) -> None:
    config = replace(SMALL, high_discount=high_discount, gae_lambda=gae_lambda)
    coordinator = bare_coordinator(config)
    mean, std = (float(x) for x in coordinator.normalizer.statistics())
    segments, _ = segments_of_envs(seed)
    oracle = oracle_advantage(segments, config, mean, std)
    batch = coordinator.prepare(segments)
    expected = (oracle - oracle.mean()) / (oracle.std() + 1e-5)
    np.testing.assert_allclose(batch.advantage.numpy(), expected, atol=1e-9)
    real = coordinator.normalizer.denormalize(batch.target).numpy()
    here = torch.cat([segments.state, segments.obs[..., 0]], 1).numpy() * std + mean
    np.testing.assert_allclose(real, oracle + here, atol=1e-9)
    # Control: the other discount, or ends that are forgotten, would be seen.
    other = replace(config, high_discount="smdp" if high_discount == "paper" else "paper")
    forgot = segments._replace(ended=torch.zeros_like(segments.ended))
    for wrong in (
        oracle_advantage(segments, other, mean, std),
        oracle_advantage(forgot, config, mean, std),
    ):
        assert np.abs(wrong - oracle).max() > 1e-2


def test_another_segments_reward_reaches_no_other_episode(float64: None) -> None:
    """+1e6 in one env after an end: targets of all else stay the same."""
    coordinator = bare_coordinator(SMALL)
    segments, _ = segments_of_envs(0)
    here = (segments.env == 1).nonzero().squeeze(-1)
    last_of_a = next(i for i in here.tolist() if segments.ended[i])
    in_b = here[here > last_of_a]
    values = torch.cat([segments.state, segments.obs[..., 0]], 1)
    results = []
    for extra in (0.0, 1e6):
        reward = segments.reward.clone()
        reward[in_b] += extra
        results.append(coordinator._advantage(segments._replace(reward=reward), values, values))
    others = torch.ones(len(segments.env), dtype=torch.bool)
    others[in_b] = False
    assert torch.equal(results[0][others], results[1][others])
    assert (results[1] - results[0])[in_b].min() > 1e5


@pytest.mark.parametrize("high_discount", ["paper", "smdp"])
def test_interval_of_one_is_flat_ppo(high_discount: str, float64: None) -> None:
    """k = 1: each segment is one step, so the high level's GAE is that of the steps themselves."""
    config = replace(SMALL, high_discount=high_discount, skill_interval=1, skill_persistence=0.0)
    player = Player(config, Counter(4, end_chances=(0.1, 0.1)))
    player.collect()
    agent = player.agent
    rollout = agent.low_storage.rollout(0)
    segments = agent.high_storage.rollout(0)
    assert (segments.length == 1).all()
    assert len(segments.env) == 48
    values = [torch.randn(12, 4) for _ in range(2)]
    values[1][:-1] = values[0][1:]
    time, env = torch.arange(48) // 4, segments.env  # lock-step: segments close in order of time
    flat = agent.coordinator._advantage(
        segments, values[0][time, env].unsqueeze(-1), values[1][time, env].unsqueeze(-1)
    )[:, 0]
    ended = (rollout.terminated | rollout.truncated).numpy()
    for e in range(4):
        oracle = advantage_by_definition(
            rollout.reward[:, e].numpy(),
            values[0][:, e].numpy(),
            values[1][:, e].numpy(),
            rollout.terminated[:, e].numpy(),
            ended[:, e],
            np.full(12, config.gamma),
            config.gae_lambda,
        )
        np.testing.assert_allclose(flat[env == e].numpy(), oracle, atol=1e-12)


def test_discounts_differ_where_segments_last(float64: None) -> None:
    """Control of the test before: with k = 5 the two discounts are not the same."""
    segments, _ = segments_of_envs(1)
    values = torch.randn(len(segments.env), 3)
    paper, smdp = (
        bare_coordinator(replace(SMALL, high_discount=name))._advantage(segments, values, values)
        for name in ("paper", "smdp")
    )
    assert (paper - smdp).abs().max() > 1e-2


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_scale_of_the_rewards_changes_no_advantage(factor: float, float64: None) -> None:
    """Trap 9, high level."""
    segments, _ = segments_of_envs(2)
    batches = []
    for unit in (1.0, factor):
        coordinator = Player(SMALL, Counter(4), loud=False).agent.coordinator
        coordinator.network = TableValues()
        coordinator.normalizer.update(unit * (1000 + 300 * torch.linspace(-1, 1, 101)))
        batches.append(coordinator.prepare(segments._replace(reward=unit * 100 * segments.reward)))
    for name in ("advantage", "value", "target"):
        a, b = (getattr(batch, name) for batch in batches)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    coordinator.normalizer.update(torch.tensor([5.0]))  # control: a normaliser of other units
    untold = coordinator.prepare(segments)
    assert (untold.advantage - batches[0].advantage).abs().max() > 1e-2


# --- trap 12: dead agents' tokens ----------------------------------------------------------------


def dead_batch(*, garbage: bool, obey: bool = True) -> tuple[Player, HighBatch]:
    """Prepared segments in which some agents were dead; garbage in their skills and log-probs."""
    player = Player(NOW, Counter(4))
    player.collect()
    agent = player.agent
    agent.high_storage.cut(agent._next_view)
    segments = agent.high_storage.rollout(0)
    alive = torch.rand(segments.alive.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    if garbage:
        # The last agent's skill is read by nobody after it: changing it alone changes no other.
        alive[:, 0] = True
        last = ~alive[:, -1]
        segments.agent_skills[last, -1] = (segments.agent_skills[last, -1] + 1) % 3
        segments.logp[last, -1] -= 1
    alive[:, 0] = True
    if obey:
        segments = segments._replace(alive=alive)
    return player, agent.coordinator.prepare(segments)


def results(*, garbage: bool, obey: bool = True) -> tuple[dict[str, float], list[Tensor]]:
    player, batch = dead_batch(garbage=garbage, obey=obey)
    if garbage:
        dead = torch.zeros_like(batch.advantage, dtype=torch.bool)
        dead[:, 1:] = ~(
            torch.rand(batch.logp[:, 1:].shape, generator=torch.Generator().manual_seed(1)) < 0.6
        )
        dead[:, 1] = False
        batch.advantage[dead] += 7
        batch.target[dead] -= 7
        batch.value[dead] += 3
    metrics = read(player.agent.coordinator.update(batch, 2))
    return metrics, list(player.agent.networks.coordinator.parameters())


def test_dead_agents_tokens_change_nothing(float64: None) -> None:
    """No parameter after two epochs, and no metric."""
    (plain, before), (spoiled, after) = (results(garbage=g) for g in (False, True))
    assert plain == pytest.approx(spoiled, abs=1e-9)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_forgotten_deaths_would_be_seen(float64: None) -> None:
    """Control: the same garbage with nobody declared dead."""
    (plain, _), (spoiled, _) = (results(garbage=g, obey=False) for g in (False, True))
    for name in ("policy_loss", "value_loss", "kl", "grad_norm", "explained_variance"):
        assert abs(plain[f"high/{name}"] - spoiled[f"high/{name}"]) > 1e-6, name


@pytest.mark.parametrize("obey", [True, False])
def test_dead_agents_stay_out_of_the_normaliser(obey: bool, float64: None) -> None:
    """A dead agent's target must not move the scale of all targets; control: unless alive."""
    segments, _ = segments_of_envs(3)
    segments = segments._replace(ended=torch.ones_like(segments.ended))
    segments.terminated[:] = False
    dead = torch.zeros_like(segments.alive)
    dead[::2, 1] = True
    if obey:
        segments = segments._replace(alive=~dead)
    found = []
    for shift in (0.0, 1e4):
        torch.manual_seed(0)
        coordinator = bare_coordinator(SMALL)
        next_obs = segments.next_obs + shift * dead.unsqueeze(-1)
        coordinator.prepare(segments._replace(next_obs=next_obs))
        found.append([float(x) for x in coordinator.normalizer.statistics()])
    assert (found[0] == found[1]) == obey


def test_all_alive_needs_no_weight() -> None:
    segments, _ = segments_of_envs(0)
    assert bare_coordinator(SMALL).prepare(segments).weight is None
    segments.alive[0, 1] = False
    weight = bare_coordinator(SMALL).prepare(segments).weight
    assert weight[0].tolist() == [1, 1, 0]
    assert (weight[1:] == 1).all()


# --- the update ----------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_step(
    monkeypatch: pytest.MonkeyPatch, float64: None
) -> None:
    player = Player(NOW, Counter(4))
    batch, _ = updated(player, monkeypatch)
    before = [x.detach().clone() for x in player.agent.networks.coordinator.parameters()]
    batch.advantage[0, 0] = float("nan")
    player.agent.coordinator.update(batch, 2)
    with pytest.raises(TrainingError, match="coordinator's loss"):
        read({}, [player.agent.coordinator.learner])
    for a, b in zip(before, player.agent.networks.coordinator.parameters(), strict=True):
        assert torch.equal(a, b)


def test_update_makes_good_choices_likelier(float64: None) -> None:
    """One skill is always worth more: after some passes it is chosen more; control: sign."""
    for sign in (1.0, -1.0):
        player = Player(replace(NOW, high_entropy_coef=0.0), Counter(4))
        player.collect()
        agent = player.agent
        agent.high_storage.cut(agent._next_view)
        batch = agent.coordinator.prepare(agent.high_storage.rollout(0))
        good = (batch.team_skill == 0).double()
        assert 0 < good.mean() < 1
        advantage = torch.zeros_like(batch.advantage)
        advantage[:, 0] = sign * (2 * good - 1)
        agent.coordinator.update(batch._replace(advantage=advantage), 10)
        with torch.no_grad():
            after = agent.networks.coordinator.evaluate(
                batch.state, batch.obs, batch.team_skill, batch.agent_skills
            )
        gain = (after.logp - batch.logp)[:, 0]
        assert sign * float(gain[good == 1].mean()) > 0
        assert sign * float(gain[good == 0].mean()) < 0


def passes_and_kl(epochs: int, limit: float, slices: int) -> tuple[float, float]:
    """Passes that an update made, and the KL of the coordinator that is left, measured anew."""
    config = replace(
        NOW,
        learning_rate=1e-3,
        samples_at_once=slices,
        coordinator_kl_limit=limit,
    )
    player = Player(config, Counter(4))
    player.collect()
    agent = player.agent
    agent.high_storage.cut(agent._next_view)
    batch = agent.coordinator.prepare(agent.high_storage.rollout(0))
    metrics = agent.coordinator.update(batch, epochs)
    with torch.no_grad():
        now = agent.networks.coordinator.evaluate(
            batch.state, batch.obs, batch.team_skill, batch.agent_skills
        )
    log_ratio = now.logp - batch.logp
    return float(metrics["high/epochs"]), float((log_ratio.exp() - 1 - log_ratio).mean())


@pytest.mark.parametrize("slices", [0, 7])
def test_an_update_ends_when_the_coordinator_has_moved_far(slices: int, float64: None) -> None:
    """Oracle: shorter updates without limit; control: a limit that is never reached."""
    without = [passes_and_kl(n, 0.0, slices) for n in range(1, 6)]
    assert [passes for passes, _ in without] == [1, 2, 3, 4, 5]
    limit = (without[1][1] + without[2][1]) / 2
    ends = next(n for n, (_, kl) in enumerate(without) if kl > limit)
    assert 0 < ends < 4
    assert passes_and_kl(5, limit, slices) == pytest.approx(without[ends], rel=1e-9)
    assert passes_and_kl(5, 1e6, slices) == pytest.approx(without[4], rel=1e-9)
