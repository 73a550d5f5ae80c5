import torch

from fairseq_plugins.checkpoints.fairseq_names import from_fairseq
from fairseq_plugins.checkpoints.roberta_names import from_roberta

ONE = torch.ones(1)


def test_names_of_a_stock_state():
    stock = {
        "encoder.version": torch.tensor([3.0]),
        "encoder.layers.0.fc1.weight": ONE,
        "encoder.layers.0.self_attn.k_proj.weight": ONE,
        "encoder.layers.10.fc2.bias": ONE,
    }
    ours = from_fairseq(stock)
    assert set(ours) == {
        "encoder.layers.0.feed_forward.fc1.weight",
        "encoder.layers.0.self_attn.k_proj.weight",
        "encoder.layers.10.feed_forward.fc2.bias",
    }
    assert from_fairseq(ours) == ours, "our own names pass through"


def test_tables_that_are_not_weights_are_left_out():
    state = {
        "decoder.embed_positions._float_tensor": ONE,
        "decoder.embed_positions.weights": ONE,
        "decoder.version": ONE,
    }
    assert from_fairseq(state) == {}
    learned = {"decoder.embed_positions.weight": ONE}
    assert from_fairseq(learned) == learned


def test_fused_projections_are_split_in_the_order_q_k_v():
    split = from_fairseq({"encoder.layers.0.self_attn.in_proj_weight": torch.arange(6.0).reshape(6, 1)})
    assert {name[-13:-7]: part.flatten().tolist() for name, part in split.items()} == {
        "q_proj": [0, 1],
        "k_proj": [2, 3],
        "v_proj": [4, 5],
    }


def test_old_and_new_roberta_names():
    for body, norm in (
        ("decoder.sentence_encoder", "emb_layer_norm"),
        ("encoder.sentence_encoder", "layernorm_embedding"),
    ):
        head = body.split(".")[0]
        found = from_roberta(
            {
                f"{body}.{norm}.weight": ONE,
                f"{body}.layers.0.fc1.weight": ONE,
                f"{body}.embed_positions.weight": ONE,
                f"{head}.lm_head.dense.weight": ONE,
                "classification_heads.mnli.dense.weight": ONE,
            }
        )
        assert set(found) == {
            "encoder.layernorm_embedding.weight",
            "encoder.layers.0.feed_forward.fc1.weight",
            "encoder.embed_positions.weight",
            "encoder.lm_head.dense.weight",
        }
