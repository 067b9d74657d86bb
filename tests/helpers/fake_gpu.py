"""A GPU that computes nothing: tensors on it have shape, type and device, but no numbers.

So nobody can decide by what is in them without being caught, and torch refuses to mix them with
the host's tensors as it does on a real GPU. Where torch itself would wait in silence (a copy from
memory that is not pinned, an index that lies on the host), `FakeGPU` raises. The host's tensors
are real. Backward passes cannot run: torch has no streams for a device that is not there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from hmasd.networks import HMASDNetworks

DEVICE = torch.device("cuda", 0)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")  # a real one
aten = torch.ops.aten
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""


class HiddenWaitError(AssertionError):
    """The host would have waited for the device."""


class FakeGPU(TorchDispatchMode):
    """While it is entered, DEVICE exists; counts the copies that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.copies = 0  # from the host, which does not wait for them
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._pinned = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is aten._pin_memory.default:
            assert not args[0].is_cuda, "only the host's memory can be pinned"
            if torch._debug_has_internal_overlap(args[0]) == 1:
                raise RuntimeError("what is expanded cannot be pinned")  # as torch does
            pinned = args[0].clone()
            self._pinned[pinned] = True
            return pinned
        given = tree_leaves((args, kwargs))
        tensors = [x for x in given if isinstance(x, Tensor)]
        to = [x.type for x in given if isinstance(x, torch.device)]
        if not any(x.is_cuda for x in tensors) and "cuda" not in to:
            return function(*args, **kwargs)
        if function is aten._to_copy.default and "cpu" in to:
            self.waits += 1
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        self._refuse_to_wait(function, args, kwargs, tensors)
        if function is aten._thnn_fused_gru_cell.default:  # torch knows no shapes of it
            hidden = args[2]
            return torch.empty_like(hidden), hidden.new_empty(len(hidden), 5 * hidden.shape[1])
        with self._fake:
            return function(*args, **kwargs)

    def _refuse_to_wait(
        self, function: Any, args: tuple, kwargs: dict, tensors: list[Tensor]
    ) -> None:
        on_host = [x for x in tensors if not x.is_cuda and x.dim() > 0]
        if function in (aten._to_copy.default, aten.copy_.default) and not all(
            x.is_cuda for x in tensors
        ):
            if not all(x in self._pinned for x in tensors if not x.is_cuda):
                raise HiddenWaitError(f"{function}: a copy of memory that is not pinned")
            if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
                raise HiddenWaitError(f"{function}: a copy that blocks")
            self.copies += 1
        elif function in (aten.index.Tensor, aten.index_put_.default) and on_host:
            raise HiddenWaitError(f"{function}: indices {[list(x.shape) for x in on_host]} on host")


class _HostGenerator(torch.Generator):
    """Builds without CUDA have no other."""

    def __new__(cls, device: object = None) -> _HostGenerator:
        return super().__new__(cls)


@pytest.fixture(scope="session")
def cuda_guard(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What torch asks for the current device of a type; builds without CUDA have none for it."""
    if torch.version.cuda is None:
        _compile_guard(tmp_path_factory.mktemp("guard"))


def _compile_guard(folder: Path) -> None:
    from torch.utils import cpp_extension

    (folder / "guard.cpp").write_text(GUARD)
    with pytest.MonkeyPatch.context() as patch:
        # pip installs ninja beside Python, which PATH does not name unless the venv is activated.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        patch.setenv("PATH", path)
        try:
            cpp_extension.load(
                name="guard",
                sources=[str(folder / "guard.cpp")],
                build_directory=str(folder),
                is_python_module=False,
            )
        except (RuntimeError, OSError) as error:
            pytest.skip(f"needs a C++ compiler: {str(error).splitlines()[0]}")


@pytest.fixture
def gpu(cuda_guard: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGPU]:
    """`Config(device="cuda:0")` works in the test, on the fake GPU."""
    monkeypatch.setattr(torch, "Generator", _HostGenerator)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(Tensor, "backward", lambda loss, gradient: None)
    # Fake parameters cannot be moved: they are made where they belong.
    make = HMASDNetworks.__init__
    monkeypatch.setattr(HMASDNetworks, "to", lambda networks, device: networks)
    monkeypatch.setattr(HMASDNetworks, "__init__", _made_on_device(make))
    with FakeGPU() as device:
        yield device


def _made_on_device(make: Any) -> Any:
    def init(networks: HMASDNetworks, *args: Any) -> None:
        with torch.device(DEVICE):
            make(networks, *args)

    return init
