"""Parameter names of Hugging Face's BERT, RoBERTa, XLM-R and pre-norm RoBERTa <-> `transformer_mlm`'s encoder."""

import re
from typing import Dict, Mapping

import torch
from torch import Tensor

# Of the engine's activations those that transformers computes too, and their names there.
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_accurate": "gelu_new", "gelu_fast": "gelu_new", "tanh": "tanh",
               "linear": "linear"}  # fmt: skip

_BODY = re.compile(r"(?:bert\.|roberta\.|roberta_prelayernorm\.)?((?:embeddings|encoder\.layer|LayerNorm)\..+)")
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_OUR_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
_OLD_NORM = re.compile(r"LayerNorm\.(gamma|beta)$")  # of TensorFlow's, as the first BERTs are stored
_OLD_PARTS = {"gamma": "weight", "beta": "bias"}
_POSITIONS, _SEGMENTS = "encoder.embed_positions.weight", "encoder.embed_segments.weight"
_THEIR_SEGMENTS = "embeddings.token_type_embeddings.weight"
_PARTS = {
    "embeddings.word_embeddings.": "encoder.embed_tokens.",
    "embeddings.position_embeddings.": "encoder.embed_positions.",
    "embeddings.token_type_embeddings.": "encoder.embed_segments.",
    "embeddings.LayerNorm.": "encoder.layernorm_embedding.",
    ".attention.self.query.": ".self_attn.q_proj.",
    ".attention.self.key.": ".self_attn.k_proj.",
    ".attention.self.value.": ".self_attn.v_proj.",
    ".attention.output.dense.": ".self_attn.out_proj.",
    ".intermediate.dense.": ".feed_forward.fc1.",
    ".attention.output.LayerNorm.": ".self_attn_layer_norm.",
    ".output.dense.": ".feed_forward.fc2.",
    ".output.LayerNorm.": ".final_layer_norm.",
}
_PRE_NORM_PARTS = {
    ".attention.LayerNorm.": ".self_attn_layer_norm.",
    ".intermediate.LayerNorm.": ".final_layer_norm.",
    "LayerNorm.": "encoder.layer_norm.",
}


def from_huggingface(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """`encoder.*` names for Hugging Face's BERT, RoBERTa and XLM-R, with or without a head (a new dict).

    RoBERTa's and XLM-R's embedding of their only segment is added to every position's, which is the same sum. Heads,
    the pooler and tables of numbers, which are not weights, are left out.
    """
    parts = {**_PARTS, **_PRE_NORM_PARTS}
    renamed = {}
    for name, value in state.items():
        body = _BODY.fullmatch(name)
        if not body or name.endswith((".position_ids", ".token_type_ids")):
            continue
        name = _LAYER.sub(r"encoder.layers.\1.", body[1])
        name = _OLD_NORM.sub(lambda found: f"LayerNorm.{_OLD_PARTS[found[1]]}", name)
        for theirs, ours in parts.items():
            if theirs in name:  # the first that fits: `.attention.output.` stands before `.output.`
                name = name.replace(theirs, ours)
                break
        renamed[name] = value
    segments = renamed.get(_SEGMENTS)
    if segments is not None and len(segments) == 1 and _POSITIONS in renamed:
        renamed[_POSITIONS] = renamed[_POSITIONS] + segments[0]
        del renamed[_SEGMENTS]
    return renamed


def our_activation(theirs: str) -> str:
    """What `--activation-fn` calls an activation of theirs; one that is not known here keeps its name."""
    return next((ours for ours, name in ACTIVATIONS.items() if name == theirs), theirs)


def to_huggingface(state: Mapping[str, Tensor], *, norm_first: bool) -> Dict[str, Tensor]:
    """XLM-R's names, or with `norm_first` those of `roberta-prelayernorm`, for an encoder and its head (a new dict).

    These models always have a segment: without any here, it is one of zeros.

    Args:
        state: `encoder.*` of a plain `transformer_mlm`, with or without `encoder.lm_head.*`.
        norm_first: whether its norms stand before the sublayers.
    Raises:
        ValueError: a parameter that such a model lacks.
    """
    parts = {**_PARTS, **(_PRE_NORM_PARTS if norm_first else {})}
    ours = {after: before for before, after in parts.items()}  # of two the later one, which is pre-norm's
    prefix = "roberta_prelayernorm." if norm_first else "roberta."
    renamed = {}
    for name, value in state.items():
        if name.startswith("encoder.lm_head."):
            if name != "encoder.lm_head.weight":  # the token table itself
                renamed[name.removeprefix("encoder.")] = value
            continue
        part = next((part for part in ours if part in name), None)
        if part is None:
            raise ValueError(f"it has {name}, for which there is no place in the model")
        renamed[prefix + _OUR_LAYER.sub(r"encoder.layer.\1.", name).replace(part, ours[part])] = value
    if _SEGMENTS not in state:
        tokens_VD = state["encoder.embed_tokens.weight"]
        renamed[prefix + _THEIR_SEGMENTS] = torch.zeros_like(tokens_VD[:1])
    return renamed
