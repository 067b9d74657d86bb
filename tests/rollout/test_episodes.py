"""Episodes: returns, lengths and successes are those that were played."""

from __future__ import annotations

import numpy as np
import pytest

from hmasd.distributed import ALONE
from hmasd.rollout import episodes
from hmasd.rollout.episodes import Episode, EpisodeTracker, summarize
from tests.helpers.envs import Counter, Lossy

E = 3


def track(tracker: EpisodeTracker, env: Counter, steps: int) -> tuple[list[Episode], list]:
    """Episodes as the tracker tells them, and as the observations' (episode, t) imply them."""
    told, rewards, true = [], {e: [] for e in range(E)}, []
    action = np.zeros((E, 2), dtype=np.int64)
    for _ in range(steps):
        step = env.step(action)
        told += tracker.add(step)
        for e in range(E):
            rewards[e].append(float(step.reward[e]))
            if step.terminated[e] or step.truncated[e]:
                length = int(step.final_state[e, 1])
                assert length == len(rewards[e])
                true.append(Episode(e, sum(rewards[e]), length, bool(step.success[e])))
                rewards[e] = []
    return told, true


def make_env() -> Counter:
    env = Counter(E, 2, 9, (0.1, 0.1))
    env.reset(3)
    return env


def check_episodes() -> None:
    told, true = track(EpisodeTracker(E), make_env(), 150)
    assert len(true) > 40 and any(e.success for e in true) and not all(e.success for e in true)
    assert told == true


def test_episodes_are_those_that_were_played() -> None:
    check_episodes()


def test_control_a_return_that_runs_on_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    add = EpisodeTracker.add

    def forgets_to_reset(self: EpisodeTracker, step):
        before = self.running_return + step.reward
        finished = add(self, step)
        self.running_return[:] = before
        return finished

    monkeypatch.setattr(EpisodeTracker, "add", forgets_to_reset)
    with pytest.raises(AssertionError):
        check_episodes()


def test_metrics_are_means_over_the_last_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = EpisodeTracker(E)
    assert tracker.metrics() == {}
    _, true = track(tracker, make_env(), 400)
    assert len(true) > episodes.WINDOW
    last = true[-episodes.WINDOW :]
    assert tracker.metrics() == {
        "rollout/success": np.mean([e.success for e in last]),
        "rollout/return": np.mean([e.episode_return for e in last]),
        "rollout/length": np.mean([e.length for e in last]),
        "rollout/episodes": len(true),
    }


def test_summary_of_known_episodes() -> None:
    played = [Episode(0, 1.0, 10, True), Episode(1, 0.0, 20, False)]
    assert summarize(played, "x/") == {"x/success": 0.5, "x/return": 0.5, "x/length": 15.0}


def test_goes_on_exactly_in_the_middle_of_episodes() -> None:
    env, twin = make_env(), make_env()
    whole, first, second = EpisodeTracker(E), EpisodeTracker(E), EpisodeTracker(E)
    told, _ = track(whole, env, 60)
    some, _ = track(first, twin, 31)
    assert (first.running_length > 0).any()
    first.meet(ALONE)
    second.load_state_dict(first.state_dict())
    step_by_step = []
    for _ in range(29):
        step_by_step += second.add(twin.step(np.zeros((E, 2), dtype=np.int64)))
    assert some + step_by_step == told
    assert second.metrics() == whole.metrics()


def test_an_episode_whose_env_failed_is_none() -> None:
    """It is neither counted nor continued; the episodes around it are whole."""
    env, tracker = Lossy(2, 3, {5: (0,)}), EpisodeTracker(2)
    env.end_chances = (0.0, 0.0)
    env.reset(1)
    told = [tracker.add(env.step(np.zeros((2, 2), dtype=np.int64))) for _ in range(8)]
    assert [[(e.env, e.length) for e in some] for some in told] == [
        [],
        [],
        [(0, 3), (1, 3)],
        [],
        [],  # env 0 fails in its second step
        [(1, 3)],
        [],
        [(0, 3)],
    ]
    tracker.meet(ALONE)
    assert tracker.finished == 4
    third = told[-1][0]
    assert third.episode_return == sum(Lossy.reward_of(2, t, 0) for t in range(3))
