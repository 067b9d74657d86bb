"""What the log tells, against curves made by hand."""

import math

import numpy as np
import pytest

from hmasd.bench.diagnosis import Drop, diagnose, drops, first_at_least
from hmasd.viz.curves import Curve, Run


def curve(*values, every=100):
    return Curve(np.arange(1.0, len(values) + 1) * every, np.array(values, dtype=float))


def test_the_first_time():
    values = curve(0.0, 0.5, 0.2, 0.95)
    assert first_at_least(values, 0.5) == 200
    assert first_at_least(values, 0.5, strictly=True) == 400
    assert first_at_least(values, 0.96) is None
    assert first_at_least(None, 0.5) is None


def test_drops_by_hand():
    """Before the first 0.95 nothing is a drop; 0.9 is none; the second never recovers."""
    values = curve(0.5, 0.1, 0.96, 0.9, 0.8, 0.4, 0.9, 0.97, 0.2, 0.3)
    assert drops(values) == [Drop(500, 800, 0.4), Drop(900, None, 0.2)]
    assert drops(curve(0.5, 0.9, 0.94, 0.2)) == []  # control: it never could
    assert drops(None) == []


def made_up(**curves):
    return Run("x", {tag.replace("__", "/"): values for tag, values in curves.items()})


def test_what_is_told_ends_before_the_first_reward():
    run = made_up(
        rollout__return=curve(0, 0, 0.01, 0.6, 1.0),
        rollout__success=curve(0, 1.0, 0.01, 0.6, 1.0),  # the second: one episode, won by luck
        rollout__episodes=curve(0, 1, 100, 250, 400),
        eval__greedy_success=curve(0.0, 1.0, 0.1, every=200),
        eval__stochastic_success=curve(0.0, 0.5, 0.9, every=200),
        high__entropy_team=curve(math.log(2), math.log(2) / 2, 0.0, 0.0),
        high__entropy_agent=curve(0.8 * math.log(4), 0.9 * math.log(4), 0.0, 0.0),
        disc__team_accuracy=curve(0.5, 0.6, 0.9, 0.9, 0.9),
        disc__team_chance=curve(0.5, 0.5, 0.5, 0.5, 0.5),
    )
    found = diagnose(run, (2, 4))
    assert found["first"] == {
        "reward": 300,
        "training_0.5": 400,
        "training_0.95": 500,
        "greedy_0.5": 400,
        "greedy_0.95": 400,
        "stochastic_0.5": 400,
        "stochastic_0.95": None,
    }
    before = found["before_first_reward"]
    assert before["coordinator_entropy"]["team"] == pytest.approx({"lowest": 0.5, "last": 0.5})
    assert before["coordinator_entropy"]["agent"] == pytest.approx({"lowest": 0.8, "last": 0.9})
    assert before["discriminators"] == {
        "team": {"accuracy": 0.6, "chance": 0.5},
        "individual": None,
    }
    assert found["drops"]["greedy"] == [{"start": 600, "end": None, "lowest": 0.1}]
    assert found["drops"]["stochastic"] == []


def test_what_older_versions_made_is_told():
    """Samples of every update count, segments of those that the coordinator made."""
    samples = {"async__off_policy_share": curve(0.5, 1.0), "async__lag_mean": curve(1, 4)}
    found = diagnose(made_up(**samples), (2, 4))["off_policy"]
    assert found == {"samples": {"share": 0.75, "lag": 2.5}, "segments": None}
    segments = {
        "async__coordinator_off_policy_share": curve(0.25),
        "async__coordinator_lag_mean": curve(0.5),
    }
    found = diagnose(made_up(**samples, **segments), (2, 4))["off_policy"]
    assert found["segments"] == {"share": 0.25, "lag": 0.5}
    assert diagnose(made_up(), (2, 4))["off_policy"] is None  # a synchronous run


def test_without_a_reward_all_rounds_count():
    run = made_up(rollout__return=curve(0, 0), high__entropy_team=curve(0.6, 0.3))
    found = diagnose(run, (2, 1))
    assert found["first"]["reward"] is None
    entropy = found["before_first_reward"]["coordinator_entropy"]
    assert entropy["team"]["last"] == pytest.approx(0.3 / math.log(2))
    assert entropy["agent"] is None  # one skill: no choice
