"""The same work by HMASD and by other systems, side by side: steps/s, where the time goes, memory.

    python benchmarks/compare.py
    python benchmarks/compare.py --works spread_15 spread_5 --threads 1 2 --out speed.json
    python benchmarks/compare.py --works spread_15 --peer-python .venv-bench/bin/python

Every run is a process of its own, or, where there are more threads than one, also that many
processes of HMASD with the envs divided among them. Systems take turns (A B A B ...), so that what
else the machine does falls on all of them; the table shows each one's median run, and the fastest
and slowest. The peers run where they are installed (`pip install ".[bench]"`, best in an
environment of their own, named by --peer-python) and on the works that they have, all on
simple_spread of their own making: MAPPO without skills. HMASD trains a coordinator and two
discriminators more, with a critic pass per env where theirs is per agent.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
PAPER = ("--preset", "paper_alice_and_bob")


def _spread(epochs: int, agents: str = "", *more: str) -> tuple[str, ...]:
    """Simple_spread by the paper's algorithm; 15 epochs are its own."""
    names = ("discoverer", "coordinator", "discriminator")
    flags = [x for name in names for x in (f"--{name}-epochs", str(epochs))]
    return (*PAPER, "--env", f"simple_spread{agents}", "--extrinsic-coef", "1", *flags, *more)


class Peer(NamedTuple):
    """Another system: its package, its program, and the flags that choose it there."""

    package: str
    program: str
    flags: tuple[str, ...] = ()


class Work(NamedTuple):
    """What is to be trained: flags of train_sync_enhanced.py, rounds, and who else does it."""

    flags: tuple[str, ...]
    warm_up: int
    rounds: int
    peer_flags: tuple[str, ...] | None = None  # None: no peer has this work


PEERS = {
    "jaxmarl mappo_rnn": Peer("jaxmarl", "peer_jaxmarl.py"),
    "benchmarl gru": Peer("benchmarl", "peer_benchmarl.py", ("--model", "gru")),
    "benchmarl mlp": Peer("benchmarl", "peer_benchmarl.py", ("--model", "mlp")),
}
PRESET_15 = ("--preset", "alice_and_bob", "--discoverer-epochs", "15", "--coordinator-epochs", "15")
WIDE = ("--hidden-size", "256")
WORKS = {
    "spread_15": Work(_spread(15), 2, 8, ("--epochs", "15")),
    "spread_5": Work(_spread(5), 2, 8, ("--epochs", "5")),
    "alice": Work(("--preset", "alice_and_bob"), 2, 12),
    "alice_15": Work(PRESET_15, 2, 8),
    "alice_paper": Work(PAPER, 2, 8),
    "default": Work((), 8, 24),
    "wide_3": Work(_spread(5, "", *WIDE), 1, 3, ("--epochs", "5", *WIDE)),
    "wide_8": Work(_spread(5, "_8", *WIDE), 1, 2),
    "wide_32": Work(_spread(5, "_32", *WIDE, "--num-envs", "8", "--batch-size", "800"), 1, 1),
}
OURS = "hmasd"
OUR_PROCESSES = "hmasd processes"  # as many of one thread each as the others have threads


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=list(WORKS))
    systems = [OURS, OUR_PROCESSES, *PEERS]
    parser.add_argument("--systems", nargs="+", default=systems, choices=systems)
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable, help="where the peers live")
    parser.add_argument("--out", type=Path, help="write all runs as JSON")
    return parser.parse_args()


def run(command: list[str], threads: int) -> dict[str, Any]:
    """The figures that a benchmark prints as its last line.

    Raises:
        RuntimeError: it failed; the message is the end of what it said.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | {name: str(threads) for name in names}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_ours(flags: tuple[str, ...], warm_up: int, rounds: int, threads: int) -> dict[str, Any]:
    """Figures of one training by HMASD, in a process of its own."""
    counts = ("--warm-up", str(warm_up), "--rounds", str(rounds))
    program = (sys.executable, str(HERE / "training_speed.py"), "--json", *counts)
    return run([*program, *flags, "--threads", str(threads)], threads)


def run_our_processes(work: Work, number: int) -> dict[str, Any]:
    """Figures of the same work, its envs divided among some processes."""
    counts = ("--warm-up", str(work.warm_up), "--rounds", str(work.rounds))
    program = (sys.executable, str(HERE / "rank_scaling.py"), "--json", *counts)
    return run([*program, "--ranks", str(number), *work.flags], 1)


def run_peer(peer: Peer, work: Work, threads: int, python: str) -> dict[str, Any]:
    """Figures of the same work by another system."""
    counts = ("--rounds", str(work.rounds), "--threads", str(threads))
    program = (python, str(HERE / peer.program), *peer.flags, *(work.peer_flags or ()))
    return run([*program, *counts], threads)


def is_installed(package: str, python: str) -> bool:
    """Whether that interpreter finds the package."""
    test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", test], check=False).returncode == 0


def compare(
    work: Work, systems: list[str], threads: int, repeats: int, python: str
) -> dict[str, list[dict[str, Any]]]:
    """All runs of one work, systems in turn; who does not have the work is left out."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(repeats):
        for system in systems:
            if system == OURS:
                figures = run_ours(work.flags, work.warm_up, work.rounds, threads)
            elif system == OUR_PROCESSES:
                if threads == 1:
                    continue
                figures = run_our_processes(work, threads)
            elif work.peer_flags is not None:
                figures = run_peer(PEERS[system], work, threads, python)
            else:
                continue
            runs.setdefault(system, []).append(figures)
            rate, load = figures["steps_per_second"], figures["load"]
            print(f"  {system}: {rate:,.0f} steps/s, load {load:.1f}", file=sys.stderr)
    return runs


COLUMNS = (
    "system",
    "steps/s (slowest - fastest)",
    "HMASD is",
    "collect ms",
    "prepare ms",
    "update ms",
    "of it coordinator / actor / critic / team / individual ms",
    "products GFLOP/s (share of limit)",
    "peak MiB",
    "compile s",
    "load",
)


def median_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run whose rate is the median (of an even number: the slower of the two)."""
    ordered = sorted(runs, key=lambda figures: figures["steps_per_second"])
    return ordered[(len(ordered) - 1) // 2]


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """One work as Markdown, a row per system."""
    ours = median_run(runs[OURS])["steps_per_second"] if OURS in runs else None
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for system, figures in runs.items():
        cells = [system, *_cells(median_run(figures), figures, ours)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(figures: dict[str, Any], runs: list[dict[str, Any]], ours: float | None) -> list[str]:
    def milliseconds(name: str) -> str:
        return f"{1e3 * figures[name]:.0f}" if name in figures else "-"

    rates = [x["steps_per_second"] for x in runs]
    rate = figures["steps_per_second"]
    networks = figures.get("networks", {}).values()
    products = "-"
    if "share" in figures:
        limit = figures["limit_gflops"]
        products = f"{figures['gflops']:.0f} ({figures['share']:.0%} of {limit:.0f})"
    return [
        f"{rate:,.0f} ({min(rates):,.0f} - {max(rates):,.0f})",
        "-" if ours is None else f"{ours / rate:.2f} x",
        milliseconds("collect_seconds"),
        milliseconds("prepare_seconds"),
        milliseconds("update_seconds"),
        " / ".join(f"{1e3 * network['seconds']:.0f}" for network in networks) or "-",
        products,
        f"{figures['peak_mib']:,.0f}",
        f"{figures['compile_seconds']:.0f}" if "compile_seconds" in figures else "-",
        f"{max(x['load'] for x in runs):.1f}",
    ]


def main() -> None:
    """Run everything and print one table per work and number of threads."""
    args = parse()
    systems = []
    for name in args.systems:
        if name not in PEERS or is_installed(PEERS[name].package, args.peer_python):
            systems.append(name)
        else:
            print(f"{name} is not installed: left out", file=sys.stderr)
    results: dict[str, Any] = {}
    for name in args.works:
        for threads in args.threads:
            title = f"{name}, {threads} thread(s)"
            print(title, file=sys.stderr)
            runs = compare(WORKS[name], systems, threads, args.repeats, args.peer_python)
            results[title] = runs
            print(f"**{title}**: `{' '.join(WORKS[name].flags) or 'default'}`\n\n{table(runs)}\n")
            if OURS in runs:
                bound = median_run(runs[OURS])["bound_steps_per_second"]
                print(f"HMASD's update at the limit of matrix products: {bound:,.0f} steps/s.\n")
            if args.out is not None:  # after every work: a run that is stopped loses nothing
                args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
