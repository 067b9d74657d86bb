"""What follows from the scores of a few runs, after Agarwal et al. (NeurIPS 2021): pure functions.

`scores` is one array [runs] per task; a score is one number per run. Runs are the sample: episodes
of one run share its training, so they are averaged before anything here sees them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
TRIMMED = 0.25  # share that the interquartile mean leaves out at each end

Statistic = Callable[..., Any]


class Interval(NamedTuple):
    """A number and the limits between which it lies with `CONFIDENCE`."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Sequence[np.ndarray]) -> float:
    """Mean of the middle half of all runs of all tasks: floor(n / 4) are left out at each end.

    Raises:
        ValueError: There is no run.
    """
    return float(_pooled_iqm(*_checked(scores)))


def interquartile_mean_interval(scores: Sequence[np.ndarray], seed: int = 0) -> Interval:
    """The interquartile mean with its stratified bootstrap interval.

    Runs are drawn anew within each task, and the middle 95 % of the resampled means is taken
    (percentile method). With few runs that is too narrow: see docs/benchmarking.md for how often
    it holds the true value.
    """
    return _bootstrap(_checked(scores), _pooled_iqm, seed)


def performance_profile(scores: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Share of runs that score more than each threshold [T], mean over the tasks: [T]."""
    return np.asarray(_profile(*_checked(scores), thresholds=np.asarray(thresholds)))


def performance_profile_band(
    scores: Sequence[np.ndarray], thresholds: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Limits of the profile by the stratified bootstrap, each [T]."""
    checked = _checked(scores)
    generator = np.random.default_rng(seed)
    drawn = [x[generator.integers(len(x), size=(NUM_RESAMPLES, len(x)))] for x in checked]
    profiles = _profile(*drawn, thresholds=np.asarray(thresholds))  # [T, R]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(profiles, (tail, 1 - tail), axis=-1)
    return low, high


def probability_of_improvement_interval(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], seed: int = 0
) -> Interval:
    """P(a run of `first` scores more than one of `second`), ties half, mean over the tasks.

    Per task it is the Mann-Whitney U statistic over the number of pairs; the interval is the
    stratified bootstrap's.

    Raises:
        ValueError: The two do not have the same number of tasks, or a task has no run.
    """
    return _bootstrap(_paired(first, second), _improvement, seed)


def improvement_p_value(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """How often runs that do not differ look as different as these, or more, in either direction.

    The exact permutation test of the probability of improvement: within each task every way to
    share out the runs is counted. It stays honest with few runs, where a bootstrap interval may
    shrink to a point: two runs that both beat two others have p = 1/3. One task without ties: the
    Mann-Whitney test.

    Raises:
        ValueError: The two do not have the same number of tasks, or a task has no run.
    """
    scores = _paired(first, second)
    pairs = list(zip(scores[: len(first)], scores[len(first) :], strict=True))
    unit = math.lcm(*(2 * len(one) * len(other) for one, other in pairs))  # a tie is half a win
    chances = np.ones(1)  # of the sum over the tasks, in 1 / unit
    for one, other in pairs:
        places, of_task = _improvements_by_chance(one, other)
        longer = np.zeros(len(chances) + unit)
        places *= unit // (2 * len(one) * len(other))
        for place, chance in zip(places, of_task, strict=True):
            longer[place : place + len(chances)] += chance * chances
        chances = longer
    differences = np.abs(np.arange(len(chances)) / (unit * len(pairs)) - 0.5)
    observed = abs(_improvement(*scores) - 0.5)
    return float(min(1.0, chances[differences >= observed - 1e-9].sum()))


def wilson_interval(successes: int, runs: int) -> Interval:
    """Share of runs that succeed, with its Wilson score interval (no continuity correction).

    Raises:
        ValueError: There is no run, or there are more successes than runs.
    """
    limits = stats.binomtest(successes, runs).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / runs, float(limits.low), float(limits.high))


def _checked(scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The tasks' scores as float arrays; none empty, all finite."""
    arrays = [np.asarray(x, dtype=float) for x in scores]
    for number, array in enumerate(arrays):
        if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
            raise ValueError(f"task {number}: scores must be at least one finite number: {array}")
    if not arrays:
        raise ValueError("there is no task: give the scores of at least one")
    return arrays


def _paired(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Both algorithms' tasks in one list, the first algorithm's before the second's."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} tasks against {len(second)}: give the same tasks twice")
    return _checked(first) + _checked(second)


def _pooled_iqm(*scores: np.ndarray, axis: int = -1) -> Any:
    """Arrays [..., runs] -> [...]."""
    return stats.trim_mean(np.concatenate(scores, axis=axis), TRIMMED, axis=axis)


def _profile(*scores: np.ndarray, thresholds: np.ndarray) -> Any:
    """Arrays [..., runs] and [T] -> [T, ...]."""
    above = [np.stack([(task > threshold).mean(-1) for threshold in thresholds]) for task in scores]
    return np.mean(above, axis=0)


def _improvement(*scores: np.ndarray, axis: int = -1) -> Any:
    """Arrays [..., runs] of both algorithms, first's tasks then second's -> [...]."""
    tasks = len(scores) // 2
    shares = []
    for one, other in zip(scores[:tasks], scores[tasks:], strict=True):
        difference = (
            np.moveaxis(one, axis, -1)[..., :, None] - np.moveaxis(other, axis, -1)[..., None, :]
        )
        shares.append(((np.sign(difference) + 1) / 2).mean((-1, -2)))
    return np.mean(shares, axis=0)


def _improvements_by_chance(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every number of half wins that sharing out the runs anew can give, and its chance.

    By the sum of the first's ranks (ties share theirs): run after run it is drawn into the first
    with the chance that so many are still to be drawn out of so many.
    """
    ranks = np.rint(2 * stats.rankdata(np.concatenate([one, other]))).astype(int)  # twice: whole
    lowest = ranks.min()
    ranks -= lowest  # the same for every run, so that sums are small
    largest = np.sort(ranks)[-len(one) :].sum()
    chances = np.zeros((len(one) + 1, largest + 1))  # [drawn, twice the sum of their ranks]
    chances[0, 0] = 1.0
    for number, rank in enumerate(ranks):
        is_drawn = (len(one) - np.arange(len(one) + 1)) / (len(ranks) - number)
        drawn = chances * is_drawn[:, None]
        chances -= drawn
        chances[1:, rank:] += drawn[:-1, : largest + 1 - rank]
    sums = np.flatnonzero(chances[-1])
    half_wins = sums + len(one) * (lowest - len(one) - 1)  # twice the Mann-Whitney U statistic
    return half_wins, chances[-1, sums]


def _bootstrap(scores: list[np.ndarray], statistic: Statistic, seed: int) -> Interval:
    """Resamples each array by itself, which makes the bootstrap stratified.

    One run tells nothing about the spread, so where an array holds no more there are no limits.
    """
    value = float(statistic(*scores))
    if any(len(x) == 1 for x in scores):
        return Interval(value, -np.inf, np.inf)
    limits = stats.bootstrap(
        scores,
        statistic,
        n_resamples=NUM_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(limits.low), float(limits.high))
