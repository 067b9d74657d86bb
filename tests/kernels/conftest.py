"""What the kernels' tests share: the switch, and results of a kernel beside a float64 oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

import hmasd.kernels
from hmasd.kernels import build


@pytest.fixture
def fast() -> Iterator[None]:
    """Turns the compiled kernels on, or skips where they cannot be built."""
    enabled = build._switch.enabled
    hmasd.kernels.set_fast(True)
    available = build.fast_available()
    reason = hmasd.kernels.status()
    if available:
        yield
    hmasd.kernels.set_fast(enabled)
    if not available:
        pytest.skip(reason)


def run(function: Callable, arguments: Sequence, dtype: torch.dtype) -> list[Tensor]:
    """Results of `function` and gradients of all its float tensors, for fixed gradients above."""
    leaves = [
        x.detach().to(dtype).clone().requires_grad_()
        if isinstance(x, Tensor) and x.is_floating_point()
        else x
        for x in arguments
    ]
    results = function(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    ups = [
        torch.randn(x.shape, generator=torch.Generator().manual_seed(i)).to(x)
        for i, x in enumerate(results)
    ]
    torch.autograd.backward(
        [x for x in results if x.requires_grad],
        [up for x, up in zip(results, ups, strict=True) if x.requires_grad],
    )
    gradients = [x.grad for x in leaves if isinstance(x, Tensor) and x.grad is not None]
    return [*(x.detach() for x in results), *gradients]


def error(mine: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Largest difference of all tensors, each in units of its largest value."""
    assert [x.shape for x in mine] == [x.shape for x in exact] and mine
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1.0))
        for a, b in zip(mine, exact, strict=True)
    )
