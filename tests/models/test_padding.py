"""Padding costs no work in training, changes no number, and masks are made only where they say something."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fairseq_plugins.modules import packing
from tests.models_support import TINY_MT, build, dictionary, sentences, shifted

WORDS = dictionary()
MOE = ["--moe-experts", "4", "--moe-freq", "1"]
SUBLN = ["--residual", "subln"]
LENGTHS = [9, 3, 5]  # 10 of 27 places are padding


def inputs(lengths=LENGTHS, **order):
    target = sentences(WORDS, lengths, seed=1)
    source = sentences(WORDS, lengths, **{"left_pad": True, **order})
    return {"src_tokens": source, "src_lengths": None, "prev_output_tokens": shifted(target, WORDS)}, target


def translation(*flags):
    torch.manual_seed(0)
    return build("transformer_mt", WORDS, *TINY_MT, *flags).double().train()


def logits_and_gradients(model, net_input, target):
    logits = model(**net_input)[0][target.ne(WORDS.pad())]
    model.zero_grad()
    logits.square().sum().backward()
    return logits, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("left_pad", [True, False])
@pytest.mark.parametrize("flags", [["--residual", "deepnorm"], [*SUBLN, "--checkpoint-activations"], MOE])
def test_leaving_padding_out_changes_nothing(monkeypatch, flags, left_pad):
    monkeypatch.setattr("fairseq_plugins.models._auxiliary.AuxiliaryLosses._check", lambda *_: None)
    model = translation(*flags)
    net_input, target = inputs(left_pad=left_pad)
    packed, packed_gradients = logits_and_gradients(model, net_input, target)
    monkeypatch.setattr(packing, "WORTHWHILE", 1.0)
    whole, gradients = logits_and_gradients(model, net_input, target)
    assert_close(packed, whole)
    for got, wanted in zip(packed_gradients, gradients, strict=True):
        assert_close(got, wanted)


def test_projections_and_feed_forwards_see_real_tokens_alone():
    model, (net_input, _) = translation(), inputs()
    rows = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "output_projection" not in name:
            module.register_forward_hook(lambda _, x, __, name=name: rows.update({name: x[0].numel() // x[0].size(-1)}))
    model(**net_input)
    assert set(rows.values()) == {sum(LENGTHS)}
    assert any("encoder_attn.k_proj" in name for name in rows) and any("fc1" in name for name in rows)


@pytest.mark.parametrize("lengths, masks", [([6, 6], {False}), ([6, 3], {False, True})])
def test_no_mask_where_none_is_needed(monkeypatch, lengths, masks):
    """Without padding nothing needs a mask; with it, only those who look at the source: causality does for targets."""
    calls = []

    def attention(q, k, v, attn_mask=None, is_causal=False, **kwargs):
        calls.append((attn_mask is not None, is_causal))
        return original(q, k, v, attn_mask=attn_mask, is_causal=is_causal, **kwargs)

    original = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    model = translation()
    model(**inputs(lengths)[0])
    assert {masked for masked, _ in calls} == masks
    assert sum(causal for _, causal in calls) == len(model.decoder.layers)
    assert not any(masked and causal for masked, causal in calls)


def test_targets_padded_on_the_left_get_a_mask_of_both():
    """Causality does not hide padding that stands first."""
    model = translation().eval()
    tokens = sentences(WORDS, [4], seed=2)
    padded = torch.cat([torch.full((1, 2), WORDS.pad()), tokens], dim=1)
    memory = model.encoder(sentences(WORDS, [5]))
    alone = model.decoder(tokens, memory)[0]
    assert_close(model.decoder(padded, memory)[0][:, 2:], alone)
