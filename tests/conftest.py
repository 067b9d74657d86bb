"""What every test runs under: one torch thread, a fixed global seed, float32 unless asked."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch

from hmasd import validation
from hmasd.config import Config

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started by a script in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that programs under test end


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks that a test makes without an agent draw their weights from torch's global seed."""
    torch.manual_seed(0)


@pytest.fixture
def float64() -> Iterator[None]:
    """Every network made in the test computes in float64, so that equal means equal to 1e-10."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and pages may name a device that this machine has not, but none that nobody has."""

    def problems(config: Config) -> tuple[str, ...]:
        torch.device(config.device)
        return ()

    monkeypatch.setattr(validation, "device_problems", problems)
