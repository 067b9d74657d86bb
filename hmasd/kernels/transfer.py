"""The way to the networks' device and back, in one place, so that every wait is in sight.

A GPU works through a queue of operations while the host fills it. Whoever reads a number back, or
copies from memory that the GPU cannot reach by itself, waits until the queue is empty.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A copy of a host tensor on a device, and of a type if one is given; nobody waits for it.

    The host may write to x at once. To a GPU it goes by pinned memory, which torch gives to nobody
    else until the copy is done; an expanded x is written out for it.
    """
    if device.type != "cuda":
        return x.to(device, dtype, copy=True)
    return x.to(dtype or x.dtype).contiguous().pin_memory().to(device, non_blocking=True)


def to_host(x: Tensor) -> Tensor:
    """The tensor on the host, which waits for everything that x depends on."""
    return x.cpu()
