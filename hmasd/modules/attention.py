"""The coordinator's transformer blocks (post-LayerNorm, as in MAT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hmasd.kernels.compiled import compiled
from hmasd.modules.init import RELU_GAIN, SMALL_GAIN, orthogonal


class KeyValueCache:
    """Keys and values of the tokens that an attention has seen, for tokens that come one by one."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, Tensor] | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in those of new tokens, each [B, heads, L, d]; returns those of all so far."""
        if self._seen is not None:
            keys = torch.cat([self._seen[0], keys], dim=2)
            values = torch.cat([self._seen[1], values], dim=2)
        self._seen = keys, values
        return self._seen


class Attention(nn.Module):
    """Multi-head scaled dot-product attention."""

    def __init__(self, size: int, num_heads: int, *, causal: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.query = orthogonal(nn.Linear(size, size), SMALL_GAIN)
        self.key = orthogonal(nn.Linear(size, size), SMALL_GAIN)
        self.value = orthogonal(nn.Linear(size, size), SMALL_GAIN)
        self.output = orthogonal(nn.Linear(size, size), SMALL_GAIN)

    def forward(
        self, queries: Tensor, memory: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Queries [B, L, d] look at memory [B, L, d]; causal: token i sees tokens 0..i.

        With a cache L is 1: the query is of the newest token, and sees all that the cache holds.
        """
        keys, values = self._heads(self.key(memory)), self._heads(self.value(memory))
        if cache is not None:
            keys, values = cache.extend(keys, values)
        mixed = functional.scaled_dot_product_attention(
            self._heads(self.query(queries)), keys, values, is_causal=self.causal and cache is None
        )
        return self.output(mixed.transpose(1, 2).reshape(queries.shape))

    def joined(
        self, x: Tensor, memory: Tensor, norm: nn.LayerNorm, cache: KeyValueCache | None = None
    ) -> Tensor:
        """norm(x + attention of x to memory), see `forward`; whole sequences in one operation."""
        if cache is not None:
            return norm(x + self(x, memory, cache))
        return attend(
            x, memory, self.num_heads, self.causal, *self.parameters(), *norm.parameters()
        )

    def _heads(self, x: Tensor) -> Tensor:
        """[B, L, d] -> [B, heads, L, d / heads]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _whole_sequences(queries: Tensor, memory: Tensor, heads: int, *others: object) -> bool:
    return queries.shape == memory.shape and queries.dim() == 3 and queries.shape[-1] % heads == 0


@compiled("attend", _whole_sequences)
def attend(queries: Tensor, memory: Tensor, heads: int, causal: bool, *weights: Tensor) -> Tensor:
    """LayerNorm(x + attention of x to the memory), both [B, L, d] -> [B, L, d].

    Args:
        queries: x.
        memory: what is looked at.
        heads: number of heads.
        causal: token i sees tokens 0..i, not all.
        weights: weight and bias of query, key, value and output, and of the norm.
    """
    *linears, scale, shift = weights
    query, key, value = (
        functional.linear(x, *linears[place : place + 2]).unflatten(-1, (heads, -1)).transpose(1, 2)
        for place, x in ((0, queries), (2, memory), (4, memory))
    )  # [B, heads, L, d / heads]
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    mixed = functional.linear(mixed.transpose(1, 2).reshape(queries.shape), *linears[6:])
    return functional.layer_norm(queries + mixed, queries.shape[-1:], scale, shift)


@compiled("feed", lambda x, *weights: x.dim() == 3)
def feed(x: Tensor, *weights: Tensor) -> Tensor:
    """LayerNorm(x + W_2 gelu(W_1 x + b_1) + b_2), [B, L, d] -> [B, L, d]; weights in order."""
    w_1, b_1, w_2, b_2, scale, shift = weights
    active = functional.gelu(functional.linear(x, w_1, b_1))
    return functional.layer_norm(
        x + functional.linear(active, w_2, b_2), x.shape[-1:], scale, shift
    )


def feed_forward(size: int) -> nn.Sequential:
    """The blocks' MLP: Linear, GELU, Linear."""
    first = orthogonal(nn.Linear(size, size), RELU_GAIN)
    return nn.Sequential(first, nn.GELU(), orthogonal(nn.Linear(size, size), SMALL_GAIN))


class EncoderBlock(nn.Module):
    """Self-attention over all tokens, then the MLP, each with its residual and LayerNorm."""

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.attention = Attention(size, num_heads, causal=False)
        self.mlp = feed_forward(size)
        self.norm_attention = nn.LayerNorm(size)
        self.norm_mlp = nn.LayerNorm(size)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, L, d] -> [B, L, d]."""
        tokens = self.attention.joined(tokens, tokens, self.norm_attention)
        return feed(tokens, *self.mlp.parameters(), *self.norm_mlp.parameters())


Caches = tuple[KeyValueCache, KeyValueCache]
"""Of a decoder block's two attentions."""


class DecoderBlock(nn.Module):
    """Two masked attentions, then the MLP; the second one's query is the encoder's output.

    With `choice_residual` it is the sum of that and of what the first made of the tokens, so that
    the newest choice reaches its successor also where attention hardly listens (as it does at
    first) or only to the tokens before it (where no gradient would bring it back).
    """

    def __init__(self, size: int, num_heads: int, choice_residual: bool) -> None:
        super().__init__()
        self.choice_residual = choice_residual
        self.self_attention = Attention(size, num_heads, causal=True)
        self.cross_attention = Attention(size, num_heads, causal=True)
        self.mlp = feed_forward(size)
        self.norm_self = nn.LayerNorm(size)
        self.norm_cross = nn.LayerNorm(size)
        self.norm_mlp = nn.LayerNorm(size)

    def forward(self, tokens: Tensor, encoded: Tensor, caches: Caches | None = None) -> Tensor:
        """Tokens [B, L, d] with the encoder's output [B, L, d] -> [B, L, d].

        With caches L is 1, the newest token, and the block knows the ones before from them.
        """
        of_self, of_cross = caches or (None, None)
        tokens = self.self_attention.joined(tokens, tokens, self.norm_self, of_self)
        queries = encoded + tokens if self.choice_residual else encoded
        tokens = self.cross_attention.joined(queries, tokens, self.norm_cross, of_cross)
        return feed(tokens, *self.mlp.parameters(), *self.norm_mlp.parameters())
