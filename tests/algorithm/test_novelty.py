"""How new a state is: 1 at first, less with every visit; what resembles nothing stays new."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from hmasd.algorithm.novelty import (
    LENGTH_SCALE,
    Novelty,
    fourier_features,
    novelty,
    random_directions,
    standing_out,
)
from hmasd.types import HighRollout
from tests.helpers.envs import Counter
from tests.helpers.rounds import SMALL, Player, captured

CPU = torch.device("cpu")


def states(number: int, size: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(number, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("visits", [0, 1, 5, 40])
def test_a_state_seen_n_times_is_worth_one_over_root_of_one_plus_n(visits: int) -> None:
    memory, state = Novelty(20, 3, CPU), states(1)
    for _ in range(visits):
        memory.visit(state)
    assert float(memory.visit(state)) == pytest.approx(1 / math.sqrt(1 + visits), rel=1e-5)


def test_several_at_once_are_remembered_as_one_by_one_but_only_afterwards() -> None:
    at_once, one_by_one = Novelty(20, 3, CPU), Novelty(20, 3, CPU)
    seen, asked = states(30), states(5, seed=1)
    first = at_once.visit(seen)
    torch.testing.assert_close(first, torch.ones(30), rtol=0, atol=1e-5)
    later = torch.cat([one_by_one.visit(state.unsqueeze(0)) for state in seen])
    assert later[-1] < 1 - 1e-3  # control: the last one resembles those before
    torch.testing.assert_close(at_once.visit(asked), one_by_one.visit(asked), rtol=1e-9, atol=0)


def test_novelty_is_the_deviation_of_a_gaussian_process() -> None:
    """Oracle: k(s, s) - k(s, S) (K + I)⁻¹ k(S, s), which never makes the matrix of features."""
    directions = random_directions(20, 0)
    seen, asked = (fourier_features(states(n, seed=n), directions) for n in (40, 7))
    between = asked @ seen.T
    inverse = torch.linalg.inv(seen @ seen.T + torch.eye(40, dtype=torch.float64))
    expected = (1 - ((between @ inverse) * between).sum(-1)).sqrt()
    got = novelty(asked, torch.eye(256, dtype=torch.float64) + seen.T @ seen)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def test_features_approximate_the_kernel() -> None:
    """Neighbours resemble each other, strangers do not; the rest is the error of 128 directions."""
    x = torch.nn.functional.layer_norm(states(60, seed=2).double(), (20,))
    features = fourier_features(x, random_directions(20, 0))
    kernel = torch.exp(-torch.cdist(x, x).square() / (2 * LENGTH_SCALE**2))
    error = (features @ features.T - kernel).abs()
    assert error.max() < 4 / math.sqrt(2 * 128)
    assert error.diagonal().max() < 1e-9
    wrong = torch.exp(-torch.cdist(x, x).square() / LENGTH_SCALE**2)  # control: another width
    assert (features @ features.T - wrong).abs().mean() > 3 * error.mean()


def test_what_was_never_seen_stays_new_beside_what_was() -> None:
    memory = Novelty(20, 3, CPU)
    ordinary, rare = states(1).expand(200, -1), -states(1)
    for _ in range(5):
        memory.visit(ordinary + 0.05 * states(200, seed=1))
    assert float(memory.visit(ordinary[:1])) < 0.1
    assert float(memory.visit(rare)) > 0.7


def test_units_and_offset_of_a_state_do_not_count() -> None:
    directions = random_directions(20, 0)
    one, other = (fourier_features(x, directions) for x in (states(4), 1000 + 50 * states(4)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_what_stands_out_by_hand() -> None:
    """Eleven of 0.1 and one of 0.7: mean 0.15, deviation √(0.33/12), so 0.7 - 0.15 - 0.1658."""
    batch = torch.tensor([*[0.1] * 11, 0.7], dtype=torch.float64)
    bonus = standing_out(batch)
    assert (bonus[:-1] == 0).all()
    assert float(bonus[-1]) == pytest.approx(0.55 - math.sqrt(0.33 / 12))


def test_wandering_does_not_stand_out_but_what_was_collected_does() -> None:
    """Places differ as normal noise does; control: the plain novelty pays for all of them."""
    places = 0.2 + 0.04 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    collected = torch.full((40,), 0.4)
    bonus = standing_out(torch.cat([places, collected]))
    assert bonus[2000:].min() > 0.1
    assert bonus[:2000].mean() < 0.005
    assert places.mean() > 0.19


# --- in the coordinator --------------------------------------------------------------------------


class Learned(NamedTuple):
    """What the coordinator got and was rewarded for in one update, and the update's metrics."""

    segments: HighRollout
    reward: Tensor
    metrics: dict[str, float]


def two_updates(
    coef: float, monkeypatch: pytest.MonkeyPatch, start: int = SMALL.batch_size
) -> list[Learned]:
    """At the first nothing was seen yet, so nothing stands out."""
    config = replace(SMALL, high_level_batch_size=1, novelty_coef=coef, exploration_start=start)
    player = Player(config, Counter(4))
    coordinator = player.agent.coordinator
    found = []
    for _ in range(2):
        player.collect()
        with (
            captured(coordinator, "prepare", monkeypatch) as prepared,
            captured(coordinator, "_advantage", monkeypatch) as rewarded,
        ):
            metrics = player.agent.sync_update()
        found.append(Learned(prepared[0][0], rewarded[0][0].reward, metrics))
    return found


def test_the_bonus_is_of_the_state_reached_and_of_its_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    updates = two_updates(0.25, monkeypatch)
    memory = Novelty(updates[0].segments.next_state.shape[1], SMALL.seed, CPU)
    for segments, reward, metrics in updates:
        new = memory.visit(segments.next_state)
        torch.testing.assert_close(reward, segments.reward + 0.25 * standing_out(new))
        assert metrics["high/novelty"] == pytest.approx(float(new.mean()), rel=1e-5)
    last = updates[1]
    assert (last.reward - last.segments.reward).max() > 0.01, "nothing stood out"


def test_without_weight_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for segments, reward, metrics in two_updates(0.0, monkeypatch):
        assert torch.equal(reward, segments.reward)
        assert "high/novelty" not in metrics


def test_what_was_seen_is_saved_and_taken_over() -> None:
    """Control: a memory that was not loaded finds everything new."""
    saved, loaded, fresh = (Novelty(20, seed, CPU) for seed in (3, 4, 3))
    saved.visit(states(50))
    loaded.load_state_dict(saved.state_dict())
    expected = saved.visit(states(8))  # what was loaded is a copy: this does not change it
    assert torch.equal(loaded.visit(states(8)), expected)
    assert (fresh.visit(states(8)) - expected).min() > 1e-3


def test_before_its_time_nothing_is_paid_or_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second update is the first in which states are remembered: all are new."""
    first, second = two_updates(1.0, monkeypatch, start=2 * SMALL.batch_size)
    assert torch.equal(first.reward, first.segments.reward)
    assert "high/novelty" not in first.metrics
    assert second.metrics["high/novelty"] == pytest.approx(1.0, rel=1e-5)
