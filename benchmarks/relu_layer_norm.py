"""Times ReLU and LayerNorm, eager and compiled, side by side on one thread.

    python -m benchmarks.relu_layer_norm

Medians of rounds that take every variant in turn. The clock is the thread's CPU time, which other
work on the machine disturbs less than the wall clock does.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from hmasd.kernels import status
from hmasd.kernels.relu_layer_norm import (
    layer_norm,
    layer_norm_eager,
    relu_layer_norm,
    relu_layer_norm_eager,
)
from hmasd.training.memory import keep_freed_memory

SHAPES = [(4096, 64), (1024, 64), (640, 64), (4096, 100), (4096, 11), (32, 64)]
PAIRS = {
    "relu + norm": (relu_layer_norm_eager, relu_layer_norm),
    "norm": (layer_norm_eager, layer_norm),
}
ROUNDS = 60


def measure(shape: tuple[int, int], pair: str) -> list[tuple[float, float]]:
    """Median ms (forward, backward) of the eager and of the compiled variant."""
    x = torch.randn(shape, requires_grad=True)
    upstream = torch.randn(shape)
    weights = [torch.rand(shape[-1], requires_grad=True) for _ in range(2)]
    times: list[tuple[list[float], list[float]]] = [([], []), ([], [])]
    for _ in range(ROUNDS):
        for function, (forward, backward) in zip(PAIRS[pair], times, strict=True):
            start = time.thread_time()
            out = function(x, *weights)
            middle = time.thread_time()
            torch.autograd.grad(out, [x, *weights], upstream)
            forward.append(1e3 * (middle - start))
            backward.append(1e3 * (time.thread_time() - middle))
    return [
        (statistics.median(forward), statistics.median(backward)) for forward, backward in times
    ]


def main() -> None:
    """Print one line per operation and shape."""
    keep_freed_memory()  # as in training
    torch.manual_seed(0)
    torch.set_num_threads(1)
    relu_layer_norm(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1))
    sys.stdout.write(f"{status()}; ms forward + backward on one thread\n")
    for pair in PAIRS:
        for shape in SHAPES:
            eager, fast = measure(shape, pair)
            sys.stdout.write(
                f"{pair:<12} {shape!s:<11}"
                f" eager {eager[0]:.3f} + {eager[1]:.3f}  fast {fast[0]:.3f} + {fast[1]:.3f}"
                f"  {sum(eager) / sum(fast):4.1f}x\n"
            )


if __name__ == "__main__":
    main()
