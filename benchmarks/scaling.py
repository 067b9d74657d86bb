"""What a round would cost on 1 to 1024 ranks: a table and a figure, from constants measured here.

    python benchmarks/scaling.py --measure --out docs/images/scaling
    python benchmarks/scaling.py --out docs/images/scaling
    python benchmarks/scaling.py --ranks 1 2 4 --hop-us 30 --gigabytes 1.2 --algorithm ring

--measure trains on this machine (one thread, two sizes of round) and reduces between two processes
(gloo); it writes OUT.json. Without it OUT.json is read. All other flags are those of
train_sync_enhanced.py, for the run to measure. A link of your own is not drawn.
The model is benchmarks/scaling_model.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import machine  # before numpy

# isort: split
import matplotlib as mpl
import numpy as np
import torch
from matplotlib.ticker import FixedLocator, PercentFormatter, StrMethodFormatter
from torch import distributed, multiprocessing

from benchmarks.scaling_model import (
    Costs,
    Link,
    Network,
    Round,
    efficiency,
    evaluations_per_round,
    round_seconds,
)
from benchmarks.training_speed import train
from hmasd.cli import load_config
from hmasd.config import Config
from hmasd.training.evaluation import evaluate
from hmasd.viz.curves import COLOURS, STYLE

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
LINKS = (  # sources: docs/scaling.md
    Link("Ethernet 10 Gbit/s, gloo ring", 30e-6, 1.25e9, 0.0, "ring"),
    Link("InfiniBand 200 Gbit/s, NCCL ring", 2.7e-6, 25e9, 3.6e-6, "ring"),
    Link("InfiniBand 200 Gbit/s, NCCL tree", 5.0e-6, 25e9, 4.4e-6, "tree"),
)
SIZES = (1 << 10, 1 << 20, 4 << 20)  # bytes of the reductions that are timed
PARTS = {
    "collect": COLOURS[1],
    "update": COLOURS[0],
    "wait": COLOURS[4],
    "latency": COLOURS[3],
    "transfer": COLOURS[5],
    "evaluate": COLOURS[6],
}


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The command line, and what of it is the run's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--measure", action="store_true", help="measure the constants")
    parser.add_argument("--out", type=Path, default=Path("scaling"), help="without suffix")
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    parser.add_argument("--small", type=float, default=40.0, help="small reductions per round")
    parser.add_argument("--hop-us", type=float, help="a link of your own: latency of a hop, us")
    parser.add_argument("--gigabytes", type=float, default=1.25, help="its bandwidth, GB/s")
    parser.add_argument("--algorithm", choices=["ring", "tree"], default="ring")
    return parser.parse_known_args()


# --- measuring ------------------------------------------------------------------------------------


def measure(config: Config, rounds: int = 40) -> dict[str, Any]:
    """Constants of one rank, by a line through two sizes of round, and of this machine's gloo."""
    sizes = (config.num_envs // 4, config.num_envs)
    found = [measure_size(config, envs, rounds) for envs in sizes]
    steps = config.rollout_length
    lock_step, env_step = line(sizes, [x["collect"] / steps for x in found])
    update, sample = line([envs * steps for envs in sizes], [x["update"] for x in found])
    start, seconds_per_byte = line(SIZES, time_reductions())
    whole = found[-1]
    return {
        "lock_step": lock_step,
        "env_step": env_step,
        "update": update,
        "sample": sample,
        "jitter": whole["jitter"],
        "evaluation": whole["evaluation"],
        "networks": whole["networks"],
        # Of two ranks a ring is 2 hops, which together carry all bytes once.
        "here": {"hop": start / 2, "bandwidth": 1 / seconds_per_byte},
        "measured": {"envs": sizes, "steps": steps, "rounds": found, "load": machine.load()},
    }


def measure_size(config: Config, envs: int, rounds: int) -> dict[str, Any]:
    """Median seconds of a round's parts with so many envs."""
    one = dataclasses.replace(config, num_envs=envs, batch_size=envs * config.rollout_length)
    trainer, rows = train(one, 8, rounds)
    spent = np.array([[row["Sync/CollectionTime"], row["Sync/UpdateTime"]] for row in rows])
    # Rounds that update the coordinator take longer: what varies without reason is the others.
    plain = spent[["high/segments" not in row for row in rows]].sum(axis=1)
    low, middle, high = np.quantile(plain, (0.25, 0.5, 0.75))
    start = time.perf_counter()
    evaluate(trainer.agent)
    return {
        "collect": statistics.median(spent[:, 0]),
        "update": float(spent[:, 1].mean()),
        "jitter": float((high - low) / 1.349 / middle),  # a normal's quartiles
        "evaluation": time.perf_counter() - start,
        "networks": networks_of(trainer.agent, rows),
    }


def networks_of(agent: Any, rows: list[dict[str, float]]) -> list[Network]:
    """Parameters and gradient steps per round of each network."""
    config, nets = agent.config, agent.networks
    share = sum("high/segments" in row for row in rows) / len(rows)
    epochs = (
        (nets.coordinator, share * config.coordinator_epochs),
        (nets.actor, config.discoverer_epochs),
        (nets.critic, config.discoverer_epochs),
        (nets.team_discriminator, config.discriminator_epochs),
        (nets.individual_discriminator, config.discriminator_epochs),
    )
    names = ("coordinator", "actor", "critic", "team discriminator", "individual discriminator")
    return [
        Network(name, sum(p.numel() for p in net.parameters()), steps)
        for name, (net, steps) in zip(names, epochs, strict=True)
    ]


def line(x: Any, y: Any) -> tuple[float, float]:
    """Where the straight line through the points begins, and its slope; neither below 0.

    A cost cannot be negative: a line that falls is taken as flat, one that begins below 0 as one
    through 0.
    """
    slope, start = np.polyfit(np.asarray(x, float), np.asarray(y, float), 1)
    if slope < 0:
        slope, start = 0.0, float(np.mean(y))
    elif start < 0:
        slope, start = float(np.dot(x, y) / np.dot(x, x)), 0.0
    return float(start), float(slope)


def time_reductions(repeats: int = 200) -> list[float]:
    """Median seconds of an all-reduce of each of `SIZES` between two processes of this machine."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    store = distributed.TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)
    children = [
        context.Process(target=_reduce, args=(rank, store.port, repeats, queue))
        for rank in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        if child.exitcode != 0:
            child.kill()
            raise RuntimeError(f"a process that reduces ended with {child.exitcode}")
    return queue.get()


def _reduce(rank: int, port: int, repeats: int, queue: Any) -> None:
    torch.set_num_threads(1)
    patience = timedelta(seconds=60)
    store = distributed.TCPStore("127.0.0.1", port, 2, False, timeout=patience)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=patience)
    medians = []
    for size in SIZES:
        x, seconds = torch.ones(size // 4), []
        for _ in range(repeats):
            distributed.barrier()
            start = time.perf_counter()
            distributed.all_reduce(x)
            seconds.append(time.perf_counter() - start)
        medians.append(statistics.median(seconds))
    if rank == 0:
        queue.put(medians)
    distributed.destroy_process_group()


# --- telling --------------------------------------------------------------------------------------


def costs_of(constants: dict[str, Any], small: float) -> Costs:
    """The model's constants out of OUT.json."""
    networks = tuple(Network(*network) for network in constants["networks"])
    plain = {name: constants[name] for name in Costs._fields if name in constants}
    return Costs(**(plain | {"networks": networks, "small": small}))


def links_of(args: argparse.Namespace, constants: dict[str, Any]) -> list[Link]:
    """The links to compute: this machine's and the known ones, or the one that was given."""
    if args.hop_us is not None:
        own = Link("as given", args.hop_us * 1e-6, args.gigabytes * 1e9, 0.0, args.algorithm)
        return [own]
    here = Link("this machine, gloo ring", start=0.0, algorithm="ring", **constants["here"])
    return [here, *LINKS]


def weak(costs: Costs, link: Link, config: Config, ranks: int, inline: bool) -> Round:
    """A round in which every rank has the envs that one alone has."""
    samples = ranks * config.batch_size
    evaluations = evaluations_per_round(samples, config.eval_interval) if inline else 0.0
    return round_seconds(costs, link, ranks, config.num_envs, config.rollout_length, evaluations)


def strong(costs: Costs, link: Link, config: Config, ranks: int) -> Round:
    """A round of one size, whose envs the ranks divide; no more ranks than envs."""
    return round_seconds(costs, link, ranks, config.num_envs / ranks, config.rollout_length, 0.0)


def table(costs: Costs, links: list[Link], config: Config, ranks: list[int]) -> str:
    """Weak scaling over each link, as Markdown."""
    lines = [
        "| link | ranks | collect | update | wait | latency | transfer | round, ms | efficiency |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for link in links:
        one = weak(costs, link, config, 1, inline=False)
        for number in ranks:
            found = weak(costs, link, config, number, inline=False)
            cells = [f"{1e3 * seconds:.1f}" for seconds in (*found[:5], sum(found))]
            share = f"{efficiency(one, found):.0%}"
            lines.append(f"| {link.name} | {number} | {' | '.join(cells)} | {share} |")
    return "\n".join(lines)


def draw(costs: Costs, links: list[Link], config: Config, ranks: list[int], path: Path) -> None:
    """Above: shares of a round's time, weak scaling; below: the rates of weak and strong."""
    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context(STYLE):
        shape = (2, len(links))
        figure, rows = pyplot.subplots(*shape, figsize=(3.9 * shape[1], 7.2), squeeze=False)
        for column, link in enumerate(links):
            _draw_parts(rows[0][column], costs, link, config, ranks)
            _draw_rates(rows[1][column], costs, link, config, ranks)
        rows[0][0].set_ylabel("share of a round, each rank with the envs of one")
        rows[1][0].set_ylabel("env steps per second")
        rows[0][-1].legend(fontsize=8, loc="lower left", frameon=True)
        rows[1][0].legend(fontsize=8, loc="upper left")
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _draw_parts(plot: Any, costs: Costs, link: Link, config: Config, ranks: list[int]) -> None:
    found = [weak(costs, link, config, number, inline=True) for number in ranks]
    parts = [[getattr(x, name) / sum(x) for x in found] for name in PARTS]
    labels = [*list(PARTS)[:-1], "evaluate, if inline"]
    plot.stackplot(ranks, parts, colors=list(PARTS.values()), labels=labels)
    plot.set_title(link.name, fontsize=9)
    plot.set_ylim(0, 1)
    plot.yaxis.set_major_formatter(PercentFormatter(1.0))
    _rank_axis(plot, ranks)


def _draw_rates(plot: Any, costs: Costs, link: Link, config: Config, ranks: list[int]) -> None:
    one = sum(weak(costs, link, config, 1, inline=False))
    ideal = [number * config.batch_size / one for number in ranks]
    plot.plot(ranks, ideal, ":", color=COLOURS[6], label="ideal")
    for inline, style, label in ((False, "o-", "weak"), (True, "--", "weak, evaluated inline")):
        rates = [
            number * config.batch_size / sum(weak(costs, link, config, number, inline))
            for number in ranks
        ]
        plot.plot(ranks, rates, style, color=COLOURS[0], label=label, markersize=4)
    few = [number for number in ranks if number <= config.num_envs]
    rates = [config.batch_size / sum(strong(costs, link, config, number)) for number in few]
    label = f"strong: {config.num_envs} envs in all"
    plot.plot(few, rates, "s-", color=COLOURS[1], label=label, markersize=4)
    plot.set_yscale("log")
    plot.set_xlabel("ranks")
    _rank_axis(plot, ranks)


def _rank_axis(plot: Any, ranks: list[int]) -> None:
    plot.set_xscale("log", base=2)
    plot.set_xlim(min(ranks), max(ranks))
    plot.xaxis.set_major_locator(FixedLocator(ranks[::2]))
    plot.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))


def main() -> None:
    """Measure if asked, then tell and draw."""
    args, rest = parse()
    config = load_config(rest)
    source = args.out.with_suffix(".json")
    if args.measure:
        source.write_text(json.dumps(measure(config), indent=1) + "\n")
    constants = json.loads(source.read_text())
    costs, links = costs_of(constants, args.small), links_of(args, constants)
    print(table(costs, links, config, args.ranks))
    if args.hop_us is None:
        draw(costs, links, config, args.ranks, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
