"""The normalised MLP as one operation: compiled kernel, eager twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hmasd.kernels.build import fast_available

EPS = 1e-5  # what keeps a constant row finite in LayerNorm


def normalized_mlp(x: Tensor, parameters: Sequence[Tensor], skill: Tensor | None = None) -> Tensor:
    """h_0 = norm(x), h_l = norm(max(W_l h_(l-1) + b_l, 0)); with a head y = W h_L + b + V[:, z].

    norm is LayerNorm with its weights. Float32 on the CPU takes the compiled kernel, which is once
    differentiable.

    Args:
        x: [..., I].
        parameters: weight and bias of the first LayerNorm, both [I]; then of each of the L layers
            W [H, I], b [H] and weight and bias of its LayerNorm, both [H]; then, if there is a
            head, [W, V] in one tensor [O, H + n] and b [O]. L may be 0 where there is a head.
        skill: z, [...] int64 in 0..n-1; None if n = 0 or there is no head.

    Returns:
        [..., H] of the last layer, or [..., O] of the head.
    """
    _check_shapes(x, parameters, skill)
    if not _suits_kernel(x, parameters) or not fast_available():
        return normalized_mlp_eager(x, parameters, skill)
    rows = x.reshape(-1, x.shape[-1])
    numbers = x.new_empty(0, dtype=torch.int64) if skill is None else skill.reshape(-1)
    if torch.is_grad_enabled() and any(y.requires_grad for y in (x, *parameters)):
        out = _FastMLP.apply(rows, numbers, *parameters)
    else:
        arguments = rows.contiguous(), numbers.contiguous(), [y.contiguous() for y in parameters]
        out = torch.ops.hmasd_kernels.mlp_forward.default(*arguments, EPS, False)[0]
    return out.view(*x.shape[:-1], -1)


def normalized_mlp_eager(
    x: Tensor, parameters: Sequence[Tensor], skill: Tensor | None = None
) -> Tensor:
    """The same in torch operations, for any device and dtype; shapes as `normalized_mlp`."""
    hidden = functional.layer_norm(x, x.shape[-1:], parameters[0], parameters[1], EPS)
    layers, head = _split(parameters)
    for weight, bias, scale, shift in layers:
        active = functional.relu(functional.linear(hidden, weight, bias))
        hidden = functional.layer_norm(active, active.shape[-1:], scale, shift, EPS)
    if not head:
        return hidden
    weight, bias = head
    if skill is None:
        return functional.linear(hidden, weight, bias)
    width = hidden.shape[-1]
    # A one-hot joined to a linear layer's input adds one column of its weight: it is looked up.
    of_skill = functional.embedding(skill, weight[:, width:].T)
    return functional.linear(hidden, weight[:, :width], bias) + of_skill


class _FastMLP(torch.autograd.Function):
    """The compiled kernel with its own backward; once differentiable."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        x, skill, *parameters = (y.contiguous() for y in arguments)
        kernel = torch.ops.hmasd_kernels.mlp_forward.default
        out, kept = kernel(x, skill, parameters, EPS, True)
        ctx.save_for_backward(x, skill, kept, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, skill, kept, *parameters = ctx.saved_tensors
        want_x = ctx.needs_input_grad[0]
        kernel = torch.ops.hmasd_kernels.mlp_backward.default
        *grads, grad_x = kernel(grad_out.contiguous(), x, skill, parameters, kept, EPS, want_x)
        return (grad_x if want_x else None, None, *grads)


def _split(parameters: Sequence[Tensor]) -> tuple[list[Sequence[Tensor]], Sequence[Tensor]]:
    """Layers of four tensors each, and the head's two or none."""
    end = len(parameters) - (0 if len(parameters) % 4 == 2 else 2)
    return [parameters[i : i + 4] for i in range(2, end, 4)], parameters[max(end, 2) :]


def _suits_kernel(x: Tensor, parameters: Sequence[Tensor]) -> bool:
    return x.numel() > 0 and all(y.dtype == torch.float32 and y.is_cpu for y in (x, *parameters))


def _check_shapes(x: Tensor, parameters: Sequence[Tensor], skill: Tensor | None) -> None:
    """The kernel reads raw memory, so a wrong shape must stop here."""
    width = x.shape[-1] if x.dim() else 0
    shapes = [tuple(parameter.shape) for parameter in parameters]
    layers, head = _split(parameters)
    wanted: list[tuple[int, ...]] = [(width,), (width,)]
    for weight, *_ in layers:
        units = len(weight)
        wanted += [(units, width), (units,), (units,), (units,)]
        width = units
    if head:
        units, columns = len(head[0]), head[0].shape[-1]
        wanted += [(units, columns if skill is not None else width), (units,)]
    if shapes != wanted or len(wanted) == 2:
        message = f"for x {list(x.shape)} parameters must have shapes {wanted}, got {shapes}"
        raise ValueError(message)
    if skill is not None and (not head or columns <= width or skill.shape != x.shape[:-1]):
        message = (
            f"skill must be {list(x.shape[:-1])} for x {list(x.shape)}, with columns for skills in "
            f"the head's weight; got skill {list(skill.shape)} and parameters {shapes}"
        )
        raise ValueError(message)
