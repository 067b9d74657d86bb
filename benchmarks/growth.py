"""Time and memory of training against the size of the work, as JSON and as a picture.

    python benchmarks/growth.py --out docs/images/growth
    python benchmarks/growth.py --axes agents hidden --repeats 1 --out growth

One number grows at a time, from 4 agents, 32 envs, hidden 64 and 64 steps a round on simple_spread
with 5 epochs; every point is a process of its own. Writes OUT.json and OUT.png. Axes that are not
measured stay in OUT.json as they are; with --draw the picture is made again from what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from benchmarks.compare import PAPER, median_run, run_ours
from hmasd.viz.curves import COLOURS, STYLE

BASE = {"agents": 4, "envs": 32, "hidden": 64, "steps": 64}
AXES = {
    "agents": (2, 4, 8, 16, 32, 64),
    "envs": (32, 128, 512, 2048, 4096),
    "hidden": (64, 128, 256, 512),
    "steps": (32, 64, 128, 256, 400),
}
LABELS = {
    "agents": "agents",
    "envs": "envs",
    "hidden": "width of the networks",
    "steps": "steps per env in a round",
}
EPOCHS = ("--discoverer-epochs", "5", "--coordinator-epochs", "5", "--discriminator-epochs", "5")
ENOUGH = 20_000  # samples in the rounds that count


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--repeats", type=int, default=1, help="processes per point")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("growth"), help="without suffix")
    parser.add_argument("--draw", action="store_true", help="only draw what OUT.json holds")
    return parser.parse_args()


def measure(size: dict[str, int], threads: int, repeats: int) -> dict[str, Any]:
    """The median run of one size."""
    samples = size["envs"] * size["steps"]
    flags = (
        *(*PAPER, "--env", f"simple_spread_{size['agents']}", "--extrinsic-coef", "1", *EPOCHS),
        *("--num-envs", str(size["envs"]), "--batch-size", str(samples)),
        *("--hidden-size", str(size["hidden"]), "--chunk-length", "8"),
    )
    heavy = size["agents"] * size["hidden"] > 16 * BASE["hidden"]
    rounds = 1 if heavy else max(1, min(10, ENOUGH // samples))
    return median_run([run_ours(flags, 1, rounds, threads) for _ in range(repeats)])


def measure_all(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Every point of the wanted axes beside what OUT.json holds; the base point once."""
    known: dict[str, dict[str, Any]] = {}
    path = args.out.with_suffix(".json")
    results: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    for axis in args.axes:
        results[axis] = []
        for value in AXES[axis]:
            size = BASE | {axis: value}
            key = str(size)
            if key not in known:
                known[key] = size | measure(size, args.threads, args.repeats)
            figures = known[key]
            rate, memory, load = (figures[x] for x in ("steps_per_second", "peak_mib", "load"))
            print(f"{axis} {value}: {rate:,.0f} steps/s, {memory:,.0f} MiB, load {load:.1f}")
            results[axis].append(figures)
            path.write_text(json.dumps(results, indent=1) + "\n")
    return results


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """One column per axis: time of an env step above, peak memory below."""
    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context(STYLE):
        figure, rows = pyplot.subplots(
            2, len(results), figsize=(3.4 * len(results), 6.0), squeeze=False, sharey="row"
        )
        for column, axis in enumerate(axis for axis in AXES if axis in results):
            points = results[axis]
            _draw_time(rows[0][column], axis, points)
            _draw_memory(rows[1][column], axis, points)
        rows[0][0].set_ylabel("µs per env step")
        rows[1][0].set_ylabel("peak memory [MiB]")
        rows[0][0].legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _draw_time(plot: Axes, axis: str, points: list[dict[str, Any]]) -> None:
    sizes = [point[axis] for point in points]

    def per_step(seconds: str) -> list[float]:
        return [1e6 * point[seconds] / point["steps_per_round"] for point in points]

    bound = [
        1e6 * point["update_gflop"] / point["limit_gflops"] / point["steps_per_round"]
        for point in points
    ]
    plot.plot(sizes, per_step("update_seconds"), "o-", color=COLOURS[0], label="update")
    plot.plot(sizes, per_step("collect_seconds"), "o-", color=COLOURS[1], label="collect")
    plot.plot(sizes, bound, ":", color=COLOURS[6], label="update's products at the limit")
    plot.set_title(LABELS[axis])
    _log_axes(plot, sizes)


def _draw_memory(plot: Axes, axis: str, points: list[dict[str, Any]]) -> None:
    sizes = [point[axis] for point in points]
    plot.plot(sizes, [point["peak_mib"] for point in points], "o-", color=COLOURS[2])
    plot.set_xlabel(LABELS[axis])
    _log_axes(plot, sizes)


def _log_axes(plot: Axes, sizes: list[int]) -> None:
    plot.set_xscale("log")
    plot.set_yscale("log")
    plot.xaxis.set_major_locator(FixedLocator(sizes))
    plot.tick_params(axis="x", labelsize=7)  # two sizes may lie close together
    plot.xaxis.set_minor_locator(NullLocator())
    plot.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    plot.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def main() -> None:
    """Measure, unless told to draw only, and draw."""
    args = parse()
    if args.draw:
        results = json.loads(args.out.with_suffix(".json").read_text())
    else:
        results = measure_all(args)
    draw(results, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
