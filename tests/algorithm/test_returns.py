"""Advantages: a recursion that crosses an episode credits one with what another did (trap 4)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hmasd.algorithm import returns
from hmasd.algorithm.returns import (
    generalized_advantage,
    segment_slots,
    standardize,
    weighted_mean,
)
from tests.helpers.oracles import advantage_by_definition

Sequences = dict[str, Tensor]


def random_sequences(seed: int, steps: int = 12, rows: int = 3, share: float = 0.3) -> Sequences:
    """T steps of independent rows; about `share` of the steps end an episode, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(steps, rows, generator=generator, dtype=torch.float64)

    ended = torch.rand(steps, rows, generator=generator) < share
    terminated = ended & (torch.rand(steps, rows, generator=generator) < 0.5)
    value, final_value = normal(), normal()
    after = torch.cat([value[1:], final_value[-1:]])  # inside an episode, V' is the next V
    return {
        "reward": normal(),
        "value": value,
        "next_value": torch.where(ended, final_value, after),
        "terminated": terminated,
        "ended": ended,
    }


def difference_to_definition(data: Sequences, gae_lambda: float, discount: Tensor) -> float:
    """Largest difference between the shipped recursion and the double sum."""
    shipped = returns.generalized_advantage(**data, discount=discount, gae_lambda=gae_lambda)
    oracle = np.stack(
        [
            advantage_by_definition(
                *(data[name][:, row].numpy() for name in data),
                discount[:, row].numpy(),
                gae_lambda,
            )
            for row in range(shipped.shape[1])
        ],
        axis=1,
    )
    return float(np.abs(shipped.numpy() - oracle).max())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    lasting=st.booleans(),
)
def test_against_the_double_sum(seed: int, share: float, gae_lambda: float, lasting: bool) -> None:
    """Random terminations, truncations and (smdp) durations, in float64."""
    data = random_sequences(seed, share=share)
    discount = torch.full_like(data["reward"], 0.99)
    if lasting:
        discount **= torch.randint(1, 9, discount.shape, generator=torch.Generator().manual_seed(1))
    assert difference_to_definition(data, gae_lambda, discount) < 1e-12


def planted(change: Callable[[Sequences], Sequences]) -> Callable[..., Tensor]:
    """The shipped function, fed as a caller with a bug would feed it."""

    def wrong(**arguments: Tensor) -> Tensor:
        return generalized_advantage(**change(arguments))

    return wrong


BUGS: dict[str, Callable[[Sequences], Sequences]] = {
    "crosses every end": lambda a: a | {"ended": torch.zeros_like(a["ended"])},
    "crosses truncations": lambda a: a | {"ended": a["terminated"]},
    "truncation is worth 0": lambda a: a | {"terminated": a["ended"]},
    "termination bootstraps": lambda a: a | {"terminated": torch.zeros_like(a["ended"])},
    "next value from the next row": lambda a: a | {"next_value": a["value"].roll(-1, 0)},
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_usual_mistakes_would_be_seen(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: each of them moves the result away from the double sum."""
    monkeypatch.setattr(returns, "generalized_advantage", planted(BUGS[bug]))
    data = random_sequences(0)
    assert difference_to_definition(data, 0.95, torch.full_like(data["reward"], 0.99)) > 1e-2


def test_by_hand() -> None:
    """Two steps, the second truncated; γ = ½, λ = ½."""
    advantage = generalized_advantage(
        torch.tensor([1.0, 2.0]),
        torch.tensor([4.0, 8.0]),
        torch.tensor([8.0, 16.0]),
        torch.tensor([False, False]),
        torch.tensor([False, True]),
        discount=0.5,
        gae_lambda=0.5,
    )
    # δ_1 = 2 + 8 - 8 = 2; δ_0 = 1 + 4 - 4 = 1; A_0 = 1 + ¼ · 2
    assert advantage.tolist() == [1.5, 2.0]


@pytest.mark.parametrize("ended_by", ["termination", "truncation"])
def test_the_other_episode_changes_not_one_bit(ended_by: str) -> None:
    """Rewards of episode B + 1e6: A's advantages stay bit-identical, and so do other envs'."""
    data = random_sequences(3, steps=10, share=0.0)
    data["ended"][4, 0] = True
    data["terminated"][4, 0] = ended_by == "termination"

    def run(ended: Tensor) -> tuple[Tensor, Tensor]:
        results = []
        for extra in (0.0, 1e6):
            reward = data["reward"].clone()
            reward[5:, 0] += extra
            changed = data | {"reward": reward, "ended": ended}
            results.append(generalized_advantage(**changed, discount=0.99, gae_lambda=0.95))
        return results[0], results[1]

    before, after = run(data["ended"])
    assert torch.equal(before[:5, 0], after[:5, 0])
    assert torch.equal(before[:, 1:], after[:, 1:])
    assert (after[5:, 0] - before[5:, 0] > 1e5).all()  # B itself does change
    before, after = run(torch.zeros_like(data["ended"]))
    assert not torch.equal(before[:5, 0], after[:5, 0])  # control: no end, no wall


def test_lambda_one_is_monte_carlo(float64: None) -> None:
    """λ = 1: advantage + value is the discounted sum of what really came."""
    data = random_sequences(5, steps=6, rows=2, share=0.0)
    data["next_value"][:-1] = data["value"][1:]
    data["ended"][-1] = True
    data["terminated"][-1, 0] = True
    target = generalized_advantage(**data, discount=0.9, gae_lambda=1.0) + data["value"]
    for row in range(2):
        last = 0.0 if row == 0 else 0.9**6 * float(data["next_value"][-1, row])
        total = sum(0.9**t * float(data["reward"][t, row]) for t in range(6)) + last
        assert float(target[0, row]) == pytest.approx(total, abs=1e-12)
    biased = generalized_advantage(**data, discount=0.9, gae_lambda=0.9) + data["value"]
    assert (biased - target).abs().max() > 1e-2  # control: λ < 1 is not


def test_shapes_broadcast_over_agents() -> None:
    """One value and one end per env, one reward per agent: as if written out for each agent."""
    data = random_sequences(7)
    per_agent = torch.randn(12, 3, 2, dtype=torch.float64)
    shared = {name: x.unsqueeze(-1) for name, x in data.items()} | {"reward": per_agent}
    together = generalized_advantage(**shared, discount=0.99, gae_lambda=0.95)
    assert together.shape == per_agent.shape
    for agent in range(2):
        alone = generalized_advantage(
            **(data | {"reward": per_agent[..., agent]}), discount=0.99, gae_lambda=0.95
        )
        torch.testing.assert_close(together[..., agent], alone)


def test_a_value_of_a_dead_end_is_not_used() -> None:
    """Whatever stands in next_value behind a termination must not reach the advantage."""
    data = random_sequences(9, share=1.0)
    garbage = data["next_value"] + 1e3 * data["terminated"]
    plain = generalized_advantage(**data, discount=0.99, gae_lambda=0.95)
    changed = generalized_advantage(
        **(data | {"next_value": garbage}), discount=0.99, gae_lambda=0.95
    )
    assert torch.equal(plain, changed)


# --- means ---------------------------------------------------------------------------------------


def test_weighted_mean_by_hand() -> None:
    x = torch.tensor([1.0, 5.0, 100.0])
    assert float(weighted_mean(x, None)) == pytest.approx(106 / 3)
    assert float(weighted_mean(x, torch.tensor([1.0, 1.0, 0.0]))) == 3.0
    assert float(weighted_mean(x, torch.tensor([3.0, 1.0, 0.0]))) == 2.0


def test_standardize_gives_mean_zero_and_deviation_one() -> None:
    x = 1000 + 50 * torch.randn(4, 5, 2, dtype=torch.float64)
    result = standardize(x)
    assert result.shape == x.shape
    assert abs(result.mean()) < 1e-9
    assert float(result.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_standardize_by_hand() -> None:
    """Deviation over n, not n - 1: (1, 3) has deviation 1, to which 0.00001 is added."""
    found = standardize(torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([-0.9999900001, 0.9999900001], abs=1e-12)


def test_standardize_counts_only_weighted_entries() -> None:
    x, weight = torch.randn(100, dtype=torch.float64), torch.ones(100, dtype=torch.float64)
    weight[60:] = 0
    garbage = x.clone()
    garbage[60:] = 1e6
    torch.testing.assert_close(standardize(garbage, weight)[:60], standardize(x[:60]))
    assert (standardize(garbage)[:60] - standardize(x[:60])).abs().max() > 0.1  # control


def test_equal_advantages_become_zero() -> None:
    assert (standardize(torch.full((5,), 3.0)) == 0).all()


# --- slots ---------------------------------------------------------------------------------------


def test_segment_slots_by_hand() -> None:
    assert segment_slots(torch.tensor([2, 0, 2, 2, 0, 3])).tolist() == [0, 0, 1, 2, 1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_segment_slots_keep_time_and_env(seed: int) -> None:
    """Laid out by slot, each env's column is its segments in order of time, without a gap."""
    generator = torch.Generator().manual_seed(seed)
    env = torch.randint(6, (40,), generator=generator)
    slot = segment_slots(env)
    seen: dict[int, int] = {}
    for position, number in enumerate(env.tolist()):
        assert int(slot[position]) == seen.get(number, 0)
        seen[number] = seen.get(number, 0) + 1


def test_standardize_does_not_blow_noise_up() -> None:
    """Advantages that vary less than the floor keep their size over the floor."""
    small = torch.tensor([1.0, 1.2], dtype=torch.float64)  # deviation 0.1, and 0.00001 more
    floored = standardize(small, floor=0.5)
    assert floored.tolist() == pytest.approx([-0.199996, 0.199996], abs=1e-6)
    assert standardize(small).tolist() == pytest.approx([-0.9999, 0.9999], abs=1e-5)
