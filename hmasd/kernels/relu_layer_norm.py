"""LayerNorm over the last axis, alone or of a ReLU, as one operation: compiled and eager twin."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hmasd.kernels.build import fast_available


def relu_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm of y = max(x, 0): weight · (y - mean y) / √(var y + eps) + bias.

    Float32 on the CPU takes the compiled kernel, which keeps only x for backward and is once
    differentiable.

    Args:
        x: [..., H].
        weight: [H].
        bias: [H].
        eps: what keeps a constant row finite.

    Returns:
        [..., H].
    """
    return _normalize(x, weight, bias, eps, relu=True)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """The same of x itself, y = x; shapes as `relu_layer_norm`."""
    return _normalize(x, weight, bias, eps, relu=False)


def relu_layer_norm_eager(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """`relu_layer_norm` in torch operations, for any device and dtype."""
    return layer_norm_eager(functional.relu(x), weight, bias, eps)


def layer_norm_eager(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """`layer_norm` in torch operations, for any device and dtype."""
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, relu: bool) -> Tensor:
    if not _suits_kernel(x, weight, bias) or not fast_available():
        eager = relu_layer_norm_eager if relu else layer_norm_eager
        return eager(x, weight, bias, eps)
    kernel = torch.ops.hmasd_kernels.relu_layer_norm.default  # the overload's name saves a search
    result: Tensor = kernel(x, weight, bias, eps, relu)
    return result


def _suits_kernel(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """The kernel reads raw memory: what has a wrong shape goes to the twin, which refuses it."""
    return (
        x.dtype == weight.dtype == bias.dtype == torch.float32
        and x.is_cpu
        and weight.is_cpu
        and bias.is_cpu
        and x.numel() > 0
        and x.dim() > 0
        and weight.shape == bias.shape == x.shape[-1:]
    )
