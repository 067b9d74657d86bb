"""The GRU: a replay that differs from the rollout makes every ratio wrong (trap 3)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hmasd.modules.recurrent import GRU

INPUT, HIDDEN, BATCH = 3, 5, 4


def network(dtype: torch.dtype) -> GRU:
    torch.manual_seed(1)
    gru = GRU(INPUT, HIDDEN)
    for bias in (gru.bias_ih, gru.bias_hh):  # they start at 0, where a swapped bias is invisible
        nn.init.normal_(bias, std=0.5)
    return gru.to(dtype)


def torch_twin(gru: GRU) -> nn.GRU:
    twin = nn.GRU(INPUT, HIDDEN).to(gru.weight_ih.dtype)
    state = {f"{name}_l0": value for name, value in gru.state_dict().items()}
    twin.load_state_dict(state)
    return twin


def one_by_one(gru: GRU, inputs: Tensor, hidden: Tensor, keep: Tensor) -> Tensor:
    """Step by step, the state set to 0 by hand: what the rollout does. [L, B, H]."""
    states = []
    for step, kept in zip(inputs, keep, strict=True):
        hidden = torch.where(kept.bool().unsqueeze(-1), hidden, 0.0)
        hidden = gru(step.unsqueeze(0), hidden, torch.ones_like(kept).unsqueeze(0))[0]
        states.append(hidden)
    return torch.stack(states)


def chunked(gru: GRU, inputs: Tensor, before: Tensor, keep: Tensor, chunk: int) -> Tensor:
    """Replay in chunks of `chunk` steps from `before` [T, B, H], the states before each step."""
    outputs = [
        gru(inputs[t : t + chunk], before[t], keep[t : t + chunk])
        for t in range(0, len(inputs), chunk)
    ]
    return torch.cat(outputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_restarts_it_is_torchs_gru(dtype: torch.dtype) -> None:
    """Outputs and all gradients, on the compiled kernel (float32) and in torch (float64)."""
    gru = network(dtype)
    twin = torch_twin(gru)
    inputs, hidden = torch.randn(6, BATCH, INPUT, dtype=dtype), torch.randn(BATCH, HIDDEN).to(dtype)
    results = []
    for run in (
        lambda x, h: gru(x, h, torch.ones(6, BATCH, dtype=dtype)),
        lambda x, h: twin(x, h.unsqueeze(0))[0],
    ):
        x, h = inputs.clone().requires_grad_(), hidden.clone().requires_grad_()
        module = gru if not results else twin
        output = run(x, h)
        weights = list(module.parameters())
        gradients = torch.autograd.grad((output**3).sum(), [x, h, *weights])
        results.append([output, *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    length=st.sampled_from([6, 8, 12]),
    restart_share=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    seed=st.integers(0, 2**20),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_chunked_replay_equals_step_by_step(
    length: int, restart_share: float, seed: int, dtype: torch.dtype
) -> None:
    """Trap 3: any done pattern, every chunk length that divides T."""
    gru, generator = network(dtype), torch.Generator().manual_seed(seed)
    inputs = torch.randn(length, BATCH, INPUT, generator=generator).to(dtype)
    hidden = torch.randn(BATCH, HIDDEN, generator=generator).to(dtype)
    keep = (torch.rand(length, BATCH, generator=generator) >= restart_share).to(dtype)
    with torch.no_grad():
        expected = one_by_one(gru, inputs, hidden, keep)
        before = torch.cat([hidden.unsqueeze(0), expected[:-1]])
        tolerance = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 2e-6}
        for chunk in (c for c in range(1, length + 1) if length % c == 0):
            replay = chunked(gru, inputs, before, keep, chunk)
            torch.testing.assert_close(replay, expected, **tolerance)


@pytest.mark.parametrize("bug", ["state after the step", "zero state", "restart ignored", "late"])
def test_a_wrong_replay_would_be_seen(bug: str) -> None:
    """Control: the usual mistakes of a chunked replay."""
    gru = network(torch.float64)
    inputs, hidden = torch.randn(8, BATCH, INPUT).double(), torch.randn(BATCH, HIDDEN).double()
    keep = (torch.rand(8, BATCH) > 0.3).double()
    with torch.no_grad():
        expected = one_by_one(gru, inputs, hidden, keep)
        before = torch.cat([hidden.unsqueeze(0), expected[:-1]])
        if bug == "state after the step":
            before = expected
        elif bug == "zero state":
            before = torch.zeros_like(before)
        elif bug == "restart ignored":
            keep = torch.ones_like(keep)
        else:
            keep = keep.roll(1, 0)
        assert (chunked(gru, inputs, before, keep, 4) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_gradient_crosses_a_restart(dtype: torch.dtype) -> None:
    """A gradient through a restart would credit one episode with what another did."""
    gru = network(dtype)
    inputs = torch.randn(6, 1, INPUT, dtype=dtype, requires_grad=True)
    keep = torch.ones(6, 1, dtype=dtype)
    keep[3] = 0
    states = gru(inputs, torch.randn(1, HIDDEN, dtype=dtype), keep)
    (gradient,) = torch.autograd.grad(states[4:].sum(), inputs)
    assert (gradient[:3] == 0).all()
    assert (gradient[3:5] != 0).any(-1).all()  # control: the episode's own steps do count


def test_rows_do_not_mix() -> None:
    gru = network(torch.float64)
    inputs, hidden = torch.randn(5, BATCH, INPUT).double(), torch.randn(BATCH, HIDDEN).double()
    keep = (torch.rand(5, BATCH) > 0.3).double()
    together = gru(inputs, hidden, keep)
    for row in range(BATCH):
        one = slice(row, row + 1)
        torch.testing.assert_close(gru(inputs[:, one], hidden[one], keep[:, one]), together[:, one])
