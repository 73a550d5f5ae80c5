"""Folding a temperature scales queries alone; that logits stay is seen in tests/opus100/engines."""

import torch

from fairseq_plugins.checkpoints.attention_temperature import fold_attention_temperature

STATE = {
    name: torch.tensor([2.0])
    for name in (
        "encoder.layers.0.self_attn.q_proj.weight",
        "decoder.layers.11.self_attn.q_proj.bias",
        "decoder.layers.11.encoder_attn.q_proj.weight",
        "decoder.layers.11.encoder_attn.k_proj.weight",
        "decoder.output_projection.weight",
    )
}


def test_queries_of_each_side_and_nothing_else():
    folded = fold_attention_temperature(STATE, {"encoder": 0.5, "decoder": 3.0})
    assert [value.item() for value in folded.values()] == [1, 6, 6, 2, 2] and list(folded) == list(STATE)
    assert all(value.item() == 2 for value in STATE.values())


def test_ordinary_attention_stays_as_it_is():
    folded = fold_attention_temperature(STATE, {"encoder": 1.0, "decoder": 1.0})
    assert all(value is STATE[name] for name, value in folded.items())
