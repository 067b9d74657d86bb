"""Learning curves of one or several runs as one picture, from their ``metrics.jsonl``.

``python -m hmasd.viz.curves RUN_DIR... --out curves.png``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hmasd.telemetry.jsonl import read_lines

# Okabe and Ito's colours: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "figure.facecolor": "white",
}
LEGEND_WIDTH = 130  # letters of the runs' names that fit below the plots side by side
SMOOTHING = 60  # a curve is smoothed over the 60th part of its points


class Curve(NamedTuple):
    """One metric of one run."""

    steps: np.ndarray  # [P] env steps
    values: np.ndarray  # [P]


class Run(NamedTuple):
    """What a run logged."""

    name: str
    curves: dict[str, Curve]


class Panel(NamedTuple):
    """One of the plots: a title and the metrics in it, each with its name and line style."""

    title: str
    lines: tuple[tuple[str, str, str], ...]  # tag, label, line style
    is_share: bool = False
    chance: str | None = None  # tag of the accuracy of a blind guess


PANELS = (
    Panel("Success in training", (("rollout/success", "", "-"),), is_share=True),
    Panel(
        "Success in evaluation",
        (("eval/greedy_success", "greedy", "-"), ("eval/stochastic_success", "stochastic", ":")),
        is_share=True,
    ),
    Panel(
        "Team discriminator: accuracy",
        (("disc/team_accuracy", "", "-"),),
        is_share=True,
        chance="disc/team_chance",
    ),
    Panel(
        "Individual discriminator: accuracy",
        (("disc/individual_accuracy", "", "-"),),
        is_share=True,
        chance="disc/individual_chance",
    ),
    Panel(
        "Coordinator: entropy [nat]",
        (("high/entropy_team", "team skill", "-"), ("high/entropy_agent", "agents' skills", ":")),
    ),
    Panel("Discoverer: entropy of actions [nat]", (("low/entropy", "", "-"),)),
)
_SUCCESS = ("rollout/success", "eval/greedy_success", "eval/stochastic_success")
RETURNS = (  # in the place of success, in games that know none
    Panel("Return in training", (("rollout/return", "", "-"),)),
    Panel(
        "Return in evaluation",
        (("eval/greedy_return", "greedy", "-"), ("eval/stochastic_return", "stochastic", ":")),
    ),
)


def panels(runs: Sequence[Run]) -> tuple[Panel, ...]:
    """The plots: success, or returns where returns were logged and no run ever had a success."""
    logged = {tag for run in runs for tag in run.curves}
    successes = [run.curves[tag] for run in runs for tag in _SUCCESS if tag in run.curves]
    succeeded = any(curve.values.max() > 0 for curve in successes)
    return PANELS if succeeded or "rollout/return" not in logged else RETURNS + PANELS[2:]


def read_run(folder: Path) -> Run:
    """Reads the metrics of a run.

    Args:
        folder: A run folder, or a ``metrics.jsonl`` itself.

    Raises:
        FileNotFoundError: There is no ``metrics.jsonl``; the message says where it was looked for.
    """
    folder = Path(folder)
    path = folder if folder.is_file() else folder / "metrics.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"no metrics in {folder}: {path} does not exist; give a run folder")
    points: dict[str, list[tuple[int, float]]] = {}
    for row in read_lines(path):
        for tag, value in row.items():
            if tag != "env_steps":
                points.setdefault(tag, []).append((row["env_steps"], value))
    curves = {tag: Curve(*np.asarray(pairs, float).T) for tag, pairs in points.items()}
    return Run(path.resolve().parent.name, curves)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean [P] over `window` points, fewer at the ends: nothing is invented."""
    if window <= 1:
        return values
    total = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    first = np.maximum(index - window // 2, 0)
    last = np.minimum(index + window // 2 + 1, len(values))
    mean: np.ndarray = (total[last] - total[first]) / (last - first)
    return mean


def draw(runs: Sequence[Run], title: str | None = None) -> Figure:
    """Draws the six plots, one colour per run.

    Args:
        runs: At least one.
        title: Heading; None: the run's name, or how many there are.

    Returns:
        The figure, not bound to any window.
    """
    heading = title or (runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 9.5), layout="constrained")
        axes = figure.subplots(3, 2, sharex=True)
        for axis, panel in zip(axes.flat, panels(runs), strict=True):
            _draw_panel(axis, panel, runs)
        for axis in axes[-1]:
            axis.set_xlabel("env steps")
            axis.xaxis.set_major_formatter(FuncFormatter(steps_label))
        figure.suptitle(heading, x=0.01, ha="left", fontsize=14, fontweight="bold")
        if len(runs) > 1:
            _draw_names(figure, runs)
    return figure


def save_curves(folders: Sequence[Path], out: Path, title: str | None = None) -> None:
    """Reads runs, draws them and writes the picture (format by the ending of `out`)."""
    figure = draw([read_run(folder) for folder in folders], title)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)


def _is_without_metrics(folder: Path) -> bool:
    return folder.is_dir() and not (folder / "metrics.jsonl").is_file()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hmasd.viz.curves", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="folders in runs/")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="png, svg or pdf")
    parser.add_argument("--title", help="heading of the picture")
    options = parser.parse_args(arguments)
    runs = [x for x in options.runs if not _is_without_metrics(x)] or options.runs
    for folder in options.runs:
        if folder not in runs:
            sys.stderr.write(f"{folder} has no metrics, as after --eval-only: left out\n")
    try:
        save_curves(runs, options.out, options.title)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"wrote {options.out}\n")
    return 0


def _draw_panel(axis: Axes, panel: Panel, runs: Sequence[Run]) -> None:
    """Draws one plot."""
    axis.set_title(panel.title)
    has_data = False
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        for tag, _, style in panel.lines:
            if tag in run.curves:
                _draw_curve(axis, run.curves[tag], colour, style)
                has_data = True
    if panel.is_share:
        axis.set_ylim(-0.03, 1.03)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if not has_data:
        axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", color="#999999")
        return
    _draw_chance(axis, panel, runs)
    _draw_legend(axis, panel)


def _draw_curve(axis: Axes, curve: Curve, colour: str, style: str) -> None:
    """Draws one metric of one run: smoothed, with the raw points pale behind it."""
    if len(curve.steps) < 3 * SMOOTHING:  # few points, as of evaluations: show each
        (line,) = axis.plot(curve.steps, curve.values, style, color=colour, lw=1.6)
        line.set(marker="o", markersize=3, markerfacecolor="white" if style == ":" else colour)
        return
    axis.plot(curve.steps, curve.values, "-", color=colour, lw=0.5, alpha=0.2)
    window = len(curve.values) // SMOOTHING
    axis.plot(curve.steps, smooth(curve.values, window), style, color=colour, lw=1.8)


def _draw_chance(axis: Axes, panel: Panel, runs: Sequence[Run]) -> None:
    """Draws a dashed line at the accuracy of a blind guess, for each value there is."""
    if panel.chance is None:
        return
    levels = {
        float(run.curves[panel.chance].values[-1]) for run in runs if panel.chance in run.curves
    }
    for level in levels:
        axis.axhline(level, color="#777777", lw=1.2, ls="--")
        axis.annotate(
            "chance",
            (1.0, level),
            xycoords=axis.get_yaxis_transform(),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            color="#777777",
            fontsize=9,
        )


def _draw_legend(axis: Axes, panel: Panel) -> None:
    """Says which line style is which metric, where there are two."""
    handles = [
        Line2D([], [], color="#555555", ls=style, lw=1.8, label=label)
        for _, label, style in panel.lines
        if label
    ]
    if handles:
        axis.legend(handles=handles, loc="best", fontsize=9)


def _draw_names(figure: Figure, runs: Sequence[Run]) -> None:
    """Says which colour is which run, below the plots."""
    handles = [
        Line2D([], [], color=COLOURS[number % len(COLOURS)], lw=3, label=run.name)
        for number, run in enumerate(runs)
    ]
    columns = max(1, min(3, LEGEND_WIDTH // max(len(run.name) for run in runs)))
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=9)


def steps_label(value: float, _: int | None = None) -> str:
    """Returns e.g. ``1.5M`` or ``250k``."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
