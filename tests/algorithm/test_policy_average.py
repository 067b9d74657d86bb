"""The policy that plays is an average of the one that learns; what learns does not notice."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from hmasd.agent import HMASDAgent
from hmasd.algorithm.policy_average import PolicyAverage, follow
from hmasd.config import Config
from hmasd.envs import registry
from hmasd.training.evaluation import evaluate
from tests.helpers.envs import NeverWon
from tests.helpers.rounds import make_loud
from tests.helpers.runs import (
    differences,
    make_agent,
    play_rounds,
    register_small_envs,
    snapshot,
    tiny_config,
)


def shares(updates: int, *successes: float) -> list[float]:
    """Of each policy, where the share of wins lasts no longer than it is."""
    average = PolicyAverage(updates)
    return [average.weigh(success, success) for success in successes]


def test_the_newest_counts_alone_until_something_is_won() -> None:
    assert shares(400, 0.0, 0.0, 0.1) == [1.0] * 3
    assert shares(1, 0.9, 1.0, 0.5, 1.0) == [1.0] * 4  # no average


def test_a_policy_counts_as_its_odds_by_hand() -> None:
    """n = 16: where all is won 15 / 16 is kept, at a half 3 / 4; odds are 100 and 0.5 / 0.51."""
    found = shares(16, 1.0, 1.0, 0.5)
    kept = (100 * 15 / 16 + 100) * 3 / 4
    half = 0.5 / 0.51
    assert found == [1.0, pytest.approx(1 / (1 + 15 / 16)), pytest.approx(half / (kept + half))]


def test_after_long_the_newest_of_equals_has_one_in_n() -> None:
    assert shares(50, *[1.0] * 2000)[-1] == pytest.approx(1 / 50)
    assert shares(16, *[0.5] * 200)[-1] == pytest.approx(1 / 4)


def test_a_dip_hardly_counts_and_a_beginning_is_left_behind() -> None:
    dip = shares(400, *[1.0] * 1000, *[0.7] * 80)
    assert sum(dip[-80:]) < 0.05
    rise = shares(400, *[0.5] * 100, *[1.0] * 5)
    assert rise[100] > 0.8  # 100 won ones to one


@pytest.mark.parametrize(("lasting", "expected"), [(0.9, 0.02), (0.0, 1.0)])
def test_a_team_that_is_lost_for_once_plays_on_as_it_did(lasting: float, expected: float) -> None:
    """100 updates that win 2 %; control: where nothing of the wins lasts it is the newest."""
    average, kept = PolicyAverage(400), 1.0
    for _ in range(1000):
        average.weigh(1.0, 1.0)
    for _ in range(100):
        kept *= 1 - average.weigh(0.02, lasting)
    assert 1 - kept == pytest.approx(expected, abs=0.02)


def layer(value: float) -> nn.Module:
    found = nn.Linear(2, 2)
    nn.init.constant_(found.weight, value)
    nn.init.constant_(found.bias, -value)
    found.register_buffer("usual", torch.full((2,), value))
    return found


def test_it_moves_by_a_share_of_the_way_buffers_too() -> None:
    """From 0 to 8 by a quarter: 2, 3.5, 4.625."""
    average, newest = layer(0.0), layer(8.0)
    for expected in (2.0, 3.5, 4.625):
        follow(average, newest, 0.25)
        assert average.weight.tolist() == [[expected] * 2] * 2
        assert average.bias.tolist() == [-expected] * 2
        assert average.usual.tolist() == [expected] * 2


def test_a_share_of_1_is_the_newest_to_the_last_bit() -> None:
    average, newest = layer(0.1), layer(0.3)
    follow(average, newest, 1.0)
    assert torch.equal(average.weight, newest.weight)


def test_noise_around_a_value_is_averaged_away() -> None:
    """Of independent noise an average over n updates keeps the variance 1 / (2 n - 1)."""
    generator = torch.Generator().manual_seed(0)
    average, newest = nn.Linear(1000, 1, bias=False), nn.Linear(1000, 1, bias=False)
    nn.init.zeros_(average.weight)
    weighs = PolicyAverage(10)
    for _ in range(300):
        newest.weight.data.normal_(generator=generator)
        follow(average, newest, weighs.weigh(1.0, 1.0))
    assert float(average.weight.detach().var()) == pytest.approx(1 / 19, rel=0.15)
    assert float(newest.weight.detach().var()) == pytest.approx(1, rel=0.15)  # control


def winning(config: Config, updates: int) -> HMASDAgent:
    """An agent after some rounds, of which the second half counts as won."""
    agent, env, view = make_agent(dataclasses.replace(config, policy_average=updates))
    _, view = play_rounds(agent, env, view, 3)
    agent.wins.success = agent.wins.lasting_success = 1.0
    agent.wins.hear = lambda *_: None
    play_rounds(agent, env, view, 3)
    return agent


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Config:
    """In `counter` nothing is won."""
    register_small_envs(monkeypatch)
    return tiny_config(winning_step=1.0, losing_entropy=1.0)


def test_what_learns_does_not_depend_on_it(quiet: Config) -> None:
    newest, average = winning(quiet, 1), winning(quiet, 50)
    parts = differences(snapshot(newest), snapshot(average))
    assert parts and {path.split(".")[0] for path in parts} == {"played", "played_weight"}
    assert differences(newest.played.state_dict(), newest.networks.state_dict()) == []
    assert differences(average.played.state_dict(), average.networks.state_dict()) != []


@pytest.mark.parametrize(("lasting", "stays"), [(0.9, True), (0.0, False)])
def test_an_agent_that_is_lost_for_once_plays_on_as_it_did(
    quiet: Config, lasting: float, stays: bool
) -> None:
    """Control: where nothing of the wins lasts the newest plays."""
    agent, env, view = make_agent(dataclasses.replace(quiet, policy_average=400))
    agent.average.weight = 40_000.0  # of what won for long
    make_loud(agent.played)  # far from the newest
    agent.wins.success, agent.wins.lasting_success = 0.02, lasting
    agent.wins.hear = lambda *_: None
    before = nn.utils.parameters_to_vector(agent.played.parameters())
    play_rounds(agent, env, view, 1)
    after = nn.utils.parameters_to_vector(agent.played.parameters())
    assert torch.allclose(after, before, atol=1e-3) is stays


def test_it_is_the_newest_as_long_as_nothing_is_won(
    quiet: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._MAKERS, "counter", lambda e, t: NeverWon(e, 2, t, (0.1, 0.1)))
    agent, env, view = make_agent(quiet)
    play_rounds(agent, env, view, 4)
    assert differences(agent.played.state_dict(), agent.networks.state_dict()) == []


def test_the_average_is_what_is_evaluated(quiet: Config) -> None:
    agent, env, view = make_agent(dataclasses.replace(quiet, env="point"))
    play_rounds(agent, env, view, 2)
    before = evaluate(agent)[1]
    make_loud(agent.networks)
    assert evaluate(agent)[1] == before
    make_loud(agent.played)
    assert evaluate(agent)[1] != before
