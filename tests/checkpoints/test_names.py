import pytest
import torch

from fairseq_plugins.checkpoints.deltalm_names import from_deltalm
from fairseq_plugins.checkpoints.fairseq_names import from_fairseq
from fairseq_plugins.checkpoints.huggingface_names import from_huggingface, our_activation, to_huggingface
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


@pytest.mark.parametrize("prefix", ["", "roberta."])
def test_hugging_face_names(prefix):
    layer = f"{prefix}encoder.layer.10"
    names = {
        f"{prefix}embeddings.word_embeddings.weight": "encoder.embed_tokens.weight",
        f"{prefix}embeddings.LayerNorm.bias": "encoder.layernorm_embedding.bias",
        f"{layer}.attention.self.query.weight": "encoder.layers.10.self_attn.q_proj.weight",
        f"{layer}.attention.self.key.bias": "encoder.layers.10.self_attn.k_proj.bias",
        f"{layer}.attention.self.value.bias": "encoder.layers.10.self_attn.v_proj.bias",
        f"{layer}.attention.output.dense.weight": "encoder.layers.10.self_attn.out_proj.weight",
        f"{layer}.attention.output.LayerNorm.weight": "encoder.layers.10.self_attn_layer_norm.weight",
        f"{layer}.intermediate.dense.bias": "encoder.layers.10.feed_forward.fc1.bias",
        f"{layer}.output.dense.weight": "encoder.layers.10.feed_forward.fc2.weight",
        f"{layer}.output.LayerNorm.weight": "encoder.layers.10.final_layer_norm.weight",
    }
    rest = [f"{prefix}embeddings.position_ids", f"{prefix}pooler.dense.weight", "lm_head.dense.weight", "lm_head.bias"]
    state = {name: torch.tensor([float(number)]) for number, name in enumerate([*names, *rest])}
    assert from_huggingface(state) == {ours: state[theirs] for theirs, ours in names.items()}


def test_the_one_segment_of_hugging_face_is_part_of_every_position():
    positions, segments = torch.arange(6.0).reshape(3, 2), torch.tensor([[10.0, 20.0]])
    state = {"embeddings.position_embeddings.weight": positions, "embeddings.token_type_embeddings.weight": segments}
    found = from_huggingface(state)
    assert set(found) == {"encoder.embed_positions.weight"}
    assert found["encoder.embed_positions.weight"].tolist() == [[10, 21], [12, 23], [14, 25]]
    both = from_huggingface({**state, "embeddings.token_type_embeddings.weight": segments.repeat(2, 1)})
    assert set(both) == {"encoder.embed_positions.weight", "encoder.embed_segments.weight"}
    assert both["encoder.embed_positions.weight"].equal(positions)


def test_hugging_face_norms_under_tensorflow_s_names():
    names = ("bert.encoder.layer.1.output.LayerNorm.gamma", "bert.embeddings.LayerNorm.beta")
    found = from_huggingface(dict.fromkeys(names, torch.ones(2)))
    assert set(found) == {"encoder.layers.1.final_layer_norm.weight", "encoder.layernorm_embedding.bias"}


PRE_NORM = {
    "LayerNorm.weight": "encoder.layer_norm.weight",
    "encoder.layer.1.attention.LayerNorm.bias": "encoder.layers.1.self_attn_layer_norm.bias",
    "encoder.layer.1.attention.output.dense.bias": "encoder.layers.1.self_attn.out_proj.bias",
    "encoder.layer.1.intermediate.LayerNorm.weight": "encoder.layers.1.final_layer_norm.weight",
    "encoder.layer.1.intermediate.dense.weight": "encoder.layers.1.feed_forward.fc1.weight",
    "encoder.layer.1.output.dense.weight": "encoder.layers.1.feed_forward.fc2.weight",
    "embeddings.LayerNorm.weight": "encoder.layernorm_embedding.weight",
    "embeddings.word_embeddings.weight": "encoder.embed_tokens.weight",
}


@pytest.mark.parametrize("prefix", ["", "roberta_prelayernorm."])
def test_hugging_face_names_of_pre_norm(prefix):
    state = {f"{prefix}{name}": torch.tensor([float(number)]) for number, name in enumerate(PRE_NORM)}
    assert from_huggingface(state) == {ours: state[f"{prefix}{theirs}"] for theirs, ours in PRE_NORM.items()}


def test_names_for_hugging_face():
    ours = {name: torch.full((2, 1), float(number)) for number, name in enumerate(PRE_NORM.values())}
    head = {f"encoder.lm_head.{part}": ONE for part in ("dense.weight", "layer_norm.bias", "bias", "weight")}
    found = to_huggingface({**ours, **head}, norm_first=True)
    segments = found.pop("roberta_prelayernorm.embeddings.token_type_embeddings.weight")
    assert segments.tolist() == [[0]]
    assert {name for name in found if name.startswith("lm_head.")} == {
        "lm_head.dense.weight", "lm_head.layer_norm.bias", "lm_head.bias"
    }  # the projection is the token table
    body = {name: value for name, value in found.items() if not name.startswith("lm_head.")}
    assert body == {f"roberta_prelayernorm.{theirs}": ours[name] for theirs, name in PRE_NORM.items()}

    post = {name: ours[name] for name in ours if name != "encoder.layer_norm.weight"}
    found = to_huggingface({**post, "encoder.embed_segments.weight": ONE}, norm_first=False)
    assert found["roberta.encoder.layer.1.output.LayerNorm.weight"] is ours["encoder.layers.1.final_layer_norm.weight"]
    assert found["roberta.embeddings.token_type_embeddings.weight"] is ONE
    assert not any("prelayernorm" in name or ".intermediate.LayerNorm" in name for name in found)
    for part in ("layer_norm.weight", "relative_bias.weight", "layers.0.self_attn.inner_norm.bias"):
        name = f"encoder.{part}"
        with pytest.raises(ValueError, match=f"it has {name}, for which there is no place"):
            to_huggingface({**post, name: ONE}, norm_first=False)


def test_names_of_activations():
    assert [our_activation(name) for name in ("gelu", "gelu_new", "relu")] == ["gelu", "gelu_accurate", "relu"]
    assert our_activation("silu") == "silu", "not known here"


def test_deltalm_names():
    names = {
        "src_embedding.embed_tokens.weight": "encoder.embed_tokens.weight",
        "src_embedding.emb_layer_norm.weight": "encoder.layernorm_embedding.weight",
        "tgt_embedding.embed_positions.weight": "decoder.embed_positions.weight",
        "encoder.layers.0.ffn.fc1.weight": "encoder.layers.0.feed_forward.fc1.weight",
        "encoder.layers.0.final_layer_norm.bias": "encoder.layers.0.final_layer_norm.bias",
        "decoder.layers.11.ffn_1.fc1.weight": "decoder.layers.11.first_feed_forward.fc1.weight",
        "decoder.layers.11.ffn_1.fc2.bias": "decoder.layers.11.first_feed_forward.fc2.bias",
        "decoder.layers.11.ffn_2.fc1.weight": "decoder.layers.11.feed_forward.fc1.weight",
        "decoder.layers.11.ffn_2.fc2.bias": "decoder.layers.11.feed_forward.fc2.bias",
        "decoder.layers.11.ffn_layer_norm.weight": "decoder.layers.11.ffn_layer_norm.weight",
        "decoder.layers.11.encoder_attn.k_proj.weight": "decoder.layers.11.encoder_attn.k_proj.weight",
    }
    state = {name: torch.tensor([float(number)]) for number, name in enumerate([*names, "lm_head.weight"])}
    ours = from_deltalm(state)
    assert ours == {ours: state[theirs] for theirs, ours in names.items()}
    assert from_deltalm(ours) == ours, "our own names pass through"
    fine_tuned = {f"decoder.layers.0.{part}": ONE for part in ("fc3.weight", "fc4.weight", "fc1.bias")}
    assert set(from_deltalm(fine_tuned)) == {
        "decoder.layers.0.first_feed_forward.fc1.weight",
        "decoder.layers.0.first_feed_forward.fc2.weight",
        "decoder.layers.0.feed_forward.fc1.bias",
    }
