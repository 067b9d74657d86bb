"""Segments: every step of training lies in exactly one, with its reward, skills and versions."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hmasd.agent import HMASDAgent
from hmasd.config import Config
from hmasd.rollout.segments import SegmentStorage
from hmasd.rollout.skill_clock import SkillClock
from hmasd.rollout.storage import StorageError
from hmasd.types import Decision, HighRollout, TensorView
from tests.helpers.ledger import Books, all_segments, check_partition, keep_books

E, N = 3, 2

# num_envs, steps per round, k, episode length, coordinator's batch, high_discount
SETTINGS = [
    (3, 4, 3, 7, 7, "paper"),
    (3, 4, 3, 7, 7, "smdp"),
    (2, 6, 4, 100, 3, "paper"),  # skills run on over the ends of rounds
    (4, 2, 5, 9, 12, "paper"),  # several rounds per coordinator, k longer than a round
    (2, 8, 1, 20, 1, "smdp"),  # a decision in every step, an update of the coordinator every round
    (1, 4, 50, 100, 1, "paper"),  # only cuts and episode ends close
]
PERSISTENCE = [0.0, 0.5]


def settings(config: Config, row: tuple) -> Config:
    num_envs, steps, interval, episode_length, batch, discount = row
    return dataclasses.replace(
        config,
        num_envs=num_envs,
        batch_size=num_envs * steps,
        skill_interval=interval,
        episode_length=episode_length,
        high_level_batch_size=batch,
        high_discount=discount,
        discoverer_epochs=1,
    )


@pytest.mark.parametrize("persistence", PERSISTENCE)
@pytest.mark.parametrize("row", SETTINGS)
def test_segments_partition_the_steps(config: Config, row: tuple, persistence: float) -> None:
    """A lost reward, one counted twice, or one of the next episode biases every decision."""
    config = dataclasses.replace(settings(config, row), skill_persistence=persistence)
    books = keep_books(config, rounds=12, extra_steps=1)
    check_partition(books)
    assert books.batches, "the coordinator was never updated: nothing was tested"


def test_sums_of_reward_and_length_are_those_of_the_envs(config: Config) -> None:
    """The same in two numbers per run, read without the ids."""
    books = keep_books(dataclasses.replace(config, high_discount="paper"), rounds=8)  # plain sums
    segments = all_segments(books)
    assert sum(int(s.length.sum()) for s in segments) == 8 * config.batch_size
    rewards = sum(entry.reward for entry in books.entries.values())
    assert sum(float(s.reward.sum()) for s in segments) == rewards


def check_batches(books: Books) -> None:
    """Two clocks: a batch has one coordinator version, and only updates between rounds cut."""
    config = books.agent.config
    for version, (segments, after) in enumerate(books.batches):
        assert set(segments.coordinator_version.tolist()) == {version}
        assert after % config.rollout_length == 0
        uncut = int((~segments.cut).sum())
        assert uncut >= config.high_level_batch_size
        assert len(segments.env) <= uncut + config.num_envs


def test_every_batch_of_the_coordinator_has_one_version(config: Config) -> None:
    books = keep_books(config, rounds=12)
    assert len(books.batches) >= 4
    assert any(bool(batch.segments.cut.any()) for batch in books.batches)
    check_batches(books)


@pytest.mark.parametrize(
    ("persistence", "rounds", "longest"), [(0.0, 8, 2), (1.0, 1, 3), (1.0, 8, 7)]
)
def test_skills_that_persist_make_longer_segments(
    config: Config, persistence: float, rounds: int, longest: int
) -> None:
    """For certain: up to an episode's end at 7, and in the first round, whose longest has 3."""
    config = dataclasses.replace(
        config, skill_interval=2, skill_persistence=persistence, high_level_batch_size=1000
    )
    segments = all_segments(keep_books(config, rounds))
    assert max(int(x.length.max()) for x in segments) == longest


def test_the_coordinator_waits_for_its_batch_and_skills_run_on(config: Config) -> None:
    """Updating it every round would leave it a handful of segments; cutting there would lose k."""
    rare = dataclasses.replace(
        config, high_level_batch_size=12, skill_interval=6, skill_persistence=0.0
    )
    books = keep_books(rare, rounds=14)
    check_partition(books)
    assert len(books.batches) >= 2
    assert all(batch.after >= 2 * rare.rollout_length for batch in books.batches)
    lengths = torch.cat([batch.segments.length for batch in books.batches])
    assert int(lengths.max()) == rare.skill_interval > rare.rollout_length
    check_batches(books)


# --- controls: each planted bug is caught by the books --------------------------------------------


def no_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentStorage, "cut", lambda self, view: None)


def no_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SkillClock, "interrupt", lambda self, envs=None: None)


def deaf_to_episode_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    advance = SkillClock.advance
    monkeypatch.setattr(
        SkillClock,
        "advance",
        lambda self, ended, persists: advance(self, torch.zeros_like(ended), persists),
    )


def reward_after_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    add_step, close = SegmentStorage.add_step, SegmentStorage.close
    late = {}
    monkeypatch.setattr(SegmentStorage, "add_step", lambda self, *step: late.update(step=step))

    def close_first(self, *args, **kwargs):
        close(self, *args, **kwargs)
        if not kwargs.get("cut"):
            add_step(self, *late["step"])

    monkeypatch.setattr(SegmentStorage, "close", close_first)


def never_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    def clear(self: SegmentStorage) -> None:
        self.num_closed = 0

    monkeypatch.setattr(SegmentStorage, "clear", clear)


def forgotten_at_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    update = HMASDAgent.update

    def forget(self: HMASDAgent):
        metrics = update(self)
        self.high_storage.clear()
        return metrics

    monkeypatch.setattr(HMASDAgent, "update", forget)


def next_episode_as_end(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HMASDAgent.store_transition

    def store_reset_view(self, view, acting, step):
        step = step._replace(final_obs=step.view.obs, final_state=step.view.state)
        return store(self, view, acting, step)

    monkeypatch.setattr(HMASDAgent, "store_transition", store_reset_view)


@pytest.mark.parametrize(
    "plant",
    [
        no_cut,
        no_interrupt,
        deaf_to_episode_ends,
        reward_after_closing,
        never_cleared,
        forgotten_at_rounds,
        next_episode_as_end,
    ],
)
def test_control_planted_bugs_are_caught(
    config: Config, monkeypatch: pytest.MonkeyPatch, plant
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, StorageError)):
        check_partition(keep_books(config, rounds=8))


# --- the storage alone ----------------------------------------------------------------------------


def view(number: float) -> TensorView:
    return TensorView(torch.full((E, N, 2), number), torch.full((E, 1), number), None, None)


def open_all(storage: SegmentStorage, number: float, version: int) -> None:
    envs = torch.arange(E)
    storage.open(
        Decision(envs, envs % 2, torch.ones(E, N, dtype=torch.int64), torch.zeros(E, N + 1)),
        view(number),
        version,
    )


def close_some(storage: SegmentStorage, envs: list[int], number: float) -> None:
    no = torch.zeros(E, dtype=torch.bool)
    reached = view(number)
    storage.close(torch.tensor(envs), reached.state, reached.obs, terminated=no, ended=no)


def test_a_stale_segment_is_refused() -> None:
    storage = SegmentStorage(E, 1.0, 2)
    open_all(storage, 0.0, version=4)
    storage.add_step(torch.ones(E), view(1.0).state)
    close_some(storage, [0, 1, 2], 1.0)
    with pytest.raises(StorageError, match=r"versions \[4\], the coordinator is at 5"):
        storage.rollout(5)
    assert len(storage.rollout(4).env) == E  # the control: of its own version it is taken


def test_one_stale_segment_among_fresh_ones_is_refused() -> None:
    storage = SegmentStorage(E, 1.0, 2)
    for version in (4, 5):
        open_all(storage, 0.0, version)
        storage.add_step(torch.ones(E), view(1.0).state)
        close_some(storage, [1] if version == 4 else [0, 1, 2], 1.0)
    with pytest.raises(StorageError, match=r"versions \[4, 5\]"):
        storage.rollout(5)


def test_a_coordinator_without_segments_is_refused() -> None:
    with pytest.raises(StorageError, match="no closed segment"):
        SegmentStorage(E, 1.0, 2).rollout(0)


def test_the_cut_closes_what_has_steps_and_nothing_else() -> None:
    """A segment that is closed already, cut again, would be a sample of length 0."""
    storage = SegmentStorage(E, 1.0, 2)
    open_all(storage, 0.0, 0)
    storage.add_step(torch.ones(E), view(1.0).state)
    close_some(storage, [1], 1.0)
    storage.cut(view(2.0))
    segments = storage.rollout(0)
    assert segments.env.tolist() == [1, 0, 2]
    assert segments.cut.tolist() == [False, True, True]
    assert segments.ended.tolist() == [False, True, True]
    assert segments.terminated.tolist() == [False] * 3
    assert segments.next_state[:, 0].tolist() == [1.0, 2.0, 2.0]
    storage.cut(view(3.0))
    assert storage.num_closed == 3


def test_the_mean_of_what_a_segment_passed_through_and_of_the_one_before_it() -> None:
    """Segments of 2 steps, over 1 and 3, and over 5 and over 7, which are cut after a step.

    These count the mean before them for the step that they lack; env 1's episode ends at 3, so its
    next segment counts the 4 where it begins.
    """
    storage, no = SegmentStorage(E, 1.0, 2), torch.zeros(E, dtype=torch.bool)

    def steps(*reached: float) -> None:
        open_all(storage, 4.0, 0)
        for number in reached:
            storage.add_step(torch.zeros(E), view(number).state)

    steps(1.0, 3.0)
    ended = torch.tensor([False, True, False])
    storage.close(torch.arange(E), view(3.0).state, view(3.0).obs, terminated=no, ended=ended)
    for number in (5.0, 7.0):
        steps(number)
        storage.cut(view(number))
    segments = storage.rollout(0)
    first, second = (segments.env == env for env in (0, 1))
    assert segments.mean_state[first, 0].tolist() == [2.0, (2 + 5) / 2, (3.5 + 7) / 2]
    assert segments.mean_before[first, 0].tolist()[1:] == [2.0, 3.5]
    assert segments.is_first[first].tolist() == [True, False, False]
    assert segments.mean_state[second, 0].tolist() == [2.0, (4 + 5) / 2, (4.5 + 7) / 2]
    assert segments.is_first[second].tolist() == [True, True, False]


def test_the_mean_of_what_a_longer_segment_passed_through_counts_every_step_alike() -> None:
    """Skills that persist: five steps where two are usual, begun at 4."""
    storage = SegmentStorage(E, 1.0, 2)
    open_all(storage, 4.0, 0)
    for number in (1.0, 2.0, 4.0, 8.0, 16.0):
        storage.add_step(torch.zeros(E), view(number).state)
    storage.cut(view(16.0))
    torch.testing.assert_close(storage.rollout(0).mean_state[:, 0], torch.full((E,), 31 / 5))


def test_after_a_failure_an_envs_next_segment_is_its_episodes_first() -> None:
    storage = SegmentStorage(E, 1.0, 2)
    open_all(storage, 0.0, 0)
    storage.add_step(torch.ones(E), view(1.0).state)
    close_some(storage, list(range(E)), 1.0)
    storage.discard(torch.tensor([False, True, False]))
    open_all(storage, 1.0, 0)
    storage.add_step(torch.ones(E), view(2.0).state)
    close_some(storage, list(range(E)), 2.0)
    segments = storage.rollout(0)
    assert segments.env.tolist()[-3:] == [0, 1, 2]
    assert segments.is_first.tolist()[-3:] == [False, True, False]


def test_goes_on_exactly_with_open_and_closed_segments() -> None:
    storage, other = SegmentStorage(E, 0.5, 2), SegmentStorage(E, 0.5, 2)
    open_all(storage, 0.0, 2)
    storage.add_step(torch.tensor([1.0, 2.0, 3.0]), view(1.0).state)
    close_some(storage, [2], 1.0)
    other.load_state_dict(storage.state_dict())
    assert other.num_closed == 1
    for one in (storage, other):
        one.add_step(torch.tensor([1.0, 1.0, 0.0]), view(2.0).state)
        close_some(one, [0, 1], 2.0)
    mine, its = storage.rollout(2), other.rollout(2)
    assert mine.mask is None and its.mask is None
    for name in HighRollout._fields[:-1]:
        assert torch.equal(getattr(mine, name), getattr(its, name))
    assert storage.rollout(2).reward.tolist() == [3.0, 1.5, 2.5]
