"""The compiled GRU against its eager twin in float64, and the twin against torch.nn.GRU."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hmasd.kernels
from hmasd.kernels import build
from hmasd.kernels.gru import gru_sequence, gru_sequence_eager

SHAPES = [  # L, B, I, H; a block is 96 rows
    (1, 1, 8, 8),
    (1, 100, 64, 64),
    (10, 96, 64, 64),
    (7, 49, 20, 128),
    (5, 131, 128, 20),
    (4, 47, 8, 64),
    (3, 500, 64, 8),
    (2, 5, 1, 1),
]


def random_arguments(steps: int, rows: int, inputs: int, size: int, seed: int = 0) -> list[Tensor]:
    """x, h0, keep, w_ih, w_hh, b_ih, b_hh in float32; a fifth of the states restart."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    keep = (torch.rand(steps, rows, generator=generator) > 0.2).float()
    weights = [0.3 * normal(3 * size, inputs), 0.3 * normal(3 * size, size)]
    biases = [normal(3 * size), normal(3 * size)]
    return [normal(steps, rows, inputs), normal(rows, size), keep, *weights, *biases]


def run(function: object, arguments: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The output and the gradients of everything but keep, for one fixed upstream gradient."""
    leaves = [a.detach().to(dtype).requires_grad_(i != 2) for i, a in enumerate(arguments)]
    out = function(*leaves)  # type: ignore[operator]
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    out.backward(upstream)
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_equals_float64(fast: None, shape: tuple[int, int, int, int]) -> None:
    arguments = random_arguments(*shape)
    kernel = run(gru_sequence, arguments, torch.float32)
    oracle = run(gru_sequence_eager, arguments, torch.float64)
    assert len(kernel) == len(oracle) == 7
    for mine, exact in zip(kernel, oracle, strict=True):
        scale = exact.abs().max().clamp(min=1.0)
        assert float((mine - exact).abs().max() / scale) < 5e-6


def test_activations_over_the_whole_range(fast: None) -> None:
    """One step from state 0 with one input on every gate: σ and tanh of -120 .. 120."""
    x = torch.linspace(-120.0, 120.0, 24_001).view(1, -1, 1)
    w_ih = torch.ones(3, 1)
    rest = [torch.zeros(24_001, 1), torch.ones(1, 24_001)]
    zeros = [torch.zeros(3, 1), torch.zeros(3), torch.zeros(3)]
    for gate_scale in (1.0, 0.01, -1.0):
        w_ih[1] = gate_scale
        out = gru_sequence(x, *rest, w_ih, *zeros)
        wide = x.double()
        exact = (1.0 - (wide * w_ih[1].double()).sigmoid()) * wide.tanh()
        assert float((out - exact).abs().max()) < 1e-6


def test_no_grad_gives_the_same_values(fast: None) -> None:
    arguments = random_arguments(4, 61, 20, 20)
    with torch.no_grad():
        plain = gru_sequence(*arguments)
    assert torch.equal(plain, run(gru_sequence, arguments, torch.float32)[0])
    assert not plain.requires_grad


def test_strided_arguments(fast: None) -> None:
    x, h0, keep, *weights = random_arguments(4, 61, 20, 8)
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    column = torch.ones(4, 1)
    assert not strided.is_contiguous()
    assert torch.equal(
        gru_sequence(strided, h0, column.expand(4, 61), *weights),
        gru_sequence(x, h0, torch.ones(4, 61), *weights),
    )
    assert not torch.equal(
        gru_sequence(x, h0, keep, *weights), gru_sequence(x, h0, torch.ones(4, 61), *weights)
    )


def test_only_the_wanted_gradients(fast: None) -> None:
    x, h0, keep, *weights = random_arguments(3, 50, 20, 8)
    weights = [weight.requires_grad_() for weight in weights]
    gru_sequence(x, h0, keep, *weights).sum().backward()
    assert x.grad is None
    assert h0.grad is None
    assert all(weight.grad is not None for weight in weights)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bits_twice_and_for_any_thread_count(fast: None, threads: int) -> None:
    arguments = random_arguments(5, 500, 20, 64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = run(gru_sequence, arguments, torch.float32)
        torch.set_num_threads(threads)
        second = run(gru_sequence, arguments, torch.float32)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_comes_out_in_its_row_only(fast: None, poison: float) -> None:
    """NaN in one row reaches that row from its step on; ∞ does what torch does."""
    arguments = random_arguments(4, 60, 20, 8)
    arguments[2].fill_(1.0)
    arguments[0][1, 7, 3] = poison
    out = gru_sequence(*arguments)
    twin = gru_sequence_eager(*arguments)
    assert torch.equal(out.isnan(), twin.isnan())
    if poison != poison:
        assert out[1:, 7].isnan().all()
        assert int(out.isnan().sum()) == 3 * 8


def test_kernel_refuses_wrong_shapes() -> None:
    x, h0, keep, *weights = random_arguments(4, 6, 20, 8)
    with pytest.raises(ValueError, match="keep must be"):
        gru_sequence(x, h0, keep.T, *weights)
    with pytest.raises(ValueError, match="w_ih must be"):
        gru_sequence(x[..., :-1], h0, keep, *weights)


def test_twin_equals_nn_gru() -> None:
    x, h0, _, *weights = (a.double() for a in random_arguments(6, 9, 5, 7))
    reference = nn.GRU(5, 7).double()
    with torch.no_grad():
        for parameter, weight in zip(reference.parameters(), weights, strict=True):
            parameter.copy_(weight)
    expected = reference(x, h0.unsqueeze(0))[0]
    ones = torch.ones(6, 9, dtype=torch.float64)
    torch.testing.assert_close(gru_sequence_eager(x, h0, ones, *weights), expected)
    broken = [weights[0], weights[1].flip(0), *weights[2:]]
    assert not torch.allclose(gru_sequence_eager(x, h0, ones, *broken), expected)


def test_twin_gradients_by_finite_differences() -> None:
    arguments = [a.double() for a in random_arguments(3, 2, 2, 3)]
    leaves = [a.requires_grad_(i != 2) for i, a in enumerate(arguments)]
    assert torch.autograd.gradcheck(gru_sequence_eager, leaves)


def test_restart_forgets_what_came_before() -> None:
    x, h0, keep, *weights = random_arguments(4, 3, 5, 7)
    keep.fill_(1.0)
    keep[2] = 0.0
    whole = gru_sequence_eager(x, h0, keep, *weights)
    tail = gru_sequence_eager(x[2:], torch.zeros_like(h0), torch.ones(2, 3), *weights)
    torch.testing.assert_close(whole[2:], tail)


def test_failed_build_falls_back_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(build, "_switch", build._Switch(enabled=True))
    monkeypatch.setattr(build.cpp_extension, "load", fail)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    arguments = random_arguments(2, 3, 4, 5)
    with caplog.at_level(logging.WARNING):
        out = gru_sequence(*arguments)
        gru_sequence(*arguments)
    assert torch.equal(out, gru_sequence_eager(*arguments))
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    assert "no compiler here" in hmasd.kernels.status()
    assert list(tmp_path.iterdir()) == []  # nothing half-built stays behind


def test_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_switch", build._Switch(enabled=True))
    hmasd.kernels.set_fast(False)
    assert not build.fast_available()
    assert "switched off" in hmasd.kernels.status()
    hmasd.kernels.set_fast(True)
    assert hmasd.kernels.status().startswith("fast")
