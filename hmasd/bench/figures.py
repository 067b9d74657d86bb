"""Pictures of a comparison, in the style of `hmasd.viz.curves`; each function returns a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hmasd.bench.statistics import (
    Interval,
    interquartile_mean_interval,
    performance_profile,
    performance_profile_band,
)
from hmasd.training.evaluation import MODES
from hmasd.viz.curves import COLOURS, STYLE, steps_label

Line = str | tuple[int, tuple[float, float]]
LINES: tuple[Line, ...] = ("-", (0, (3.0, 2.0)), (0, (1.0, 2.0)))
"""Gaps show what lies below: many curves lie on 0 or 1."""
THRESHOLDS = np.linspace(0.0, 1.0, 101)
GREY = "#777777"


def draw_runs(
    title: str, steps: np.ndarray, curves: Mapping[str, Mapping[str, np.ndarray]], score: str
) -> Figure:
    """Every run of every algorithm, thin, with the interquartile mean and its band.

    Args:
        title: Heading.
        steps: [K] env steps of the evaluations.
        curves: Algorithm -> way of playing -> [R, K].
        score: What they are of, for the axis.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.8 + 2.0 * len(curves)), layout="constrained")
        axes = figure.subplots(len(curves), 2, sharex=True, sharey=True, squeeze=False)
        for number, (row, (name, modes)) in enumerate(zip(axes, curves.items(), strict=True)):
            for axis, mode in zip(row, MODES, strict=True):
                colour, _ = look(number)
                axis.plot(steps, modes[mode].T, color=colour, lw=0.7, alpha=0.5)
                _draw_mean(axis, steps, modes[mode], colour, LINES[0], name)
                runs = len(modes[mode])
                axis.set_title(f"{name}, {mode}, {runs} run{'s' * (runs != 1)}")
                _share_axis(axis)
            row[0].set_ylabel(score)
        _steps_axis(axes[-1])
        figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    return figure


def draw_comparison(
    title: str, steps: np.ndarray, curves: Mapping[str, Mapping[str, np.ndarray]], score: str
) -> Figure:
    """Interquartile means with 95 % bands, all algorithms together; arguments as `draw_runs`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.2 + 0.25 * (len(curves) // 3)), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, mode in zip(axes, MODES, strict=True):
            for number, (name, modes) in enumerate(curves.items()):
                _draw_mean(axis, steps, modes[mode], *look(number), name)
            axis.set_title(mode)
            _share_axis(axis)
        axes[0].set_ylabel(score)
        _steps_axis(axes)
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower left", ncols=3, fontsize=9)
        figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    return figure


def draw_profiles(scores: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Performance profiles: algorithm -> per task [R]; higher curves are better."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axis = figure.subplots()
        for number, (name, tasks) in enumerate(scores.items()):
            colour, line = look(number)
            profile = performance_profile(tasks, THRESHOLDS)
            axis.step(THRESHOLDS, profile, where="post", label=name, **_pen(colour, line))
            low, high = performance_profile_band(tasks, THRESHOLDS)
            axis.fill_between(THRESHOLDS, low, high, step="post", color=colour, alpha=0.12, lw=0)
        axis.set_title("Performance profile")
        axis.set_xlabel("score of the best policy")
        axis.set_ylabel("share of runs with more")
        _share_axis(axis)
        figure.legend(loc="outside lower left", ncols=3, fontsize=9)
    return figure


def draw_intervals(
    title: str, rows: Mapping[str, Interval], middle: float | None = None, label: str = ""
) -> Figure:
    """One dot with its interval per name, from the top; `middle`: a dashed line there."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.3 + 0.38 * len(rows)), layout="constrained")
        axis = figure.subplots()
        for number, interval in enumerate(rows.values()):
            low, high = max(interval.low, 0.0), min(interval.high, 1.0)
            axis.plot([low, high], [number, number], color=COLOURS[0], lw=3, alpha=0.35)
            axis.plot(interval.value, number, "o", color=COLOURS[0], ms=7)
        if middle is not None:
            axis.axvline(middle, color=GREY, lw=1.2, ls="--")
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlim(-0.03, 1.03)
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_title(title)
        axis.set_xlabel(label)
    return figure


def draw_distances(task: str, runs: Sequence[tuple[bool, Sequence[tuple[float, float]]]]) -> Figure:
    """Discriminator accuracy against how far skills are apart, one dot per skill of a run.

    Args:
        task: Name of the task, for the title.
        runs: Per run whether training won half of its episodes, and of each skill, as it was before
            that (else at the end), (distance to the nearest other's end, accuracy of q_d there).
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axis = figure.subplots()
        for solved, colour, label in (
            (True, COLOURS[0], "won half: before that"),
            (False, COLOURS[1], "did not: at the end"),
        ):
            dots = [dot for is_solved, skills in runs if is_solved == solved for dot in skills]
            if dots:
                axis.plot(*zip(*dots, strict=True), "o", color=colour, alpha=0.5, label=label)
        axis.set_title(f"{task}: how far skills lead from others, how well they are recognised")
        axis.set_xlabel("distance of its mean end to the nearest other skill's")
        axis.set_ylabel("accuracy of the individual discriminator")
        _share_axis(axis)
        figure.legend(title="run", loc="outside right center")
    return figure


def look(number: int) -> tuple[str, Line]:
    """Colour and line style of the algorithm with this number; none recurs before 21."""
    return COLOURS[number % len(COLOURS)], LINES[number % len(LINES)]


def _pen(colour: str, line: Line) -> dict[str, Any]:
    """Lines with wider gaps lie above those with narrower ones, which show through."""
    return {"color": colour, "linestyle": line, "lw": 2.0, "zorder": 2 + 0.1 * LINES.index(line)}


def _draw_mean(
    axis: Axes, steps: np.ndarray, curves: np.ndarray, colour: str, line: Line, name: str
) -> None:
    """The interquartile mean of [R, K] with its band."""
    intervals = [interquartile_mean_interval([column]) for column in curves.T]
    value, low, high = np.clip(np.array(intervals).T, 0.0, 1.0)
    axis.plot(steps, value, label=name, **_pen(colour, line))
    if len(curves) > 1:  # one run has no band
        axis.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)


def _share_axis(axis: Axes) -> None:
    axis.set_ylim(-0.03, 1.03)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _steps_axis(axes: Sequence[Axes]) -> None:
    for axis in axes:
        axis.set_xlabel("env steps")
        axis.xaxis.set_major_formatter(FuncFormatter(steps_label))
