"""The skill discoverer's body: a recurrent network under a skill, and one acting step of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hmasd.kernels.compiled import compiled
from hmasd.kernels.gru import gru_sequence
from hmasd.kernels.mlp import normalized_mlp
from hmasd.modules.distributions import draw_categorical, mask_logits, one_hot
from hmasd.modules.init import orthogonal
from hmasd.modules.mlp import MLP
from hmasd.modules.recurrent import GRU


class SkillConditionedGRU(nn.Module):
    """MLP, GRU, LayerNorm, Linear, with a one-hot skill joined to the first or the last input."""

    def __init__(
        self,
        input_size: int,
        num_skills: int,
        num_outputs: int,
        hidden_size: int,
        *,
        skill_at_input: bool,
        gains: tuple[float, float],
    ) -> None:
        """`gains`: scale of the last layer's weights on the features, and on a joined skill."""
        super().__init__()
        self.num_skills = num_skills
        self.skill_at_input = skill_at_input
        first, last = (num_skills, 0) if skill_at_input else (0, num_skills)
        self.mlp = MLP(input_size + first, hidden_size)
        self.gru = GRU(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.head = orthogonal(nn.Linear(hidden_size + last, num_outputs), gains[0])
        if last:
            nn.init.orthogonal_(self.head.weight[:, hidden_size:], gains[1])
        self._head_weights = [*self.norm.parameters(), *self.head.parameters()]
        self._gru_weights = list(self.gru.parameters())

    def forward(
        self, inputs: Tensor, skill: Tensor, hidden: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run L steps of B sequences.

        Args:
            inputs: [L, B, input_size].
            skill: [L, B] int64.
            hidden: [B, d] GRU state before the first step.
            keep: [L, B], 0 where the GRU state restarts.

        Returns:
            Outputs [L, B, num_outputs] and the GRU state after each step [L, B, d].
        """
        inputs, for_head = self._place_skill(inputs, skill)
        states = self.gru(self.mlp(inputs), hidden, keep)
        return normalized_mlp(states, self._head_weights, for_head), states

    def act(
        self,
        inputs: Tensor,
        skill: Tensor,
        hidden: Tensor,
        keep: Tensor,
        mask: Tensor | None,
        uniform: Tensor,
        scale: Tensor,
    ) -> Step:
        """One step of B sequences, and a draw by logits that are the scaled outputs: all [B, ...].

        Args:
            inputs: [B, input_size].
            skill: [B] int64.
            hidden: [B, d] GRU state.
            keep: [B], 0 where it restarts.
            mask: [B, num_outputs] bool, what may be chosen; None: all.
            uniform: [B] in [0, 1), the draws.
            scale: [], what the outputs are multiplied by.
        """
        placed = self._place_skill(inputs, skill)
        head = [*self._head_weights[:-2], *(scale * x for x in self._head_weights[-2:])]
        weights = (self.mlp.weights, self._gru_weights, head)
        return act_categorical(*placed, hidden, keep, mask, uniform, *weights)

    def _place_skill(self, inputs: Tensor, skill: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the MLP reads, and the skill if the head reads it."""
        if not self.skill_at_input:
            return inputs, skill
        return torch.cat([inputs, one_hot(skill, self.num_skills, inputs.dtype)], dim=-1), None


class Step(NamedTuple):
    """One acting step of B sequences."""

    choice: Tensor  # [B] int64
    logp: Tensor  # [B]
    state: Tensor  # [B, d] after the step


def _one_row_each(inputs: Tensor, *others: Any) -> bool:
    *tensors, mlp, gru, head = others
    return (
        all(x is None or len(x) == len(inputs) for x in tensors)
        and not torch.is_grad_enabled()
        and all(weight.dtype == inputs.dtype for weight in (*mlp, *gru, *head))
    )


@compiled("act_categorical", _one_row_each, Step)
def act_categorical(
    inputs: Tensor,
    skill: Tensor | None,
    hidden: Tensor,
    keep: Tensor,
    mask: Tensor | None,
    uniform: Tensor,
    mlp: Sequence[Tensor],
    gru: Sequence[Tensor],
    head: Sequence[Tensor],
) -> Step:
    """See `SkillConditionedGRU.act`; skill: None where the head has no columns for it.

    `mlp`, `gru` and `head` are the parameters of `normalized_mlp`, `gru_sequence` and again
    `normalized_mlp`. The kernel gives no gradients.
    """
    features = normalized_mlp(inputs, mlp)
    state = gru_sequence(features.unsqueeze(0), hidden, keep.unsqueeze(0), *gru).squeeze(0)
    logits = mask_logits(normalized_mlp(state, head, skill), mask)
    return Step(*draw_categorical(logits, uniform), state)
