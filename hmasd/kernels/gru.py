"""A GRU over sequences whose state restarts where an episode does: fast paths, eager twin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hmasd.kernels.build import fast_available
from hmasd.kernels.packed import gru_sequence_packed
from hmasd.kernels.transfer import to_device


def gru_sequence(
    x: Tensor, h0: Tensor, keep: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> Tensor:
    """Run `L` steps of `B` sequences: the compiled kernel for float32 on the CPU, cuDNN on a GPU.

    With h = keep_t h_{t-1} and the gates in torch's order (r, z, n):
    r, z = σ(W x_t + b + U h + c), n = tanh(W_n x_t + b_n + r (U_n h + c_n)), h_t = (1-z) n + z h.

    Args:
        x: [L, B, I].
        h0: [B, H], the state before the first step.
        keep: [L, B] float on the host, 0 where the state restarts before this step, else 1. No
            gradient.
        w_ih: [3H, I], W.
        w_hh: [3H, H], U.
        b_ih: [3H], b.
        b_hh: [3H], c.

    Returns:
        [L, B, H], the state after each step.
    """
    arguments = (x, h0, keep, w_ih, w_hh, b_ih, b_hh)
    _check_shapes(*arguments)
    if x.is_cuda:
        return gru_sequence_packed(*arguments)
    if not _suits_kernel(arguments) or not fast_available():
        return gru_sequence_eager(*arguments)
    if torch.is_grad_enabled() and any(argument.requires_grad for argument in arguments):
        return _FastGRU.apply(*arguments)
    contiguous = [argument.contiguous() for argument in arguments]
    return torch.ops.hmasd_kernels.gru_forward(*contiguous, False)[0]


def gru_sequence_eager(
    x: Tensor, h0: Tensor, keep: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> Tensor:
    """The same function in torch operations, for any device and dtype; shapes as `gru_sequence`."""
    size = h0.shape[1]
    h, states = h0, []
    restart = to_device(keep.detach().unsqueeze(-1), x.device)  # [L, B, 1]
    for gates_x, kept in zip(functional.linear(x, w_ih, b_ih).unbind(), restart, strict=True):
        h = h * kept
        gates_h = functional.linear(h, w_hh, b_hh)  # [B, 3H]
        reset, update = (gates_x + gates_h)[:, : 2 * size].sigmoid().chunk(2, dim=-1)
        candidate = (gates_x[:, 2 * size :] + reset * gates_h[:, 2 * size :]).tanh()
        h = candidate + update * (h - candidate)
        states.append(h)
    return torch.stack(states)


class _FastGRU(torch.autograd.Function):
    """The compiled kernel with its own backward; once differentiable."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        contiguous = [argument.contiguous() for argument in arguments]
        out, gates = torch.ops.hmasd_kernels.gru_forward(*contiguous, True)
        ctx.save_for_backward(*contiguous, out, gates)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        want_x = ctx.needs_input_grad[0]
        grad_x, grad_h0, *grad_weights = torch.ops.hmasd_kernels.gru_backward(
            grad_out.contiguous(), *ctx.saved_tensors, want_x
        )
        return (grad_x if want_x else None, grad_h0, None, *grad_weights)


def _suits_kernel(arguments: tuple[Tensor, ...]) -> bool:
    return arguments[0].numel() > 0 and all(
        argument.dtype == torch.float32 and argument.device.type == "cpu" for argument in arguments
    )


def _check_shapes(
    x: Tensor, h0: Tensor, keep: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> None:
    """The kernel reads raw memory, so a wrong shape must stop here."""
    if x.dim() != 3 or h0.dim() != 2:
        message = f"x must be [L, B, I] and h0 [B, H], got {list(x.shape)} and {list(h0.shape)}"
        raise ValueError(message)
    (steps, rows, inputs), size = x.shape, h0.shape[1]
    wanted = {
        "h0": (h0, [rows, size]),
        "keep": (keep, [steps, rows]),
        "w_ih": (w_ih, [3 * size, inputs]),
        "w_hh": (w_hh, [3 * size, size]),
        "b_ih": (b_ih, [3 * size]),
        "b_hh": (b_hh, [3 * size]),
    }
    for name, (tensor, shape) in wanted.items():
        if list(tensor.shape) != shape:
            message = f"{name} must be {shape} for x {list(x.shape)}, got {list(tensor.shape)}"
            raise ValueError(message)
