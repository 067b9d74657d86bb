"""Torch's own GRU over pieces cut at restarts, against the eager twin in float64."""

from __future__ import annotations

import pytest
import torch

from hmasd.kernels import packed
from hmasd.kernels.gru import gru_sequence_eager
from hmasd.kernels.packed import cut_at_restarts, gru_sequence_packed
from tests.helpers.fake_gpu import needs_gpu
from tests.kernels.conftest import error, run
from tests.kernels.test_gru import random_arguments

SHAPES = [(1, 5, 3, 4), (2, 1, 1, 1), (7, 30, 5, 8), (25, 9, 8, 6), (8, 200, 4, 4)]  # L, B, I, H


def arguments(
    shape: tuple[int, int, int, int], restart_share: float, seed: int = 0
) -> list[torch.Tensor]:
    """As `gru_sequence` takes them; a share of the states restart."""
    generator = torch.Generator().manual_seed(seed)
    made = random_arguments(*shape, seed)
    made[2] = (torch.rand(shape[:2], generator=generator) >= restart_share).float()
    return made


def without_keep(function, keep):
    """`keep` is data: `run` would ask for its gradient."""
    return lambda x, h0, *weights: function(x, h0, keep, *weights)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("restart_share", [0.0, 0.1, 0.5, 1.0])
def test_equals_the_twin_in_values_and_gradients(shape, restart_share) -> None:
    for seed in range(3):
        x, h0, keep, *weights = arguments(shape, restart_share, seed)
        mine, twin = (
            run(without_keep(function, keep.double()), (x, h0, *weights), torch.float64)
            for function in (gru_sequence_packed, gru_sequence_eager)
        )
        assert len(mine) == 7  # states, and gradients of six arguments
        assert error(mine, twin) < 1e-12


@pytest.mark.parametrize("bug", ["restart ignored", "a step late", "state kept", "state lost"])
def test_a_wrong_cut_would_be_seen(bug, monkeypatch) -> None:
    """Control: the usual mistakes."""
    x, h0, keep, *weights = (a.double() for a in arguments((7, 30, 5, 8), 0.2))
    twin = gru_sequence_eager(x, h0, keep, *weights)
    if bug == "restart ignored":
        keep = torch.ones_like(keep)
    elif bug == "a step late":
        keep = keep.roll(1, 0)
    else:
        cut = cut_at_restarts(keep)
        of_all = torch.full_like(cut.goes_on, bug == "state kept")
        monkeypatch.setattr(packed, "cut_at_restarts", lambda _: cut._replace(goes_on=of_all))
    assert (gru_sequence_packed(x, h0, keep, *weights) - twin).abs().max() > 1e-3


def test_pieces_by_hand() -> None:
    """Two sequences of three steps: | a0 | a1 a2 | and | b0 b1 b2 |, which goes on."""
    pieces = cut_at_restarts(torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]]))
    # longest first: b0 b1 b2, a1 a2, a0; a packed batch holds all first steps, then all second ones
    assert pieces.batch_sizes.tolist() == [3, 2, 1]
    assert pieces.order.tolist() == [1, 2, 0, 3, 4, 5]  # b0 a1 a0, b1 a2, b2 as t * B + b
    assert pieces.place.tolist() == [2, 0, 1, 3, 4, 5]
    assert pieces.sequence.tolist() == [1, 0, 0]
    assert pieces.goes_on.tolist() == [[True], [False], [False]]


def test_no_step_is_padded_or_computed_twice() -> None:
    _, _, keep, *_ = arguments((25, 9, 8, 6), 0.3)
    pieces = cut_at_restarts(keep)
    assert int(pieces.batch_sizes.sum()) == keep.numel()
    assert sorted(pieces.order.tolist()) == list(range(keep.numel()))
    assert (pieces.batch_sizes.diff() <= 0).all()  # what torch's packed batches ask for


def test_restarts_are_cut_once_until_they_change(monkeypatch) -> None:
    cuts = []

    def spy(keep):
        cuts.append(keep.clone())
        return cut_at_restarts(keep)

    monkeypatch.setattr(packed, "cut_at_restarts", spy)
    given = arguments((7, 30, 5, 8), 0.2)
    first = gru_sequence_packed(*given)
    assert torch.equal(gru_sequence_packed(*given), first)
    assert len(cuts) == 1
    given[2].fill_(1.0)
    whole = gru_sequence_packed(*given)
    assert len(cuts) == 2
    torch.testing.assert_close(whole, gru_sequence_eager(*given))
    assert not torch.equal(whole, first)


def test_a_batch_that_is_gone_leaves_no_pieces_behind() -> None:
    before = len(packed._CUT)
    given = arguments((7, 30, 5, 8), 0.2)
    gru_sequence_packed(*given)
    assert len(packed._CUT) == before + 1
    del given
    assert len(packed._CUT) == before


@needs_gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_on_a_gpu_equals_the_twin(shape) -> None:
    from hmasd.kernels.gru import gru_sequence

    x, h0, keep, *weights = arguments(shape, 0.2)
    moved = [a.cuda() for a in (x, h0, *weights)]
    mine = run(without_keep(gru_sequence, keep.double()), moved, torch.float64)
    twin = run(without_keep(gru_sequence_eager, keep.double()), (x, h0, *weights), torch.float64)
    assert error([a.cpu() for a in mine], twin) < 1e-10
