"""An update in slices is the update of the whole round: every network, every metric."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hmasd.algorithm import optimization
from hmasd.config import Config
from tests.helpers.envs import ContinuousPoint, Counter, MaskedAgents
from tests.helpers.rounds import SMALL, Player

ENVS = {
    "ends anywhere": lambda: Counter(4, end_chances=(0.1, 0.1)),
    "masks and deaths": lambda: MaskedAgents(4, episode_length=7),
    "continuous": lambda: ContinuousPoint(4, episode_length=5),
}


def trained(config: Config, env: str) -> tuple[list[dict[str, float]], list[torch.Tensor]]:
    """Metrics and parameters of three rounds."""
    player = Player(config, ENVS[env]())
    metrics = []
    for _ in range(3):
        player.collect()
        metrics.append(player.agent.sync_update())
    return metrics, list(player.agent.networks.state_dict().values())


def assert_alike(one: tuple, other: tuple) -> None:
    for metrics, of_other in zip(one[0], other[0], strict=True):
        assert metrics == pytest.approx(of_other, abs=1e-9, rel=1e-9)
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("at_once", [4, 7, 20])
@pytest.mark.parametrize("env", ENVS)
def test_slices_equal_the_whole(env: str, at_once: int, float64: None) -> None:
    """48 samples in slices of 4 (one chunk; nobody may live in it), 7 (chunks stay whole), 20."""
    assert_alike(trained(replace(SMALL, samples_at_once=at_once), env), trained(SMALL, env))


def test_slices_that_all_count_alike_would_be_seen(
    float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the slices are of unequal weight, by their size and by who lives."""
    right = trained(SMALL, "masks and deaths")
    weigh = optimization.in_parts

    def alike(*known):
        parts = weigh(*known)
        return [part._replace(share=1 / len(parts)) for part in parts]

    for room in ("coordinator", "discoverer", "discriminators"):
        monkeypatch.setattr(f"hmasd.algorithm.{room}.in_parts", alike)
    with pytest.raises(AssertionError):
        assert_alike(trained(replace(SMALL, samples_at_once=20), "masks and deaths"), right)


def test_no_slice_is_larger_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """48 samples go through each network in 6 slices of 8."""
    player = Player(replace(SMALL, samples_at_once=8), Counter(4, num_agents=2))
    agent, seen = player.agent, []
    player.collect()
    for learner in agent._learners:
        accumulate = learner.accumulate

        def looking(losses, accumulate=accumulate):
            listed = list(losses)
            seen.append(len(listed))
            accumulate(listed)

        monkeypatch.setattr(learner, "accumulate", looking)
    agent.sync_update()
    assert seen.count(6) == 8  # 2 epochs of actor, critic and both discriminators
