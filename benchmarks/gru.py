"""Times nn.GRU, the eager twin and the compiled GRU side by side, on one thread.

    python -m benchmarks.gru

Medians of rounds that take every variant in turn. The clock is the thread's CPU time, which other
work on the machine disturbs less than the wall clock does.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hmasd.kernels import status
from hmasd.kernels.gru import gru_sequence, gru_sequence_eager

STEPS, SIZE, ROUNDS = 10, 64, 60
Variant = Callable[[Tensor], Tensor]


def variants(rows: int) -> tuple[dict[str, Variant], list[nn.Parameter]]:
    """The three ways over x [L, B, I], and the weights that they share."""
    reference = nn.GRU(SIZE, SIZE)
    weights = list(reference.parameters())
    h0, keep = torch.zeros(rows, SIZE), torch.ones(STEPS, rows)
    return {
        "nn.GRU": lambda x: reference(x, h0.unsqueeze(0))[0],
        "twin": lambda x: gru_sequence_eager(x, h0, keep, *weights),
        "fast": lambda x: gru_sequence(x, h0, keep, *weights),
    }, weights


def measure(rows: int) -> dict[str, tuple[float, float]]:
    """Median ms (forward and backward, forward without gradients) of each variant."""
    functions, weights = variants(rows)
    x = torch.randn(STEPS, rows, SIZE, requires_grad=True)
    upstream = torch.randn(STEPS, rows, SIZE)
    training: dict[str, list[float]] = {name: [] for name in functions}
    inference: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.thread_time()
            torch.autograd.grad(function(x), [x, *weights], upstream)
            middle = time.thread_time()
            with torch.no_grad():
                function(x)
            training[name].append(1e3 * (middle - start))
            inference[name].append(1e3 * (time.thread_time() - middle))
    return {
        name: (statistics.median(training[name]), statistics.median(inference[name]))
        for name in functions
    }


def main() -> None:
    """Print one line per number of rows and variant."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    gru_sequence(*(torch.zeros(s) for s in ((1, 1, 1), (1, 1), (1, 1), (3, 1), (3, 1), 3, 3)))
    sys.stdout.write(f"{status()}; L={STEPS}, I=H={SIZE}, ms on one thread\n")
    for rows in (640, 320):
        for name, (both, forward) in measure(rows).items():
            sys.stdout.write(
                f"B={rows:<4} {name:<7} training {both:6.2f}  no_grad {forward:6.2f}\n"
            )


if __name__ == "__main__":
    main()
