"""The compiled ReLU and LayerNorm against its eager twin in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import hmasd.kernels
from hmasd.kernels import build
from hmasd.kernels.relu_layer_norm import (
    layer_norm,
    layer_norm_eager,
    relu_layer_norm,
    relu_layer_norm_eager,
)

Function = Callable[..., Tensor]
TWINS = [(relu_layer_norm, relu_layer_norm_eager), (layer_norm, layer_norm_eager)]
SHAPES = [(4096, 64), (1, 64), (33, 11), (50, 100), (7, 1), (1, 1), (3, 8), (10, 21, 64), (5,)]


@pytest.fixture
def fast() -> Iterator[None]:
    """Turns the compiled kernel on, or skips where it cannot be built."""
    enabled = build._switch.enabled
    hmasd.kernels.set_fast(True)
    available = build.fast_available()
    reason = hmasd.kernels.status()
    if available:
        yield
    hmasd.kernels.set_fast(enabled)
    if not available:
        pytest.skip(reason)


def random_arguments(shape: tuple[int, ...], offset: float = 0.0) -> list[Tensor]:
    """x, weight, bias."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, generator=generator) for size in (shape, shape[-1:], shape[-1:])
    )
    return [x + offset, weight, bias]


def run(function: Function, arguments: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The output and all gradients, for one fixed upstream gradient."""
    leaves = [a.detach().to(dtype).requires_grad_() for a in arguments]
    out = function(*leaves)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def error(mine: Tensor, exact: Tensor) -> float:
    """Largest difference, in units of the largest value."""
    assert mine.shape == exact.shape
    return float((mine - exact).detach().abs().max() / exact.detach().abs().max().clamp(min=1.0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("function", "twin"), TWINS)
def test_kernel_equals_float64(
    fast: None, function: Function, twin: Function, shape: tuple[int, ...]
) -> None:
    arguments = random_arguments(shape)
    kernel = run(function, arguments, torch.float32)
    oracle = run(twin, arguments, torch.float64)
    assert len(kernel) == len(oracle) == 4
    assert "ReluLayerNorm" in repr(function(arguments[0].requires_grad_(), *arguments[1:]))
    # Of one column nothing is left: what cancels was multiplied by 1 / √eps.
    limit = 1e-5 if shape[-1] > 1 else 1e-5 / 1e-5**0.5
    assert max(error(a, b) for a, b in zip(kernel, oracle, strict=True)) < limit


def test_relu_is_what_makes_the_two_differ(fast: None) -> None:
    arguments = random_arguments((50, 64))
    assert error(relu_layer_norm(*arguments), layer_norm(*arguments)) > 0.1
    arguments[0].abs_()
    assert torch.equal(relu_layer_norm(*arguments), layer_norm(*arguments))


def test_far_from_zero_and_constant_rows(fast: None) -> None:
    """The variance is that of centred values: a large mean does not swallow it."""
    x, weight, bias = random_arguments((40, 64), offset=1000.0)
    exact = layer_norm_eager(x.double(), weight.double(), bias.double())
    assert error(layer_norm(x, weight, bias), exact) < 1e-3  # the mean itself is a float32
    x = torch.full((3, 64), -2.0, requires_grad=True)
    out = relu_layer_norm(x, weight, bias)
    assert torch.equal(out, bias.expand(3, 64))
    out.sum().backward()
    assert x.grad is not None and (x.grad == 0).all()


@pytest.mark.parametrize(("function", "twin"), TWINS)
def test_strided_input_and_gradient(fast: None, function: Function, twin: Function) -> None:
    wide, weight, bias = random_arguments((6, 20, 30))
    x = wide.transpose(0, 2)[..., :5].requires_grad_()  # [30, 20, 5]
    assert not x.is_contiguous()
    gradients = []
    for f, dtype in ((function, torch.float32), (twin, torch.float64)):
        leaf = x.to(dtype)
        out = f(leaf, weight[:5].to(dtype), bias[::6].to(dtype))
        gradients.append([out, *torch.autograd.grad(out.transpose(0, 1).sum(0).mean(0)[2], leaf)])
    assert max(error(a, b) for a, b in zip(*gradients, strict=True)) < 1e-5


@pytest.mark.parametrize("function", [relu_layer_norm, layer_norm])
def test_gradients_only_of_what_wants_them(fast: None, function: Function) -> None:
    x, weight, bias = random_arguments((70, 11))
    whole = run(function, [x, weight, bias], torch.float32)
    upstream = torch.randn(70, 11, generator=torch.Generator().manual_seed(1))
    weight.requires_grad_()
    function(x, weight, bias).backward(upstream)
    assert x.grad is None and weight.grad is not None and torch.equal(weight.grad, whole[2])
    with torch.no_grad():
        plain = function(x, weight, bias)
    assert torch.equal(plain, whole[0]) and not plain.requires_grad


@pytest.mark.parametrize(("function", "twin"), TWINS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_comes_out_in_its_row_only(
    fast: None, function: Function, twin: Function, poison: float
) -> None:
    for size in (64, 11):
        arguments = random_arguments((20, size))
        arguments[0][7, size - 2] = poison
        kernel, eager = (run(f, arguments, torch.float32) for f in (function, twin))
        for mine, torchs in zip(kernel, eager, strict=True):
            assert torch.equal(mine.isnan(), torchs.isnan())
        assert kernel[0][7].isnan().all() and int(kernel[0].isnan().sum()) == size


@pytest.mark.parametrize("function", [relu_layer_norm, layer_norm])
@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_for_any_number_of_threads(fast: None, function: Function, threads: int) -> None:
    arguments = random_arguments((6001, 64))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = run(function, arguments, torch.float32)
        torch.set_num_threads(threads)
        second = run(function, arguments, torch.float32)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_second_derivative_is_refused(fast: None) -> None:
    x, weight, bias = random_arguments((4, 8))
    out = relu_layer_norm(x.requires_grad_(), weight, bias)
    with pytest.raises(RuntimeError, match="once differentiable"):
        torch.autograd.grad(out.sum(), x, create_graph=True)


def test_twin_gradients_by_finite_differences() -> None:
    for twin in (relu_layer_norm_eager, layer_norm_eager):
        leaves = [a.double().requires_grad_() for a in random_arguments((3, 5))]
        assert torch.autograd.gradcheck(twin, leaves)


def test_what_the_kernel_cannot_do_goes_to_the_twin(fast: None) -> None:
    x, weight, bias = (a.double() for a in random_arguments((4, 8)))
    for function, twin in TWINS:
        assert torch.equal(function(x, weight, bias), twin(x, weight, bias))
        assert function(x[:0], weight, bias).shape == (0, 8)
        with pytest.raises(RuntimeError):
            function(x.float(), weight[:5].float(), bias.float())


def test_switched_off_it_is_the_twin(fast: None) -> None:
    hmasd.kernels.set_fast(False)
    arguments = random_arguments((40, 64))
    for function, twin in TWINS:
        off, eager = (run(f, arguments, torch.float32) for f in (function, twin))
        assert all(torch.equal(a, b) for a, b in zip(off, eager, strict=True))
