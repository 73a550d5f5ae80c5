"""Parameter names of Hugging Face's BERT, RoBERTa and XLM-R -> `transformer_mlm`'s encoder."""

import re
from typing import Dict, Mapping

from torch import Tensor

_BODY = re.compile(r"(?:bert\.|roberta\.)?(embeddings|encoder\.layer)\.")
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_SEGMENTS = "encoder.embed_segments.weight"
_POSITIONS = "encoder.embed_positions.weight"
_PARTS = {
    "embeddings.word_embeddings.": "encoder.embed_tokens.",
    "embeddings.position_embeddings.": "encoder.embed_positions.",
    "embeddings.token_type_embeddings.": "encoder.embed_segments.",
    "embeddings.LayerNorm.": "encoder.layernorm_embedding.",
    ".attention.self.query.": ".self_attn.q_proj.",
    ".attention.self.key.": ".self_attn.k_proj.",
    ".attention.self.value.": ".self_attn.v_proj.",
    ".attention.output.dense.": ".self_attn.out_proj.",
    ".attention.output.LayerNorm.": ".self_attn_layer_norm.",
    ".intermediate.dense.": ".feed_forward.fc1.",
    ".output.dense.": ".feed_forward.fc2.",
    ".output.LayerNorm.": ".final_layer_norm.",
}


def from_huggingface(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """`encoder.*` names for Hugging Face's BERT, RoBERTa and XLM-R, with or without a head (a new dict).

    RoBERTa's and XLM-R's embedding of their only segment is added to every position's, which is the same sum. Heads,
    the pooler and tables of numbers, which are not weights, are left out.
    """
    renamed = {}
    for name, value in state.items():
        if not _BODY.match(name) or name.endswith((".position_ids", ".token_type_ids")):
            continue
        name = _LAYER.sub(r"encoder.layers.\1.", name.removeprefix("bert.").removeprefix("roberta."))
        for theirs, ours in _PARTS.items():
            if theirs in name:  # the first that fits: `.attention.output.` stands before `.output.`
                name = name.replace(theirs, ours)
                break
        renamed[name] = value
    segments = renamed.get(_SEGMENTS)
    if segments is not None and len(segments) == 1 and _POSITIONS in renamed:
        renamed[_POSITIONS] = renamed[_POSITIONS] + segments[0]
        del renamed[_SEGMENTS]
    return renamed
