"""Skill usage: the first place where a collapse to one skill shows."""

from __future__ import annotations

import math

import pytest
import torch

from hmasd.algorithm.skill_usage import usage


def test_shares_and_entropy_by_hand() -> None:
    metrics = usage(torch.tensor([[0, 0], [1, 3]]), 4, "skill/agent")
    shares = [metrics[f"skill/agent_usage_{i}"] for i in range(4)]
    assert shares == [0.5, 0.25, 0.0, 0.25]
    entropy = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    assert metrics["skill/agent_usage_entropy"] == pytest.approx(entropy / math.log(4))


def test_equal_use_is_one_and_a_single_skill_is_zero() -> None:
    assert usage(torch.arange(6), 3 * 2, "x")["x_usage_entropy"] == pytest.approx(1)
    assert usage(torch.zeros(6, dtype=torch.int64), 3, "x")["x_usage_entropy"] == 0


def test_one_skill_has_no_entropy() -> None:
    """log 1 = 0: the quotient would be NaN."""
    assert usage(torch.zeros(6, dtype=torch.int64), 1, "x") == {"x_usage_0": 1.0}
