"""What the machine can do, and what else it was doing: to be read beside every figure.

Import this before numpy: OpenBLAS reads its environment once.
"""

from __future__ import annotations

import os

# Settings that some machines carry for old builds of OpenBLAS; they halve a current one.
for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_name, None)
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the limit is measured on one core

import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

SHAPES = ((640, 64, 192), (3200, 64, 64), (1024, 1024, 1024))  # two of the update's, one large


def product_limit(seconds: float = 0.3) -> float:
    """The fastest fp32 matrix product on one core, GFLOP/s: of torch's and numpy's, over shapes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = 0.0
    for rows, inner, columns in SHAPES:
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        out = torch.empty(rows, columns)
        x, y, z = a.numpy(), b.numpy(), out.numpy()
        flops = 2.0 * rows * inner * columns
        for multiply in (partial(torch.mm, a, b, out=out), partial(np.matmul, x, y, out=z)):
            best = max(best, flops / _median_seconds(multiply, seconds) / 1e9)
    torch.set_num_threads(threads)
    return best


def _median_seconds(function: Callable[[], object], seconds: float) -> float:
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_memory() -> float:
    """The most memory that this process has held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load() -> float:
    """Processes that ran or waited to run in the last minute, on average; 1 is this one."""
    return os.getloadavg()[0]
