"""The compiled clipped step of Adam against torch's."""

from __future__ import annotations

import pytest
import torch

import hmasd.kernels
from hmasd.kernels.adam import ClippedAdam

pytestmark = pytest.mark.usefixtures("fast")
SIZE = 9001  # more than one block of the norm's sum, and not whole vectors


def optimizer(max_norm: float = 10.0) -> ClippedAdam:
    generator = torch.Generator().manual_seed(0)
    flat = torch.nn.Parameter(torch.randn(SIZE, generator=generator))
    flat.grad = torch.zeros(SIZE)
    return ClippedAdam(flat, max_norm, lr=1e-2, eps=1e-5)


def walk(adam: ClippedAdam, *, fast: bool) -> list[float]:
    """Ten steps, every other one long enough to be clipped; the norms."""
    norms = []
    hmasd.kernels.set_fast(fast)
    for number in range(10):
        gradient = torch.randn(SIZE, generator=torch.Generator().manual_seed(number))
        assert adam.flat.grad is not None
        adam.flat.grad.copy_(gradient * (0.03 if number % 2 else 0.3))
        norms.append(float(adam.step()))
    return norms


def test_steps_equal_torchs() -> None:
    mine, torchs = optimizer(), optimizer()
    start = mine.flat.detach().clone()
    assert walk(mine, fast=True) == pytest.approx(walk(torchs, fast=False), rel=1e-6)
    torch.testing.assert_close(mine.flat, torchs.flat, atol=1e-6, rtol=1e-6)
    assert (mine.flat - start).abs().max() > 0.02
    states = [x.adam.state_dict()["state"][0] for x in (mine, torchs)]
    for name in ("step", "exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(states[0][name], states[1][name])


def test_clipping_is_what_the_limit_says() -> None:
    free, clipped = optimizer(max_norm=1e9), optimizer(max_norm=1.0)
    walk(free, fast=True), walk(clipped, fast=True)
    assert clipped.flat.grad is not None
    assert float(clipped.flat.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    assert (free.flat - clipped.flat).abs().max() > 1e-4


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_changes_nothing(poison: float) -> None:
    adam = optimizer()
    walk(adam, fast=True)
    before = [adam.flat.detach().clone(), *(x.clone() for x in adam.adam.state[adam.flat].values())]
    assert adam.flat.grad is not None
    adam.flat.grad[77] = poison
    assert not adam.step().isfinite()
    after = [adam.flat.detach(), *adam.adam.state[adam.flat].values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
