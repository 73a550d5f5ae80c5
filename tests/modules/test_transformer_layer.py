"""The interleaved decoder layer: order of its sublayers, the residual stream of each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from fairseq_plugins.modules.attention import MultiHeadAttention
from fairseq_plugins.modules.attention_masks import causal_mask
from fairseq_plugins.modules.feed_forward import FeedForward
from fairseq_plugins.modules.residual import residual_schemes
from fairseq_plugins.modules.transformer_layer import LayerContext, TransformerLayer

MASK = causal_mask(4, 4, torch.device("cpu"))


def interleaved(scheme):
    torch.manual_seed(0)

    def inner(width):
        return nn.LayerNorm(width) if scheme.inner_norm else None

    layer = TransformerLayer(
        8,
        scheme,
        MultiHeadAttention(8, 2, inner_norm=inner(8)),
        FeedForward(8, 12, activation=F.relu, inner_norm=inner(12)),
        first_feed_forward=FeedForward(8, 10, activation=F.relu, inner_norm=inner(10)),
        encoder_attn=MultiHeadAttention(8, 2),
    ).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


@pytest.mark.parametrize("residual", ["post", "pre", "deepnorm", "subln"])
def test_the_interleaved_layer_written_out(residual):
    """DeltaLM: self-attention, feed-forward 1, cross-attention, feed-forward 2, each with skip and norm."""
    scheme = residual_schemes(residual, 6, 3).decoder
    layer = interleaved(scheme)
    x, memory = torch.randn(2, 4, 8).double(), torch.randn(2, 5, 8).double()
    found, _ = layer(x, LayerContext(self_mask=MASK, memory_BSD=memory))

    def self_attention(x):
        return layer.self_attn(x, *layer.self_attn.keys_values(x), MASK)

    def cross_attention(x):
        return layer.encoder_attn(x, *layer.encoder_attn.keys_values(memory))

    for branch, norm in (
        (self_attention, layer.self_attn_layer_norm),
        (lambda x: layer.first_feed_forward(x)[0], layer.ffn_layer_norm),
        (cross_attention, layer.encoder_attn_layer_norm),
        (lambda x: layer.feed_forward(x)[0], layer.final_layer_norm),
    ):
        if scheme.norm_first:
            x = x + branch(norm(x))
        else:
            x = norm(scheme.alpha * x + branch(x))
    assert_close(found, x)


def test_names_of_the_interleaved_layer():
    layer = interleaved(residual_schemes("post", 6, 3).decoder)
    slots = {name.split(".")[0] for name in layer.state_dict()}
    assert slots == {
        *("self_attn", "self_attn_layer_norm", "first_feed_forward", "ffn_layer_norm"),
        *("encoder_attn", "encoder_attn_layer_norm", "feed_forward", "final_layer_norm"),
    }
    assert layer.first_feed_forward.fc1.out_features == 10 and layer.feed_forward.fc1.out_features == 12
