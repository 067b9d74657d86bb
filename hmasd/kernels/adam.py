"""Gradient clipping and Adam on one flat tensor, as one operation: compiled kernel, eager twin."""

from __future__ import annotations

import torch
from torch import Tensor

from hmasd.kernels.build import fast_available


class ClippedAdam:
    """Adam (Kingma and Ba, 2015) on a flat parameter whose gradient is clipped to a norm.

    The state is that of `torch.optim.Adam`, which the eager path calls.
    """

    def __init__(self, flat: torch.nn.Parameter, max_norm: float, lr: float, eps: float) -> None:
        """`flat` has a gradient already, that every backward adds to."""
        self.flat = flat
        self.max_norm = max_norm
        self.adam = torch.optim.Adam([flat], lr=lr, eps=eps, fused=True)
        self.adam.state[flat] = {
            "step": torch.zeros((), dtype=torch.float32, device=flat.device),
            "exp_avg": torch.zeros_like(flat),
            "exp_avg_sq": torch.zeros_like(flat),
        }

    def step(self) -> Tensor:
        """Clip the gradient and move; returns its norm before clipping, a scalar.

        If the norm is not finite nothing is changed but, on the eager path, the gradient.
        """
        flat, gradient = self.flat, self.flat.grad
        assert gradient is not None, "made with the parameter"
        if not (flat.is_cpu and flat.dtype == torch.float32 and fast_available()):
            return self._step_eager(gradient)
        (group,) = self.adam.param_groups
        state = self.adam.state[flat]
        moments = (state["exp_avg"], state["exp_avg_sq"], state["step"])
        numbers = (self.max_norm, group["lr"], *group["betas"], group["eps"])
        with torch.no_grad():
            kernel = torch.ops.hmasd_kernels.clipped_adam.default
            return kernel(flat.detach(), gradient, *moments, *numbers)

    def _step_eager(self, gradient: Tensor) -> Tensor:
        """The same without waiting for the device: torch's fused Adam reads `found_inf` there."""
        norm = torch.linalg.vector_norm(gradient)
        gradient.mul_((self.max_norm / (norm + 1e-6)).clamp(max=1.0))
        finite = torch.isfinite(norm)
        # fp32, whatever the parameters are; an attribute that the types of torch do not know
        self.adam.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.adam.step()
        return norm
