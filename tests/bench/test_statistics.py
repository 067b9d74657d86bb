"""The statistics against numbers made by hand and, for the interval, against simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from hmasd.bench import statistics
from hmasd.bench.statistics import (
    improvement_p_value,
    interquartile_mean,
    interquartile_mean_interval,
    performance_profile,
    performance_profile_band,
    probability_of_improvement_interval,
    wilson_interval,
)


def test_interquartile_mean_by_hand():
    """Of eight runs the middle four count: (2 + 3 + 5 + 6) / 4; a wild run changes nothing."""
    assert interquartile_mean([np.array([0, 6, 1, 5, 100, 3, 2, 7])]) == 4.0
    assert interquartile_mean([np.array([0, 6, 1, 5, 1e9, 3, 2, 7])]) == 4.0
    # two tasks are one pool: the middle four of 0 0 0 1 2 3 9 9
    assert interquartile_mean([np.array([0, 1, 9, 2]), np.array([9, 0, 3, 0])]) == 1.5
    # five runs: one is left out at each end
    assert interquartile_mean([np.array([1.0, 0.2, 0.4, 0.0, 0.9])]) == pytest.approx(0.5)


def test_control_the_mean_and_the_median_are_something_else():
    scores = np.array([0, 0, 0, 1, 3, 3])
    means = interquartile_mean([scores]), np.mean(scores), np.median(scores)
    assert means == (1.0, pytest.approx(7 / 6), 0.5)


@pytest.mark.parametrize("scores", [[], [np.array([])], [np.array([1.0, np.nan])]])
def test_no_runs_and_no_numbers_are_refused(scores):
    with pytest.raises(ValueError, match="at least one"):
        interquartile_mean(scores)


def coverage(runs, interval, experiments=500):
    """How often an interval of `runs` normal scores around 0 holds 0."""
    generator = np.random.default_rng(7)
    draws = generator.normal(size=(experiments, runs))
    limits = [interval([x], seed) for seed, x in enumerate(draws)]
    return np.mean([low <= 0.0 <= high for _, low, high in limits])


@pytest.mark.parametrize(("runs", "expected"), [(5, 0.894), (10, 0.933), (20, 0.936)])
def test_the_interval_holds_the_truth_as_often_as_documented(runs, expected, monkeypatch):
    """Asked for is 0.95. The expected values are those of 3000 experiments; 500 know them to 0.01.

    The percentile method falls short where runs are few.
    """
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 500)
    assert coverage(runs, interquartile_mean_interval) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("runs", "expected"), [(5, 0.826), (10, 0.904)])
def test_runs_that_learn_all_or_nothing_are_covered_less_often(runs, expected, monkeypatch):
    """Six runs in ten learn: the middle half of all runs is 1 from its 0.4 to its 0.75, 0.7 of it.

    The expected values are those of 2000 experiments.
    """
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 500)
    draws = np.random.default_rng(7).random((500, runs)) < 0.6
    limits = [interquartile_mean_interval([x.astype(float)], i) for i, x in enumerate(draws)]
    covered = np.mean([low <= 0.7 <= high for _, low, high in limits])
    assert covered == pytest.approx(expected, abs=0.04)


def test_control_an_interval_of_half_the_width_does_not_cover(monkeypatch):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 500)

    def half(scores, seed):
        value, low, high = interquartile_mean_interval(scores, seed)
        return value, (value + low) / 2, (value + high) / 2

    assert coverage(20, half) < 0.8


def test_the_bootstrap_is_stratified():
    """Two tasks far apart, no spread within: drawing within each task changes nothing."""
    tasks = [np.full(4, 0.0), np.full(4, 1.0)]
    assert interquartile_mean_interval(tasks) == (0.5, 0.5, 0.5)
    _, low, high = interquartile_mean_interval([np.concatenate(tasks)])  # control: one stratum
    assert low < 0.5 < high


def test_one_run_says_nothing_about_the_spread():
    assert interquartile_mean_interval([np.array([0.7])]) == (0.7, -math.inf, math.inf)
    mixed = interquartile_mean_interval([np.array([0.7]), np.array([0.1, 0.2])])
    assert mixed == (pytest.approx(1 / 3), -math.inf, math.inf)
    against_ten = probability_of_improvement_interval([np.arange(10.0)], [np.array([4.5])])
    assert against_ten == (0.5, -math.inf, math.inf)
    against_two = probability_of_improvement_interval([np.arange(10.0)], [np.array([4.5, 4.5])])
    assert 0 < against_two.low < 0.5 < against_two.high < 1  # control: two runs say something


def test_performance_profile_by_hand():
    """More than, not at least; tasks count alike whatever their numbers of runs."""
    tasks = [np.array([0.0, 0.5, 1.0, 1.0]), np.array([0.6, 0.2])]
    profile = performance_profile(tasks, np.array([-0.1, 0.0, 0.5, 0.7, 1.0]))
    assert profile.tolist() == [1.0, 0.875, 0.5, 0.25, 0.0]
    pooled = performance_profile([np.concatenate(tasks)], np.array([0.0]))
    assert pooled[0] == pytest.approx(5 / 6)  # control: pooling the runs is something else


def test_the_band_holds_the_profile_and_narrows_with_runs():
    generator = np.random.default_rng(0)
    thresholds = np.linspace(0, 1, 11)
    widths = []
    for runs in (5, 50):
        scores = [generator.random(runs)]
        low, high = performance_profile_band(scores, thresholds)
        profile = performance_profile(scores, thresholds)
        assert (low <= profile).all() and (profile <= high).all()
        widths.append((high - low).mean())
    assert widths[1] < 0.5 * widths[0]


def improvement(first, second):
    return probability_of_improvement_interval(first, second).value


def test_probability_of_improvement_by_hand():
    """3 against 1, 2, 3: two wins and a tie; 0 against them: three losses. 2.5 of 6."""
    first, second = [np.array([3.0, 0.0])], [np.array([1.0, 2.0, 3.0])]
    assert improvement(first, second) == pytest.approx(2.5 / 6)
    assert improvement(second, first) == pytest.approx(3.5 / 6)
    # a second task, always won: the mean over the tasks
    both = improvement([*first, np.ones(2)], [*second, np.zeros(5)])
    assert both == pytest.approx((2.5 / 6 + 1) / 2)


def test_probability_of_improvement_is_the_mann_whitney_statistic():
    generator = np.random.default_rng(3)
    first, second = generator.integers(0, 5, 9), generator.integers(1, 6, 7)
    expected = stats.mannwhitneyu(first, second).statistic / 63
    assert improvement([first], [second]) == pytest.approx(expected)


def test_as_many_tasks_on_both_sides():
    with pytest.raises(ValueError, match="1 tasks against 2"):
        improvement([np.ones(2)], [np.ones(2), np.ones(2)])


def test_no_winner_between_equal_samples_and_a_winner_between_unequal_ones():
    same = np.linspace(0, 1, 10)
    tie = probability_of_improvement_interval([same], [same])
    assert tie.value == 0.5 and tie.low < 0.5 < tie.high
    assert improvement_p_value([same], [same]) == 1.0
    win = probability_of_improvement_interval([same + 0.8], [same])
    assert win.value > 0.9 and win.low > 0.5
    assert improvement_p_value([same + 0.8], [same]) < 0.01
    assert improvement_p_value([same], [same + 0.8]) < 0.01


def test_the_p_value_of_few_runs_by_hand():
    """Of the ways to share out the runs, two separate them completely."""
    for runs, ways in ((2, 6), (4, 70), (5, 252), (10, 184_756)):
        p_value = improvement_p_value([np.arange(runs) + 10.0], [np.arange(runs)])
        assert p_value == pytest.approx(2 / ways)
    # a, a against b, a with a < b: of six ways three put b on one side, three on the other
    assert improvement_p_value([np.zeros(2)], [np.array([1.0, 0.0])]) == pytest.approx(1.0)
    # control: the bootstrap's interval is a point and would call it certain
    interval = probability_of_improvement_interval([np.array([0.01, 0.02])], [np.zeros(2)])
    assert interval == (1.0, 1.0, 1.0)


def test_the_p_value_of_two_tasks_by_hand():
    """One run each: chance makes either the better one, the same on both tasks in 2 of 4 ways."""
    task = [np.ones(1), np.zeros(1)]
    assert improvement_p_value(task[:1] * 2, task[1:] * 2) == pytest.approx(2 / 4)
    assert improvement_p_value(task, task[::-1]) == pytest.approx(1.0)  # one each


@pytest.mark.parametrize("sizes", [(9, 7), (10, 5), (3, 12)])
def test_the_p_value_without_ties_is_the_exact_mann_whitney_tests(sizes):
    generator = np.random.default_rng(5)
    first, second = generator.normal(0.5, size=sizes[0]), generator.normal(size=sizes[1])
    expected = stats.mannwhitneyu(first, second, method="exact").pvalue
    assert improvement_p_value([first], [second]) == pytest.approx(expected)


def test_the_p_value_with_ties_is_that_of_counting_every_way():
    first, second = np.array([0.0, 0.5, 1.0, 1.0]), np.array([0.0, 0.0, 0.5, 1.0, 0.0])
    runs = np.concatenate([first, second])
    observed = abs(improvement([first], [second]) - 0.5)
    extreme = []
    for chosen in itertools.combinations(range(9), 4):
        others = np.delete(runs, chosen)
        share = improvement([runs[list(chosen)]], [others])
        extreme.append(abs(share - 0.5) >= observed - 1e-9)
    assert improvement_p_value([first], [second]) == pytest.approx(np.mean(extreme))


def test_the_p_value_of_many_tasks_of_unequal_sizes_by_counting_every_way():
    """As while a comparison is not finished; many more would have to be added up in no time."""
    generator = np.random.default_rng(7)
    sizes = ((2, 1), (1, 3), (2, 2))
    first = [generator.integers(0, 3, a).astype(float) for a, _ in sizes]
    second = [generator.integers(0, 3, b).astype(float) for _, b in sizes]
    observed = abs(improvement(first, second) - 0.5)
    of_tasks = []
    for one, other in zip(first, second, strict=True):
        runs = np.concatenate([one, other])
        of_tasks.append(
            [
                improvement([runs[list(chosen)]], [np.delete(runs, chosen)])
                for chosen in itertools.combinations(range(len(runs)), len(one))
            ]
        )
    extreme = [
        abs(np.mean(shares) - 0.5) >= observed - 1e-9 for shares in itertools.product(*of_tasks)
    ]
    assert improvement_p_value(first, second) == pytest.approx(np.mean(extreme))
    many = [generator.normal(size=n) for n in (20, 19, 20, 18, 20)]
    others = [generator.normal(size=n) for n in (19, 20, 20, 20, 17)]
    assert 0 < improvement_p_value(many, others) <= 1


def test_runs_are_shared_out_within_their_task_only():
    """Across tasks the two levels would hide that the first is a little better on both."""
    level = np.linspace(0, 0.1, 8)
    first, second = [level + 0.1, level + 5.1], [level, level + 5]
    assert improvement_p_value(first, second) < 0.001
    pooled = improvement_p_value([np.concatenate(first)], [np.concatenate(second)])
    assert pooled > 0.01  # control


def test_samples_of_one_distribution_have_a_winner_as_rarely_as_said():
    pairs = np.random.default_rng(11).normal(size=(400, 2, 8))

    def winners(shift):
        return np.mean([improvement_p_value([x + shift], [y]) < 0.05 for x, y in pairs])

    assert winners(0.0) == pytest.approx(0.05, abs=0.03)
    assert winners(2.0) > 0.9  # control: a difference of two standard deviations is seen


def test_wilson_interval_by_hand():
    """8 of 10 with z = 1.959964: centre (0.8 + z²/20) / (1 + z²/10), Wilson's own formula."""
    share, low, high = wilson_interval(8, 10)
    assert (share, round(low, 4), round(high, 4)) == (0.8, 0.4902, 0.9433)
    assert wilson_interval(10, 10).high == pytest.approx(1.0)
    assert wilson_interval(10, 10).low == pytest.approx(0.7225, abs=1e-4)
    assert low != pytest.approx(0.8 - 1.96 * math.sqrt(0.8 * 0.2 / 10), abs=0.01)  # control: Wald


def test_no_runs_have_no_share():
    with pytest.raises(ValueError, match=r"."):
        wilson_interval(0, 0)
