"""The recurrent block: a GRU whose state restarts where an episode does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hmasd.kernels.gru import gru_sequence


class GRU(nn.Module):
    """Gated recurrent unit, replayed over sequences with restarts in their middle."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.zeros(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(3 * hidden_size))
        nn.init.orthogonal_(self.weight_ih)
        nn.init.orthogonal_(self.weight_hh)

    def forward(self, inputs: Tensor, hidden: Tensor, keep: Tensor) -> Tensor:
        """Run `L` steps of `B` sequences.

        Args:
            inputs: [L, B, input_size].
            hidden: [B, hidden_size], the state before the first step.
            keep: [L, B] float, 0 where the state restarts before this step, else 1.

        Returns:
            [L, B, hidden_size], the state after each step.
        """
        return gru_sequence(
            inputs, hidden, keep, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh
        )
