import math

import pytest
import torch

from fairseq_plugins.modules.attention import MultiHeadAttention
from fairseq_plugins.modules.attention_masks import Piece, both, causal_mask, masked_bias, padding_mask


def attend(attention, x, memory=None, **kwargs):
    return attention(x, *attention.keys_values(x if memory is None else memory), **kwargs)


@pytest.mark.parametrize("temperature, divisor", [(None, 3), (3.0, 3), (12.0, 12), (1.5, 1.5)])
def test_against_the_formula(temperature, divisor):
    torch.manual_seed(0)
    attention = MultiHeadAttention(6, 2, temperature=temperature).double()
    x, memory = torch.randn(2, 3, 6).double(), torch.randn(2, 5, 6).double()
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        q, k, v = (
            attention.q_proj(x)[..., head],
            attention.k_proj(memory)[..., head],
            attention.v_proj(memory)[..., head],
        )
        heads.append((q @ k.mT / math.sqrt(divisor)).softmax(-1) @ v)
    torch.testing.assert_close(attend(attention, x, memory), attention.out_proj(torch.cat(heads, -1)))


def test_masks_written_out():
    assert causal_mask(2, 3, torch.device("cpu")).int().tolist() == [[[[1, 1, 0], [1, 1, 1]]]]
    padding = torch.tensor([[False, False, True]])
    assert padding_mask(padding).int().tolist() == [[[[1, 1, 0]]]]
    assert both(None, None) is None
    assert both(causal_mask(3, 3, torch.device("cpu")), padding_mask(padding)).int().tolist() == [
        [[[1, 0, 0], [1, 1, 0], [1, 1, 0]]]
    ]


def test_a_masked_key_has_no_influence():
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2)
    x = torch.randn(1, 4, 8)
    mask = padding_mask(torch.tensor([[False, False, False, True]]))
    changed = x.clone()
    changed[:, 3] += 1
    torch.testing.assert_close(attend(attention, x, mask=mask)[:, :3], attend(attention, changed, mask=mask)[:, :3])
    assert not torch.allclose(attend(attention, x)[:, :3], attend(attention, changed)[:, :3])


def test_hypotheses_of_a_sentence_share_its_keys():
    attention = MultiHeadAttention(8, 2)
    memory, x = torch.randn(2, 5, 8), torch.randn(6, 1, 8)
    mask = padding_mask(torch.tensor([[False] * 5, [False] * 3 + [True] * 2]))
    shared = attend(attention, x, memory, mask=mask)
    copied = attend(attention, x, memory.repeat_interleave(3, 0), mask=mask.repeat_interleave(3, 0))
    torch.testing.assert_close(shared, copied)


@pytest.mark.parametrize("gain", [0.25, 1.0, 1.7])
def test_start_strength(gain):
    attention = MultiHeadAttention(256, 4, memory_dim=512, gain=gain)
    for name, fan_in, expected in (("q", 256, 1.0), ("k", 512, 1.0), ("v", 512, gain), ("out", 256, gain)):
        weight = getattr(attention, f"{name}_proj").weight
        assert weight.std().item() == pytest.approx(expected * math.sqrt(2 / (fan_in + 256)), rel=0.02)
        assert not getattr(attention, f"{name}_proj").bias.any()


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple"):
        MultiHeadAttention(10, 4)


@pytest.mark.parametrize("temperature", [None, 9.0])
@pytest.mark.parametrize("masks", ["none", "bool", "bias"])
def test_joint_attention_is_attention_over_both_in_one_row(masks, temperature):
    """Three hypotheses of each of two sentences, two queries each, over 5 keys of the sentence and 4 of their own."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, inner_norm=torch.nn.LayerNorm(8), temperature=temperature).double()
    x, memory, own = torch.randn(6, 2, 8), torch.randn(2, 5, 8), torch.randn(6, 4, 8)
    x, memory, own = x.double(), memory.double(), own.double()
    own_mask, memory_mask = causal_mask(2, 4, x.device), None
    copied_mask = torch.ones(6, 1, 2, 5, dtype=torch.bool)
    if masks != "none":
        memory_mask = padding_mask(torch.tensor([[False] * 5, [False] * 3 + [True] * 2]))
        copied_mask = memory_mask.repeat_interleave(3, 0).expand(6, 1, 2, 5)
    if masks == "bias":
        biases = torch.randn(1, 2, 2, 4).double(), torch.randn(2, 2, 2, 5).double()
        own_mask, memory_mask = masked_bias(biases[0], own_mask), masked_bias(biases[1], memory_mask)
        whole = torch.cat((memory_mask.repeat_interleave(3, 0), own_mask.expand(6, 2, 2, 4)), dim=-1)
    else:
        whole = torch.cat((copied_mask, own_mask.expand(6, 1, 2, 4)), dim=-1)
    rows = torch.cat((memory.repeat_interleave(3, 0), own), dim=1)
    joint = attention.forward_jointly(
        x, *attention.keys_values(own), own_mask, attention.keys_values(memory), memory_mask
    )
    torch.testing.assert_close(joint, attend(attention, x, rows, mask=whole))


# ---- temperature -----------------------------------------------------------------------------------------------------


def every_road(attention, x, memory):
    """What each way through the attention gives: without a mask, with masks of both types, in pieces, jointly."""
    causal = causal_mask(x.size(1), x.size(1), x.device)
    yield attend(attention, x, memory)
    yield attend(attention, x, causal=True)
    for mask in (causal, masked_bias(torch.zeros(1, dtype=x.dtype), causal)):
        yield attend(attention, x, mask=mask)
    yield attend(attention, x, mask=(Piece(1, 1, None), Piece(x.size(1) - 1, x.size(1), causal[:, :, 1:])))
    yield attention.forward_jointly(x, *attention.keys_values(x), causal, attention.keys_values(memory))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_width_as_temperature_is_none_bit_for_bit(dtype):
    torch.manual_seed(0)
    plain, same, other = (MultiHeadAttention(21, 3, temperature=temperature).to(dtype) for temperature in (None, 7, 8))
    x, memory = torch.randn(2, 5, 21, dtype=dtype), torch.randn(2, 9, 21, dtype=dtype)
    for attention in (same, other):
        attention.load_state_dict(plain.state_dict())
    found = zip(*(every_road(attention, x, memory) for attention in (plain, same, other)), strict=True)
    for expected, equal, unequal in found:
        assert torch.equal(equal, expected) and not torch.equal(unequal, expected)


def test_at_a_high_temperature_attention_is_the_mean_of_what_may_be_seen():
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, temperature=1e30).double()
    x, memory = torch.randn(2, 4, 8).double(), torch.randn(2, 5, 8).double()
    own, theirs = attention.v_proj(x), attention.v_proj(memory)
    line = own.cumsum(1) / torch.arange(1, 5)[:, None]
    jointly = (own.cumsum(1) + theirs.sum(1, keepdim=True)) / torch.arange(6, 10)[:, None]
    means = [theirs.mean(1, keepdim=True).expand(-1, 4, -1), line, line, line, line, jointly]
    for found, mean in zip(every_road(attention, x, memory), means, strict=True):
        torch.testing.assert_close(found, attention.out_proj(mean))


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf])
def test_a_temperature_is_positive(temperature):
    with pytest.raises(ValueError, match="attention temperature"):
        MultiHeadAttention(8, 2, temperature=temperature)


def test_joint_attention_in_half_precision_adds_in_single():
    """3,000 keys of equal weight: bfloat16 would lose their sum."""
    attention = MultiHeadAttention(8, 2).bfloat16()
    with torch.no_grad():
        attention.k_proj.weight.zero_()
        attention.k_proj.bias.zero_()
    memory, own = torch.ones(1, 3000, 8).bfloat16(), torch.ones(1, 1, 8).bfloat16()
    joint = attention.forward_jointly(
        own, *attention.keys_values(own), causal_mask(1, 1, own.device), attention.keys_values(memory)
    )
    alone = attend(attention, own)
    torch.testing.assert_close(joint.float(), alone.float(), rtol=2e-2, atol=2e-2)
