"""The compiled normalised MLP against its eager twin in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hmasd.kernels
from hmasd.kernels.mlp import normalized_mlp, normalized_mlp_eager
from tests.kernels.conftest import error, run

# rows, inputs, units of the layers, outputs of the head (0: none), skills
SHAPES = [
    (700, 11, (64, 64), 0, 0),
    (1, 64, (64,), 0, 0),
    (97, 13, (64, 64), 8, 0),
    (500, 64, (), 5, 4),
    (49, 7, (30, 20, 72), 40, 3),
    (5, 1, (3,), 1, 1),
]


def arguments(
    rows: int, inputs: int, units: tuple[int, ...], outputs: int, skills: int
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    parameters, width = [normal(inputs), normal(inputs)], inputs
    for unit in units:
        parameters += [normal(unit, width) / width**0.5, normal(unit), normal(unit), normal(unit)]
        width = unit
    if outputs:
        parameters += [normal(outputs, width + skills), normal(outputs)]
    skill = torch.randint(skills, (rows,), generator=generator) if skills else None
    return normal(rows, inputs), parameters, skill


def results(function: Callable, shape: tuple, dtype: torch.dtype) -> list[Tensor]:
    x, parameters, skill = arguments(*shape)
    return run(lambda first, *rest: function(first, rest, skill), [x, *parameters], dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_equals_float64(fast: None, shape: tuple) -> None:
    kernel = results(normalized_mlp, shape, torch.float32)
    oracle = results(normalized_mlp_eager, shape, torch.float64)
    assert len(kernel) == len(oracle) == 2 + len(arguments(*shape)[1])  # all gradients
    # Of one column nothing is left: what cancels was multiplied by 1 / √eps.
    assert error(kernel, oracle) < (1e-2 if 1 in shape else 1e-5)
    x, parameters, skill = arguments(*shape)
    view = normalized_mlp(x.requires_grad_(), parameters, skill).grad_fn
    assert view is not None and "_FastMLP" in view.next_functions[0][0].name()


def test_the_skill_looks_up_its_column(fast: None) -> None:
    x, parameters, skill = arguments(500, 64, (), 5, 4)
    out = normalized_mlp(x, parameters, skill)
    other = normalized_mlp(x, parameters, (skill + 1) % 4)
    columns = parameters[2][:, 64:].T
    torch.testing.assert_close(
        other - out, columns[(skill + 1) % 4] - columns[skill], atol=1e-5, rtol=1e-5
    )
    with pytest.raises(RuntimeError, match=r"skill 4 is not in 0\.\.3"):
        normalized_mlp(x, parameters, skill + 1)


def test_far_from_zero_and_constant_rows(fast: None) -> None:
    """The variance is that of centred values: a large mean does not swallow it."""
    x, parameters, _ = arguments(40, 64, (64,), 0, 0)
    exact = normalized_mlp_eager((x + 1000).double(), [p.double() for p in parameters])
    assert error([normalized_mlp(x + 1000, parameters)], [exact]) < 1e-3  # the mean is a float32
    constant = normalized_mlp(torch.full((3, 64), 2.0), parameters)
    assert error([constant], [normalized_mlp_eager(torch.full((3, 64), 2.0), parameters)]) < 1e-5


def test_strided_input_and_gradient(fast: None) -> None:
    x, parameters, _ = arguments(30, 11, (64,), 3, 0)
    x = torch.randn(11, 20, 30).transpose(0, 2).requires_grad_()  # [30, 20, 11]
    found = []
    for function, dtype in ((normalized_mlp, torch.float32), (normalized_mlp_eager, torch.float64)):
        leaf = x.to(dtype)
        out = function(leaf, [p.to(dtype) for p in parameters])
        assert out.shape == (30, 20, 3)
        found.append(
            [out.detach(), *torch.autograd.grad(out.transpose(0, 1).sum(0).mean(0)[2], leaf)]
        )
    assert error(*found) < 1e-5


def test_without_gradients_the_same_numbers(fast: None) -> None:
    x, parameters, skill = arguments(97, 13, (64, 64), 8, 2)
    with torch.no_grad():
        plain = normalized_mlp(x, parameters, skill)
    for parameter in parameters:
        parameter.requires_grad_()
    learned = normalized_mlp(x, parameters, skill)
    assert torch.equal(plain, learned) and not plain.requires_grad
    learned.sum().backward()
    assert x.grad is None and all(p.grad is not None for p in parameters)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("inputs", [64, 11])
def test_nan_comes_out_in_its_row_only(fast: None, poison: float, inputs: int) -> None:
    x, parameters, _ = arguments(100, inputs, (64, 30), 5, 0)
    x[7, inputs - 2] = poison
    out = normalized_mlp(x, parameters)
    assert out[7].isnan().all() and int(out.isnan().sum()) == 5
    leaf = x.requires_grad_()
    (gradient,) = torch.autograd.grad(normalized_mlp(leaf, parameters).sum(), leaf)
    assert gradient[7].isnan().all() and int(gradient.isnan().sum()) == inputs


@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_for_any_number_of_threads(fast: None, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = results(normalized_mlp, (6001, 11, (64, 64), 5, 3), torch.float32)
        torch.set_num_threads(threads)
        second = results(normalized_mlp, (6001, 11, (64, 64), 5, 3), torch.float32)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_second_derivative_is_refused(fast: None) -> None:
    x, parameters, _ = arguments(4, 8, (8,), 0, 0)
    out = normalized_mlp(x.requires_grad_(), parameters)
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_twin_gradients_by_finite_differences() -> None:
    x, parameters, skill = arguments(3, 5, (4,), 2, 3)
    leaves = [y.double().requires_grad_() for y in (x, *parameters)]
    assert torch.autograd.gradcheck(
        lambda first, *rest: normalized_mlp_eager(first, rest, skill), leaves
    )


def test_wrong_shapes_are_refused(fast: None) -> None:
    x, parameters, skill = arguments(9, 5, (4,), 2, 3)
    with pytest.raises(ValueError, match="parameters must have shapes"):
        normalized_mlp(x[:, :4], parameters, skill)
    with pytest.raises(ValueError, match="parameters must have shapes"):
        normalized_mlp(x, parameters)  # a head with columns for skills, and no skill
    with pytest.raises(ValueError, match=r"skill must be \[9\]"):
        normalized_mlp(x, parameters, skill[:8])


def test_other_types_and_the_switch_go_to_the_twin(fast: None) -> None:
    x, parameters, skill = arguments(9, 5, (4,), 2, 3)
    double = [p.double() for p in parameters]
    assert torch.equal(
        normalized_mlp(x.double(), double, skill), normalized_mlp_eager(x.double(), double, skill)
    )
    assert normalized_mlp(x[:0], parameters, skill[:0]).shape == (0, 2)
    hmasd.kernels.set_fast(False)
    assert torch.equal(
        normalized_mlp(x, parameters, skill), normalized_mlp_eager(x, parameters, skill)
    )
