"""The compiled halves of a transformer block against their eager twins in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hmasd.kernels
from hmasd.modules.attention import attend, feed
from tests.kernels.conftest import error, run

pytestmark = pytest.mark.usefixtures("fast")
# sequences, tokens, columns, heads; a vector is 16 floats or fewer
SHAPES = [(40, 3, 64, 1), (1, 1, 8, 2), (5, 33, 24, 3), (130, 4, 64, 4), (7, 9, 20, 2)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(columns: int, linears: int) -> list[Tensor]:
    """Of some linear layers and of a norm."""
    made = []
    for number in range(linears):
        made += [normal(columns, columns, seed=number) * 2 / columns**0.5, normal(columns)]
    return [*made, 1 + normal(columns), normal(columns, seed=9)]


def attention_case(shape: tuple[int, ...], *, causal: bool) -> tuple[Callable, list]:
    batch, tokens, columns, heads = shape
    given = [normal(batch, tokens, columns), normal(batch, tokens, columns, seed=1)]
    return attend, [*given, heads, causal, *weights(columns, 4)]


CASES = {
    **{f"{s}, all": attention_case(s, causal=False) for s in SHAPES},
    **{f"{s}, causal": attention_case(s, causal=True) for s in SHAPES},
    "feed": (feed, [normal(7, 5, 20), *weights(20, 2)]),
}


@pytest.mark.parametrize("name", CASES)
def test_kernel_equals_float64(name: str) -> None:
    function, arguments = CASES[name]
    kernel = run(function, arguments, torch.float32)
    oracle = run(function, arguments, torch.float64)
    tensors = sum(isinstance(x, Tensor) for x in arguments)
    assert len(kernel) == len(oracle) == 1 + tensors  # all gradients
    assert error(kernel, [x.float() for x in oracle]) < 2e-5
    moved = [arguments[0].flip(1) + arguments[0].flip(-1), *arguments[1:]]  # control
    assert error(run(function, moved, torch.float32), kernel) > 1e-2


def test_one_tensor_may_be_both_queries_and_memory() -> None:
    _, (x, _, *rest) = attention_case((40, 3, 64, 1), causal=True)
    kernel = run(lambda y, *more: attend(y, y, *more), [x, *rest], torch.float32)
    oracle = run(lambda y, *more: attend(y, y, *more), [x, *rest], torch.float64)
    assert error(kernel, [y.float() for y in oracle]) < 2e-5


def test_a_causal_token_sees_nothing_after_it() -> None:
    _, arguments = attention_case((5, 9, 24, 3), causal=True)
    changed = [*arguments]
    changed[1] = arguments[1].clone()
    changed[1][:, 4:] += 1.0
    before, after = attend(*arguments), attend(*changed)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before, after)
    arguments[3] = changed[3] = False
    assert not torch.equal(attend(*arguments)[:, :4], attend(*changed)[:, :4])


@pytest.mark.parametrize("threads", [2, 3])
def test_the_same_for_any_number_of_threads(threads: int) -> None:
    function, arguments = attention_case((130, 4, 64, 4), causal=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = function(*arguments)
        torch.set_num_threads(threads)
        second = function(*arguments)
    finally:
        torch.set_num_threads(before)
    assert error([first], [second]) < 1e-6  # the products are torch's, and may differ by rounding


@pytest.mark.parametrize("name", ["feed", "(40, 3, 64, 1), all"])
def test_the_switch_and_second_derivatives(name: str) -> None:
    function, (x, *rest) = CASES[name]
    leaf = x.clone().requires_grad_()
    out = function(leaf, *rest)
    assert "CppFunction" in repr(out.grad_fn)
    with pytest.raises(RuntimeError, match="once differentiable"):
        torch.autograd.grad(out.sum(), leaf, create_graph=True)
    hmasd.kernels.set_fast(False)
    assert "CppFunction" not in repr(function(leaf, *rest).grad_fn)


def test_nan_is_not_hidden() -> None:
    _, arguments = attention_case((5, 9, 24, 3), causal=True)
    arguments[1] = arguments[1].clone()
    arguments[1][2, 5, 3] = float("nan")
    out = attend(*arguments)
    assert out[2, 5:].isnan().all() and not out[2, :5].isnan().any()
    assert not out[[0, 1, 3, 4]].isnan().any()
