"""A GRU whose state restarts inside its sequences, by torch's own fused GRU (cuDNN on a GPU).

That one knows no restarts. But what follows a restart depends on nothing before it, so a sequence
may be cut there: its pieces are sequences of their own, of unequal length, and torch runs those as
one packed batch. No step is padded, none is computed twice.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hmasd.kernels.transfer import to_device

# cuDNN wants its four weights alone in one block of memory. Ours are views of the network's flat
# parameters, so torch copies them there: 100 KB at hidden 64, no reason to alarm anybody.
warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")


class Pieces(NamedTuple):
    """L steps of B sequences as a packed batch of P pieces, the longest first."""

    batch_sizes: Tensor  # [<= L] int64 on the host: how many pieces have a step j
    order: Tensor  # [L * B] the step t * B + b that stands in each packed row
    place: Tensor  # [L * B] the packed row in which step t * B + b stands
    sequence: Tensor  # [P] the sequence that each piece is cut from
    goes_on: Tensor  # [P, 1] 1: it starts from that sequence's first state; 0: from zeros

    def to(self, device: torch.device, dtype: torch.dtype) -> Pieces:
        """Everything that is not for the host, on a device."""
        return Pieces(
            self.batch_sizes,
            to_device(self.order, device),
            to_device(self.place, device),
            to_device(self.sequence, device),
            to_device(self.goes_on, device, dtype),
        )


def cut_at_restarts(keep: Tensor) -> Pieces:
    """Cut sequences where their state restarts; keep: [L, B] on the host, 0 where it does."""
    steps, rows = keep.shape
    kept = keep.detach().numpy() != 0
    starts = ~kept
    starts[0] = True
    first = np.flatnonzero(starts.T)  # [P] of b * L + t: piece after piece, sequence by sequence
    length = np.diff(first, append=steps * rows)
    longest_first = np.argsort(-length, kind="stable")
    rank = np.empty_like(longest_first)
    rank[longest_first] = np.arange(len(first))
    batch_sizes = np.cumsum(np.bincount(length)[:0:-1])[::-1]  # pieces of more than j steps
    step = np.arange(steps * rows) - np.repeat(first, length)
    place = (np.cumsum(batch_sizes) - batch_sizes)[step] + np.repeat(rank, length)
    place = place.reshape(rows, steps).T.ravel()  # of b * L + t -> of t * B + b
    sequence, start = np.divmod(first[longest_first], steps)
    goes_on = (start == 0) & kept[0, sequence]
    arrays = (batch_sizes.copy(), np.argsort(place), place, sequence, goes_on[:, None])
    return Pieces(*(torch.from_numpy(x) for x in arrays))


def gru_sequence_packed(
    x: Tensor, h0: Tensor, keep: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> Tensor:
    """As `hmasd.kernels.gru.gru_sequence`, on any device; `keep` on the host."""
    if len(x) == 1:
        kept = h0 * to_device(keep.detach()[0].unsqueeze(-1), h0.device)
        return torch.gru_cell(x[0], kept, w_ih, w_hh, b_ih, b_hh).unsqueeze(0)
    pieces = _pieces_of(keep, x)
    states, _ = torch._VF.gru(
        x.flatten(0, 1).index_select(0, pieces.order),
        pieces.batch_sizes,
        (h0.index_select(0, pieces.sequence) * pieces.goes_on).unsqueeze(0),
        [w_ih, w_hh, b_ih, b_hh],
        True,  # there are biases
        1,  # layer
        0.0,  # dropout
        torch.is_grad_enabled(),
        False,  # one direction
    )
    return states.index_select(0, pieces.place).view(*x.shape[:2], -1)


_CUT: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Pieces by `keep`, beside the version of it that was cut: every epoch comes with the same one."""


def _pieces_of(keep: Tensor, like: Tensor) -> Pieces:
    """The pieces of `keep`, where and as `like` is, cut once as long as nobody writes to it."""
    key = (keep._version, like.device, like.dtype)
    known, pieces = _CUT.get(keep, (None, None))
    if known != key:
        pieces = cut_at_restarts(keep).to(like.device, like.dtype)
        _CUT[keep] = key, pieces
    return pieces
