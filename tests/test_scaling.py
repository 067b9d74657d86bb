"""The model of scaling: reductions against schedules played message by message, numbers by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.scaling_model import (
    Costs,
    Link,
    Network,
    all_reduce,
    efficiency,
    evaluations_per_round,
    round_seconds,
    slowest,
)
from hmasd.config import Config

RING = Link("ring", 10e-6, 1e9, 5e-6, "ring")
TREE = RING._replace(algorithm="tree")
COSTS = Costs(
    lock_step=1e-3,
    env_step=1e-5,
    update=0.01,
    sample=1e-4,
    jitter=0.05,
    evaluation=0.5,
    small=10,
    networks=(Network("actor", 250_000, 6), Network("critic", 125_000, 4)),
)

# --- reductions -----------------------------------------------------------------------------------


def play_ring(ranks: int, num_bytes: float, link: Link, hops: int) -> tuple[float, bool]:
    """Seconds of some hops of a ring in which every rank passes a chunk on, and if all have all."""
    held = np.eye(ranks)[:, :, None] * np.ones(ranks)  # [rank, whose, chunk]: what is summed up
    seconds = link.start
    for hop in range(hops):
        sent = [(rank - hop) % ranks for rank in range(ranks)]  # the chunk that each passes on
        before = held.copy()
        for rank in range(ranks):
            to, chunk = (rank + 1) % ranks, sent[rank]
            arrived = before[rank, :, chunk]
            is_adding_up = hop < ranks - 1
            held[to, :, chunk] = arrived + (before[to, :, chunk] if is_adding_up else 0)
        seconds += link.hop + num_bytes / ranks / link.bandwidth
    return seconds, bool((held == 1).all())


def play_tree(ranks: int, num_bytes: float, link: Link) -> tuple[float, bool]:
    """Seconds of adding up along a binary tree to rank 0 and telling all, and if all have all."""
    held = np.eye(ranks)
    seconds, distance = link.start, 1
    while distance < ranks:
        for rank in range(0, ranks - distance, 2 * distance):
            held[rank] += held[rank + distance]
        distance *= 2
        seconds += link.hop + num_bytes / link.bandwidth
    while distance > 1:
        distance //= 2
        for rank in range(0, ranks - distance, 2 * distance):
            held[rank + distance] = held[rank]
        seconds += link.hop + num_bytes / link.bandwidth
    return seconds, bool((held == 1).all())


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 16, 33])
def test_a_reduction_takes_as_long_as_its_messages(ranks: int) -> None:
    played, is_done = play_ring(ranks, 4e6, RING, 2 * (ranks - 1))
    assert is_done and sum(all_reduce(RING, ranks, 4e6)) == pytest.approx(played)
    played, is_done = play_tree(ranks, 4e6, TREE)
    assert is_done and sum(all_reduce(TREE, ranks, 4e6)) == pytest.approx(played)


def test_control_a_ring_of_one_hop_less_is_not_done() -> None:
    assert not play_ring(5, 4e6, RING, 7)[1]


def test_a_reduction_by_hand() -> None:
    assert all_reduce(RING, 4, 4e6) == pytest.approx((65e-6, 6e-3))
    assert all_reduce(TREE, 4, 4e6) == pytest.approx((45e-6, 16e-3))
    assert all_reduce(RING, 1, 4e6) == (0, 0)


# --- waiting for the slowest ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (1, 0.0),
        (2, 1 / math.sqrt(math.pi)),
        (3, 1.5 / math.sqrt(math.pi)),
        # H. L. Harter, Biometrika 48 (1961), 151, table 1
        (10, 1.53875),
        (100, 2.50759),
    ],
)
def test_the_slowest_of_many(ranks: int, expected: float) -> None:
    assert slowest(ranks) == pytest.approx(expected, abs=1e-5)


def test_the_slowest_of_1024_is_that_of_drawn_ones() -> None:
    drawn = np.random.default_rng(0).standard_normal((2000, 1024)).max(axis=1)
    error = drawn.std() / math.sqrt(len(drawn))
    assert abs(slowest(1024) - drawn.mean()) < 4 * error


# --- a round --------------------------------------------------------------------------------------


def test_a_round_by_hand() -> None:
    """32 steps of 100 envs on 2 ranks: reductions of 1 MB and 0.5 MB, and ten of 8 bytes."""
    found = round_seconds(COSTS, RING, 2, 100, 32, evaluations=0.25)
    assert found.collect == pytest.approx(32 * 2e-3)
    assert found.update == pytest.approx(0.33)
    assert found.wait == pytest.approx(0.05 * (0.064 + 0.33) / math.sqrt(math.pi))
    assert found.latency == pytest.approx(20 * 25e-6)
    assert found.transfer == pytest.approx(6e-3 + 2e-3 + 80e-9)
    assert found.evaluate == pytest.approx(0.125)
    assert found.reduce == pytest.approx(found.latency + found.transfer)


def test_one_rank_waits_for_nobody() -> None:
    alone = round_seconds(COSTS, RING, 1, 100, 32, evaluations=0)
    assert alone[2:] == (0, 0, 0, 0) and efficiency(alone, alone) == 1
    many = round_seconds(COSTS, RING, 64, 100, 32, evaluations=0)
    assert many[:2] == alone[:2] and efficiency(alone, many) < 1


def test_a_round_is_evaluated_once_however_large_it_is() -> None:
    assert evaluations_per_round(1024, 102_400) == pytest.approx(0.01)
    assert evaluations_per_round(1_048_576, 100_000) == 1


# --- the program ----------------------------------------------------------------------------------


def test_a_line_finds_fixed_and_growing_cost() -> None:
    assert scaling.line([8, 32], [3 + 8 * 0.5, 3 + 32 * 0.5]) == pytest.approx((3, 0.5))
    start, slope = scaling.line([1, 2], [1.0, 3.0])  # would begin at -1
    assert start == 0 and slope == pytest.approx(7 / 5)
    assert scaling.line([1, 2], [3.0, 1.0]) == (2, 0)


def test_two_processes_really_reduce() -> None:
    seconds = scaling.time_reductions(repeats=20)
    assert len(seconds) == 3 and min(seconds) > 0


def test_what_is_measured_is_what_the_model_takes(tmp_path: Path) -> None:
    """A tiny run, measured; the figure and the table come from what it wrote."""
    config = Config(
        num_envs=4, batch_size=32, hidden_size=8, high_level_batch_size=8, eval_episodes=2
    )
    constants = scaling.measure(config, rounds=6)
    (tmp_path / "out.json").write_text(json.dumps(constants))
    costs = scaling.costs_of(json.loads((tmp_path / "out.json").read_text()), small=3)
    assert costs.lock_step + costs.env_step > 0 and costs.update + costs.sample > 0
    assert costs.evaluation > 0 and costs.small == 3
    steps = {network.name: network.steps for network in costs.networks}
    assert steps["actor"] == config.discoverer_epochs
    assert 0 < steps["coordinator"] <= config.coordinator_epochs
    assert {x.name: x.parameters for x in costs.networks}["critic"] > 500
    scaling.draw(costs, [RING, TREE], config, [1, 2, 8], tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 10_000
    rows = scaling.table(costs, [RING, TREE], config, [1, 2, 8]).splitlines()
    assert len(rows) == 2 + 6 and rows[2].endswith("| 100% |") and not rows[4].endswith("| 100% |")
