"""The transformer's blocks: a mask that leaks would let a skill see the skills after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hmasd.modules.attention import Attention, DecoderBlock, EncoderBlock, KeyValueCache
from hmasd.modules.init import SMALL_GAIN

SIZE, LENGTH = 8, 5


def loud(module: nn.Module) -> nn.Module:
    """Weights of ordinary size: with the initial gain of 0.01 a leak would drown in rounding."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def reach(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """[L, L] bool: whether output token i changes with input token j; one batch row."""
    jacobian = torch.autograd.functional.jacobian(function, inputs)  # [1, L, d, 1, L, d]
    return jacobian.abs().sum((0, 2, 3, 5)) > 0


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_against_torch(heads: int, causal: bool, float64: None) -> None:
    ours = loud(Attention(SIZE, heads, causal=causal))
    oracle = nn.MultiheadAttention(SIZE, heads, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        oracle.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        oracle.out_proj.weight.copy_(ours.output.weight)
        oracle.out_proj.bias.copy_(ours.output.bias)
    queries, memory = torch.randn(2, 3, LENGTH, SIZE).unbind()

    def ask(masked: bool) -> Tensor:
        mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1) if masked else None
        return oracle(queries, memory, memory, attn_mask=mask, need_weights=False)[0]

    torch.testing.assert_close(ours(queries, memory), ask(causal))
    assert (ours(queries, memory) - ask(not causal)).abs().max() > 1e-2


@pytest.mark.parametrize("residual", [True, False])
def test_encoder_sees_all_and_decoder_sees_only_before(residual: bool, float64: None) -> None:
    """The causal jacobian is exactly lower triangular; the encoder's is full (the control)."""
    tokens, encoded = torch.randn(2, 1, LENGTH, SIZE).unbind()
    encoder, decoder = loud(EncoderBlock(SIZE, 2)), loud(DecoderBlock(SIZE, 2, residual))
    lower = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    assert reach(encoder, tokens).all()
    assert torch.equal(reach(lambda x: decoder(x, encoded), tokens), lower)
    own = torch.eye(LENGTH, dtype=torch.bool)  # the encoder's output enters as query and residual
    assert torch.equal(reach(lambda x: decoder(tokens, x), encoded), own)


def test_the_newest_choice_is_heard_where_attention_is_deaf(float64: None) -> None:
    """By the residual alone; without it (control) nothing of it arrives."""
    tokens, encoded = torch.randn(2, 1, LENGTH, SIZE).unbind()
    for residual in (True, False):
        decoder = loud(DecoderBlock(SIZE, 2, residual))
        for attention in (decoder.self_attention, decoder.cross_attention):
            torch.nn.init.zeros_(attention.output.weight)
        heard = reach(lambda x, decoder=decoder: decoder(x, encoded), tokens)
        assert torch.equal(heard, residual * torch.eye(LENGTH, dtype=torch.bool))


@pytest.mark.parametrize("name", ["self_attention", "cross_attention"])
def test_an_unmasked_attention_would_be_seen(name: str, float64: None) -> None:
    """Control: either of the decoder's attentions without its mask."""
    tokens, encoded = torch.randn(2, 1, LENGTH, SIZE).unbind()
    decoder = loud(DecoderBlock(SIZE, 2, True))
    getattr(decoder, name).causal = False
    assert reach(lambda x: decoder(x, encoded), tokens).triu(1).any()


def test_encoder_tells_agents_apart_by_content_alone(float64: None) -> None:
    """No positional encoding: permuting the tokens permutes the outputs."""
    encoder, tokens = loud(EncoderBlock(SIZE, 2)), torch.randn(3, LENGTH, SIZE)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(encoder(tokens[:, order]), encoder(tokens)[:, order])


def test_batch_rows_do_not_mix(float64: None) -> None:
    decoder, (tokens, encoded) = loud(DecoderBlock(SIZE, 2, True)), torch.randn(2, 3, LENGTH, SIZE)
    alone = torch.cat([decoder(tokens[b : b + 1], encoded[b : b + 1]) for b in range(3)])
    torch.testing.assert_close(decoder(tokens, encoded), alone)


def test_attention_starts_small() -> None:
    block = DecoderBlock(SIZE, 1, True)
    small = [block.mlp[2]]
    for part in (block.self_attention, block.cross_attention):
        small += [part.query, part.key, part.value, part.output]
    for layer in small:
        values = torch.linalg.svdvals(layer.weight)
        torch.testing.assert_close(values, torch.full_like(values, SMALL_GAIN))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
def test_tokens_one_by_one_equal_all_at_once(heads: int, residual: bool, float64: None) -> None:
    """What acting computes with cached keys and values is what the update computes in one pass."""
    tokens, encoded = torch.randn(2, 3, LENGTH, SIZE)
    decoder = loud(DecoderBlock(SIZE, heads, residual))
    caches = KeyValueCache(), KeyValueCache()
    steps = [decoder(tokens[:, i : i + 1], encoded[:, i : i + 1], caches) for i in range(LENGTH)]
    torch.testing.assert_close(torch.cat(steps, dim=1), decoder(tokens, encoded))
    forgetful = KeyValueCache(), KeyValueCache()  # control: the last token without those before
    alone = decoder(tokens[:, -1:], encoded[:, -1:], forgetful)
    assert (alone - steps[-1]).abs().max() > 1e-2
