"""What a round costs on many ranks: pure functions of measured constants (docs/scaling.md).

A round is played by all ranks, each with its own envs; every gradient step of every network ends
with one all-reduce of that network's gradients, and a round has some more of a few numbers.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from scipy import integrate, stats

Algorithm = Literal["ring", "tree"]


class Link(NamedTuple):
    """How a message of n bytes travels between two ranks: start + hop + n / bandwidth per hop."""

    name: str
    hop: float  # seconds until a message's first byte is there [alpha]
    bandwidth: float  # bytes per second [1 / beta]
    start: float  # seconds that each reduction costs beside its messages
    algorithm: Algorithm


class Network(NamedTuple):
    """A network that learns in all ranks at once."""

    name: str
    parameters: int
    steps: float  # gradient steps per round


class Costs(NamedTuple):
    """Constants of one rank."""

    lock_step: float  # seconds of a lock-step that do not depend on the number of envs
    env_step: float  # seconds of a lock-step for each env
    update: float  # seconds of an update that do not depend on the number of samples
    sample: float  # seconds of an update for each sample
    jitter: float  # standard deviation of a piece of computing, over its mean, from rank to rank
    evaluation: float  # seconds of an evaluation
    small: float  # reductions of a few numbers per round, beside the gradients'
    networks: tuple[Network, ...]


class Round(NamedTuple):
    """Seconds of a round on the critical path."""

    collect: float
    update: float
    wait: float  # for the slowest rank
    latency: float  # of reductions: messages under way
    transfer: float  # of reductions: bytes under way
    evaluate: float  # by rank 0, while the others wait

    @property
    def reduce(self) -> float:
        """Seconds of all reductions."""
        return self.latency + self.transfer


class Reduction(NamedTuple):
    """Seconds of an all-reduce."""

    latency: float
    transfer: float


def all_reduce(link: Link, ranks: int, num_bytes: float) -> Reduction:
    """Seconds of one all-reduce of `num_bytes` over `ranks`; 0 for one rank.

    Ring (gloo; NCCL for long messages): R - 1 hops to add up and R - 1 to tell, each of 1/R of the
    bytes. Binary tree (NCCL for short ones): the same over log2 R levels, all bytes on each.
    Equations of Thakur, Rabenseifner and Gropp, Int. J. High Perform. Comput. Appl. 19 (2005), 49.
    """
    if ranks == 1:
        return Reduction(0.0, 0.0)
    if link.algorithm == "ring":
        hops, moved = 2 * (ranks - 1), 2 * (ranks - 1) / ranks * num_bytes
    else:
        hops = 2 * math.ceil(math.log2(ranks))
        moved = hops * num_bytes
    return Reduction(link.start + hops * link.hop, moved / link.bandwidth)


def slowest(ranks: int) -> float:
    """Expected largest of `ranks` standard normal numbers: E[max] = ∫ x R φ(x) Φ(x)^(R-1) dx."""
    if ranks == 1:
        return 0.0

    def density(x: float) -> float:
        return x * ranks * stats.norm.pdf(x) * stats.norm.cdf(x) ** (ranks - 1)

    return integrate.quad(density, -10.0, 12.0, limit=200)[0]


def round_seconds(
    costs: Costs, link: Link, ranks: int, envs: float, steps: int, evaluations: float
) -> Round:
    """Seconds of a round.

    Args:
        costs: of one rank.
        link: between ranks.
        ranks: R, at least 1.
        envs: of each rank.
        steps: per env in a round.
        evaluations: for which rank 0 lets the others wait, per round.
    """
    collect = steps * (costs.lock_step + costs.env_step * envs)
    update = costs.update + costs.sample * envs * steps
    reductions = [
        (network.steps, all_reduce(link, ranks, 4.0 * network.parameters))
        for network in costs.networks
    ]
    reductions.append((costs.small, all_reduce(link, ranks, 8.0)))
    return Round(
        collect,
        update,
        costs.jitter * slowest(ranks) * (collect + update),
        sum(count * x.latency for count, x in reductions),
        sum(count * x.transfer for count, x in reductions),
        evaluations * costs.evaluation,
    )


def evaluations_per_round(samples: float, interval: float) -> float:
    """Evaluations per round of `samples`: at most one, as the program looks once per round."""
    return min(1.0, samples / interval)


def efficiency(one: Round, many: Round) -> float:
    """Rate of R ranks over R times that of one, when each has as much to do as the one alone."""
    return sum(one) / sum(many)
