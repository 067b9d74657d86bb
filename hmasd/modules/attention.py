"""The coordinator's transformer blocks (post-LayerNorm, as in MAT)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from hmasd.modules.init import RELU_GAIN, SMALL_GAIN, orthogonal


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

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Queries [B, L, d] look at memory [B, L, d]; causal: token i sees tokens 0..i."""
        batch, length, size = queries.shape

        def heads(x: Tensor) -> Tensor:  # [B, L, d] -> [B, heads, L, d / heads]
            return x.view(batch, length, self.num_heads, -1).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            heads(self.query(queries)),
            heads(self.key(memory)),
            heads(self.value(memory)),
            is_causal=self.causal,
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, length, size))


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
        tokens = self.norm_attention(tokens + self.attention(tokens, tokens))
        return self.norm_mlp(tokens + self.mlp(tokens))


class DecoderBlock(nn.Module):
    """Two masked attentions, then the MLP; the second one's query is the encoder's output."""

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.self_attention = Attention(size, num_heads, causal=True)
        self.cross_attention = Attention(size, num_heads, causal=True)
        self.mlp = feed_forward(size)
        self.norm_self = nn.LayerNorm(size)
        self.norm_cross = nn.LayerNorm(size)
        self.norm_mlp = nn.LayerNorm(size)

    def forward(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """Tokens [B, L, d] with the encoder's output [B, L, d] -> [B, L, d]."""
        tokens = self.norm_self(tokens + self.self_attention(tokens, tokens))
        tokens = self.norm_cross(encoded + self.cross_attention(encoded, tokens))
        return self.norm_mlp(tokens + self.mlp(tokens))
