"""The compiled losses and choices against their eager twins in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hmasd.kernels
from hmasd.algorithm.losses import policy_loss, skill_loss, smoothness_penalty, value_loss
from hmasd.modules.distributions import MASKED, draw_categorical, score_categorical
from tests.kernels.conftest import error, run

pytestmark = pytest.mark.usefixtures("fast")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some(*shape: int) -> Tensor:
    """Weights: 0 for about a third."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(9)) > 0.3).float()


def choices(number: int, *shape: int) -> Tensor:
    return torch.randint(number, shape, generator=torch.Generator().manual_seed(7))


def masked(number: int, *shape: int) -> Tensor:
    logits = 3 * normal(*shape, number)
    logits[..., 1::3] = MASKED
    return logits


POLICY = [0.3 * normal(8, 50), 0.3 * normal(8, 50, seed=1), normal(8, 50, seed=2), 0.2]
CASES = {
    "policy": (policy_loss, [*POLICY]),
    "policy, weighted": (policy_loss, [*POLICY, some(8, 50)]),
    "value": (value_loss, [normal(9, 5, 2), normal(9, 5, 2, seed=1), normal(9, 5, 2), 0.2, 0.5]),
    "value, one for all, weighted": (
        value_loss,
        [normal(9, 5, 1), normal(9, 5, 1, seed=1), 9 * normal(9, 5, 3), 0.2, 10.0, some(9, 5, 3)],
    ),
    "skill": (skill_loss, [normal(40, 7, 8), choices(8, 40, 7)]),
    "skill, weighted": (skill_loss, [normal(40, 7, 3), choices(3, 40, 7), some(40, 7)]),
    "smoothness": (smoothness_penalty, [0.3 * normal(2, 40, 7, 8), 0.9]),
    "smoothness, weighted": (smoothness_penalty, [0.3 * normal(2, 40, 5), 0.9, some(40)]),
    **{
        f"score of {n}": (score_categorical, [masked(n, 30, 4), 3 * choices((n + 2) // 3, 30, 4)])
        for n in (1, 5, 8, 9, 19)
    },
}


@pytest.mark.parametrize("name", CASES)
def test_kernel_equals_float64(name: str) -> None:
    function, arguments = CASES[name]
    # Only the first argument is learned from; the twin would differentiate all of them.
    constants = arguments[1:]

    def of_first(first: Tensor) -> object:
        given = [
            x.detach().to(first.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x
            for x in constants
        ]
        return function(first, *given)

    kernel = run(of_first, arguments[:1], torch.float32)
    oracle = run(of_first, arguments[:1], torch.float64)
    assert error(kernel, [x.float() for x in oracle]) < 5e-6
    moved = run(of_first, [arguments[0] * 1.01], torch.float32)  # control: another input
    assert error(moved, kernel) > 1e-5 or name == "score of 1"


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_kernel_that_was_tested(name: str) -> None:
    function, arguments = CASES[name]
    first = arguments[0].clone().requires_grad_()
    result = function(first, *arguments[1:])
    result = result[0] if isinstance(result, tuple) else result
    assert "CppFunction" in repr(result.grad_fn)
    hmasd.kernels.set_fast(False)
    eager = function(first, *arguments[1:])
    eager = eager[0] if isinstance(eager, tuple) else eager
    assert type(eager.grad_fn) is not type(result.grad_fn)


def test_draws_equal_the_twin_and_never_leave_the_mask() -> None:
    logits, uniform = masked(7, 500), torch.rand(500)
    uniform[:2] = torch.tensor([0.0, 1 - 2.0**-24])
    kernel, twin = draw_categorical(logits, uniform), draw_categorical.eager(logits, uniform)
    assert (kernel.choice != twin.choice).sum() <= 1  # a draw may fall between two roundings
    same = kernel.choice == twin.choice
    torch.testing.assert_close(kernel.logp[same], twin.logp[same], atol=1e-5, rtol=1e-5)
    assert (kernel.choice % 3 != 1).all()


def test_a_masked_choice_has_no_probability_at_all() -> None:
    logits = torch.tensor([[0.0, MASKED, 0.0]])
    assert draw_categorical(logits.flip(-1) * 0 + logits[:, [1, 0, 2]], torch.zeros(1)).choice == 1
    entropy = score_categorical(logits, torch.tensor([0])).entropy
    assert float(entropy) == pytest.approx(float(torch.tensor(2.0).log()))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(poison: float) -> None:
    logp = POLICY[0].clone()
    logp[3, 4] = poison
    result = policy_loss(logp, *POLICY[1:])
    assert not result.loss.isfinite() or not result.ratio_error.isfinite()
    logits = normal(4, 5)
    logits[2, 1] = poison
    assert score_categorical(logits, choices(5, 4)).logp[2].isnan()


def test_a_choice_out_of_range_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"choice 5 is not in 0\.\.4"):
        score_categorical(normal(3, 5), torch.tensor([0, 5, 1]))
    with pytest.raises(RuntimeError, match=r"choice -1 is not in 0\.\.4"):
        skill_loss(normal(3, 5), torch.tensor([0, -1, 1]))


def test_second_derivatives_are_refused() -> None:
    logits = normal(3, 5).requires_grad_()
    loss = score_categorical(logits, choices(5, 3)).entropy.sum()
    with pytest.raises(RuntimeError, match="once differentiable"):
        torch.autograd.grad(loss, logits, create_graph=True)
