"""A decorator that gives a function of tensors its compiled kernel; the function is the twin."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from hmasd.kernels.build import fast_available

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(
    name: str, suits: Callable[..., bool], result: Callable[..., Any] | None = None
) -> Callable[[Function], Function]:
    """Call the kernel `name` instead of the decorated function where it can do the work.

    Kernels work on float32 on the CPU and are at most once differentiable. The function itself
    stays reachable as `.eager`.

    Args:
        name: of the kernel in `torch.ops.hmasd_kernels`; it takes the function's arguments.
        suits: of the same arguments: whether their shapes are those that the kernel reads.
        result: makes the function's result of the kernel's several ones.
    """

    def decorate(eager: Function) -> Function:
        @functools.wraps(eager)
        def function(*arguments: Any) -> Any:
            if not _readable(arguments) or not suits(*arguments) or not fast_available():
                return eager(*arguments)
            kernel = getattr(torch.ops.hmasd_kernels, name).default
            answer = kernel(*(x.contiguous() if isinstance(x, Tensor) else x for x in arguments))
            return result(*answer) if result else answer

        function.eager = eager  # type: ignore[attr-defined]
        return cast("Function", function)

    return decorate


_READABLE = (torch.float32, torch.int64, torch.bool)


def _readable(arguments: tuple[Any, ...]) -> bool:
    return all(
        x.is_cpu and x.dtype in _READABLE and x.numel() > 0
        for x in arguments
        if isinstance(x, Tensor)
    )
