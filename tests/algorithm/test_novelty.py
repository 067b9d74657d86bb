"""How new a state is: 1 at first, less the more a survey saw of it; and what that is worth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hmasd.algorithm.novelty import (
    LENGTH_SCALE,
    Novelty,
    fourier_features,
    memory_of,
    novelty,
    random_directions,
    standing_out,
)
from hmasd.types import HighRollout

CPU = torch.device("cpu")


def states(number: int, size: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(number, size, generator=torch.Generator().manual_seed(seed))


def segments(
    mean: Tensor, before: Tensor | None = None, first: list[bool] | None = None
) -> HighRollout:
    """Segments that passed through `mean` on average; by default each is its episode's first."""
    nothing: dict[str, Any] = dict.fromkeys(HighRollout._fields)
    is_first = torch.tensor([True] * len(mean) if first is None else first)
    before = torch.zeros_like(mean) if before is None else before
    known = {"state": mean, "mean_state": mean, "mean_before": before, "is_first": is_first}
    return HighRollout(**nothing | known)


@pytest.mark.parametrize("visits", [0, 1, 5, 40])
def test_a_state_seen_n_times_is_worth_one_over_root_of_one_plus_n(visits: int) -> None:
    memory, state = Novelty(20, 3, CPU), states(1)
    memory.take_in(segments(state.expand(visits, -1)))
    memory.take_in(segments(states(5)))  # what is usual does not count here
    assert float(memory.new_to_chance(state)) == pytest.approx(1 / math.sqrt(1 + visits), rel=1e-5)


def test_novelty_is_the_deviation_of_a_gaussian_process() -> None:
    """Oracle: k(s, s) - k(s, S) (K + I)⁻¹ k(S, s), which never makes the matrix of features."""
    directions = random_directions(20, 0)
    seen, asked = (fourier_features(states(n, seed=n), directions) for n in (40, 7))
    between = asked @ seen.T
    inverse = torch.linalg.inv(seen @ seen.T + torch.eye(40, dtype=torch.float64))
    expected = (1 - ((between @ inverse) * between).sum(-1)).sqrt()
    got = novelty(asked, memory_of(seen))
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
    ordinary, rare = states(1).expand(1000, -1), -states(1)
    for seed in (1, 2):
        memory.take_in(segments(ordinary + 0.05 * states(1000, seed=seed)))
    assert float(memory.new_to_chance(ordinary[:1])) < 0.1
    assert float(memory.new_to_chance(rare)) > 0.7


def test_units_and_offset_of_a_state_do_not_count() -> None:
    directions = random_directions(20, 0)
    one, other = (fourier_features(x, directions) for x in (states(4), 1000 + 50 * states(4)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_what_stands_out_by_hand() -> None:
    """Usual is -2 give or take 0.25, so what is below -1.5 does not count."""
    usual = torch.tensor([-2.0, 0.25], dtype=torch.float64)
    found = standing_out(torch.tensor([-2.5, -1.6, -1.5, -0.25], dtype=torch.float64), usual)
    assert found.tolist() == pytest.approx([0, 0, 0, 1.25])


def surveyed(number: int = 400) -> tuple[Novelty, Tensor]:
    """After a survey among ordinary states; and an ordinary one and two ever rarer ones."""
    memory, centre = Novelty(20, 3, CPU), states(1)
    rare = torch.where(torch.arange(20) == 3, 8.0, centre)  # one entry is another
    rarer = torch.where(torch.arange(20) == 7, -8.0, rare)
    assert not memory.is_known
    for seed in (1, 2):
        wandering = centre + 0.2 * states(number, seed=seed)
        memory.take_in(segments(torch.cat([wandering, rare + 0.2 * states(4, seed=seed)])))
    assert memory.is_known
    return memory, torch.cat([centre, rare, rarer])


def test_the_second_batch_of_a_survey_says_what_is_usual_beside_the_first() -> None:
    memory, beside = Novelty(20, 3, CPU), Novelty(20, 3, CPU)
    first, second = states(50), states(30, seed=1)
    for one, usual in ((memory, second), (beside, states(7, seed=2))):
        one.take_in(segments(first))
        one.take_in(segments(usual))
    (found,), (other,) = memory.surveys, beside.surveys
    log_new = beside.new_to_chance(second).log()
    expected = [float(log_new.mean()), float(log_new.std(correction=0))]
    assert found.usual.tolist() == pytest.approx(expected)
    assert other.usual.tolist() != pytest.approx(expected)
    assert torch.equal(found.lower, other.lower)


def test_a_rare_thing_pays_once_and_a_rarer_one_again() -> None:
    """An episode of four segments: ordinary, rare, rare still, rarer."""
    memory, (centre, rare, rarer) = surveyed()
    passed = torch.stack([centre, rare, rare, rarer])
    before = torch.stack([rarer, centre, rare, rare])  # of the first one nothing counts
    pays = memory.rise(segments(passed, before, [True, False, False, False]))
    assert pays[0] == pays[2] == 0
    assert pays[1] > 0.3
    assert pays[3] > 0.3
    log_new = memory.new_to_chance(torch.stack([rare, rarer])).log()
    mean, deviation = memory.surveys[0].usual
    at_first = float(log_new[0] - mean - 2 * deviation)
    assert float(pays[1]) == pytest.approx(at_first, rel=1e-4)
    assert float(pays[3]) == pytest.approx(float(log_new[1] - log_new[0]), rel=1e-4)


def test_who_leaves_a_rare_place_pays_back_what_it_got_there() -> None:
    memory, (centre, rare, _) = surveyed()
    there, back = memory.rise(
        segments(torch.stack([rare, centre]), torch.stack([centre, rare]), [False, False])
    )
    assert there > 0.3
    assert there + back == 0


def test_finding_it_often_does_not_make_it_usual_until_all_is_forgotten() -> None:
    memory, (centre, rare, _) = surveyed()
    found = segments(rare.unsqueeze(0), centre.unsqueeze(0), [False])
    pays = [float(memory.rise(found)) for _ in range(5)]
    assert len(set(pays)) == 1
    memory.forget()
    assert not memory.is_known


def test_what_chance_never_finds_is_told_apart_by_what_was_found_since() -> None:
    """To chance a second and a third thing are equally new; the control has only its survey."""
    climbs, stays = (Novelty(20, 3, CPU, interval=interval) for interval in (2, 0))
    centre = states(1)
    second = torch.where(torch.arange(20) < 3, 12.0, centre)
    third = torch.where(torch.arange(20) > 16, -12.0, second)
    passed = segments(third, second, [False])
    for memory in (climbs, stays):
        for seed in (1, 2):
            memory.take_in(segments(centre + 0.1 * states(400, seed=seed)))
        alone = float(memory.rise(passed))
        assert alone < 0.1 < float(memory.worth(second))
        for seed in (3, 4):
            memory.follow(segments(second + 0.1 * states(400, seed=seed)))
    assert float(stays.rise(passed)) == pytest.approx(alone)
    assert float(climbs.rise(passed)) > 0.5
    assert (len(climbs.surveys), len(stays.surveys)) == (2, 1)
    # What was worth something to chance stays so, in the mean with what is usual by now.
    torch.testing.assert_close(climbs.worth(second), stays.worth(second) / 2)


@pytest.mark.parametrize(("interval", "expected"), [(0, []), (2, [2, 4, 6, 8, 10]), (5, [5, 10])])
def test_the_last_two_updates_of_an_interval_are_a_survey(
    interval: int, expected: list[int]
) -> None:
    memory = Novelty(20, 3, CPU, interval=interval)
    finished = []
    for update in range(1, 11):
        before = len(memory.surveys)
        memory.follow(segments(states(6, seed=update)))
        finished += [update] * (len(memory.surveys) - before)
    assert finished == expected


def test_a_coordinator_that_begins_anew_keeps_the_survey_by_chance_alone() -> None:
    memory, _ = surveyed()
    first = memory.surveys[0]
    memory.interval = 3
    for seed in range(5):  # one more survey, and half of the next
        memory.follow(segments(states(6, seed=seed)))
    assert len(memory.surveys) == 2 and memory.begun is not None
    memory.start_over()
    (kept,) = memory.surveys
    assert kept is first
    assert memory.begun is None and memory.updates == 0


def test_wandering_pays_hardly_anything() -> None:
    """Control: the plain novelty pays for all of it."""
    memory, (centre, rare, _) = surveyed()
    wandering = centre + 0.2 * states(2000, seed=5)
    assert float(memory.rise(segments(wandering)).mean()) < 0.02
    assert float(memory.new_to_chance(wandering).mean()) > 0.03
    assert float(memory.rise(segments(rare.unsqueeze(0)))) > 0.3


def test_of_many_surveys_the_first_and_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hmasd.algorithm.novelty.MOST_SURVEYS", 3)
    memory = Novelty(20, 3, CPU)
    made = []
    for seed in range(12):
        memory.take_in(segments(states(6, seed=seed)))
        made += memory.surveys[-1:] if seed % 2 else []
    expected = made[0], *made[-2:]
    assert all(found is one for found, one in zip(memory.surveys, expected, strict=True))


def test_a_survey_that_another_interval_cut_short_is_not_finished_by_a_later_batch() -> None:
    memory, _ = surveyed()
    memory.interval = 10
    for seed in range(9):
        memory.follow(segments(states(6, seed=seed)))
    half = memory.begun
    assert half is not None
    memory.interval = 20
    for seed in range(9, 19):
        memory.follow(segments(states(6, seed=seed)))
    assert len(memory.surveys) == 1
    assert memory.begun is not None and memory.begun is not half
    memory.follow(segments(states(6, seed=20)))
    assert len(memory.surveys) == 2


def test_what_was_surveyed_is_saved_and_taken_over() -> None:
    """Control: a memory that was not loaded finds everything new."""
    saved, rare = surveyed()
    saved.follow(segments(states(1)))
    saved.take_in(segments(rare))  # the first batch of a second one
    loaded, fresh = (Novelty(20, seed, CPU) for seed in (4, 3))
    loaded.load_state_dict(saved.state_dict())
    assert loaded.is_known and not fresh.is_known
    assert loaded.updates == 1
    assert torch.equal(loaded.rise(segments(rare)), saved.rise(segments(rare)))
    expected = loaded.new_to_chance(rare)
    for memory in (saved, loaded):
        memory.take_in(segments(rare + 0.1 * states(len(rare), seed=9)))
        assert len(memory.surveys) == 2
    assert torch.equal(loaded.worth(rare), saved.worth(rare))
    for seed in (1, 2):
        fresh.take_in(segments(states(20, seed=seed)))
    saved.surveys[0].lower.zero_()  # what was loaded is a copy
    assert torch.equal(loaded.new_to_chance(rare), expected)
    assert (fresh.new_to_chance(rare) - expected).abs().min() > 1e-3
